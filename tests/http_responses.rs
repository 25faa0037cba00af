//! POST /v1/responses: items and typed events over the conversation that chat has.
#![allow(clippy::unwrap_used)]

mod common;

use common::scripted::{HERMES, start};
use common::{Server, with};
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";
const MARKS: &[&str] = &["<tool_call>", "</tool_call>", "<think>", "</think>"];
const SCRIPT: &[&str] = &[
    "<think>",
    "hm",
    "</think>",
    "I ",
    "look.",
    "<tool_call>",
    "{\"name\": \"time\", \"arguments\": ",
    "{\"zone\": ",
    "1}}",
    "</tool_call>",
];

async fn scripted() -> Server {
    start(HERMES, SCRIPT, MARKS, ", reasoning_parser: qwen3").await
}

fn request() -> Value {
    json!({
        "model": "bot", "input": "What time is it?", "temperature": 0, "metadata": {"run": "7"},
        "tools": [{"type": "function", "name": "time", "parameters": {"type": "object"}}]
    })
}

/// Ids and times are others each time.
fn settled(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                match name.as_str() {
                    "id" | "call_id" | "item_id" | "system_fingerprint" => *value = json!("…"),
                    "created_at" => *value = json!(0),
                    _ => *value = settled(value.take()),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = settled(item.take())),
        _ => {}
    }
    value
}

#[tokio::test]
async fn a_response_has_what_was_thought_said_and_called_as_items() {
    let server = scripted().await;
    let response = server.ask(RESPONSES, &request()).await;
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!((&response["status"], &response["store"]), (&json!("completed"), &json!(false)));
    assert_eq!(response["metadata"], json!({"run": "7"}));
    insta::assert_json_snapshot!(settled(response["output"].clone()), @r#"
    [
      {
        "id": "…",
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [
          {
            "type": "reasoning_text",
            "text": "hm"
          }
        ]
      },
      {
        "id": "…",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [
          {
            "type": "output_text",
            "text": "I look.",
            "annotations": [],
            "logprobs": []
          }
        ]
      },
      {
        "id": "…",
        "type": "function_call",
        "status": "completed",
        "call_id": "…",
        "name": "time",
        "arguments": "{\"zone\": 1}"
      }
    ]
    "#);
    let usage = &response["usage"];
    assert_eq!(usage["output_tokens"], SCRIPT.len() + 1);
    assert_eq!(usage["output_tokens_details"]["reasoning_tokens"], 3);
}

/// The events of a stream, whose names and numbers must be right.
async fn events(server: &Server, request: &Value) -> Vec<Value> {
    let text =
        server.post(RESPONSES, &with(request.clone(), json!({"stream": true}))).await.text().await.unwrap();
    let (mut names, mut events) = (Vec::new(), Vec::new());
    for line in text.lines() {
        names.extend(line.strip_prefix("event: ").map(str::to_owned));
        events.extend(line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).unwrap()));
    }
    assert_eq!(names.len(), events.len(), "{text}");
    for (i, (name, event)) in names.iter().zip(&events).enumerate() {
        assert_eq!((&json!(name), &json!(i)), (&event["type"], &event["sequence_number"]));
    }
    events
}

