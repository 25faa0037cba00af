//! Tools on chat: offered, called in the model's own format, answered, streamed; and reasoning beside them.
#![allow(clippy::unwrap_used)]

mod common;

use common::scripted::{HERMES, start};
use common::with;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// An answer that looks, and calls twice. Its marks are special tokens, which other answers do not show.
const CALLS: &[&str] = &[
    "I look.",
    "\n\n",
    "<tool_call>",
    "\n{\"name\": \"wea",
    "ther\", \"arguments\": ",
    "{\"city\": ",
    "\"Paris\"}",
    "}\n",
    "</tool_call>",
    "\n<tool_",
    "call>{\"name\": \"time\"}",
    "</tool_call",
    ">\n",
];
const MARKS: &[&str] = &["<tool_call>", "</tool_call>"];

fn request() -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    json!({
        "model": "bot", "messages": [{"role": "user", "content": "Weather?"}], "temperature": 0,
        "tools": [tool("weather"), tool("time")]
    })
}

fn called(calls: &Value) -> Vec<(String, String)> {
    let call = |call: &Value| {
        assert_eq!(call["type"], "function");
        assert!(call["id"].as_str().unwrap().starts_with("call_"));
        let part = |name: &str| call["function"][name].as_str().unwrap().to_owned();
        (part("name"), part("arguments"))
    };
    calls.as_array().unwrap().iter().map(call).collect()
}

fn both() -> Vec<(String, String)> {
    [("weather", "{\"city\": \"Paris\"}"), ("time", "{}")].map(|(n, a)| (n.to_owned(), a.to_owned())).into()
}

#[tokio::test]
async fn calls_are_told_apart_from_the_text_before_them() {
    let server = start(HERMES, CALLS, MARKS, "").await;
    let answer = server.ask(CHAT, &request()).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "I look.");
    assert_eq!(called(&choice["message"]["tool_calls"]), both());
    assert_eq!(answer["usage"]["completion_tokens"], CALLS.len() + 1);
    // without tools it is text, and special tokens are left out as ever
    let plain = server.ask(CHAT, &with(request(), json!({"tools": null}))).await;
    let text = plain["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.starts_with("I look.\n\n\n{\"name\": \"weather\""), "{text}");
    assert_eq!(plain["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stream_brings_the_name_first_and_then_the_arguments_in_pieces() {
    let server = start(HERMES, CALLS, MARKS, "").await;
    let events = server.events(CHAT, &with(request(), json!({"stream": true}))).await;
    let deltas: Vec<Value> = events.iter().map(|e| e["choices"][0]["delta"].clone()).collect();
    let mut of_calls: Vec<Value> = deltas.iter().filter_map(|d| d["tool_calls"].get(0).cloned()).collect();
    for call in &mut of_calls {
        if call.get("id").is_some() {
            call["id"] = json!("call_…");
        }
    }
    let began = |index, name| json!({"index": index, "id": "call_…", "type": "function", "function": {"name": name, "arguments": ""}});
    let more = |index, text| json!({"index": index, "function": {"arguments": text}});
    assert_eq!(
        of_calls,
        [began(0, "weather"), more(0, "{\"city\": "), more(0, "\"Paris\"}"), began(1, "time"), more(1, "{}"),]
    );
    let text: String = deltas.iter().filter_map(|d| d["content"].as_str()).collect();
    assert_eq!(text, "I look.");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn without_parallel_calls_there_is_one() {
    let server = start(HERMES, CALLS, MARKS, "").await;
    let answer = server.ask(CHAT, &with(request(), json!({"parallel_tool_calls": false}))).await;
    assert_eq!(called(&answer["choices"][0]["message"]["tool_calls"]), both()[..1]);
}

#[tokio::test]
async fn calls_and_results_come_back_through_the_template_with_arguments_as_objects() {
    let server = start(HERMES, CALLS, MARKS, "").await;
    let call =
        json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    let messages = json!([
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"}
    ]);
    let tokens = server.ask("/tokenize", &json!({"model": "bot", "messages": messages})).await;
    let text = server.ask("/detokenize", &json!({"model": "bot", "tokens": tokens["tokens"]})).await;
    assert_eq!(
        text["prompt"],
        "assistant:<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\ntool:42\nassistant:"
    );
    server.ask(CHAT, &with(request(), json!({"messages": messages}))).await;
}

#[tokio::test]
async fn an_answer_that_must_call_begins_with_the_call() {
    // the script follows the colon before the arguments
    let server = start(HERMES, &[" {\"city\":", " \"Rome\"}", "}\n", "</tool_call>"], MARKS, "").await;
    let named = json!({"type": "function", "function": {"name": "time"}});
    let answer = server.ask(CHAT, &with(request(), json!({"tool_choice": named}))).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(called(&message["tool_calls"]), [("time".to_owned(), "{\"city\": \"Rome\"}".to_owned())]);
    assert_eq!(message["content"], Value::Null);
}

#[tokio::test]
async fn what_looks_like_a_call_and_is_none_is_the_answer() {
    let server = start(HERMES, &["<tool_call>", "no JSON", "</tool_call>"], MARKS, "").await;
    let answer = server.ask(CHAT, &request()).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "<tool_call>no JSON</tool_call>");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["choices"][0]["message"].get("tool_calls").is_none());
}

