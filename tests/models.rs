//! The versions that ship: whole, small, and alike where they promise to be.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use switchback::config;
use switchback::image::Store;
use switchback::model::SpecialTokenText;
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
    let of = |version| std::fs::read(file(version, "model.safetensors")).unwrap();
    let (v1, v2) = (of("v1"), of("v2"));
    let (v1, v2) = (SafeTensors::deserialize(&v1).unwrap(), SafeTensors::deserialize(&v2).unwrap());
    let equal = |name: &str| v1.tensor(name).unwrap().data() == v2.tensor(name).unwrap().data();
    assert!(equal("model.embed_tokens.weight"));
    assert!(!equal("model.layers.0.self_attn.q_proj.weight"));
}

#[test]
fn the_template_that_ships_renders_a_conversation() {
    let config = std::fs::read_to_string(file("v1", "tokenizer_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let source = config["chat_template"].as_str().unwrap();
    let special = SpecialTokenText { bos: None, eos: Some("<|im_end|>".to_owned()) };
    let template = ChatTemplate::compile(source, &special).unwrap();
    let messages = [serde_json::json!({ "role": "user", "content": "Hi" })];
    let text = template.render(&messages, &serde_json::Map::new(), GenerationPrompt::Add).unwrap();
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
