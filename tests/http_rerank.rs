//! Reranking over HTTP: a cross-encoder is a version like any other.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Server, chat, serve, with};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchback::model::CrossEncoder;

const RERANK: &str = "/v1/rerank";
const DOCUMENTS: [&str; 4] = ["refund", "the parcel has not arrived", "My package is missing!", "refund"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

async fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("switchback.yaml");
    let [bert, roberta, sentences] = ["reranker/bert", "reranker/xlm_roberta", "encoder/mean"]
        .map(|name| fixture(name).display().to_string());
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  order:\n    versions:\n      v1: {{ image: {bert} }}\n      v2: {{ image: {roberta} }}\n\
         \x20     again: {{ image: {bert} }}\n\
         \x20     eight: {{ image: {bert}, quantize: q8_0, residency: cold }}\n\
         \x20   route: {{ v1: 100 }}\n\
         \x20 meaning:\n    versions:\n      v1: {{ image: {sentences} }}\n    route: {{ v1: 100 }}\n",
    );
    std::fs::write(&path, text).unwrap();
    serve(folder, &path).await
}

fn request() -> Value {
    json!({"model": "order", "query": "where is my parcel", "documents": DOCUMENTS})
}

/// Scores of the documents, and all tokens, told by the model itself.
fn told(name: &str) -> (Vec<f32>, usize) {
    let model = CrossEncoder::load(&fixture(name)).unwrap();
    let pairs = DOCUMENTS.map(|document| model.cut_tokens("where is my parcel", document).unwrap());
    let count = pairs.iter().map(|pair| pair.ids.len()).sum();
    (pairs.iter().map(|pair| model.score(pair).unwrap()).collect(), count)
}

/// The bits of a result's score.
fn score(result: &Value) -> u32 {
    (result["relevance_score"].as_f64().unwrap() as f32).to_bits()
}

fn places(answer: &Value) -> Vec<usize> {
    let results = answer["results"].as_array().unwrap();
    results.iter().map(|result| result["index"].as_u64().unwrap() as usize).collect()
}

#[tokio::test]
async fn documents_come_back_in_the_order_of_their_scores() {
    let server = start().await;
    for (version, name) in [("v1", "reranker/bert"), ("v2", "reranker/xlm_roberta")] {
        let (scores, tokens) = told(name);
        let asked =
            with(request(), json!({"model": format!("order@{version}"), "truncate_prompt_tokens": -1}));
        let answer = server.ask(RERANK, &asked).await;
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), DOCUMENTS.len());
        for result in results {
            let index = result["index"].as_u64().unwrap() as usize;
            assert_eq!(score(result), scores[index].to_bits());
            assert_eq!(result["document"], json!({"text": DOCUMENTS[index]}));
        }
        let order = places(&answer);
        assert!(order.windows(2).all(|pair| scores[pair[0]] >= scores[pair[1]]), "{order:?}");
        // the two that are equal stay in their order
        let place = |index: usize| order.iter().position(|found| *found == index).unwrap();
        assert!(place(0) < place(3), "{order:?}");
        assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
        assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    }
}

#[tokio::test]
async fn only_the_best_and_without_their_texts_if_that_is_asked_for() {
    let server = start().await;
    let all = places(&server.ask(RERANK, &request()).await);
    let best = with(request(), json!({"top_n": 2, "return_documents": false}));
    let answer = server.ask(RERANK, &best).await;
    assert_eq!(places(&answer), all[..2]);
    assert!(answer["results"][0].get("document").is_none(), "{answer}");
    for none in [json!(0), json!(99), json!(null)] {
        assert_eq!(places(&server.ask(RERANK, &with(request(), json!({"top_n": none}))).await), all);
    }
    let objects: Vec<Value> = DOCUMENTS.iter().map(|text| json!({"text": text})).collect();
    assert_eq!(places(&server.ask(RERANK, &with(request(), json!({"documents": objects}))).await), all);
}