#[tokio::test]
async fn a_version_that_does_not_tell_its_format_refuses_tools_until_its_operators_do() {
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}:";
    let script = &["{\"name\": \"time\", ", "\"parameters\": {}}"];
    let silent = start(template, script, &[], "").await;
    let response = silent.post(CHAT, &request()).await;
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["param"], "tools");
    let told = start(template, script, &[], ", tool_parser: llama3_json").await;
    let answer = told.ask(CHAT, &request()).await;
    assert_eq!(
        called(&answer["choices"][0]["message"]["tool_calls"]),
        [("time".to_owned(), "{}".to_owned())]
    );
}

#[tokio::test]
async fn checks_judge_the_calls() {
    let server = start(HERMES, &["<tool_call>", "{\"name\": \"fly\"}", "</tool_call>"], MARKS, "").await;
    server.ask(CHAT, &request()).await;
    let series =
        r#"switchback_checks_total{check="tool-call-valid",model="bot",result="failed",version="v1"}"#;
    for _ in 0..200 {
        if server.counted(series).await == 1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{}", server.get("/metrics").await.text().await.unwrap());
}

const THOUGHT: &[&str] = &["<think>", "\nlet me", " see\n", "</think>", "\n\nYes", " it is."];

fn question() -> Value {
    json!({"model": "bot", "messages": [{"role": "user", "content": "?"}], "temperature": 0})
}

#[tokio::test]
async fn reasoning_is_split_from_the_answer_and_counted() {
    let server = start(HERMES, THOUGHT, &["<think>", "</think>"], ", reasoning_parser: qwen3").await;
    let answer = server.ask(CHAT, &question()).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning_content"], &message["content"]),
        (&json!("let me see"), &json!("Yes it is."))
    );
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 4);
    let events = server.events(CHAT, &with(question(), json!({"stream": true}))).await;
    let all = |field: &str| -> String {
        events.iter().filter_map(|e| e["choices"][0]["delta"][field].as_str()).collect()
    };
    assert_eq!(
        (all("reasoning_content"), all("content")),
        ("let me see".to_owned(), "Yes it is.".to_owned())
    );
}

#[tokio::test]
async fn reasoning_that_the_template_opens_is_reasoning_from_the_first_token() {
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>{{ '\\n' }}";
    let script = &["let me", " see\n", "</think>", "Yes."];
    let server = start(template, script, &[], ", reasoning_parser: deepseek_r1").await;
    let answer = server.ask(CHAT, &question()).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("let me see"), &json!("Yes.")));
}

#[tokio::test]
async fn without_a_parser_the_thoughts_are_the_answers() {
    let server = start(HERMES, THOUGHT, &[], "").await;
    let answer = server.ask(CHAT, &question()).await;
    assert_eq!(answer["choices"][0]["message"]["content"], THOUGHT.concat());
    assert!(answer["usage"].get("completion_tokens_details").is_none());
}

