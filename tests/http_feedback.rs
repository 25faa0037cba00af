//! What users think of their answers: counted once, and a reason to abort a rollout.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::Server;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const CHECKS: &str = "    checks: [{ type: feedback, threshold: 0.6 }]\n\
    policies:\n  quick: { steps: [{setWeight: 50}, {pause: {duration: 1h}}], margin_pp: 20, min_samples: 10 }\n";

async fn desk() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = common::process::demo_config(folder.path());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{CHECKS}")).unwrap();
    common::serve(folder, &path).await
}

/// Asks, and gives the answer's id and the version that gave it.
async fn ask(server: &Server, user: &str) -> (String, String) {
    let body = json!({
        "model": "desk", "user": user, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}],
    });
    let response = server.post("/v1/chat/completions", &body).await;
    let version = response.headers()["x-switchback-version"].to_str().unwrap().to_owned();
    let answer: Value = response.json().await.unwrap();
    (answer["id"].as_str().unwrap().to_owned(), version)
}

async fn say(server: &Server, body: Value) -> (StatusCode, Value) {
    let response = server.post("/v1/feedback", &body).await;
    (response.status(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_word_about_an_answer_is_counted_for_its_version() {
    let server = desk().await;
    let (id, version) = ask(&server, "anna").await;
    let (status, counted) = say(&server, json!({"response_id": id, "score": 0.6})).await;
    let expected = json!({"object": "feedback", "response_id": id, "version": version, "passed": true});
    assert_eq!((status, counted), (StatusCode::OK, expected));
    let (status, error) = say(&server, json!({"response_id": id, "score": 0})).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("feedback_given")));
    let (id, _) = ask(&server, "ben").await;
    assert_eq!(say(&server, json!({"response_id": id, "score": 0.5})).await.1["passed"], false);
    let metrics = server.get("/metrics").await.text().await.unwrap();
    for result in ["passed", "failed"] {
        let line = format!(
            r#"switchback_checks_total{{check="feedback",model="desk",result="{result}",version="v1"}} 1"#
        );
        assert!(metrics.lines().any(|found| found == line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_makes_no_sense_says_what_would() {
    let server = desk().await;
    let unknown = format!("chatcmpl-{}", "0".repeat(32));
    for (body, status, code, param) in [
        (json!({"score": 1}), 400, "missing_required_parameter", Some("response_id")),
        (json!({"response_id": unknown}), 400, "missing_required_parameter", Some("score")),
        (json!({"response_id": 7, "score": 1}), 400, "invalid_type", Some("response_id")),
        (json!({"response_id": "mine", "score": 1}), 400, "invalid_value", Some("response_id")),
        (json!({"response_id": unknown, "score": 2}), 400, "invalid_value", Some("score")),
        (json!({"response_id": unknown, "score": "good"}), 400, "invalid_type", Some("score")),
        (json!({"response_id": unknown, "score": 1, "mood": 1}), 400, "unknown_parameter", Some("mood")),
        (json!({"response_id": unknown, "score": 1}), 404, "response_not_found", None),
    ] {
        let (found, error) = say(&server, body.clone()).await;
        let error = &error["error"];
        assert_eq!(
            (found.as_u16(), &error["code"], error["param"].as_str()),
            (status, &json!(code), param),
            "{body}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_dislike_the_canary_abort_its_rollout() {
    let server = desk().await;
    let start = json!({"canary": "v2", "policy": "quick"});
    let (status, begun) = server.admin(Method::POST, "/admin/models/desk/rollout", Some(start)).await;
    assert_eq!(status, StatusCode::OK, "{begun}");
    let started = Instant::now();
    for i in 0.. {
        let (id, version) = ask(&server, &format!("user-{i}")).await;
        let score = if version == "desk@v2" { 0.0 } else { 1.0 };
        let (status, counted) = say(&server, json!({"response_id": id, "score": score})).await;
        assert_eq!(status, StatusCode::OK, "{counted}");
        let (_, rollout) = server.admin(Method::GET, "/admin/models/desk/rollout", None).await;
        let rollout = &rollout["rollout"];
        if rollout["phase"] == "aborted" {
            assert!(rollout["finding"].as_str().unwrap().starts_with("`feedback`: abort"), "{rollout}");
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "it goes on: {rollout}");
    }
}
