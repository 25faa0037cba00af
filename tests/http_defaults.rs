//! A version's own sampling defaults: they count where the client says nothing, and its word goes before theirs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, chat, completion, start_with_defaults, with};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A chat that ends only where it must, with some members set.
fn endless(members: Value) -> Value {
    with(with(chat(), json!({"max_tokens": null, "ignore_eos": true})), members)
}

async fn tokens(server: &Server, request: &Value) -> u64 {
    let answer = server.ask(CHAT, request).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    answer["usage"]["completion_tokens"].as_u64().unwrap()
}

async fn text(server: &Server, members: Value) -> String {
    let answer = server.ask(CHAT, &with(chat(), members)).await;
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn max_new_tokens_ends_an_answer_whose_client_names_no_end() {
    let server = start_with_defaults(json!({"max_new_tokens": 9})).await;
    assert_eq!(tokens(&server, &endless(json!({}))).await, 9);
    assert_eq!(tokens(&server, &endless(json!({"max_tokens": 3}))).await, 3);
    assert_eq!(tokens(&server, &endless(json!({"max_completion_tokens": 20}))).await, 20);
    assert_eq!(tokens(&server, &endless(json!({"min_tokens": 12}))).await, 12);
    // OpenAI's completions end after 16 tokens unless the client says otherwise
    let answer = server.ask(TEXT, &with(completion(), json!({"max_tokens": null, "ignore_eos": true}))).await;
    assert_eq!(answer["usage"]["completion_tokens"], 16);
}

#[tokio::test]
async fn max_new_tokens_is_cut_to_what_fits() {
    let server = start_with_defaults(json!({"max_new_tokens": 100_000})).await;
    let prompt = "user:hello\nassistant:".len() as u64;
    assert_eq!(tokens(&server, &endless(json!({}))).await, 256 - prompt);
}

#[tokio::test]
async fn min_p_counts_unless_the_client_sets_its_own() {
    let server = start_with_defaults(json!({"min_p": 1.0})).await;
    // only the likeliest token is left, so that the answer is the greedy one whatever the seed
    let hot = json!({"temperature": 2, "max_tokens": 16, "ignore_eos": true});
    let greedy = text(&server, with(hot.clone(), json!({"temperature": 0}))).await;
    for seed in [1, 2, 3] {
        assert_eq!(text(&server, with(hot.clone(), json!({"seed": seed}))).await, greedy);
    }
    let free = text(&server, with(hot, json!({"min_p": 0}))).await;
    assert_ne!(free, greedy);
}
