//! A LoRA adapter is a version like any other: it shares its base's weights, engine and steps, and answers by itself.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Server, adapter, model};
use reqwest::Method;
use serde_json::{Value, json};

const ADAPTERS: [&str; 2] = ["polite", "brief"];

fn write(folder: &Path) {
    let base = folder.join("base");
    model::write(&base, "base");
    for name in ADAPTERS {
        adapter::write(&folder.join(name), &base, name);
    }
    adapter::merge(&folder.join("merged"), &base, &folder.join("polite"));
}

fn config(folder: &Path, mode: &str, polite: &str) -> std::path::PathBuf {
    let path = folder.join("switchback.yaml");
    let text = format!(
        "server: {{ mode: {mode}, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         engine: {{ kv_tokens: 4096 }}\n\
         models:\n  desk:\n    versions:\n\
         \x20     base: {{ image: base }}\n\
         \x20     polite: {{ image: base, {polite} }}\n\
         \x20     brief: {{ image: base, adapter: brief }}\n\
         \x20     merged: {{ image: merged }}\n\
         \x20   route: {{ base: 100 }}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

async fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let config = config(folder.path(), "dev", "adapter: polite");
    common::serve(folder, &config).await
}

async fn answer(server: &Server, version: &str, prompt: &str) -> String {
    let body =
        json!({"model": format!("desk@{version}"), "prompt": prompt, "temperature": 0, "max_tokens": 24});
    server.ask("/v1/completions", &body).await["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_adapter_answers_as_a_model_that_it_is_merged_into() {
    let server = start().await;
    let mut moved = 0;
    for prompt in ["where is my order", "refund, please", "the app does not start", "hello"] {
        let polite = answer(&server, "polite", prompt).await;
        assert_eq!(polite, answer(&server, "merged", prompt).await, "{prompt}");
        moved += usize::from(polite != answer(&server, "base", prompt).await);
    }
    assert!(moved > 0, "the adapter changes nothing");
}

/// Prompts that begin alike, so that one version's keys and values would be found for another's if they were not told
/// apart.
#[tokio::test]
async fn versions_that_are_batched_answer_as_they_do_alone() {
    let server = start().await;
    let prompt = "a long beginning that all of these requests have in common, and more of it";
    let mut alone = Vec::new();
    for version in ["base", "polite", "brief"] {
        alone.push(answer(&server, version, prompt).await);
    }
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2], "{alone:?}");
    for _ in 0..3 {
        let [base, polite, brief] =
            ["base", "polite", "brief"].map(|version| answer(&server, version, prompt));
        let together = tokio::join!(base, polite, brief);
        assert_eq!([together.0, together.1, together.2], alone[..]);
    }
}

#[tokio::test]
async fn an_adapter_costs_its_own_bytes_and_no_engine() {
    let server = start().await;
    let base = server.version("base").await;
    let [polite, brief] = ADAPTERS.map(|name| server.version(name));
    let adapted = [polite.await, brief.await];
    let bytes = |version: &Value, field: &str| version[field].as_u64().unwrap();
    let all = bytes(&base, "weight_bytes");
    for version in &adapted {
        let own = bytes(version, "weight_bytes") - bytes(version, "shared_bytes");
        assert!(own > 0 && own < all / 4, "{version}: {own} of {all}");
        assert_eq!(version["digest"], base["digest"], "one image");
        assert!(version["adapter"]["digest"].as_str().unwrap().starts_with("sha256:"));
    }
    let digests =
        [&base, &adapted[0], &adapted[1]].map(|version| version["version_digest"].as_str().unwrap());
    assert!(digests[0] != digests[1] && digests[1] != digests[2], "{digests:?}");
    assert_eq!(base["adapter"], Value::Null);

    // a version leaves, and its slot goes to the next that comes
    let path = "/admin/models/desk/versions/polite";
    let (status, text) = server.admin(Method::POST, &format!("{path}/unload"), None).await;
    assert_eq!(status, 200, "{text}");
    let brief = answer(&server, "brief", "hello").await;
    let (status, text) = server.admin(Method::POST, &format!("{path}/load"), None).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(answer(&server, "polite", "hello").await, answer(&server, "merged", "hello").await);
    assert_eq!(answer(&server, "brief", "hello").await, brief);
}

#[tokio::test]
async fn a_broken_adapter_fails_its_version_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    std::fs::remove_file(folder.path().join("polite/adapter_config.json")).unwrap();
    let config = config(folder.path(), "dev", "adapter: polite");
    let server = common::serve(folder, &config).await;
    let polite = &server.version("polite").await["residency"];
    assert_eq!(polite["state"], "failed");
    let why = polite["why"].as_str().unwrap();
    assert!(why.contains("adapter_config.json"), "{why}");
    assert!(!answer(&server, "brief", "hello").await.is_empty());
}

#[test]
fn in_production_an_adapter_is_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let error = |mode: &str, polite: &str| {
        switchback::config::load(&config(folder.path(), mode, polite)).unwrap_err().to_string()
    };
    let unpinned = error("production", "adapter: polite");
    assert!(unpinned.contains("models.desk.versions.polite.adapter_digest: missing"), "{unpinned}");
    let digest = "sha256:".to_owned() + &"a".repeat(64);
    let without = error("dev", &format!("adapter_digest: \"{digest}\""));
    assert!(without.contains("the version has no adapter"), "{without}");
}
