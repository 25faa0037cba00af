//! Who waits goes in the order of `priority`, where the model is scheduled so.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;

use common::{Setup, start, start_with};
use futures::StreamExt;
use serde_json::{Value, json};

fn body(priority: i64) -> Value {
    json!({"model": "desk", "prompt": "hello", "max_tokens": 100, "ignore_eos": true, "priority": priority})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lower_number_goes_first_of_those_that_wait() {
    let engine = "  scheduling_policy: priority\n  max_running: 1\n";
    let server = start_with(Setup { engine, ..Setup::default() }).await;
    // its choices have the only place, one after the other, and take much longer than the others need to come
    let first = json!({
        "model": "desk", "prompt": "hello", "max_tokens": 200, "ignore_eos": true, "stream": true, "n": 40,
        "priority": -9,
    });
    let mut first = server.post("/v1/completions", &first).await.bytes_stream();
    first.next().await.unwrap().unwrap();
    let order = Mutex::new(Vec::new());
    let ask = |priority: i64| {
        let (server, order) = (&server, &order);
        async move {
            server.ask("/v1/completions", &body(priority)).await;
            order.lock().unwrap().push(priority);
        }
    };
    tokio::join!(ask(7), ask(0), ask(-3), ask(0));
    assert_eq!(*order.lock().unwrap(), [-3, 0, 0, 7]);
}

#[tokio::test]
async fn a_model_that_serves_who_came_first_says_so() {
    let server = start().await;
    server.ask("/v1/completions", &body(0)).await;
    for (priority, says) in [(1, "scheduling_policy"), (1 << 40, "2147483647")] {
        let refused = server.post("/v1/completions", &body(priority)).await;
        assert_eq!(refused.status(), 400);
        let error = refused.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["param"], "priority", "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
}
