//! A server that is killed in the middle of rollouts: what it comes back with is what it acknowledged, what its log
//! explains, and what its route says.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::process::{Process, demo_config, kill};
use reqwest::Client;
use serde_json::{Value, json};

/// How often the server is killed: a few times here, and as often as this variable says to show more.
const KILLS: &str = "SWITCHBACK_TEST_KILLS";

/// What operators do while the server is killed, over and over: each is a transition of a rollout.
const ORDERS: [&str; 7] = ["start v2", "pause", "resume", "skip", "abort", "start v2", "promote"];

fn config(folder: &std::path::Path) -> std::path::PathBuf {
    let path = demo_config(folder);
    let text = std::fs::read_to_string(&path).unwrap();
    let policies = "policies: { slow: { steps: [{setWeight: 10}, {pause: {duration: 1h}}, \
                    {setWeight: 40}, {pause: {duration: 1h}}] } }\n";
    std::fs::write(&path, format!("{text}{policies}")).unwrap();
    path
}

async fn get(client: &Client, server: &Process, path: &str) -> Value {
    let url = format!("{}/admin/models/desk/{path}", server.admin);
    client.get(url).send().await.unwrap().json().await.unwrap()
}

/// Does one thing. The rollout after it if it was acknowledged; an error if the server is gone.
async fn order(client: &Client, admin: &str, order: &str) -> Result<Option<Value>, reqwest::Error> {
    let url = format!("{admin}/admin/models/desk");
    let request = match order.split_once(' ') {
        Some((_, canary)) => client
            .post(format!("{url}/rollout"))
            .json(&json!({"canary": canary, "policy": "slow", "on_conflict": "supersede"})),
        None => client.post(format!("{url}/rollout/{order}")),
    };
    let answer = request.send().await?;
    if !answer.status().is_success() {
        // It makes no sense in this state, or the canary has all traffic already: go back and on.
        client.put(format!("{url}/route")).json(&json!({"weights": {"v1": 100}})).send().await?;
        return Ok(None);
    }
    Ok(Some(answer.json().await?))
}

/// State, history and route say the same.
async fn agree(client: &Client, server: &Process) -> Value {
    let started = Instant::now();
    let rollout = loop {
        let rollout = get(client, server, "rollout").await["rollout"].take();
        // A kill between the beginning and the first step leaves the step to the next process, at its first look.
        if rollout["phase"] != "pending" {
            break rollout;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it stays {rollout}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let history = get(client, server, "rollout/history?limit=1000").await["transitions"].take();
    let route = get(client, server, "route").await;
    if rollout.is_null() {
        assert_eq!(history, json!([]));
        return rollout;
    }
    let last = &history[0];
    let step = rollout["step"].as_u64().map(|step| format!(" {step}")).unwrap_or_default();
    assert_eq!(
        last["to"],
        format!("{}{step}", rollout["phase"].as_str().unwrap()),
        "{last} explains {rollout}"
    );
    assert_eq!((&last["rollout"], &last["weight"]), (&rollout["id"], &rollout["weight"]));
    assert!(!last["reason"].as_str().unwrap().is_empty());
    if rollout["waits_for"] != "nothing" {
        let canary = rollout["canary"].as_str().unwrap();
        let weight = route["weights"].get(canary).cloned().unwrap_or(json!(0));
        assert_eq!(weight, rollout["weight"], "{route} and {rollout}");
    }
    rollout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_rollout_comes_back_as_its_log_explains() {
    let kills = std::env::var(KILLS).ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let folder = tempfile::tempdir().unwrap();
    let (config, client) = (config(folder.path()), common::client());
    let mut acknowledged: Option<Value> = None;
    let mut orders = ORDERS.iter().cycle();
    for _ in 0..kills {
        let mut server = Process::serve(&config);
        let found = agree(&client, &server).await;
        if let Some(acknowledged) = &acknowledged {
            // Whatever was acknowledged is there; what was under way when the kill came may be there too.
            assert!(found["id"].as_u64() >= acknowledged["id"].as_u64(), "{found} after {acknowledged}");
            let history = get(&client, &server, "rollout/history?limit=1000").await;
            let step = acknowledged["step"].as_u64().map(|step| format!(" {step}")).unwrap_or_default();
            let state = format!("{}{step}", acknowledged["phase"].as_str().unwrap());
            let known = history["transitions"].as_array().unwrap();
            assert!(
                known.iter().any(|line| line["rollout"] == acknowledged["id"] && line["to"] == state),
                "{acknowledged} is not in {history}"
            );
        }
        let after = Duration::from_micros(2_000 + switchback::gateway::random_u64() % 30_000);
        let (pid, admin) = (server.id(), server.admin.clone());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            kill(&["-9"], pid);
        });
        while let Ok(done) = order(&client, &admin, orders.next().unwrap()).await {
            if let Some(rollout) = done {
                acknowledged = Some(rollout);
            }
        }
        killer.join().unwrap();
        server.ended();
    }
    assert!(acknowledged.is_some(), "no order was acknowledged: the test shows nothing");
    agree(&client, &Process::serve(&config)).await;
}
