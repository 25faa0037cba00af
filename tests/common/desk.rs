//! The demo behind HTTP, with customers who ask and a clock that runs faster than the machine's.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use switchback::api::{App, RunningApp};
use switchback::clock::Clock;
use switchback::demo::held_out;
use switchback::gateway::Pace;
use tempfile::TempDir;

use super::customers::Customers;

/// A rollout takes an hour; the tests' clock lets it pass in twenty seconds.
const FASTER: i32 = 180;

/// `customer-facing` with a margin that fewer answers tell, for machines that give few in twenty seconds.
const POLICIES: &str = "policies:\n  hour:\n    \
    steps: [{setWeight: 5}, {pause: {duration: 20m}}, {setWeight: 25}, {pause: {duration: 40m}}, {setWeight: 100}]\n    \
    margin_pp: 10\n\
    \x20 by-hand:\n    \
    steps: [{setWeight: 5}, {pause: {}}, {setWeight: 50}, {pause: {duration: 1h}}]\n    approval: manual\n\
    \x20 copies-first:\n    steps: [{setMirrorRoute: {}}, {pause: {duration: 12h}}, {setWeight: 5}, {pause: {}}]\n    min_samples: 20\n";

/// A clock that runs faster than the machine's.
struct FastClock {
    epoch: Timestamp,
    began: Instant,
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        self.epoch + SignedDuration::try_from(self.began.elapsed()).unwrap() * FASTER
    }
}

/// The demo's three versions and a twin of v1, on that clock.
pub struct Desk {
    pub app: RunningApp,
    pub client: Client,
    pub folder: TempDir,
}

pub fn configure(folder: &Path) -> std::path::PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let models = models.display();
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images, mirror_capacity: 100 }}\n\
         models:\n  desk:\n    checks:\n      - type: is-json\n      - type: refusal\n    versions:\n\
         \x20     v1: {{ image: {models}/v1 }}\n      v2: {{ image: {models}/v2 }}\n      v3: {{ image: {models}/v3 }}\n\
         \x20     twin: {{ image: {models}/v1 }}\n\
         \x20   route: {{ v1: 100 }}\n{POLICIES}"
    );
    let path = folder.join("switchback.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

pub async fn serve(folder: TempDir) -> Desk {
    serve_looking(folder, Duration::from_millis(50)).await
}

/// With rollouts that are looked at so often.
pub async fn serve_looking(folder: TempDir, look_every: Duration) -> Desk {
    let config = switchback::config::load(&configure(folder.path())).unwrap();
    let clock = Arc::new(FastClock { epoch: Timestamp::now(), began: Instant::now() });
    let pace = Pace { clock, look_every };
    let mut app = App::start_at(config, pace).await.unwrap();
    app.loaded().await;
    Desk { app, client: super::client(), folder }
}

pub async fn desk() -> Desk {
    serve(tempfile::tempdir().unwrap()).await
}

impl Desk {
    pub async fn admin(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("http://{}/admin/models/desk/{path}", self.app.admin);
        let request = self.client.request(method, url).header("x-switchback-actor", "ada");
        let response = request.json(&body).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    pub async fn order(&self, command: &str) -> (StatusCode, Value) {
        self.admin(Method::POST, &format!("rollout/{command}"), json!({})).await
    }

    pub async fn start(&self, canary: &str, policy: &str) -> Value {
        let body = json!({"canary": canary, "policy": policy, "reason": "a test"});
        let (status, rollout) = self.admin(Method::POST, "rollout", body).await;
        assert_eq!(status, 200, "{rollout}");
        rollout
    }

    pub async fn rollout(&self) -> Value {
        self.admin(Method::GET, "rollout", json!({})).await.1["rollout"].take()
    }

    pub async fn weights(&self) -> Value {
        self.admin(Method::GET, "route", json!({})).await.1["weights"].take()
    }

    /// Customers ask until the rollout has ended, the same for the same seed. How many did; each got an answer.
    pub async fn until_it_ends(&self, seed: u64, at_once: usize, think: Duration) -> (Value, u64) {
        let ended = async || Some(self.rollout().await).filter(|rollout| rollout["waits_for"] == "nothing");
        self.while_customers_ask(seed, at_once, think, ended).await
    }

    /// Customers ask until something is so.
    pub async fn while_customers_ask(
        &self,
        seed: u64,
        at_once: usize,
        think: Duration,
        so: impl AsyncFn() -> Option<Value>,
    ) -> (Value, u64) {
        let cases = held_out(seed, 500);
        let question = move |i: u64| {
            json!({
                "model": "desk", "user": format!("customer-{seed}-{i}"), "temperature": 0, "max_tokens": 96,
                "messages": [{"role": "user", "content": cases[i as usize % cases.len()].message}],
            })
        };
        let url = format!("http://{}/v1/chat/completions", self.app.public);
        let (client, patience) = (self.client.clone(), Duration::from_mins(2));
        let customers = Customers { client, url, at_once, think, patience, question };
        let (Some(value), asked) = customers.ask_until(so).await else {
            panic!("it does not end: {}", self.rollout().await);
        };
        (value, asked)
    }
}
