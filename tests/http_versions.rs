//! Versions as clients and operators meet them: sticky, pinned, loaded, unloaded, rolled back.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use common::{Server, Setup, chat, client, process, serve, start, start_with, with};
use reqwest::Method;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const ROUTE: &str = "/admin/models/desk/route";

async fn version_for(server: &Server, user: &str) -> String {
    let response = server.post(CHAT, &with(chat(), json!({"user": user}))).await;
    assert_eq!(response.status(), 200);
    response.headers()["x-switchback-version"].to_str().unwrap().to_owned()
}

async fn split(server: &Server, v1: u8) {
    let body = json!({"weights": {"v1": v1, "v2": 100 - v1}, "reason": "a test"});
    let (status, answer) = server.admin(Method::PUT, ROUTE, Some(body)).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_user_keeps_his_version_by_whatever_names_him() {
    let server = start().await;
    split(&server, 50).await;
    let mut seen = BTreeSet::new();
    for i in 0..20 {
        let user = format!("user-{i}");
        let first = version_for(&server, &user).await;
        assert_eq!(version_for(&server, &user).await, first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "twenty users were all sent to {seen:?}");

    // A connection is given a key; sent back on another connection, it leads to the same version.
    for _ in 0..10 {
        let response = client().post(server.url(CHAT)).json(&chat()).send().await.unwrap();
        let key = response.headers()["x-switchback-sticky-key"].clone();
        let first = response.headers()["x-switchback-version"].clone();
        for header in ["x-switchback-sticky-key", "x-user-id"] {
            let again = client().post(server.url(CHAT)).header(header, &key).json(&chat());
            let again = again.send().await.unwrap();
            assert_eq!(again.headers()["x-switchback-version"], first);
            assert!(!again.headers().contains_key("x-switchback-sticky-key"));
        }
    }
}

#[tokio::test]
async fn a_pinned_version_answers_whatever_the_route_says() {
    let server = start().await;
    let response = server.post(CHAT, &with(chat(), json!({"model": "desk@v2"}))).await;
    assert_eq!(response.headers()["x-switchback-version"], "desk@v2");
}

#[tokio::test]
async fn a_route_changes_and_rolls_back_with_the_next_request() {
    let server = start().await;
    split(&server, 0).await;
    assert_eq!(version_for(&server, "ada").await, "desk@v2");
    let (status, route) = server.admin(Method::POST, "/admin/models/desk/rollback", None).await;
    assert_eq!(status, 200, "{route}");
    assert_eq!(route["weights"]["v1"], 100);
    assert_eq!(version_for(&server, "ada").await, "desk@v1");
    let (_, log) = server.admin(Method::GET, "/admin/audit?model=desk", None).await;
    let newest = &log["entries"][0];
    assert_eq!((&newest["action"], &newest["actor"]), (&json!("rollback"), &json!("ada")));
}

#[tokio::test]
async fn who_changes_something_may_have_any_name_but_none() {
    let server = start().await;
    let load = server.admin_url("/admin/models/desk/versions/v1/load");
    let by = |actor: &str| client().post(&load).header("x-switchback-actor", actor.as_bytes()).send();
    assert_eq!(by("jürgen").await.unwrap().status(), 200);
    let (_, log) = server.admin(Method::GET, "/admin/audit?model=desk", None).await;
    assert_eq!(log["entries"][0]["actor"], "jürgen");
    assert_eq!(by(&"ü".repeat(128)).await.unwrap().status(), 200);
    for bad in ["", "tab\there", &"a".repeat(129)] {
        let response = by(bad).await.unwrap();
        assert_eq!(response.status(), 400, "{bad:?}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], "x-switchback-actor");
    }
}

#[tokio::test]
async fn operators_get_clear_errors_too() {
    let server = start().await;
    let put = |weights: Value| server.admin(Method::PUT, ROUTE, Some(json!({"weights": weights})));
    for (weights, status, code) in [
        (json!({"v1": 60}), 400, "invalid_value"),
        (json!({"v1": 50, "v3": 50}), 409, "version_not_hot"),
        (json!({"v1": 101}), 400, "invalid_value"),
        (json!({"v1": "all"}), 400, "invalid_type"),
        (json!([1]), 400, "invalid_type"),
    ] {
        let (found, answer) = put(weights.clone()).await;
        assert_eq!((found.as_u16(), &answer["error"]["code"]), (status, &json!(code)), "{weights}");
    }
    for (method, path, status, code) in [
        (Method::GET, "/admin/models/nobody/route", 404, "model_not_found"),
        (Method::POST, "/admin/models/desk/versions/v9/load", 404, "version_not_found"),
        (Method::POST, "/admin/models/desk/versions/v1/unload", 409, "version_has_weight"),
        (Method::POST, "/admin/models/desk/versions/broken/load", 422, "load_failed"),
        (Method::POST, "/admin/models/desk/rollback", 409, "nothing_to_roll_back_to"),
        (Method::GET, "/admin/audit?limit=0", 400, "invalid_value"),
        (Method::GET, "/admin/audit?limits=1", 400, "invalid_value"),
        (Method::DELETE, "/admin/models", 405, "method_not_allowed"),
        (Method::GET, "/v1/models", 404, "unknown_url"),
    ] {
        let (found, answer) = server.admin(method, path, None).await;
        assert_eq!((found.as_u16(), &answer["error"]["code"]), (status, &json!(code)), "{path}");
    }
    server.ask(CHAT, &chat()).await;
}

#[tokio::test]
async fn a_version_is_loaded_takes_traffic_and_is_unloaded() {
    let server = start().await;
    let version = |action: &str| format!("/admin/models/desk/versions/v3/{action}");
    let (status, answer) = server.admin(Method::POST, &version("load"), Some(json!({"reason": "try"}))).await;
    assert_eq!((status.as_u16(), &answer["residency"]["state"]), (200, &json!("hot")), "{answer}");
    let (status, _) = server.admin(Method::PUT, ROUTE, Some(json!({"weights": {"v3": 100}}))).await;
    assert_eq!(status, 200);
    assert_eq!(version_for(&server, "ada").await, "desk@v3");
    split(&server, 100).await;
    let (status, answer) = server.admin(Method::POST, &version("unload"), None).await;
    assert_eq!((status.as_u16(), &answer["residency"]["state"]), (200, &json!("cold")), "{answer}");
}

#[tokio::test]
async fn a_version_that_stays_warm_takes_no_traffic_and_is_soon_back() {
    let server = start().await;
    let post = async |action: &str, body: Value| {
        let path = format!("/admin/models/desk/versions/v3/{action}");
        let (status, answer) = server.admin(Method::POST, &path, Some(body)).await;
        (status.as_u16(), answer)
    };
    let (status, answer) = post("load", json!({"to": "warm"})).await;
    assert_eq!((status, &answer["residency"]["state"]), (200, &json!("warm")), "{answer}");
    assert!(answer["weight_bytes"].as_u64().unwrap() > 0 && answer["max_context"].is_null(), "{answer}");
    let (status, answer) = server.admin(Method::PUT, ROUTE, Some(json!({"weights": {"v3": 100}}))).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (409, &json!("version_not_hot")), "{answer}");

    let (status, answer) = post("load", json!({})).await;
    assert_eq!((status, &answer["residency"]["state"]), (200, &json!("hot")), "{answer}");
    assert_eq!(
        post("load", json!({"to": "warm"})).await.1["residency"]["state"],
        "hot",
        "it is there already"
    );
    let (_, answer) = post("unload", json!({"to": "warm"})).await;
    assert_eq!((&answer["residency"]["state"], answer.get("warning")), (&json!("warm"), None), "{answer}");
    assert_eq!(post("unload", json!({"to": "warm"})).await.1["residency"]["state"], "warm");
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains(r#"switchback_residency{model="desk",state="warm",version="v3"} 1"#));
    assert_eq!(post("unload", json!({})).await.1["residency"]["state"], "cold");
    let (status, answer) = post("unload", json!({"to": "warm"})).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("version_busy")), "there is nothing to keep");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("`desk@v3` is cold; it cannot be kept warm now"), "{message}");
    let (_, audit) = server.admin(Method::GET, "/admin/audit", None).await;
    let told: Vec<_> = audit["entries"].as_array().unwrap().iter().map(|e| e["detail"].clone()).collect();
    assert!(told.contains(&json!("v3, to warm")), "{told:?}");
    let (status, answer) = post("unload", json!({"to": "hot"})).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("to")), "{answer}");

    let Server { app, folder, .. } = server;
    app.shut_down().await;
    let config = folder.path().join("switchback.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("residency: cold", "residency: warm")).unwrap();
    let server = serve(folder, &config).await;
    // the server is ready before what is only to be warm is there
    for _ in 0..500 {
        let (_, answer) = server.admin(Method::GET, "/admin/models", None).await;
        if answer["models"][0]["versions"][3]["residency"]["state"] == "warm" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("v3 does not become warm");
}

#[tokio::test]
async fn what_a_rollback_needs_is_hot_after_a_restart_and_missed_when_it_is_unloaded() {
    let server = start().await;
    let load = "/admin/models/desk/versions/v3/load";
    let unload = "/admin/models/desk/versions/v3/unload";
    server.admin(Method::POST, load, None).await;
    for version in ["v3", "v1"] {
        let (status, _) = server.admin(Method::PUT, ROUTE, Some(json!({"weights": {version: 100}}))).await;
        assert_eq!(status, 200);
    }
    let (status, answer) = server.admin(Method::POST, unload, None).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["warning"].as_str().unwrap().contains("`switchback load desk@v3`"), "{answer}");
    let (status, answer) = server.admin(Method::POST, "/admin/models/desk/rollback", None).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (409, &json!("version_not_hot")));

    let Server { app, folder, .. } = server;
    app.shut_down().await;
    let config = folder.path().join("switchback.yaml");
    let server = serve(folder, &config).await;
    let (status, answer) = server.admin(Method::POST, "/admin/models/desk/rollback", None).await;
    assert_eq!((status.as_u16(), &answer["weights"]), (200, &json!({"v3": 100})), "{answer}");
    let (_, answer) = server.admin(Method::POST, "/admin/models/desk/versions/v2/unload", None).await;
    assert_eq!(answer.get("warning"), None, "{answer}");
}