#[tokio::test]
async fn a_shape_that_is_asked_for_has_no_place_for_thoughts_nor_for_a_call_that_is_demanded() {
    // the template opens the thought, which a grammar would never let end
    let template = HERMES.replace("assistant:", "assistant:<think>\\n");
    let server = start(&template, CALLS, MARKS, ", reasoning_parser: qwen3, tool_parser: hermes").await;
    let shaped = with(request(), json!({"guided_choice": ["yes"]}));
    let answer = server.ask(CHAT, &with(shaped.clone(), json!({"tools": null}))).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["reasoning_content"]),
        (&json!("yes"), &Value::Null),
        "{answer}"
    );

    let named = json!({"type": "function", "function": {"name": "time"}});
    for choice in [json!("required"), named] {
        let refused = server.post(CHAT, &with(shaped.clone(), json!({"tool_choice": choice}))).await;
        assert_eq!(refused.status(), 400);
        let error: Value = refused.json().await.unwrap();
        assert_eq!(error["error"]["param"], "tool_choice", "{error}");
    }
}

/// A model of random weights, which would say anything.
async fn babbler() -> common::Server {
    let folder = tempfile::tempdir().unwrap();
    common::model::write(&folder.path().join("babbler"), "babbler");
    let path = folder.path().join("switchback.yaml");
    let text = "server: { mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }\n\
         engine: { kv_tokens: 8192 }\n\
         models:\n  bot:\n    versions:\n      v1: { image: babbler, tool_parser: hermes }\n";
    std::fs::write(&path, text).unwrap();
    common::serve(folder, &path).await
}

fn offer(strict: bool, more: Value) -> Value {
    let schema = with(
        json!({
            "type": "object", "additionalProperties": false, "required": ["city", "days"],
            "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"enum": [1, 2, 7]}}
        }),
        more,
    );
    let of = |name: &str, schema: &Value| json!({"type": "function", "function": {"name": name, "parameters": schema, "strict": strict}});
    let time =
        json!({"type": "object", "additionalProperties": false, "properties": {"zone": {"type": "boolean"}}});
    json!([of("weather", &schema), of("time", &time)])
}

#[tokio::test]
async fn a_call_that_is_demanded_is_valid_whatever_the_model_would_say() {
    let server = babbler().await;
    let tools = offer(false, json!({}));
    let named = json!({"type": "function", "function": {"name": "weather"}});
    let mut names = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let choice = if seed % 2 == 0 { json!("required") } else { named.clone() };
        let body = with(
            request(),
            json!({"tools": tools, "tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 150,
                "parallel_tool_calls": false}),
        );
        let answer = server.ask(CHAT, &body).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let calls = called(&choice["message"]["tool_calls"]);
        let [(name, arguments)] = &calls[..] else { panic!("{answer}") };
        let offered =
            tools.as_array().unwrap().iter().find(|tool| tool["function"]["name"] == *name).unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        jsonschema::validate(&offered["function"]["parameters"], &arguments).unwrap();
        names.insert(name.clone());
    }
    assert_eq!(names.len(), 2, "either may be called where any is demanded");
}

#[tokio::test]
async fn a_strict_tool_that_cannot_be_kept_to_is_refused_and_another_is_not() {
    let server = babbler().await;
    let ask = |strict, choice: &str| {
        let tools = offer(strict, json!({"not": {"required": ["x"]}}));
        with(
            request(),
            json!({"tools": tools, "tool_choice": choice, "max_tokens": 100, "temperature": 1, "seed": 1}),
        )
    };
    for choice in ["auto", "required"] {
        let refused = server.post(CHAT, &ask(true, choice)).await;
        assert_eq!(refused.status(), 400);
        let error: Value = refused.json().await.unwrap();
        assert_eq!(error["error"]["param"], "tools");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("`weather`") && message.contains("`not`"), "{message}");
        server.ask(CHAT, &ask(false, choice)).await;
    }
}
