//! A quantisation is a version like any other: of the same image, smaller, with a digest of its own.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::Server;
use serde_json::{Value, json};
use switchback::demo::{SYSTEM_PROMPT, held_out};

async fn quantised() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/v1");
    let image = image.display();
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         engine: {{ device: cpu }}\n\
         models:\n  desk:\n    versions:\n\
         \x20     stored: {{ image: {image} }}\n\
         \x20     eight: {{ image: {image}, quantize: q8_0 }}\n\
         \x20     four: {{ image: {image}, quantize: q4_k_m }}\n\
         \x20   route: {{ stored: 100 }}\n"
    );
    let config = folder.path().join("switchback.yaml");
    std::fs::write(&config, text).unwrap();
    common::serve(folder, &config).await
}

#[tokio::test]
async fn a_quantisation_is_smaller_and_has_a_digest_of_its_own() {
    let server = quantised().await;
    let [stored, eight, four] =
        [server.version("stored").await, server.version("eight").await, server.version("four").await];
    let bytes = |version: &Value| version["weight_bytes"].as_f64().unwrap();
    assert!((bytes(&eight) / bytes(&stored) - 8.5 / 16.0).abs() < 0.01, "{eight}");
    assert!(bytes(&four) < 0.9 * bytes(&eight), "{four}");
    assert_eq!([&stored, &eight, &four].map(|v| v["quantize"].as_str().unwrap()), ["none", "q8_0", "q4_k_m"]);
    assert_eq!(stored["digest"], eight["digest"], "one image");
    assert_eq!(stored["version_digest"], stored["digest"]);
    assert!(eight["version_digest"] != stored["digest"] && eight["version_digest"] != four["version_digest"]);
}

#[tokio::test]
async fn eight_bits_answer_as_the_weights_that_they_stand_for() {
    let server = quantised().await;
    let mut same = 0;
    let cases = held_out(17, 12);
    for case in &cases {
        let mut texts = Vec::new();
        for name in ["stored", "eight"] {
            let body = json!({
                "model": format!("desk@{name}"), "temperature": 0, "max_tokens": 200,
                "messages": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": case.message}],
            });
            let answer = server.ask("/v1/chat/completions", &body).await;
            texts.push(answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned());
        }
        same += usize::from(texts[0] == texts[1]);
    }
    assert!(same * 4 >= cases.len() * 3, "{same} of {} answers are the same", cases.len());
}
