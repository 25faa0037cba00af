//! The admin listener asks for no key, so a web page in an operator's browser must not reach it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, start};
use reqwest::header::HOST;
use serde_json::Value;

const ROLLBACK: &str = "/admin/models/desk/rollback";

/// Posts as a web page can: an empty body of no type, with the headers that a browser adds.
async fn rollback(server: &Server, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = server.client.post(server.admin_url(ROLLBACK));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_web_page_can_neither_read_nor_change_a_route() {
    let server = start().await;
    let own = format!("http://{}", server.app.admin);
    for (headers, code) in [
        (vec![("sec-fetch-site", "cross-site")], "cross_site_request"),
        (vec![("sec-fetch-site", "same-site")], "cross_site_request"),
        (vec![("origin", "http://evil.example")], "cross_site_request"),
        (vec![("origin", "null")], "cross_site_request"),
        (vec![("host", "evil.example:8081")], "unknown_host"),
        (vec![("host", "evil.example"), ("origin", "http://evil.example")], "unknown_host"),
    ] {
        let (status, answer) = rollback(&server, &headers).await;
        assert_eq!((status, &answer["error"]["code"]), (403, &code.into()), "{headers:?}");
        assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
    }
    // These get past the guard; there is nothing to roll back to.
    for headers in [
        vec![],
        vec![("origin", own.as_str()), ("sec-fetch-site", "same-origin")],
        vec![("sec-fetch-site", "none")],
        vec![("host", "localhost:8081")],
    ] {
        let (status, answer) = rollback(&server, &headers).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (409, &"nothing_to_roll_back_to".into()),
            "{headers:?}"
        );
    }
    let read = server.client.get(server.admin_url("/admin/models")).header(HOST, "evil.example");
    assert_eq!(read.send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_path_that_is_no_text_gets_our_error_body() {
    let server = start().await;
    for path in ["/admin/models/%FF/route", "/admin/models/desk/versions/%C3%28/load"] {
        let method = if path.ends_with("load") { reqwest::Method::POST } else { reqwest::Method::GET };
        let (status, answer) = server.admin(method, path, None).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (400, &"invalid_path".into()), "{path}");
    }
}
