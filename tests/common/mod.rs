//! A server over a tiny model, and a client for it. Every test has its own, on ports of its own.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::needless_pass_by_value)]

pub mod adapter;
pub mod customers;
pub mod desk;
pub mod dice;
pub mod gguf;
pub mod model;
pub mod postgres;
pub mod process;
pub mod replicas;
pub mod schemas;
pub mod scripted;
pub mod stores;
pub mod traffic;

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use switchback::api::{App, RunningApp};
use tempfile::TempDir;

/// A running server with its folder.
pub struct Server {
    pub app: RunningApp,
    pub client: Client,
    pub folder: TempDir,
}

/// What a test wants other than usual.
#[derive(Default)]
pub struct Setup {
    /// Further lines of the `server` section.
    pub server: &'static str,
    /// Further lines of the `engine` section.
    pub engine: &'static str,
    /// Of the key-value memory; 4096 if nothing is said.
    pub kv_tokens: Option<usize>,
}

/// Two versions hot, a third cold, a fourth that cannot be loaded; v1 has all traffic.
pub async fn start() -> Server {
    start_with(Setup::default()).await
}

pub async fn start_with(setup: Setup) -> Server {
    start_in(models(), setup).await
}

/// As [`start`], and each version has this `generation_config.json`.
pub async fn start_with_defaults(defaults: Value) -> Server {
    let folder = models();
    for version in VERSIONS {
        let path = folder.path().join(version).join("generation_config.json");
        std::fs::write(path, defaults.to_string()).unwrap();
    }
    start_in(folder, Setup::default()).await
}

const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];

fn models() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for version in VERSIONS {
        model::write(&folder.path().join(version), version);
    }
    folder
}

async fn start_in(folder: TempDir, setup: Setup) -> Server {
    let config = config(folder.path(), &setup);
    serve(folder, &config).await
}

/// The server of a configuration in `folder`, once its first loads are over.
pub async fn serve(folder: TempDir, config: &Path) -> Server {
    let mut app = App::start(switchback::config::load(config).unwrap()).await.unwrap();
    app.loaded().await;
    Server { app, client: client(), folder }
}

/// A client with connections of its own. A server that hangs fails its test instead of hanging it too, and a proxy
/// of the machine's environment is not asked for loopback addresses.
pub fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap()
}

fn config(folder: &Path, setup: &Setup) -> std::path::PathBuf {
    let path = folder.join("switchback.yaml");
    let Setup { server, engine, kv_tokens } = setup;
    let kv_tokens = kv_tokens.unwrap_or(4096);
    let text = format!(
        "server:\n  mode: dev\n  listen: 127.0.0.1:0\n  admin: 127.0.0.1:0\n  store: state.db\n  images: images\n{server}\
         engine:\n  kv_tokens: {kv_tokens}\n{engine}\
         models:\n  desk:\n    sticky_header: x-user-id\n    versions:\n\
         \x20     v1: {{ image: v1, residency: hot }}\n\
         \x20     v2: {{ image: v2, residency: hot }}\n\
         \x20     v3: {{ image: v3, residency: cold }}\n\
         \x20     broken: {{ image: not-there, residency: cold }}\n\
         \x20   route: {{ v1: 100 }}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.public)
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.admin)
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    /// Posts, and expects success.
    pub async fn ask(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Posts, and reads all events of the answer; the last must be `[DONE]`.
    pub async fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.post(path, body).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await.unwrap();
        let mut data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{text}");
        data.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A version of the only model, as operators see it.
    pub async fn version(&self, name: &str) -> Value {
        let (status, models) = self.admin(reqwest::Method::GET, "/admin/models", None).await;
        assert_eq!(status, 200);
        let versions = models["models"][0]["versions"].as_array().unwrap();
        versions.iter().find(|version| version["version"] == name).unwrap().clone()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub async fn admin(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request =
            self.client.request(method, self.admin_url(path)).header("x-switchback-actor", "ada");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// The number behind `series` on `/metrics`; 0 where it is not there.
    pub async fn counted(&self, series: &str) -> u64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(series));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Sequences that the hot engines hold, those that wait included.
    async fn held(&self) -> u64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let gauges = ["switchback_engine_running{", "switchback_engine_waiting{"];
        let lines = text.lines().filter(|line| gauges.iter().any(|gauge| line.starts_with(gauge)));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Waits until no engine has anything left; fails after ten seconds.
    pub async fn idle(&self) {
        let started = Instant::now();
        while self.held().await > 0 {
            assert!(started.elapsed() < Duration::from_secs(10), "the engines never came to rest");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A chat request that is answered.
pub fn chat() -> Value {
    json!({"model": "desk", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "seed": 1})
}

/// A completion request that is answered.
pub fn completion() -> Value {
    json!({"model": "desk", "prompt": "hello", "max_tokens": 4, "seed": 1})
}

/// `base` with some members set; null leaves one out.
pub fn with(mut base: Value, members: Value) -> Value {
    for (name, value) in members.as_object().unwrap() {
        base[name] = value.clone();
    }
    base
}
