//! A version that is unloaded under load: what is cut off is told, to the client, the operator and the log.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Setup, chat, start_with, with};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn who_is_cut_off_is_told_to_ask_again() {
    let server = start_with(Setup { server: "  drain_deadline: 1ms\n", ..Setup::default() }).await;
    // far more than an engine does in a millisecond
    let long = json!({"model": "desk@v2", "n": 100, "max_tokens": 200, "ignore_eos": true, "logprobs": true});
    let streamed = with(chat(), with(long.clone(), json!({"stream": true})));
    let stream = server.post("/v1/chat/completions", &streamed).await;
    assert_eq!(stream.status(), 200);
    let unload = server.admin(Method::POST, "/admin/models/desk/versions/v2/unload", None);
    let (text, (status, unloaded)) = tokio::join!(stream.text(), unload);

    let text = text.unwrap();
    let last = text.trim_end().rsplit("data: ").find(|event| *event != "[DONE]").unwrap();
    let last: Value = serde_json::from_str(last.trim()).unwrap();
    assert_eq!(
        (&last["error"]["code"], &last["error"]["type"]),
        (&json!("answer_cut_off"), &json!("server_error"))
    );
    assert_eq!((status.as_u16(), &unloaded["residency"]["state"]), (200, &json!("cold")), "{unloaded}");
    assert!(unloaded["cut_off"].as_u64().unwrap() > 0, "{unloaded}");
    let (_, log) = server.admin(Method::GET, "/admin/audit", None).await;
    let actions: Vec<_> = log["entries"].as_array().unwrap().iter().map(|e| e["action"].clone()).collect();
    assert_eq!(actions[..2], ["cut_off", "unload"]);
    server.ask("/v1/chat/completions", &chat()).await;
}
