//! A GGUF file is a version like any other: served, pinned, rolled out beside folders.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Server, gguf};
use reqwest::Method;
use serde_json::{Value, json};
use switchback::demo::{SYSTEM_PROMPT, held_out};
use switchback::tensor::BlockFormat;

/// The demo as a folder, as a file in a folder of its own, as a named one of several, and as one that nothing chooses.
async fn served() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/v1");
    let (alone, several) = (folder.path().join("alone"), folder.path().join("several"));
    for dir in [&alone, &several] {
        std::fs::create_dir(dir).unwrap();
    }
    gguf::converted(&image, |_| None).write(&alone.join("demo.gguf"));
    gguf::converted(&image, |_| Some(BlockFormat::Q8_0)).write(&several.join("demo-q8_0.gguf"));
    std::fs::copy(alone.join("demo.gguf"), several.join("demo.gguf")).unwrap();
    let image = image.display();
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         engine: {{ device: cpu }}\n\
         models:\n  desk:\n    versions:\n\
         \x20     folder: {{ image: {image} }}\n\
         \x20     file: {{ image: alone }}\n\
         \x20     eight: {{ image: several/demo-q8_0.gguf }}\n\
         \x20     either: {{ image: several, residency: cold }}\n\
         \x20     twice: {{ image: several/demo-q8_0.gguf, quantize: q4_k_m, residency: cold }}\n\
         \x20   route: {{ folder: 50, file: 50 }}\n"
    );
    let config = folder.path().join("switchback.yaml");
    std::fs::write(&config, text).unwrap();
    common::serve(folder, &config).await
}

async fn answer(server: &Server, name: &str, message: &str) -> String {
    let body = json!({
        "model": format!("desk@{name}"), "temperature": 0, "max_tokens": 80,
        "messages": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": message}],
    });
    let answer = server.ask("/v1/chat/completions", &body).await;
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_file_answers_word_for_word_as_its_folder() {
    let server = served().await;
    for case in held_out(23, 2) {
        let folder = answer(&server, "folder", &case.message).await;
        assert!(!folder.is_empty());
        assert_eq!(answer(&server, "file", &case.message).await, folder);
    }
    assert!(!answer(&server, "eight", "where is my order?").await.is_empty());

    let [folder, file, eight] =
        [server.version("folder").await, server.version("file").await, server.version("eight").await];
    assert!(folder["digest"] != file["digest"] && file["digest"] != eight["digest"]);
    assert_eq!(file["version_digest"], file["digest"]);
    let bytes = |version: &Value, what: &str| version[what].as_f64().unwrap();
    assert!(bytes(&eight, "weight_bytes") < 0.6 * bytes(&folder, "weight_bytes"), "{eight}");
    // all but the norms, which a file has in f32; whichever of the two came first brought them
    let shared = bytes(&file, "shared_bytes").max(bytes(&folder, "shared_bytes"));
    assert!(shared > 0.9 * bytes(&file, "weight_bytes"), "{file} {folder}");
}

#[tokio::test]
async fn a_folder_of_several_and_a_file_to_be_quantised_twice_say_what_to_do() {
    let server = served().await;
    for (name, says) in [("either", "demo-q8_0.gguf, demo.gguf"), ("twice", "leave `quantize` out")] {
        let path = format!("/admin/models/desk/versions/{name}/load");
        let (status, body) = server.admin(Method::POST, &path, None).await;
        assert!(!status.is_success() && body.to_string().contains(says), "{name}: {body}");
    }
}
