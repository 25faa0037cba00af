//! POST /v1/messages: Anthropic's shape, events and errors over the conversation that chat has.
#![allow(clippy::unwrap_used)]

mod common;

use common::scripted::{HERMES, start};
use common::{Server, Setup, start_with, with};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/messages";
const MARKS: &[&str] = &["<tool_call>", "</tool_call>", "<think>", "</think>"];
const SCRIPT: &[&str] = &[
    "<think>",
    "hm",
    "</think>",
    "I look.",
    "<tool_call>",
    "{\"name\": \"time\", \"arguments\": ",
    "{\"zone\": ",
    "1}}",
    "</tool_call>",
];

async fn scripted() -> Server {
    start(HERMES, SCRIPT, MARKS, ", reasoning_parser: deepseek_r1").await
}

fn request() -> Value {
    json!({
        "model": "bot", "max_tokens": 50, "temperature": 0, "system": "Be brief.",
        "messages": [{"role": "user", "content": "What time is it?"}],
        "tools": [{"name": "time", "input_schema": {"type": "object"}}]
    })
}

#[tokio::test]
async fn a_message_has_what_was_thought_said_and_called_as_blocks() {
    let server = scripted().await;
    let message = server.ask(MESSAGES, &request()).await;
    assert!(message["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    let content = message["content"].as_array().unwrap();
    assert_eq!(content[0], json!({"type": "thinking", "thinking": "hm", "signature": ""}));
    assert_eq!(content[1], json!({"type": "text", "text": "I look."}));
    assert_eq!((&content[2]["name"], &content[2]["input"]), (&json!("time"), &json!({"zone": 1})));
    assert_eq!(message["stop_reason"], "tool_use");
    assert_eq!(message["usage"]["output_tokens"], SCRIPT.len() + 1);
    let count = server.ask("/v1/messages/count_tokens", &with(request(), json!({"max_tokens": null}))).await;
    let usage = &message["usage"];
    let (fresh, cached) = (&usage["input_tokens"], &usage["cache_read_input_tokens"]);
    assert_eq!(count["input_tokens"].as_u64(), Some(fresh.as_u64().unwrap() + cached.as_u64().unwrap()));
    // and back with the result
    let result = json!([{"type": "tool_result", "tool_use_id": content[2]["id"], "content": "noon"}]);
    let mut messages = request()["messages"].as_array().unwrap().clone();
    messages.push(json!({"role": "assistant", "content": content}));
    messages.push(json!({"role": "user", "content": result}));
    server.ask(MESSAGES, &with(request(), json!({"messages": messages}))).await;
}

#[tokio::test]
async fn events_open_fill_and_close_each_block() {
    let server = scripted().await;
    let response = server.post(MESSAGES, &with(request(), json!({"stream": true}))).await;
    let text = response.text().await.unwrap();
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names, kinds);
    let (start, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
    assert_eq!(
        kinds,
        [
            "message_start",
            start,
            delta,
            stop,
            start,
            delta,
            stop,
            start,
            delta,
            delta,
            stop,
            "message_delta",
            "message_stop"
        ]
    );
    assert!(events[0]["message"]["usage"]["input_tokens"].as_u64().unwrap() > 0);
    let json: String = events.iter().filter_map(|e| e["delta"]["partial_json"].as_str()).collect();
    assert_eq!(json, "{\"zone\": 1}");
    let last = &events[events.len() - 2];
    assert_eq!(last["delta"]["stop_reason"], "tool_use");
    assert_eq!(last["usage"]["output_tokens"], SCRIPT.len() + 1);
}

#[tokio::test]
async fn errors_have_anthropics_body() {
    let server = start(HERMES, &["aa"], &[], "").await;
    for (members, status, kind, names) in [
        (json!({"max_tokens": null}), 400, "invalid_request_error", "`max_tokens`"),
        (json!({"model": "nobody"}), 404, "not_found_error", "nobody"),
        (json!({"messages": []}), 400, "invalid_request_error", "`messages`"),
        (
            json!({"messages": [{"role": "system", "content": "x"}]}),
            400,
            "invalid_request_error",
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            400,
            "invalid_request_error",
            "messages[0].content[0].type",
        ),
        (json!({"stop_sequences": [""]}), 400, "invalid_request_error", "`stop_sequences"),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 9}}),
            400,
            "invalid_request_error",
            "`thinking`",
        ),
        (json!({"n": 2}), 400, "invalid_request_error", "`n`"),
    ] {
        let response = server.post(MESSAGES, &with(request(), members.clone())).await;
        assert_eq!(response.status(), status, "{members}");
        let body: Value = response.json().await.unwrap();
        assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)), "{members}");
        assert!(body["error"]["message"].as_str().unwrap().contains(names), "{body}");
    }
}

#[tokio::test]
async fn the_key_may_come_in_anthropics_header() {
    let server = start_with(Setup { server: "  api_keys: [\"sk-1\"]\n", ..Setup::default() }).await;
    let body = json!({"model": "desk", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]});
    let ask = async |key: Option<&str>| {
        let mut request = server.client.post(server.url(MESSAGES)).json(&body);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        request.send().await.unwrap()
    };
    assert_eq!(ask(Some("sk-1")).await.status(), 200);
    for key in [None, Some("sk-2")] {
        let refused = ask(key).await;
        assert_eq!(refused.status(), 401);
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["error"]["type"], "authentication_error");
    }
}
