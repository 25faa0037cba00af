//! What keeps a user on one version, and which of several names for him counts.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, Setup, chat, start, start_with, with};
use reqwest::RequestBuilder;
use reqwest::header::HeaderValue;
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
