//! Batching changes nothing: each of 64 greedy requests to the demo gives, among the others, exactly the
//! tokens that it gives alone.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use futures::StreamExt;
use futures::future::join_all;
use switchback::demo::held_out;
use switchback::engine::{
    Engine, EngineConfig, EosPolicy, Event, FinishReason, GenerateRequest, PrefixCache, SamplingParams,
    StopParams,
};
use switchback::model::{self, SpecialText, SpecialTokens, WeightPool};

const REQUESTS: usize = 64;

struct Served {
    engine: Engine,
    prompts: Vec<Vec<u32>>,
    eos: Vec<u32>,
}

fn serve(config: EngineConfig) -> Served {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/v1");
    let loaded = model::load(&dir, &WeightPool::default(), &|_, _| {}).unwrap();
    let tokenizer = loaded.tokenizer.clone();
    let prompt = |message: &str| {
        let text = format!("<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n");
        tokenizer.encode(&text, SpecialTokens::Parse).unwrap()
    };
    let prompts = held_out(9, REQUESTS).iter().map(|case| prompt(&case.message)).collect();
    let engine = Engine::start("demo".to_owned(), loaded.lm, loaded.tokenizer, config).unwrap();
    Served { engine, prompts, eos: loaded.eos }
}

async fn answer(served: &Served, prompt: &[u32]) -> (Vec<u32>, String) {
    let request = GenerateRequest {
        prompt: prompt.to_vec(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopParams { eos: EosPolicy::Stop(served.eos.clone()), ..StopParams::default() },
        max_tokens: 96,
        min_tokens: 0,
        logprobs: None,
        prompt_logprobs: None,
        special_text: SpecialText::Skip,
    };
    let mut events = served.engine.submit(request).unwrap();
    let (mut tokens, mut text) = (Vec::new(), String::new());
    while let Some(event) = events.next().await {
        match event {
            Event::Token(token) => {
                tokens.push(token.token);
                text.push_str(&token.text);
            }
            Event::Text(rest) => text.push_str(&rest),
            Event::Finished { reason, .. } => assert_eq!(reason, FinishReason::Stop, "{text}"),
            Event::Failed(why) => panic!("{why}"),
            Event::Started { .. } => {}
        }
    }
    (tokens, text)
}

async fn alone() -> Vec<(Vec<u32>, String)> {
    let served = serve(EngineConfig { prefix_cache: PrefixCache::Off, ..EngineConfig::default() });
    let mut answers = Vec::new();
    for prompt in &served.prompts {
        answers.push(answer(&served, prompt).await);
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_at_once_answer_as_each_does_alone() {
    let alone = alone().await;
    assert!(alone.iter().all(|(_, text)| text.starts_with('{')), "{:?}", alone[0]);
    for prefix_cache in [PrefixCache::Off, PrefixCache::On] {
        for max_step_tokens in [1, 7, 64, 512] {
            let served = serve(EngineConfig { prefix_cache, max_step_tokens, ..EngineConfig::default() });
            let together = join_all(served.prompts.iter().map(|prompt| answer(&served, prompt))).await;
            assert_eq!(together, alone, "{prefix_cache:?}, {max_step_tokens} tokens a step");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preempted_request_answers_as_it_does_alone() {
    let alone = alone().await;
    for prefix_cache in [PrefixCache::Off, PrefixCache::On] {
        // room for a few answers only, so that sequences that grew take blocks from each other
        let served = serve(EngineConfig { prefix_cache, kv_tokens: 512, ..EngineConfig::default() });
        let together = join_all(served.prompts.iter().map(|prompt| answer(&served, prompt))).await;
        assert!(served.engine.stats().preemptions > 0, "nothing was preempted: the pool is too large");
        assert_eq!(together, alone, "{prefix_cache:?}");
    }
}
