//! Flags as `OpenFeature`'s providers ask for them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, start};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn evaluate(server: &Server, flag: &str, context: Value) -> (StatusCode, Value) {
    let response =
        server.post(&format!("/ofrep/v1/evaluate/flags/{flag}"), &json!({"context": context})).await;
    (response.status(), response.json().await.unwrap())
}

/// What a flag says of a user: its value, its reason and its variant.
async fn said(server: &Server, flag: &str, context: Value) -> [Value; 3] {
    let (status, answer) = evaluate(server, flag, context).await;
    assert_eq!((status, &answer["key"]), (StatusCode::OK, &json!(flag)), "{answer}");
    ["value", "reason", "variant"].map(|key| answer[key].clone())
}

async fn set(server: &Server, path: &str, flag: Value) {
    let (status, answer) =
        server.admin(Method::PUT, &format!("/admin/models/desk{path}/flag"), Some(flag)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

fn user(name: &str) -> Value {
    json!({"targetingKey": name})
}

#[tokio::test]
async fn a_flag_says_what_requests_meet() {
    let server = start().await;
    assert_eq!(said(&server, "desk", user("ada")).await, [json!(true), json!("STATIC"), json!("on")]);
    assert_eq!(said(&server, "desk@v2", user("ada")).await, [json!(true), json!("STATIC"), json!("on")]);
    assert_eq!(said(&server, "desk:version", user("ada")).await, [json!("v1"), json!("STATIC"), json!("v1")]);

    // the switch, for the next question
    set(&server, "/versions/v2", json!({"enabled": false})).await;
    assert_eq!(said(&server, "desk@v2", user("ada")).await, [json!(false), json!("DISABLED"), json!("off")]);

    let cohorts = json!({"cohorts": [{"header": "X-Plan", "is": ["beta"]}, {"users": ["bob"]}]});
    set(&server, "/versions/v2", cohorts).await;
    let on = [json!(true), json!("TARGETING_MATCH"), json!("on")];
    assert_eq!(said(&server, "desk@v2", user("bob")).await, on);
    assert_eq!(said(&server, "desk@v2", json!({"targetingKey": "ada", "x-plan": "beta"})).await, on);
    assert_eq!(said(&server, "desk@v2", user("ada")).await, [json!(false), json!("DEFAULT"), json!("off")]);

    set(&server, "", json!({"enabled": false})).await;
    assert_eq!(said(&server, "desk", user("ada")).await[0], json!(false));
    assert_eq!(
        said(&server, "desk:version", user("ada")).await,
        [Value::Null, json!("DISABLED"), Value::Null]
    );
}

/// Of a share, each user is told the version that his requests get.
#[tokio::test]
async fn the_version_that_is_told_is_the_one_that_answers() {
    let server = start().await;
    let route = json!({"weights": {"v1": 50, "v2": 50}});
    let (status, _) = server.admin(Method::PUT, "/admin/models/desk/route", Some(route)).await;
    assert_eq!(status, StatusCode::OK);
    set(&server, "/versions/v2", json!({"percentage": 50})).await;
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..24 {
        let name = format!("user-{i}");
        let [value, reason, _] = said(&server, "desk:version", user(&name)).await;
        let asked = json!({"model": "desk", "prompt": "hi", "max_tokens": 1, "user": name});
        let response = server.post("/v1/completions", &asked).await;
        assert_eq!(response.headers()["x-switchback-version"], format!("desk@{}", value.as_str().unwrap()));
        assert_eq!(reason, "SPLIT");
        let [let_in, reason, _] = said(&server, "desk@v2", user(&name)).await;
        assert_eq!(reason, "SPLIT");
        seen.insert((value.to_string(), let_in.as_bool().unwrap()));
    }
    assert!(!seen.contains(&("\"v2\"".to_owned(), false)) && seen.len() == 3, "{seen:?}");
}

/// What a flag or a route decides is told as such, whatever the value.
#[tokio::test]
async fn a_version_tells_what_it_was_decided_by() {
    let server = start().await;
    set(&server, "/versions/v1", json!({"percentage": 50, "otherwise": "v2"})).await;
    let mut told = std::collections::BTreeSet::new();
    for i in 0..16 {
        let [value, reason, _] = said(&server, "desk:version", user(&format!("user-{i}"))).await;
        told.insert((value.to_string(), reason.to_string()));
    }
    let split = |version: &str| (format!("\"{version}\""), "\"SPLIT\"".to_owned());
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [split("v1"), split("v2")]);
    set(&server, "/versions/v1", json!({"cohorts": [{"users": ["ada"]}], "otherwise": "v2"})).await;
    assert_eq!(
        said(&server, "desk:version", user("ada")).await[..2],
        [json!("v1"), json!("TARGETING_MATCH")]
    );
    assert_eq!(said(&server, "desk:version", user("bob")).await[..2], [json!("v2"), json!("DEFAULT")]);
}

#[tokio::test]
async fn all_flags_come_at_once_and_only_if_they_have_changed() {
    let server = start().await;
    let all = json!({"context": user("ada")});
    let first = server.post("/ofrep/v1/evaluate/flags", &all).await;
    let etag = first.headers()["etag"].clone();
    let flags = first.json::<Value>().await.unwrap()["flags"].clone();
    let keys: Vec<_> = flags.as_array().unwrap().iter().map(|flag| flag["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["desk", "desk:version", "desk@broken", "desk@v1", "desk@v2", "desk@v3"]);
    let again = || async {
        let request = server.client.post(server.url("/ofrep/v1/evaluate/flags")).json(&all);
        request.header("if-none-match", &etag).send().await.unwrap().status()
    };
    assert_eq!(again().await, StatusCode::NOT_MODIFIED);
    set(&server, "/versions/v3", json!({"enabled": false})).await;
    assert_eq!(again().await, StatusCode::OK);
}

#[tokio::test]
async fn what_is_wrong_is_told_in_its_own_words() {
    let server = start().await;
    let (status, answer) = evaluate(&server, "nothing", user("ada")).await;
    assert_eq!((status, &answer["errorCode"]), (StatusCode::NOT_FOUND, &json!("FLAG_NOT_FOUND")));
    for (context, code) in [(json!({}), "TARGETING_KEY_MISSING"), (json!("ada"), "INVALID_CONTEXT")] {
        let (status, answer) = evaluate(&server, "desk", context).await;
        assert_eq!((status, &answer["errorCode"]), (StatusCode::BAD_REQUEST, &json!(code)), "{answer}");
        assert!(answer["errorDetails"].as_str().unwrap().contains("targetingKey"), "{answer}");
    }
}
