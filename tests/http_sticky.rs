//! What keeps a user on one version, which of several names for him counts, and what flags make of it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, Setup, chat, serve, start, start_with, with};
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use switchback::gateway::StickyKey;

const CHAT: &str = "/v1/chat/completions";

/// Puts half of the users on each version.
async fn halve(server: &Server) {
    let body = json!({"weights": {"v1": 50, "v2": 50}});
    let (status, answer) = server.admin(reqwest::Method::PUT, "/admin/models/desk/route", Some(body)).await;
    assert_eq!(status, 200, "{answer}");
}

/// The version that a name leads to, as the route says.
fn version_of(server: &Server, name: &str) -> String {
    let version = server.app.gateway.version_of(&"desk".parse().unwrap(), &StickyKey::from_user(name));
    format!("desk@{}", version.unwrap())
}

/// A name that leads to another version than `name` does.
fn opposite(server: &Server, name: &str) -> String {
    let other = |candidate: &String| version_of(server, candidate) != version_of(server, name);
    (0..100).map(|i| format!("user-{i}")).find(other).unwrap()
}

/// The version that answered. Fails if the server had to give the connection a key.
async fn answered_by(request: RequestBuilder) -> String {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("x-switchback-sticky-key"));
    response.headers()["x-switchback-version"].to_str().unwrap().to_owned()
}

fn ask(server: &Server, members: Value) -> RequestBuilder {
    server.client.post(server.url(CHAT)).json(&with(chat(), members))
}

#[tokio::test]
async fn a_name_in_a_header_may_have_any_letters() {
    let server = start().await;
    halve(&server).await;
    for user in ["jürgen", "zoë", "Łukasz", "李"] {
        for header in ["x-user-id", "x-switchback-sticky-key"] {
            let value = HeaderValue::from_bytes(user.as_bytes()).unwrap();
            let version = answered_by(ask(&server, json!({})).header(header, value)).await;
            assert_eq!(version, version_of(&server, user), "{user} by {header}");
        }
        assert_eq!(answered_by(ask(&server, json!({"user": user}))).await, version_of(&server, user));
    }
    // In Latin-1, as some clients write headers: no UTF-8, and still one user.
    let latin = || HeaderValue::from_bytes(b"j\xfcrgen").unwrap();
    let first = answered_by(ask(&server, json!({})).header("x-user-id", latin())).await;
    assert_eq!(answered_by(ask(&server, json!({})).header("x-user-id", latin())).await, first);
}

#[tokio::test]
async fn the_end_user_counts_before_the_header_and_the_header_before_the_api_key() {
    let server = start_with(Setup { server: "  api_keys: [sk-one]\n", ..Setup::default() }).await;
    halve(&server).await;
    let key = "sk-one";
    let keyed = |members: Value| ask(&server, members).bearer_auth(key);
    let other = opposite(&server, key);
    let like_key = opposite(&server, &other);

    assert_eq!(answered_by(keyed(json!({}))).await, version_of(&server, key));
    for header in ["x-user-id", "x-switchback-sticky-key"] {
        assert_eq!(answered_by(keyed(json!({})).header(header, &other)).await, version_of(&server, &other));
    }
    for body in ["user", "safety_identifier"] {
        assert_eq!(answered_by(keyed(json!({body: other}))).await, version_of(&server, &other), "{body}");
        let request = keyed(json!({body: like_key})).header("x-user-id", &other);
        assert_eq!(answered_by(request).await, version_of(&server, &like_key), "{body} and a header");
    }
    let both = keyed(json!({"user": other, "safety_identifier": like_key}));
    assert_eq!(answered_by(both).await, version_of(&server, &other));
    let configured =
        keyed(json!({})).header("x-switchback-sticky-key", &like_key).header("x-user-id", &other);
    assert_eq!(answered_by(configured).await, version_of(&server, &other));
}

const V2_FLAG: &str = "/admin/models/desk/versions/v2/flag";

