//! Several servers of the built program over one database.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use switchback::demo::held_out;
use tempfile::TempDir;

use super::customers::Customers;
use super::postgres::Postgres;
use super::process::{Process, demo_config};

/// Three replicas, and what they share.
pub struct Replicas {
    pub all: Vec<Process>,
    pub client: Client,
    pub database: Postgres,
    pub folder: TempDir,
}

/// How long something that takes seconds may take on a machine that does much else.
pub const SOON: Duration = Duration::from_secs(20);

/// A policy that lasts while nobody ends it, and ends by itself on evidence.
const POLICIES: &str = "policies: { even: { steps: [{setWeight: 50}, {pause: {}}], margin_pp: 10, min_samples: 20 }, \
                        quick: { steps: [{setWeight: 50}, {pause: {duration: 4s}}], on_inconclusive: promote, margin_pp: 50 } }\n";

impl Replicas {
    /// Starts three; nothing where the machine has no PostgreSQL.
    pub async fn start() -> Option<Self> {
        let database = Postgres::start().await?;
        let folder = tempfile::tempdir().unwrap();
        let path = demo_config(folder.path());
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("store: state.db", &format!("store: '{}'", database.url()));
        let v3 = format!(
            "      v3: {{ image: {}/v3 }}\n    checks: [is-json, feedback]\n    route:",
            models.display()
        );
        std::fs::write(&path, text.replace("    route:", &v3) + POLICIES).unwrap();
        let all = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| Process::serve(&path))).collect();
            starting.into_iter().map(|one| one.join().unwrap()).collect()
        });
        Some(Self { all, client: super::client(), database, folder })
    }

    /// Asks the admin API of one; a path after `/admin/models/desk/`.
    pub async fn admin(&self, at: usize, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("{}/admin/models/desk/{path}", self.all[at].admin);
        let request = self.client.request(method, url).header("x-switchback-actor", format!("admin-{at}"));
        let response = request.json(&body).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    pub async fn get(&self, at: usize, path: &str) -> Value {
        self.admin(at, Method::GET, path, json!({})).await.1
    }

    /// Sets a share of v2, and gives the new revision.
    pub async fn set(&self, at: usize, share: u64) -> u64 {
        let body = json!({"weights": {"v1": 100 - share, "v2": share}});
        let (status, route) = self.admin(at, Method::PUT, "route", body).await;
        assert_eq!(status, 200, "{route}");
        route["revision"].as_u64().unwrap()
    }

    /// Waits until a revision of the route, or a later one, is in force on all.
    pub async fn everywhere(&self, revision: u64) {
        let began = Instant::now();
        for at in 0..self.all.len() {
            while self.get(at, "route").await["revision"].as_u64().unwrap() < revision {
                assert!(began.elapsed() < SOON, "replica {at} never heard of it");
            }
        }
    }

    /// Which of those that run leads.
    pub async fn leader(&self) -> usize {
        let began = Instant::now();
        loop {
            for (at, replica) in self.all.iter().enumerate() {
                let answer = self.client.get(format!("{}/admin/replica", replica.admin)).send().await;
                let Ok(answer) = answer else { continue };
                if answer.json::<Value>().await.unwrap()["leads"] == true {
                    return at;
                }
            }
            assert!(began.elapsed() < SOON, "nobody leads");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until what one says of the rollout is so.
    pub async fn rollout_until(&self, at: usize, so: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let rollout = self.get(at, "rollout").await["rollout"].take();
            if so(&rollout) {
                return rollout;
            }
            assert!(began.elapsed() < SOON, "it never came to that: {rollout}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The version that answers a user.
    pub async fn version_of(&self, at: usize, user: &str) -> String {
        let body = json!({"model": "desk", "user": user, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
        let url = format!("{}/v1/chat/completions", self.all[at].public);
        let response = self.client.post(url).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.headers()["x-switchback-version"].to_str().unwrap().to_owned()
    }

    /// Customers of one replica, each with a question of the demo; to be asked on while something is done.
    pub fn customers(
        &self,
        at: usize,
        max_tokens: u32,
    ) -> Customers<impl Fn(u64) -> Value + Send + Sync + 'static> {
        let cases = held_out(at as u64 + 1, 200);
        let question = move |i: u64| {
            json!({
                "model": "desk", "user": format!("customer-{at}-{i}"), "temperature": 0, "max_tokens": max_tokens,
                "messages": [{"role": "user", "content": cases[i as usize % cases.len()].message}],
            })
        };
        let url = format!("{}/v1/chat/completions", self.all[at].public);
        Customers {
            client: self.client.clone(),
            url,
            at_once: 2,
            think: Duration::ZERO,
            patience: 2 * SOON,
            question,
        }
    }
}