#[tokio::test]
async fn events_tell_of_each_item_and_end_with_the_response_as_a_whole() {
    let server = scripted().await;
    let events = events(&server, &request()).await;
    let kinds: Vec<&str> =
        events.iter().map(|e| e["type"].as_str().unwrap().strip_prefix("response.").unwrap()).collect();
    let item = |delta: &[&'static str], done: &[&'static str]| {
        let mut all = vec!["output_item.added"];
        all.extend(delta);
        all.extend(done);
        all.push("output_item.done");
        all
    };
    let part = "content_part.added";
    let mut wanted = vec!["created", "in_progress"];
    wanted.extend(item(&[part, "reasoning_text.delta"], &["reasoning_text.done", "content_part.done"]));
    let text = "output_text.delta";
    wanted.extend(item(&[part, text, text], &["output_text.done", "content_part.done"]));
    let more = "function_call_arguments.delta";
    wanted.extend(item(&[more, more], &["function_call_arguments.done"]));
    wanted.push("completed");
    assert_eq!(kinds, wanted);
    let whole = server.ask(RESPONSES, &request()).await;
    let last = events.last().unwrap()["response"].clone();
    assert_eq!(settled(last["output"].clone()), settled(whole["output"].clone()));
    assert_eq!(last["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    let added: Vec<&Value> = events
        .iter()
        .filter(|e| e["type"] == "response.output_item.added")
        .map(|e| &e["output_index"])
        .collect();
    assert_eq!(added, [0, 1, 2]);
}

#[tokio::test]
async fn an_answer_at_its_most_tokens_is_incomplete() {
    let server = start(HERMES, &["one", " two", " three"], &[], "").await;
    let cut = json!({"model": "bot", "input": "x", "max_output_tokens": 2, "temperature": 0});
    let response = server.ask(RESPONSES, &cut).await;
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(response["output"][0]["content"][0]["text"], "one two");
    assert_eq!(events(&server, &cut).await.last().unwrap()["type"], "response.incomplete");
}

#[tokio::test]
async fn an_answer_that_is_sent_back_is_gone_on_with() {
    let server = scripted().await;
    let response = server.ask(RESPONSES, &request()).await;
    let mut items = vec![json!({"role": "user", "content": "What time is it?"})];
    items.extend(response["output"].as_array().unwrap().iter().cloned());
    let call = response["output"][2]["call_id"].clone();
    items.push(json!({"type": "function_call_output", "call_id": call, "output": "noon"}));
    server.ask(RESPONSES, &with(request(), json!({"input": items}))).await;
}

#[tokio::test]
async fn errors_name_the_parameters_of_this_endpoint() {
    let server = start(HERMES, &["aa"], &[], "").await;
    let base = json!({"model": "bot", "input": "x"});
    let pairs: Value = (0..17).map(|i| (i.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    for (members, code, param) in [
        (json!({"input": null}), "invalid_type", "input"),
        (json!({"input": []}), "empty_array", "input"),
        (json!({"input": 7}), "invalid_type", "input"),
        (json!({"input": [{"type": "item_reference", "id": "1"}]}), "unsupported_parameter", "input[0].type"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "unsupported_parameter",
            "input[0].content[0].type",
        ),
        (json!({"input": "x".repeat(9000)}), "context_length_exceeded", "input"),
        (json!({"max_output_tokens": 0}), "integer_below_min_value", "max_output_tokens"),
        (json!({"store": true}), "unsupported_parameter", "store"),
        (json!({"previous_response_id": "resp_1"}), "unsupported_parameter", "previous_response_id"),
        (json!({"background": true}), "unsupported_parameter", "background"),
        (json!({"tools": [{"type": "web_search"}]}), "unsupported_parameter", "tools[0].type"),
        (json!({"metadata": {"a": 1}}), "invalid_type", "metadata.a"),
        (json!({"metadata": {"a": "x".repeat(600)}}), "invalid_value", "metadata.a"),
        (
            json!({"metadata": {("a".repeat(65)): "x"}}),
            "invalid_value",
            &format!("metadata.{}", "a".repeat(64)),
        ),
        (json!({"metadata": pairs}), "array_above_max_length", "metadata"),
        (json!({"reasoning": {"summary": "detailed"}}), "unsupported_parameter", "reasoning.summary"),
        (json!({"messages": []}), "unknown_parameter", "messages"),
        (json!({"temperature": 3}), "decimal_above_max_value", "temperature"),
    ] {
        let response = server.post(RESPONSES, &with(base.clone(), members.clone())).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, 400, "{members}: {body}");
        assert_eq!(
            (&body["error"]["code"], &body["error"]["param"]),
            (&json!(code), &json!(param)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn each_endpoint_is_described_and_counted() {
    let server = scripted().await;
    server.ask(RESPONSES, &request()).await;
    assert_eq!(
        server.counted(r#"switchback_http_requests_total{path="/v1/responses",status="200"}"#).await,
        1
    );
    assert_eq!(server.counted(r#"switchback_requests_total{model="bot",status="ok",version="v1"}"#).await, 1);
    let description: Value = server.get("/openapi.json").await.json().await.unwrap();
    for path in [RESPONSES, "/v1/messages", "/v1/messages/count_tokens", "/v1/embeddings"] {
        assert!(description["paths"].get(path).is_some(), "{path}");
    }
    for schema in ["ToolsBody", "ToolCallBody", "ResponsesBody", "MessagesBody", "EmbeddingsBody"] {
        assert!(description["components"]["schemas"].get(schema).is_some(), "{schema}");
    }
}