#[tokio::test]
async fn a_failed_load_says_why_and_leaves_the_others_serving() {
    let server = start().await;
    let (_, answer) = server.admin(Method::POST, "/admin/models/desk/versions/broken/load", None).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("not-there"), "{answer}");
    let (_, models) = server.admin(Method::GET, "/admin/models", None).await;
    let broken = &models["models"][0]["versions"][0];
    assert_eq!(broken["residency"]["state"], "failed");
    assert_eq!(server.get("/ready").await.status(), 200);
    server.ask(CHAT, &chat()).await;
}

#[tokio::test]
async fn damaged_weights_are_refused_with_file_and_cause_and_load_once_mended() {
    let server = start().await;
    let path = server.folder.path().join("v3/model.safetensors");
    let load = "/admin/models/desk/versions/v3/load";
    let whole = std::fs::read(&path).unwrap();
    let mut corrupt = whole.clone();
    corrupt[8] = b'x';
    for (damaged, cause) in [(&whole[..whole.len() / 2], "cut short"), (&corrupt[..], "header")] {
        std::fs::write(&path, damaged).unwrap();
        let (status, answer) = server.admin(Method::POST, load, None).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (422, &json!("load_failed")), "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("v3/model.safetensors") && message.contains(cause), "{message}");
        assert_eq!(server.get("/ready").await.status(), 200);
        server.ask(CHAT, &chat()).await;
    }
    std::fs::write(&path, &whole).unwrap();
    let (status, answer) = server.admin(Method::POST, load, None).await;
    assert_eq!(status, 200, "{answer}");
}