async fn change(server: &Server, method: Method, path: &str, body: Value) -> Value {
    let (status, answer) = server.admin(method, path, Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Gives v2 all traffic.
async fn all_to_v2(server: &Server) {
    change(server, Method::PUT, "/admin/models/desk/route", json!({"weights": {"v2": 100}})).await;
}

/// The version that answered, or the code of the refusal.
async fn outcome(request: RequestBuilder) -> String {
    let response = request.send().await.unwrap();
    if response.status() == 200 {
        return response.headers()["x-switchback-version"].to_str().unwrap().to_owned();
    }
    assert_eq!(response.status(), 403);
    let error: Value = response.json().await.unwrap();
    assert_eq!(
        (&error["error"]["type"], &error["error"]["param"]),
        (&json!("permission_error"), &json!("model"))
    );
    error["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_kill_switch_is_in_force_for_the_next_request() {
    let server = start().await;
    all_to_v2(&server).await;
    let (routed, pinned) = (json!({"user": "ada"}), json!({"user": "ada", "model": "desk@v2"}));
    assert_eq!(outcome(ask(&server, routed.clone())).await, "desk@v2");
    change(
        &server,
        Method::PATCH,
        V2_FLAG,
        json!({"enabled": false, "otherwise": "v1", "reason": "it lies"}),
    )
    .await;
    assert_eq!(outcome(ask(&server, routed.clone())).await, "desk@v1");
    assert_eq!(outcome(ask(&server, pinned.clone())).await, "not_enabled");
    change(&server, Method::PATCH, V2_FLAG, json!({"otherwise": "rest"})).await;
    assert_eq!(outcome(ask(&server, routed.clone())).await, "desk@v1", "as after a rollback");
    change(&server, Method::PATCH, V2_FLAG, json!({"otherwise": "refuse"})).await;
    assert_eq!(outcome(ask(&server, routed.clone())).await, "not_enabled");
    change(&server, Method::PATCH, V2_FLAG, json!({"enabled": true})).await;
    assert_eq!(outcome(ask(&server, routed.clone())).await, "desk@v2");
    assert_eq!(outcome(ask(&server, pinned.clone())).await, "desk@v2");

    let flags = change(&server, Method::PATCH, "/admin/models/desk/flag", json!({"enabled": false})).await;
    assert_eq!(
        (&flags["flag"]["enabled"], &flags["versions"]["v2"]["enabled"]),
        (&json!(false), &json!(true))
    );
    for members in [routed, pinned] {
        assert_eq!(outcome(ask(&server, members)).await, "not_enabled");
    }
    let tokenize = server.client.post(server.url("/tokenize")).json(&json!({"model": "desk", "prompt": "a"}));
    assert_eq!(outcome(tokenize).await, "not_enabled");

    let (_, audit) = server.admin(Method::GET, "/admin/audit?model=desk", None).await;
    let line = audit["entries"].as_array().unwrap().iter().find(|line| line["reason"] == "it lies").unwrap();
    assert_eq!((&line["action"], &line["actor"]), (&json!("flag"), &json!("ada")));
    let detail = r#"v2: {"enabled":false,"percentage":100,"cohorts":[],"otherwise":"v1"}"#;
    assert_eq!(line["detail"], detail);
}

#[tokio::test]
async fn a_share_keeps_who_is_in_when_it_grows() {
    let server = start().await;
    all_to_v2(&server).await;
    let mut seen: Vec<Vec<bool>> = Vec::new();
    for share in [30, 60, 60] {
        change(&server, Method::PATCH, V2_FLAG, json!({"percentage": share, "otherwise": "v1"})).await;
        let mut is_in = Vec::new();
        for i in 0..30 {
            is_in.push(outcome(ask(&server, json!({"user": format!("user-{i}")}))).await == "desk@v2");
        }
        seen.push(is_in);
    }
    let count = |is_in: &[bool]| is_in.iter().filter(|is_in| **is_in).count();
    assert!(0 < count(&seen[0]) && count(&seen[0]) < count(&seen[1]) && count(&seen[1]) < 30, "{seen:?}");
    assert!(seen[0].iter().zip(&seen[1]).all(|(before, after)| !before || *after), "{seen:?}");
    assert_eq!(seen[1], seen[2]);
}

#[tokio::test]
async fn a_cohort_is_told_by_a_header_or_by_the_name_of_the_user_and_not_by_an_api_key() {
    let server = start_with(Setup { server: "  api_keys: [staff-key]\n", ..Setup::default() }).await;
    all_to_v2(&server).await;
    let cohorts = json!([{"header": "X-Plan", "is": ["beta"]}, {"user_prefix": "staff-"}]);
    change(&server, Method::PUT, V2_FLAG, json!({"cohorts": cohorts, "otherwise": "v1"})).await;
    let keyed = |members: Value| ask(&server, members).bearer_auth("staff-key");
    assert_eq!(outcome(keyed(json!({}))).await, "desk@v1");
    assert_eq!(outcome(keyed(json!({})).header("x-plan", "beta")).await, "desk@v2");
    assert_eq!(outcome(keyed(json!({})).header("x-plan", "gold")).await, "desk@v1");
    assert_eq!(outcome(keyed(json!({"user": "staff-ada"}))).await, "desk@v2");
    assert_eq!(outcome(keyed(json!({})).header("x-user-id", "staff-ada")).await, "desk@v2");
    change(&server, Method::PATCH, V2_FLAG, json!({"cohorts": []})).await;
    assert_eq!(outcome(keyed(json!({}))).await, "desk@v2");

    for (path, body, param) in [
        (V2_FLAG, json!({"otherwise": "v9"}), "otherwise"),
        (V2_FLAG, json!({"otherwise": "v2"}), "otherwise"),
        (V2_FLAG, json!({"percentage": 101}), "percentage"),
        (V2_FLAG, json!({"cohorts": [{"header": "a b", "is": ["x"]}]}), "cohorts"),
        ("/admin/models/desk/flag", json!({"otherwise": "rest"}), "otherwise"),
    ] {
        let (status, error) = server.admin(Method::PATCH, path, Some(body.clone())).await;
        assert_eq!((status.as_u16(), &error["error"]["param"]), (400, &json!(param)), "{body}: {error}");
    }
    let (status, error) = server.admin(Method::PATCH, V2_FLAG, Some(json!({"enable": true}))).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (400, &json!("unknown_parameter")), "{error}");
    let nowhere = "/admin/models/desk/versions/v9/flag";
    assert_eq!(server.admin(Method::PUT, nowhere, Some(json!({}))).await.0, 404);
}

#[tokio::test]
async fn the_files_flag_counts_until_an_operator_sets_another_which_survives_a_restart() {
    let Server { app, folder, .. } = start().await;
    app.shut_down().await;
    let path = folder.path().join("switchback.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let flagged = text.replace(
        "v1: { image: v1, residency: hot }",
        "v1: { image: v1, flag: {otherwise: v2, cohorts: [{users: [ada]}]} }",
    );
    assert_ne!(text, flagged);
    std::fs::write(&path, flagged).unwrap();
    let server = serve(folder, &path).await;
    let by = async |server: &Server, user: &str| outcome(ask(server, json!({"user": user}))).await;
    assert_eq!((by(&server, "ada").await, by(&server, "bob").await), ("desk@v1".into(), "desk@v2".into()));
    let v1 = "/admin/models/desk/versions/v1/flag";
    change(&server, Method::PATCH, v1, json!({"cohorts": [{"users": ["bob"]}]})).await;

    let Server { app, folder, .. } = server;
    app.shut_down().await;
    let server = serve(folder, &path).await;
    assert_eq!((by(&server, "ada").await, by(&server, "bob").await), ("desk@v2".into(), "desk@v1".into()));
    let (_, flags) = server.admin(Method::GET, "/admin/models/desk/flags", None).await;
    assert_eq!(flags["versions"]["v1"]["cohorts"], json!([{"users": ["bob"]}]));
    assert_eq!(
        flags["versions"]["v2"],
        json!({"enabled": true, "percentage": 100, "cohorts": [], "otherwise": "rest"})
    );
}
