//! The program as a process: what an operator's change is worth when it is killed, and how it stops.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

struct Server {
    child: Child,
    public: String,
    admin: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `switchback serve` and reads its addresses off the summary.
fn serve(config: &Path) -> Server {
    let mut child = Command::new(env!("CARGO_BIN_EXE_switchback"))
        .args(["serve", "--log-filter", "error", "--config"])
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut address = |name: &str| loop {
        let line = lines.next().unwrap_or_else(|| panic!("the server ended before it told {name}")).unwrap();
        if let Some(rest) = line.strip_prefix(name) {
            let url = rest.trim();
            break url.trim_end_matches("/v1").trim_end_matches("/admin").to_owned();
        }
    };
    let (public, admin) = (address("clients"), address("operators"));
    // the summary goes on; a pipe that nobody reads would block the server
    std::thread::spawn(move || lines.for_each(drop));
    Server { child, public, admin }
}

fn configured(folder: &Path) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let models = models.display();
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  desk:\n    versions:\n      v1: {{ image: {models}/v1 }}\n      v2: {{ image: {models}/v2 }}\n\
         \x20   route: {{ v1: 100 }}\n"
    );
    let path = folder.join("switchback.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap()
}

async fn get(client: &reqwest::Client, url: String) -> Value {
    client.get(url).send().await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_comes_back_with_every_change_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (config, client) = (configured(folder.path()), client());
    let mut acknowledged = 1;
    for round in 0..5_u64 {
        let mut server = serve(&config);
        let route = format!("{}/admin/models/desk/route", server.admin);
        let found = get(&client, route.clone()).await;
        let revision = found["revision"].as_u64().unwrap();
        // one change more may have been written when the kill cut its answer off
        assert!(revision == acknowledged || revision == acknowledged + 1, "{found} after {acknowledged}");
        let log = get(&client, format!("{}/admin/audit?limit=1000", server.admin)).await;
        assert_eq!(log["entries"].as_array().unwrap().len() as u64, revision, "each revision has its line");
        acknowledged = revision;

        let after = Duration::from_millis(20 + 17 * round);
        let killed = std::time::Instant::now() + after;
        let pid = server.child.id().to_string();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(killed.saturating_duration_since(std::time::Instant::now()));
            Command::new("kill").args(["-9", &pid]).status().unwrap()
        });
        for share in (1..100_u64).cycle() {
            let body = json!({ "weights": { "v1": 100 - share, "v2": share } });
            let Ok(answer) = client.put(&route).json(&body).send().await else { break };
            if !answer.status().is_success() {
                break;
            }
            let Ok(answer) = answer.json::<Value>().await else { break };
            acknowledged = answer["revision"].as_u64().unwrap();
        }
        killer.join().unwrap();
        server.child.wait().unwrap();
    }
    assert!(acknowledged > 10, "only {acknowledged} changes were made: the test shows little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_told_to_stop_finishes_what_it_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = serve(&configured(folder.path()));
    let body = json!({
        "model": "desk", "stream": true, "max_tokens": 400, "ignore_eos": true, "temperature": 0,
        "messages": [{ "role": "user", "content": "Where is my tent?" }],
    });
    let url = format!("{}/v1/chat/completions", server.public);
    let mut stream = client().post(url).json(&body).send().await.unwrap().bytes_stream();
    let mut text = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
    Command::new("kill").arg(server.child.id().to_string()).status().unwrap();
    while let Some(part) = stream.next().await {
        text.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
    }
    assert!(text.trim_end().ends_with("data: [DONE]"), "the stream broke off: {text}");
    assert!(text.contains("\"finish_reason\":\"length\""), "it did not run to its end: {text}");
    assert!(server.child.wait().unwrap().success());
}
