//! Batching changes nothing: each of 64 greedy requests to the demo gives, among the others, exactly the
//! tokens that it gives alone.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use switchback::demo::{SYSTEM_PROMPT, held_out};
use switchback::engine::{
    Engine, EngineConfig, EosPolicy, Event, GenerateRequest, PrefixCache, Priority, SamplingParams,
    StopParams, Turns,
};
use switchback::ids::Quantize;
use switchback::model::{self, SpecialText, SpecialTokens, WeightPool};
use tokio::sync::OnceCell;

const REQUESTS: usize = 64;
/// The requests of a run in which most of them wait for blocks.
const PREEMPTED: usize = 16;
/// Tokens of a block of the cache.
const BLOCK: usize = 16;

/// The tokens and the text of an answer.
type Answer = (Vec<u32>, String);

struct Served {
    engine: Engine,
    prompts: Vec<Vec<u32>>,
    eos: Vec<u32>,
}

fn serve(config: EngineConfig) -> Served {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/v1");
    let loaded = model::load(&dir, Quantize::AsStored, &WeightPool::default(), &|_, _| {}).unwrap();
    let tokenizer = loaded.tokenizer.clone();
    // said over and over, so that all prompts begin with the same blocks
    let system = [SYSTEM_PROMPT; 3].join(" ");
    let prompt = |message: &str| {
        let text = format!(
            "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{message}<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        tokenizer.encode(&text, SpecialTokens::Parse).unwrap()
    };
    let prompts: Vec<_> = held_out(9, REQUESTS).iter().map(|case| prompt(&case.message)).collect();
    let shared = prompts.iter().all(|prompt| prompt[..=2 * BLOCK] == prompts[0][..=2 * BLOCK]);
    assert!(shared, "the prompts share less than two blocks: the prefix cache would have nothing to find");
    let lm = loaded.lm().unwrap();
    let engine = Engine::start("demo".into(), lm, loaded.tokenizer, config, Turns::default()).unwrap();
    Served { engine, prompts, eos: loaded.eos }
}

async fn answer(served: &Served, prompt: &[u32]) -> Answer {
    let request = GenerateRequest {
        prompt: prompt.to_vec(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopParams { eos: EosPolicy::Stop(served.eos.clone()), ..StopParams::default() },
        max_tokens: 80,
        min_tokens: 0,
        logprobs: None,
        prompt_logprobs: None,
        constraint: None,
        special_text: SpecialText::Skip,
        shown: Vec::new(),
        priority: Priority::Foreground,
        rank: 0,
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
            Event::Failed(why) => panic!("{why}"),
            Event::Finished { .. } | Event::Started { .. } => {}
        }
    }
    (tokens, text)
}

/// What each request answers with the engine to itself.
async fn alone() -> &'static [Answer] {
    static ALONE: OnceCell<Vec<Answer>> = OnceCell::const_new();
    let ask = || async {
        let served = serve(EngineConfig { prefix_cache: PrefixCache::Off, ..EngineConfig::default() });
        let mut answers = Vec::new();
        for prompt in &served.prompts {
            answers.push(within_a_minute(answer(&served, prompt)).await);
        }
        assert!(answers.iter().all(|(_, text)| text.starts_with('{')), "{:?}", answers[0]);
        answers
    };
    ALONE.get_or_init(ask).await
}

/// The answers to the first `requests` prompts, asked for at once.
async fn together(served: &Served, requests: usize) -> Vec<Answer> {
    let answers = served.prompts[..requests].iter().map(|prompt| answer(served, prompt));
    within_a_minute(join_all(answers)).await
}

/// An engine that hangs fails its test instead of hanging it too.
async fn within_a_minute<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), work).await.expect("the engine took longer than a minute")
}

/// Whether the run had from the prefix cache what its setting says.
fn check_cache(served: &Served, prefix_cache: PrefixCache) {
    let hits = served.engine.stats().prefix_hit_tokens;
    match prefix_cache {
        PrefixCache::Off => assert_eq!(hits, 0),
        PrefixCache::On => assert!(hits > 0, "no prompt found its first blocks in the cache"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_at_once_answer_as_each_does_alone() {
    let alone = alone().await;
    let runs = [(PrefixCache::On, &[1, 7, 64, 512][..]), (PrefixCache::Off, &[7, 512])];
    for (prefix_cache, chunks) in runs {
        for &max_step_tokens in chunks {
            let served = serve(EngineConfig { prefix_cache, max_step_tokens, ..EngineConfig::default() });
            let together = together(&served, REQUESTS).await;
            assert_eq!(together, alone, "{prefix_cache:?}, {max_step_tokens} tokens a step");
            check_cache(&served, prefix_cache);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preempted_request_answers_as_it_does_alone() {
    let alone = alone().await;
    for prefix_cache in [PrefixCache::Off, PrefixCache::On] {
        for max_step_tokens in [7, 512] {
            // room for two or three answers, so that sequences that grew take blocks from each other
            let config =
                EngineConfig { prefix_cache, max_step_tokens, kv_tokens: 272, ..EngineConfig::default() };
            let served = serve(config);
            let together = together(&served, PREEMPTED).await;
            let which = format!("{prefix_cache:?}, {max_step_tokens} tokens a step");
            assert!(
                served.engine.stats().preemptions > 0,
                "{which}: nothing was preempted: the pool is too large"
            );
            assert_eq!(together, alone[..PREEMPTED], "{which}");
            check_cache(&served, prefix_cache);
        }
    }
}
