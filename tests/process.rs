//! The program as a process: what an operator's change is worth when it is killed, and how it stops.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::process::{Process, demo_config, kill, run};
use futures::StreamExt;
use serde_json::{Value, json};

/// Changes of one round that are acknowledged before the kill may come.
const ACKNOWLEDGED: u64 = 8;

async fn get(client: &reqwest::Client, url: String) -> Value {
    client.get(url).send().await.unwrap().json().await.unwrap()
}

/// Sets a share and gives the new revision; nothing where the server went away.
async fn set(client: &reqwest::Client, route: &str, share: u64) -> Option<u64> {
    let body = json!({ "weights": { "v1": 100 - share, "v2": share } });
    let answer = client.put(route).json(&body).send().await.ok()?;
    let answer = answer.error_for_status().ok()?.json::<Value>().await.ok()?;
    answer["revision"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_comes_back_with_every_change_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (config, client) = (demo_config(folder.path()), common::client());
    let mut acknowledged = 1;
    for _ in 0..5 {
        let mut server = Process::serve(&config);
        let route = format!("{}/admin/models/desk/route", server.admin);
        let found = get(&client, route.clone()).await;
        let revision = found["revision"].as_u64().unwrap();
        // one change more may have been written when the kill cut its answer off
        assert!(revision == acknowledged || revision == acknowledged + 1, "{found} after {acknowledged}");
        let log = get(&client, format!("{}/admin/audit?limit=1000", server.admin)).await;
        assert_eq!(log["entries"].as_array().unwrap().len() as u64, revision, "each revision has its line");
        acknowledged = revision;

        let mut shares = (1..100_u64).cycle();
        for share in shares.by_ref().take(ACKNOWLEDGED as usize) {
            acknowledged = set(&client, &route, share).await.expect("the server serves until it is killed");
        }
        assert_eq!(acknowledged, revision + ACKNOWLEDGED);
        // a change takes about a millisecond: the kill meets it anywhere between request and answer
        let after = Duration::from_micros(switchback::gateway::random_u64() % 3000);
        let pid = server.id();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            kill(&["-9"], pid);
        });
        for share in shares {
            let Some(revision) = set(&client, &route, share).await else { break };
            acknowledged = revision;
        }
        killer.join().unwrap();
        server.ended();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_told_to_stop_finishes_what_it_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::serve(&demo_config(folder.path()));
    let body = json!({
        "model": "desk", "stream": true, "max_tokens": 400, "ignore_eos": true, "temperature": 0,
        "messages": [{ "role": "user", "content": "Where is my tent?" }],
    });
    let url = format!("{}/v1/chat/completions", server.public);
    let mut stream = common::client().post(url).json(&body).send().await.unwrap().bytes_stream();
    let mut text = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
    kill(&[], server.id());
    while let Some(part) = stream.next().await {
        text.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
    }
    assert!(text.trim_end().ends_with("data: [DONE]"), "the stream broke off: {text}");
    assert!(text.contains("\"finish_reason\":\"length\""), "it did not run to its end: {text}");
    assert!(server.ended().success());
}

#[test]
fn a_second_server_on_the_same_store_is_refused_and_the_first_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = demo_config(folder.path());
    let first = Process::serve(&config);
    let second = run(&["serve", "--config", config.to_str().unwrap()]);
    let text = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("state.db: another server uses this store"), "{text}");
    assert!(run(&["route", "desk", "v1=50", "v2=50", "--admin", &first.admin]).status.success());
}