/// Bytes of the tensors of one weight file that another holds, too.
fn bytes_in_common(one: &[u8], other: &[u8]) -> usize {
    let (one, other) = (SafeTensors::deserialize(one).unwrap(), SafeTensors::deserialize(other).unwrap());
    let content = |t: &TensorView<'_>| (t.shape().to_vec(), t.data().to_vec());
    let held: BTreeSet<_> = other.tensors().iter().map(|(_, tensor)| content(tensor)).collect();
    let shared: BTreeSet<_> = one.tensors().iter().map(|(_, tensor)| content(tensor)).collect();
    shared.intersection(&held).map(|(_, data)| data.len()).sum()
}

#[tokio::test]
async fn operators_see_how_many_bytes_a_version_shares() {
    let folder = tempfile::tempdir().unwrap();
    let config = process::demo_config(folder.path());
    let server = serve(folder, &config).await;
    let (_, answer) = server.admin(Method::GET, "/admin/models", None).await;
    let bytes = |version: usize, key: &str| answer["models"][0]["versions"][version][key].as_u64().unwrap();
    let weights = |version: &str| {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        std::fs::read(models.join(version).join("model.safetensors")).unwrap()
    };
    let expected = bytes_in_common(&weights("v2"), &weights("v1")) as u64;
    assert!(expected > 0 && expected < bytes(1, "weight_bytes"), "{expected}: {answer}");
    assert_eq!((bytes(0, "shared_bytes"), bytes(1, "shared_bytes")), (0, expected), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_versions_come_and_go() {
    let server = std::sync::Arc::new(start().await);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (server, stop) = (server.clone(), stop.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let body = with(chat(), json!({"user": format!("{client}-{count}")}));
                    let response = server.post(CHAT, &body).await;
                    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..5 {
        split(&server, 50).await;
        split(&server, 100).await;
        let (status, answer) =
            server.admin(Method::POST, "/admin/models/desk/versions/v2/unload", None).await;
        assert_eq!(status, 200, "{answer}");
        let (status, answer) = server.admin(Method::POST, "/admin/models/desk/versions/v2/load", None).await;
        assert_eq!(status, 200, "{answer}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

/// Both versions keep their contexts in one memory that holds a few of them: each is answered, as if it were alone.
#[tokio::test(flavor = "multi_thread")]
async fn versions_that_share_too_little_memory_answer_all_as_they_would_alone() {
    let server = start_with(Setup { kv_tokens: Some(256), ..Setup::default() }).await;
    let request = |version: &str, i: usize| {
        let prompt: Vec<usize> = (0..20 + i * 7).map(|t| (t * (i + 3)) % 60 + 1).collect();
        json!({"model": format!("desk@{version}"), "prompt": prompt, "max_tokens": 30 + i, "temperature": 0,
            "ignore_eos": true})
    };
    let text = |answer: &Value| answer["choices"][0]["text"].as_str().unwrap().to_owned();
    let asked: Vec<(&str, usize)> =
        ["v1", "v2"].into_iter().flat_map(|v| (0..12).map(move |i| (v, i))).collect();
    let mut alone = Vec::new();
    for (version, i) in &asked {
        alone.push(text(&server.ask("/v1/completions", &request(version, *i)).await));
    }
    assert_ne!(alone[0], alone[12], "they say different things");
    for _ in 0..3 {
        let together = asked.iter().map(async |(v, i)| server.ask("/v1/completions", &request(v, *i)).await);
        let together = futures::future::join_all(together).await;
        assert_eq!(together.iter().map(text).collect::<Vec<_>>(), alone);
    }
    server.idle().await;
    for version in ["v1", "v2"] {
        let series =
            |metric: &str| format!("switchback_engine_{metric}{{model=\"desk\",version=\"{version}\"}}");
        assert_eq!(server.counted(&series("kv_blocks")).await, 16);
        assert_eq!(server.counted(&series("kv_blocks_used")).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_what_was_begun_and_takes_nothing_new() {
    let server = start().await;
    // Headers come once the engine has the request. Waiting for a gauge instead would miss an answer that is quick.
    let request = with(chat(), json!({"stream": true, "n": 8, "max_tokens": 200, "ignore_eos": true}));
    let begun = server.post(CHAT, &request).await;
    assert_eq!(begun.status(), 200);
    server.app.gateway.close();
    assert_eq!(server.get("/ready").await.status(), 503);
    let response = server.post(CHAT, &chat()).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "shutting_down");
    let address = server.app.public;
    let (text, cut_off) = tokio::join!(begun.text(), server.app.shut_down());
    let text = text.unwrap();
    assert_eq!(cut_off, 0);
    assert_eq!(text.matches(r#""finish_reason":"length""#).count(), 8, "{text}");
    assert!(text.trim_end().ends_with("data: [DONE]"), "the stream broke off: {text}");
    assert!(std::net::TcpStream::connect(address).is_err());
}