#[tokio::test]
async fn a_pair_that_is_too_long_is_refused_by_its_place_or_cut_if_that_is_asked_for() {
    let server = start().await;
    let long = "where is my order? ".repeat(20);
    let asked = with(request(), json!({"documents": ["refund", long]}));
    let response = server.post(RERANK, &asked).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["param"], "documents[1]");
    assert!(body["error"]["message"].as_str().unwrap().contains("this model reads 24"), "{body}");
    let long_query = with(request(), json!({"query": long, "documents": ["refund"]}));
    let response = server.post(RERANK, &long_query).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["param"], "query", "no document is to blame");
    server.ask(RERANK, &with(long_query, json!({"truncate_prompt_tokens": -1}))).await;

    let answer = server.ask(RERANK, &with(asked, json!({"truncate_prompt_tokens": -1}))).await;
    let model = CrossEncoder::load(&fixture("reranker/bert")).unwrap();
    let wanted = model.score(&model.cut_tokens("where is my parcel", &long).unwrap()).unwrap();
    let results = answer["results"].as_array().unwrap();
    let found = results.iter().find(|result| result["index"] == 1).unwrap();
    assert_eq!(score(found), wanted.to_bits());
}

#[tokio::test]
async fn what_a_cross_encoder_cannot_take_is_a_clear_error() {
    let server = start().await;
    for (members, code, param) in [
        (json!({"documents": []}), "empty_array", "documents"),
        (json!({"documents": "refund"}), "invalid_type", "documents"),
        (json!({"documents": [1]}), "invalid_type", "documents[0]"),
        (json!({"documents": vec!["a"; 2049]}), "array_above_max_length", "documents"),
        (json!({"query": null}), "invalid_type", "query"),
        (json!({"top_n": -1}), "integer_below_min_value", "top_n"),
        (json!({"truncate_prompt_tokens": 5}), "invalid_value", "truncate_prompt_tokens"),
        (json!({"priority": 1}), "unsupported_parameter", "priority"),
        (json!({"documentz": 1}), "unknown_parameter", "documentz"),
    ] {
        let response = server.post(RERANK, &with(request(), members.clone())).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{members}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(
            (&body["error"]["code"], &body["error"]["param"]),
            (&json!(code), &json!(param)),
            "{body}"
        );
    }
    let another =
        |model: &str, path: &str, body: Value| (path.to_owned(), with(body, json!({"model": model})));
    for ((path, body), says) in [
        (another("order", "/v1/chat/completions", chat()), "/v1/rerank"),
        (another("order", "/v1/embeddings", json!({"input": "x"})), "/v1/rerank"),
        (another("meaning", RERANK, request()), "/v1/embeddings"),
    ] {
        let response = server.post(&path, &body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], "model_of_another_kind");
        assert!(body["error"]["message"].as_str().unwrap().contains(says), "{body}");
    }
}

#[tokio::test]
async fn its_versions_share_weights_and_have_sizes_and_traffic_as_all_have() {
    let server = start().await;
    let (_, models) = server.admin(Method::GET, "/admin/models", None).await;
    let model = models["models"].as_array().unwrap().iter().find(|model| model["model"] == "order").unwrap();
    let version = |name: &str| {
        let all = model["versions"].as_array().unwrap();
        all.iter().find(|version| version["version"] == name).unwrap().clone()
    };
    let (one, again) = (version("v1"), version("again"));
    assert_eq!(one["max_context"], 24);
    let shared = one["shared_bytes"].as_u64().max(again["shared_bytes"].as_u64());
    assert_eq!(shared, one["weight_bytes"].as_u64());

    let response = server.post(RERANK, &request()).await;
    assert_eq!(response.headers()["x-switchback-version"], "order@v1");
    let asked = "switchback_requests_total{model=\"order\",status=\"ok\",version=\"v1\"}";
    assert_eq!(server.counted(asked).await, 1);

    let path = "/admin/models/order/versions/eight/load";
    let (status, body) = server.admin(Method::POST, path, None).await;
    assert!(!status.is_success() && body.to_string().contains("leave `quantize` out"), "{body}");
}
