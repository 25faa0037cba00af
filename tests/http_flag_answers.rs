//! Flags that answer in the place of a version: one text, in every shape.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::process::run;
use common::{Server, chat, completion, with};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const TEXT: &str = "We are back at noon.\nCall \"us\" {{ till }} then.";
const CHAT: &str = "/v1/chat/completions";

/// The tiny model with checks; its flags as they are written.
fn config(folder: &Path, model: &str, v2: &str) -> std::path::PathBuf {
    for version in ["v1", "v2"] {
        common::model::write(&folder.join(version), version);
    }
    let path = folder.join("switchback.yaml");
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         engine: {{ kv_tokens: 4096 }}\nmodels:\n  desk:\n    sticky_header: x-user-id\n{model}    keep_answers: 9\n    checks: [refusal, feedback]\n\
         \x20   versions:\n      v1: {{ image: v1 }}\n      v2: {{ image: v2{v2} }}\n    route: {{ v1: 100 }}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

async fn serve(model: &str, v2: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), model, v2);
    common::serve(folder, &config).await
}

/// Posts, and gives the header that names who has answered, and the body.
async fn said(server: &Server, path: &str, body: &Value) -> (String, Value) {
    let response = server.post(path, body).await;
    let by = response.headers()["x-switchback-version"].to_str().unwrap().to_owned();
    assert_eq!(response.status(), StatusCode::OK);
    (by, response.json().await.unwrap())
}

async fn set(server: &Server, path: &str, flag: Value) -> (StatusCode, Value) {
    server.admin(Method::PUT, path, Some(flag)).await
}

#[tokio::test]
async fn a_flag_answers_in_every_shape_whole_and_streamed() {
    let written = format!("    flag: {{ enabled: false, otherwise: {{ answer: {} }} }}\n", json!(TEXT));
    let server = serve(&written, "").await;
    let by = "flag:desk".to_owned();

    let (who, answer) = said(&server, CHAT, &with(chat(), json!({"n": 2, "logprobs": true}))).await;
    assert_eq!(who, by);
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    for choice in choices {
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(TEXT), &json!("stop")));
        assert_eq!(choice["message"]["role"], "assistant");
    }
    let usage = &answer["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]),
        (&json!(0), &json!(0), &json!(0))
    );
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"), "{answer}");

    let streamed = with(chat(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = server.events(CHAT, &streamed).await;
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, TEXT);
    assert!(events.iter().any(|event| event["choices"][0]["finish_reason"] == "stop"), "{events:?}");
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 0);

    let prompts = json!({"prompt": ["a", "b"], "echo": true, "n": 2, "best_of": 3});
    let (who, answer) = said(&server, "/v1/completions", &with(completion(), prompts)).await;
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].clone()).collect();
    let [a, b] = ["a", "b"].map(|prompt| json!(format!("{prompt}{TEXT}")));
    assert_eq!((who, texts), (by.clone(), vec![a.clone(), a, b.clone(), b]));
    let events = server.events("/v1/completions", &with(completion(), json!({"stream": true}))).await;
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, TEXT);

    let asked = json!({"model": "desk", "input": "hello"});
    let (who, answer) = said(&server, "/v1/responses", &asked).await;
    assert_eq!((&who, &answer["status"]), (&by, &json!("completed")));
    assert_eq!(answer["output"][0]["content"][0]["text"], TEXT);
    assert_eq!(answer["usage"]["output_tokens"], 0);
    let events = named_events(&server, "/v1/responses", &with(asked, json!({"stream": true}))).await;
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let text: String = deltas.filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, TEXT);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.completed"), &json!("completed"))
    );

    let asked = json!({"model": "desk", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]});
    let (who, answer) = said(&server, "/v1/messages", &asked).await;
    assert_eq!((&who, &answer["stop_reason"]), (&by, &json!("end_turn")));
    assert_eq!(answer["content"][0]["text"], TEXT);
    let events = named_events(&server, "/v1/messages", &with(asked, json!({"stream": true}))).await;
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, TEXT);
    let ends: Vec<_> = events.iter().filter_map(|event| event["delta"]["stop_reason"].as_str()).collect();
    assert_eq!((ends, &events.last().unwrap()["type"]), (vec!["end_turn"], &json!("message_stop")));
}

