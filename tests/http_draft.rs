//! A smaller version says ahead what a larger one may say: answers are the same, and the two share what they have in common.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Server, model};
use serde_json::{Value, json};
use switchback::demo::{SYSTEM_PROMPT, held_out};

/// A server of the demo's v1, with whatever else its version says, and of v2, which was trained on the same task.
async fn start(v1: &str, engine: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let images = images.display();
    model::write(&folder.path().join("strange"), "strange");
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         engine: {{ device: cpu, kv_tokens: 4096{engine} }}\n\
         models:\n  desk:\n    versions:\n\
         \x20     v1: {{ image: {images}/v1{v1} }}\n\
         \x20     strange: {{ image: strange, residency: cold }}\n\
         \x20   route: {{ v1: 100 }}\n\
         \x20 small:\n    versions:\n      v2: {{ image: {images}/v2 }}\n"
    );
    let config = folder.path().join("switchback.yaml");
    std::fs::write(&config, text).unwrap();
    common::serve(folder, &config).await
}

/// The answers to some cases, one after the other, at this temperature.
async fn answers(server: &Server, temperature: f64) -> Vec<String> {
    let mut texts = Vec::new();
    for (seed, case) in held_out(5, 8).iter().enumerate() {
        let body = json!({
            "model": "desk", "temperature": temperature, "seed": seed, "max_tokens": 200,
            "messages": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": case.message}],
        });
        let answer = server.ask("/v1/chat/completions", &body).await;
        texts.push(answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned());
    }
    texts
}

/// What a counter of `desk@v1` says.
async fn counter(server: &Server, name: &str) -> u64 {
    let scrape = server.client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let series = format!("switchback_engine_{name}_total{{model=\"desk\",version=\"v1\"}} ");
    let found = scrape.lines().find_map(|line| line.strip_prefix(&series));
    found.unwrap_or_else(|| panic!("no {series}in {scrape}")).parse().unwrap()
}

async fn versions(server: &Server, model: &str) -> Vec<Value> {
    let (_, models) = server.admin(reqwest::Method::GET, "/admin/models", None).await;
    let models = models["models"].as_array().unwrap().iter();
    let found = models.clone().find(|found| found["model"] == model);
    found.unwrap()["versions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn answers_are_the_same_at_any_temperature_and_come_in_fewer_steps() {
    let plain = start("", "").await;
    let drafted = start(", draft: small@v2", ", speculative_tokens: 4").await;
    for temperature in [0.0, 0.8] {
        assert_eq!(answers(&drafted, temperature).await, answers(&plain, temperature).await, "{temperature}");
    }
    let (guessed, right) =
        (counter(&drafted, "speculated_tokens").await, counter(&drafted, "accepted_tokens").await);
    let (steps, slow) = (counter(&drafted, "steps").await, counter(&plain, "steps").await);
    assert!(2 * right > guessed, "{right} of {guessed}: they were trained on the same task");
    assert!(2 * steps < slow, "{steps} steps of {slow}");
}

#[tokio::test]
async fn a_draft_that_serves_itself_is_in_memory_once_and_no_part_of_what_decides() {
    let plain = start("", "").await;
    let drafted = start(", draft: small@v2", ", speculative_tokens: 4").await;
    let of = |server| async move { (versions(server, "desk").await, versions(server, "small").await) };
    let ((plain, _), (drafted, small)) = (of(&plain).await, of(&drafted).await);
    let v1 = |versions: &[Value]| versions.iter().find(|version| version["version"] == "v1").unwrap().clone();
    let (plain, drafted) = (v1(&plain), v1(&drafted));
    assert_eq!((&plain["draft"], &drafted["draft"]), (&Value::Null, &json!("small@v2")));
    assert_eq!(plain["version_digest"], drafted["version_digest"]);
    let bytes = |version: &Value, key: &str| version[key].as_u64().unwrap();
    let draft = bytes(&small[0], "weight_bytes");
    assert_eq!(bytes(&drafted, "weight_bytes"), bytes(&plain, "weight_bytes") + draft);
    // whichever came first brought them
    let shared = bytes(&drafted, "shared_bytes") + bytes(&small[0], "shared_bytes");
    assert!(shared >= draft, "{shared} of {draft}: {drafted} {small:?}");
}

#[tokio::test]
async fn a_draft_that_speaks_another_language_is_refused() {
    let server = start(", draft: desk@strange", ", speculative_tokens: 4").await;
    let v1 = versions(&server, "desk").await;
    let v1 = v1.iter().find(|version| version["version"] == "v1").unwrap();
    assert_eq!(v1["residency"]["state"], "failed", "{v1}");
    let why = v1["residency"].to_string();
    assert!(why.contains("draft desk@strange") && why.contains("same tokenizer"), "{why}");
}
