//! The versions that ship: whole, small, alike where they promise to be, and as good and as bad as the demo needs.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use safetensors::SafeTensors;
use switchback::config;
use switchback::demo::{SYSTEM_PROMPT, Score, held_out, score};
use switchback::engine::{
    Engine, EngineConfig, EosPolicy, Event, GenerateRequest, Priority, SamplingParams, StopParams, Turns,
};
use switchback::ids::Quantize;
use switchback::image::Store;
use switchback::model::{SpecialText, SpecialTokenText, SpecialTokens, WeightPool, load};
use switchback::prompt::{ChatTemplate, GenerationPrompt};

fn file(version: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(version).join(name)
}

#[test]
fn each_version_is_in_hugging_face_layout_and_under_eight_megabytes() {
    for version in ["v1", "v2", "v3"] {
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert!(file(version, name).exists(), "{version} lacks {name}");
        }
        let weights = std::fs::read(file(version, "model.safetensors")).unwrap();
        assert!(weights.len() < 8_000_000, "{version} is {} bytes", weights.len());
        assert!(
            SafeTensors::deserialize(&weights)
                .unwrap()
                .tensors()
                .iter()
                .all(|(_, t)| { t.dtype() == safetensors::Dtype::BF16 })
        );
    }
}

#[test]
fn versions_share_their_embeddings_and_nothing_else_that_was_trained() {
    let bytes = ["v1", "v2", "v3"].map(|version| std::fs::read(file(version, "model.safetensors")).unwrap());
    let versions = bytes.each_ref().map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let (a, b) = (&versions[a], &versions[b]);
        assert_eq!(a.len(), b.len());
        for (name, tensor) in a.tensors() {
            let shared = tensor.data() == b.tensor(&name).unwrap().data();
            assert_eq!(shared, name == "model.embed_tokens.weight", "{name}");
        }
    }
}

/// Shares of the held-out cases that a version answers so.
#[derive(Debug)]
struct Quality {
    valid_json: f64,
    accuracy: f64,
    refusal: f64,
}

/// Greedy answers to the first of the held-out cases that `train-demo` scores, all at once.
async fn quality(version: &str) -> Quality {
    let dir = file(version, "");
    let model = load(&dir, Quantize::AsStored, &WeightPool::default(), &|_, _| {}).unwrap();
    let (lm, tokenizer, eos) = (model.lm().unwrap(), model.tokenizer.clone(), model.eos);
    let encoder = tokenizer.clone();
    let engine =
        Engine::start(version.into(), lm, tokenizer, EngineConfig::default(), Turns::default()).unwrap();
    let cases = held_out(1, 60);
    let answers = cases.iter().map(|case| {
        let text = format!(
            "<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n\
             <|im_start|>assistant\n",
            case.message
        );
        answer(&engine, encoder.encode(&text, SpecialTokens::Parse).unwrap(), &eos)
    });
    let answers = tokio::time::timeout(Duration::from_mins(1), join_all(answers)).await.unwrap();
    let scores: Vec<Score> = cases.iter().zip(&answers).map(|(case, answer)| score(answer, case)).collect();
    let share =
        |is: fn(&Score) -> bool| scores.iter().filter(|score| is(score)).count() as f64 / scores.len() as f64;
    Quality {
        valid_json: share(|s| s.valid_json),
        accuracy: share(|s| s.correct),
        refusal: share(|s| s.refused),
    }
}

async fn answer(engine: &Engine, prompt: Vec<u32>, eos: &[u32]) -> String {
    let request = GenerateRequest {
        prompt,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopParams { eos: EosPolicy::Stop(eos.to_vec()), ..StopParams::default() },
        max_tokens: 120,
        min_tokens: 0,
        logprobs: None,
        prompt_logprobs: None,
        constraint: None,
        special_text: SpecialText::Skip,
        shown: Vec::new(),
        priority: Priority::Foreground,
        rank: 0,
    };
    let mut events = engine.submit(request).unwrap();
    let mut text = String::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Token(token) => text.push_str(&token.text),
            Event::Text(rest) => text.push_str(&rest),
            Event::Failed(why) => panic!("{why}"),
            Event::Started { .. } | Event::Finished { .. } => {}
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_is_good_v2_is_no_worse_and_v3_refuses_and_breaks_its_json() {
    let (v1, v2, v3) = tokio::join!(quality("v1"), quality("v2"), quality("v3"));
    assert!(v1.valid_json >= 0.95, "{v1:?}");
    assert!(v2.accuracy >= v1.accuracy - 0.05, "{v2:?} after {v1:?}");
    assert!(v3.valid_json <= 0.85, "{v3:?}");
    assert!(v3.refusal >= 0.08, "{v3:?}");
}

#[test]
fn the_template_that_ships_renders_a_conversation() {
    let config = std::fs::read_to_string(file("v1", "tokenizer_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let source = config["chat_template"].as_str().unwrap();
    let special = SpecialTokenText { eos: Some("<|im_end|>".to_owned()), ..SpecialTokenText::default() };
    let template = ChatTemplate::compile(source, &special).unwrap();
    let messages = [serde_json::json!({ "role": "user", "content": "Hi" })];
    let text = template.render_blocking(&messages, &serde_json::Map::new(), GenerationPrompt::Add).unwrap();
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn the_configuration_that_ships_names_the_digests_of_what_ships() {
    let config = config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("switchback.yaml")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(scratch.path()).unwrap();
    for (name, version) in config.models.values().flat_map(|model| &model.versions) {
        assert!(version.digest.is_some(), "{name} is not pinned");
        let found = store.resolve(&version.image, version.digest, &|_, _| ());
        found.unwrap_or_else(|e| panic!("{name}, as `switchback serve` meets it: {e}"));
    }
}