/// The events of a stream that is no chat's: each has its name in `type`. Who has answered is the flag.
async fn named_events(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let response = server.post(path, body).await;
    assert_eq!(response.headers()["x-switchback-version"], "flag:desk");
    let text = response.text().await.unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[tokio::test]
async fn who_is_let_in_gets_a_model_and_who_names_a_version_or_wants_tokens_gets_no_text() {
    let server = serve("", "").await;
    let beta = json!([{"header": "x-plan", "is": ["beta"]}]);
    let flag = json!({"cohorts": beta, "otherwise": {"answer": TEXT}, "reason": "beta only"});
    let (status, flags) = set(&server, "/admin/models/desk/versions/v1/flag", flag).await;
    assert_eq!((status, &flags["versions"]["v1"]["otherwise"]), (StatusCode::OK, &json!({"answer": TEXT})));

    let (who, answer) = said(&server, CHAT, &chat()).await;
    assert_eq!((who.as_str(), &answer["choices"][0]["message"]["content"]), ("flag:desk@v1", &json!(TEXT)));
    let request = server.client.post(server.url(CHAT)).header("x-plan", "beta").json(&chat());
    assert_eq!(request.send().await.unwrap().headers()["x-switchback-version"], "desk@v1");
    let (who, _) = said(&server, CHAT, &with(chat(), json!({"model": "desk@v1"}))).await;
    assert_eq!(who, "desk@v1", "a version's cohorts are about whom the route sends to it");

    let refused = server.post("/tokenize", &json!({"model": "desk", "prompt": "a"})).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let (status, _) = set(
        &server,
        "/admin/models/desk/flag",
        json!({"enabled": false, "otherwise": {"answer": "Closed."}}),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    let (who, answer) = said(&server, CHAT, &chat()).await;
    assert_eq!((who.as_str(), &answer["choices"][0]["message"]["content"]), ("flag:desk", &json!("Closed.")));
    let pinned = server.post(CHAT, &with(chat(), json!({"model": "desk@v1"}))).await;
    assert_eq!(pinned.status(), StatusCode::FORBIDDEN);

    // by OpenFeature the model is closed
    let ofrep = |key: &str| {
        let request = server.client.post(server.url(&format!("/ofrep/v1/evaluate/flags/{key}")));
        request.json(&json!({"context": {"targetingKey": "ada"}})).send()
    };
    let open: Value = ofrep("desk").await.unwrap().json().await.unwrap();
    let version: Value = ofrep("desk:version").await.unwrap().json().await.unwrap();
    assert_eq!((&open["value"], version.get("value")), (&json!(false), None), "{version}");
}

#[tokio::test]
async fn a_text_is_counted_as_one_and_is_evidence_for_nothing() {
    let server = serve("", ", flag: { otherwise: { answer: \"Later.\" }, percentage: 0 }").await;
    let flag = json!({"enabled": false, "otherwise": {"answer": TEXT}, "reason": "the roof leaks"});
    set(&server, "/admin/models/desk/flag", flag).await;
    let (_, answer) = said(&server, CHAT, &chat()).await;
    let id = answer["id"].as_str().unwrap();
    assert_eq!(server.counted("switchback_flag_answers_total{model=\"desk\",version=\"\"}").await, 1);
    assert_eq!(
        server.counted("switchback_requests_total{model=\"desk\",status=\"ok\",version=\"\"}").await,
        1
    );
    let feedback = server.post("/v1/feedback", &json!({"response_id": id, "score": 0})).await;
    assert_eq!(feedback.status(), StatusCode::NOT_FOUND);
    let (status, _) = server.admin(Method::GET, &format!("/admin/responses/{id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "it is no version's answer");

    // a flag leads one hop, and no further: not to what the flag of the other version says
    set(&server, "/admin/models/desk/flag", json!({})).await;
    set(&server, "/admin/models/desk/versions/v1/flag", json!({"enabled": false, "otherwise": "v2"})).await;
    assert_eq!(server.post(CHAT, &chat()).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(server.counted("switchback_responses_checked_total").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_set_a_text_by_the_command_line_and_it_outlives_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let written = config(folder.path(), "", "");
    let server = common::serve(folder, &written).await;
    let admin = server.admin_url("");
    let flag = |arguments: &[&str]| {
        let output = run(&[&["flag"], arguments, &["--admin", &admin]].concat());
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), said.concat())
    };
    let (done, said_by) =
        flag(&["set", "desk", "--answer", "Back at noon.", "--percentage", "0", "--reason", "a leak"]);
    assert!(done && said_by.contains("\"Back at noon.\""), "{said_by}");
    let (done, _) = flag(&["set", "desk", "--answer", "a", "--otherwise", "v1"]);
    assert!(!done, "both make no sense");
    let (done, why) = flag(&["set", "desk", "--answer", " "]);
    assert!(!done && why.contains("an answer of 1 bytes; give a text"), "{why}");
    let (_, audit) = server.admin(Method::GET, "/admin/audit?limit=1", None).await;
    let line = &audit["entries"][0];
    assert_eq!((&line["action"], &line["reason"]), (&json!("flag"), &json!("a leak")));
    assert!(line["detail"].as_str().unwrap().contains(r#""otherwise":{"answer":"Back at noon."}"#), "{line}");

    let Server { app, folder, .. } = server;
    app.shut_down().await;
    let server = common::serve(folder, &written).await;
    let (who, answer) = said(&server, CHAT, &chat()).await;
    assert_eq!(
        (who.as_str(), &answer["choices"][0]["message"]["content"]),
        ("flag:desk", &json!("Back at noon."))
    );

    for (flag, code) in [
        (json!({"otherwise": {"answer": ""}}), "invalid_value"),
        (json!({"otherwise": {"answer": "a", "more": 1}}), "invalid_value"),
        (json!({"otherwise": {"answer": "a".repeat((16 << 10) + 1)}}), "invalid_value"),
        (json!({"otherwise": 7}), "invalid_value"),
    ] {
        let (status, error) = set(&server, "/admin/models/desk/flag", flag).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
        assert!(error["error"]["code"] == code || error["error"]["code"] == "invalid_type", "{error}");
    }
}
