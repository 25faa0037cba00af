//! Embeddings over HTTP: an encoder is a version like any other.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Server, chat, serve, with};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchback::model::Encoder;

const EMBEDDINGS: &str = "/v1/embeddings";

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder").join(name)
}

async fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("switchback.yaml");
    let (mean, cls) = (fixture("mean"), fixture("cls"));
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  meaning:\n    versions:\n      v1: {{ image: {} }}\n      v2: {{ image: {} }}\n    route: {{ v1: 100 }}\n",
        mean.display(),
        cls.display()
    );
    std::fs::write(&path, text).unwrap();
    serve(folder, &path).await
}

fn request(input: Value) -> Value {
    json!({"model": "meaning", "input": input})
}

fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let vector = |item: &Value| serde_json::from_value(item["embedding"].clone()).unwrap();
    answer["data"].as_array().unwrap().iter().map(vector).collect()
}

#[tokio::test]
async fn texts_and_their_tokens_have_the_vectors_of_the_encoder() {
    let server = start().await;
    let encoder = Encoder::load(&fixture("mean")).unwrap();
    let wanted = [encoder.embed("refund").unwrap(), encoder.embed("tokyo").unwrap()];
    let answer = server.ask(EMBEDDINGS, &request(json!(["refund", "tokyo"]))).await;
    assert_eq!(vectors(&answer), wanted);
    assert_eq!((&answer["object"], &answer["data"][1]["index"]), (&json!("list"), &json!(1)));
    let lists = [encoder.tokens("refund").unwrap(), encoder.tokens("tokyo").unwrap()];
    let count = lists[0].len() + lists[1].len();
    assert_eq!(answer["usage"], json!({"prompt_tokens": count, "total_tokens": count}));
    assert_eq!(vectors(&server.ask(EMBEDDINGS, &request(json!(lists))).await), wanted);
    assert_eq!(vectors(&server.ask(EMBEDDINGS, &request(json!(lists[0]))).await), wanted[..1]);
    assert_eq!(vectors(&server.ask(EMBEDDINGS, &request(json!("refund"))).await), wanted[..1]);
}

#[tokio::test]
async fn base64_holds_the_same_floats() {
    let server = start().await;
    let floats = vectors(&server.ask(EMBEDDINGS, &request(json!("refund"))).await).remove(0);
    let request = with(request(json!("refund")), json!({"encoding_format": "base64"}));
    let text = server.ask(EMBEDDINGS, &request).await["data"][0]["embedding"].as_str().unwrap().to_owned();
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = text
        .trim_end_matches('=')
        .chars()
        .flat_map(|c| {
            let six = letters.find(c).unwrap() as u8;
            (0..6).rev().map(move |i| six >> i & 1)
        })
        .collect();
    let bytes: Vec<u8> =
        bits.as_chunks::<8>().0.iter().map(|b| b.iter().fold(0, |byte, bit| byte << 1 | bit)).collect();
    let read: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(read, floats);
}

#[tokio::test]
async fn fewer_dimensions_are_the_first_ones_at_length_one() {
    let server = start().await;
    let whole = vectors(&server.ask(EMBEDDINGS, &request(json!("refund"))).await).remove(0);
    let few = with(request(json!("refund")), json!({"dimensions": 4}));
    let few = vectors(&server.ask(EMBEDDINGS, &few).await).remove(0);
    let length = whole[..4].iter().map(|x| x * x).sum::<f32>().sqrt();
    for (few, whole) in few.iter().zip(&whole) {
        assert!((few - whole / length).abs() < 1e-6);
    }
    assert_eq!(few.len(), 4);
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused_by_its_place_or_cut_if_that_is_asked_for() {
    let server = start().await;
    let long = "where is my order? ".repeat(20);
    let response = server.post(EMBEDDINGS, &request(json!(["refund", long]))).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["param"], "input[1]");
    assert!(body["error"]["message"].as_str().unwrap().contains("this model reads 24"), "{body}");
    let cut = with(request(json!(["refund", long])), json!({"truncate_prompt_tokens": -1}));
    let answer = server.ask(EMBEDDINGS, &cut).await;
    assert_eq!(vectors(&answer)[1], Encoder::load(&fixture("mean")).unwrap().embed(&long).unwrap());
}

#[tokio::test]
async fn what_an_encoder_cannot_take_is_a_clear_error() {
    let server = start().await;
    for (members, code, param) in [
        (json!({"input": []}), "empty_array", "input"),
        (json!({"input": ["a", 1]}), "invalid_type", "input"),
        (json!({"input": {"a": 1}}), "invalid_type", "input"),
        (json!({"input": [[]]}), "invalid_value", "input[0]"),
        (json!({"input": [99_999]}), "invalid_value", "input"),
        (json!({"input": vec!["a"; 2049]}), "array_above_max_length", "input"),
        (json!({"dimensions": 0}), "integer_below_min_value", "dimensions"),
        (json!({"dimensions": 25}), "invalid_value", "dimensions"),
        (json!({"encoding_format": "hex"}), "invalid_value", "encoding_format"),
        (json!({"truncate_prompt_tokens": 5}), "invalid_value", "truncate_prompt_tokens"),
        (json!({"priority": 1}), "unsupported_parameter", "priority"),
    ] {
        let response = server.post(EMBEDDINGS, &with(request(json!("refund")), members.clone())).await;
        let body: Value = response.json().await.unwrap();
        assert_eq!(
            (&body["error"]["code"], &body["error"]["param"]),
            (&json!(code), &json!(param)),
            "{members}"
        );
    }
    for (path, body) in [
        ("/v1/chat/completions", with(chat(), json!({"model": "meaning"}))),
        ("/v1/completions", json!({"model": "meaning", "prompt": "x"})),
    ] {
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], "model_of_another_kind");
        assert!(body["error"]["message"].as_str().unwrap().contains("/v1/embeddings"), "{body}");
    }
}

#[tokio::test]
async fn encoders_are_routed_counted_unloaded_and_loaded_as_other_versions() {
    let server = start().await;
    let of = async |model: &str| {
        let body = with(request(json!("refund")), json!({"model": model}));
        let response = server.post(EMBEDDINGS, &body).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.headers()["x-switchback-version"].to_str().unwrap().to_owned()
    };
    assert_eq!(of("meaning").await, "meaning@v1");
    let route = json!({"weights": {"v2": 100}, "reason": "better"});
    let (status, _) = server.admin(Method::PUT, "/admin/models/meaning/route", Some(route)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(of("meaning").await, "meaning@v2");
    let done = r#"switchback_requests_total{model="meaning",status="ok",version="v2"}"#;
    assert_eq!(server.counted(done).await, 1);
    for (action, state) in [("unload", "cold"), ("load", "hot")] {
        let path = format!("/admin/models/meaning/versions/v1/{action}");
        let (status, answer) = server.admin(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let (_, models) = server.admin(Method::GET, "/admin/models", None).await;
        assert!(models.to_string().contains(&format!("\"state\":\"{state}\"")), "{models}");
    }
    assert_eq!(of("meaning@v1").await, "meaning@v1");
    let card: Value = server.get("/v1/models/meaning@v1").await.json().await.unwrap();
    assert_eq!(card["max_model_len"], 24);
    let tokens = server.ask("/tokenize", &json!({"prompt": "refund", "model": "meaning"})).await;
    assert_eq!(tokens["max_model_len"], 24);
}
