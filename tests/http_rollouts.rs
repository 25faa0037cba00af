//! Rollouts end to end: real traffic over HTTP to the demo's versions, judged on their answers, moved by themselves.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use switchback::api::{App, RunningApp};
use switchback::demo::held_out;
use tempfile::TempDir;

/// Steps of seconds in the place of minutes; alpha is small, as these tests run often.
const POLICIES: &str = "policies:\n  quick:\n    steps: [{setWeight: 30}, {pause: {duration: 2s}}, {setWeight: 50}, {pause: {duration: 60s}}]\n\
    \x20   { EARLY }\n    margin_pp: 10\n    alpha: 0.001\n    power: 0.9\n\
    \x20 by-hand:\n    steps: [{setWeight: 5}, {pause: {}}, {setWeight: 50}, {pause: {duration: 1h}}]\n    approval: manual\n";

struct Desk {
    app: RunningApp,
    client: Client,
    folder: TempDir,
}

fn configure(folder: &Path) -> std::path::PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let models = models.display();
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  desk:\n    checks:\n      - type: is-json\n      - type: refusal\n    versions:\n\
         \x20     v1: {{ image: {models}/v1 }}\n      v2: {{ image: {models}/v2 }}\n      v3: {{ image: {models}/v3 }}\n\
         \x20     twin: {{ image: {models}/v1 }}\n\
         \x20   route: {{ v1: 100 }}\n{}",
        POLICIES.replace("{ EARLY }", "early_promote: true")
    );
    let path = folder.join("switchback.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

async fn serve(folder: TempDir) -> Desk {
    let config = switchback::config::load(&configure(folder.path())).unwrap();
    let mut app = App::start(config).await.unwrap();
    app.loaded().await;
    Desk { app, client: common::client(), folder }
}

async fn desk() -> Desk {
    serve(tempfile::tempdir().unwrap()).await
}

impl Desk {
    async fn admin(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("http://{}/admin/models/desk/{path}", self.app.admin);
        let request = self.client.request(method, url).header("x-switchback-actor", "ada");
        let response = request.json(&body).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn order(&self, command: &str) -> (StatusCode, Value) {
        self.admin(Method::POST, &format!("rollout/{command}"), json!({})).await
    }

    async fn start(&self, canary: &str, policy: &str) -> Value {
        let body = json!({"canary": canary, "policy": policy, "reason": "a test"});
        let (status, rollout) = self.admin(Method::POST, "rollout", body).await;
        assert_eq!(status, 200, "{rollout}");
        rollout
    }

    async fn rollout(&self) -> Value {
        self.admin(Method::GET, "rollout", json!({})).await.1["rollout"].take()
    }

    async fn weights(&self) -> Value {
        self.admin(Method::GET, "route", json!({})).await.1["weights"].take()
    }

    async fn experiment(&self) -> Value {
        self.admin(Method::GET, "experiment", json!({})).await.1["experiment"].take()
    }

    /// Customers ask until the rollout has ended. How many did; each got an answer.
    async fn until_it_ends(&self) -> (Value, u64) {
        let ended = async || Some(self.rollout().await).filter(|rollout| rollout["waits_for"] == "nothing");
        self.while_customers_ask(ended).await
    }

    /// Customers ask until something is so.
    async fn while_customers_ask(&self, so: impl AsyncFn() -> Option<Value>) -> (Value, u64) {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let cases = Arc::new(held_out(11, 500));
        let customers: Vec<_> = (0..8)
            .map(|_| {
                let (stop, asked, cases) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&cases));
                let client = self.client.clone();
                let url = format!("http://{}/v1/chat/completions", self.app.public);
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let i = asked.fetch_add(1, Ordering::Relaxed);
                        let message = &cases[i as usize % cases.len()].message;
                        let body = json!({
                            "model": "desk", "user": format!("customer-{i}"), "temperature": 0, "max_tokens": 96,
                            "messages": [{"role": "user", "content": message}],
                        });
                        let response = client.post(&url).json(&body).send().await.unwrap();
                        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
                        response.bytes().await.unwrap();
                    }
                })
            })
            .collect();
        let started = Instant::now();
        let value = loop {
            if let Some(value) = so().await {
                break value;
            }
            assert!(started.elapsed() < Duration::from_secs(55), "it does not end: {}", self.rollout().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        stop.store(true, Ordering::Relaxed);
        for customer in customers {
            customer.await.unwrap();
        }
        (value, asked.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regression_is_aborted_by_itself_and_its_checks_are_named() {
    let desk = desk().await;
    let begun = desk.start("v3", "quick").await;
    assert_eq!((&begun["phase"], &begun["step"], &begun["weight"]), (&json!("step"), &json!(2), &json!(30)));
    assert_eq!(desk.weights().await, json!({"v1": 70, "v3": 30}));
    let (rollout, asked) = desk.until_it_ends().await;
    assert_eq!(rollout["phase"], "aborted", "{rollout} after {asked}");
    assert!(rollout["finding"].as_str().unwrap().contains("`is-json`: "), "{rollout}");
    assert_eq!(desk.weights().await, json!({"v1": 100}));
    let (_, models) = desk.admin(Method::GET, "route", json!({})).await;
    assert_eq!(models["stable"], "v1");
    let (_, history) = desk.admin(Method::GET, "rollout/history", json!({})).await;
    let last = &history["transitions"][0];
    assert_eq!((&last["to"], &last["actor"]), (&json!("aborted"), &json!("switchback")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_canary_is_promoted_by_itself() {
    let desk = desk().await;
    desk.start("v2", "quick").await;
    let (rollout, asked) = desk.until_it_ends().await;
    assert_eq!(rollout["phase"], "promoted", "{rollout} after {asked}");
    assert_eq!(desk.weights().await, json!({"v2": 100}));
    let (status, route) = desk.admin(Method::POST, "rollback", json!({})).await;
    assert_eq!((status.as_u16(), &route["weights"]), (200, &json!({"v1": 100})), "and it can be rolled back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_has_the_last_word() {
    let desk = desk().await;
    let (status, error) = desk.order("pause").await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("rollout_not_in_that_state")));
    for (body, status, code) in [
        (json!({"canary": "v9", "policy": "quick"}), 404, "version_not_found"),
        (json!({"canary": "v1", "policy": "quick"}), 400, "invalid_value"),
        (json!({"canary": "v2", "policy": "hope"}), 400, "invalid_value"),
        (json!({"canary": "v2"}), 400, "missing_required_parameter"),
    ] {
        let (found, error) = desk.admin(Method::POST, "rollout", body.clone()).await;
        assert_eq!((found.as_u16(), &error["error"]["code"]), (status, &json!(code)), "{body}: {error}");
    }

    assert_eq!(desk.start("v2", "by-hand").await["waits_for"], "resume");
    let second = json!({"canary": "v3", "policy": "by-hand"});
    let (status, error) = desk.admin(Method::POST, "rollout", second.clone()).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("rollout_runs")), "{error}");
    let (_, rollout) = desk.order("resume").await;
    assert_eq!((&rollout["step"], &rollout["weight"]), (&json!(4), &json!(50)), "{rollout}");
    assert_eq!(desk.order("pause").await.1["phase"], "paused");
    assert_eq!(desk.order("resume").await.1["phase"], "step");

    let mut supersede = second;
    supersede["on_conflict"] = json!("supersede");
    let (status, rollout) = desk.admin(Method::POST, "rollout", supersede).await;
    assert_eq!(
        (status.as_u16(), &rollout["canary"], &rollout["id"]),
        (200, &json!("v3"), &json!(2)),
        "{rollout}"
    );
    assert_eq!(desk.weights().await, json!({"v1": 95, "v3": 5}));

    let (status, _) = desk.admin(Method::PUT, "route", json!({"weights": {"v1": 60, "v2": 40}})).await;
    assert_eq!(status, 200);
    assert_eq!(
        desk.rollout().await["phase"],
        "rolled_back",
        "whoever sets weights by hand takes the route over"
    );
    desk.start_after_split().await;
}

impl Desk {
    async fn start_after_split(&self) {
        let (status, error) =
            self.admin(Method::POST, "rollout", json!({"canary": "v2", "policy": "quick"})).await;
        assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("route_is_split")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_where_it_was_after_a_restart() {
    let desk = desk().await;
    desk.start("v2", "by-hand").await;
    desk.order("resume").await;
    let before = (desk.rollout().await, desk.weights().await);
    let Desk { app, folder, .. } = desk;
    // A drain may take long; that its engine goes is not the canary's fault.
    app.gateway.shut_down().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    app.shut_down().await;

    let desk = serve(folder).await;
    let (rollout, weights) = (desk.rollout().await, desk.weights().await);
    assert_eq!((&rollout["id"], &rollout["step"], &weights), (&before.0["id"], &before.0["step"], &before.1));
    assert_eq!(rollout["weight"], 50);
    assert_eq!(desk.order("abort").await.1["phase"], "aborted");
    assert_eq!(desk.weights().await, json!({"v1": 100}));
}

fn result<'e>(experiment: &'e Value, measure: &str) -> &'e Value {
    let found = experiment["results"].as_array().unwrap().iter().find(|result| result["measure"] == measure);
    found.unwrap_or_else(|| panic!("no {measure} in {experiment}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_experiment_finds_the_difference_keeps_it_over_a_restart_and_promotes_nobody() {
    let desk = desk().await;
    let body = json!({"control": "v1", "treatment": "v3", "percent": 50, "duration": "1h", "name": "short"});
    let (status, begun) = desk.admin(Method::POST, "experiment", body).await;
    assert_eq!((status.as_u16(), &begun["phase"]), (200, &json!("running")), "{begun}");
    assert_eq!(desk.weights().await, json!({"v1": 50, "v3": 50}));
    let differs = async || {
        let experiment = desk.experiment().await;
        let result =
            experiment["results"].as_array()?.iter().find(|result| result["measure"] == "is-json")?;
        (result["difference"]["differs"] == true).then(|| experiment.clone())
    };
    let (found, _) = desk.while_customers_ask(differs).await;
    let json_share = result(&found, "is-json");
    assert!(json_share["difference"]["high"].as_f64().unwrap() < 0.0, "{json_share}");
    assert!(json_share["sentence"].as_str().unwrap().ends_with("they differ"), "{json_share}");
    let (status, error) =
        desk.admin(Method::POST, "rollout", json!({"canary": "v2", "policy": "quick"})).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("experiment_runs")), "{error}");
    let answers = |experiment: &Value| result(experiment, "is-json")["control"]["answers"].as_u64().unwrap();

    let Desk { app, folder, .. } = desk;
    app.shut_down().await;
    let desk = serve(folder).await;
    let known = async || Some(desk.experiment().await).filter(|now| now["results"] != json!([]));
    let (resumed, _) = desk.while_customers_ask(known).await;
    assert!(answers(&resumed) >= answers(&found), "{resumed}");
    assert_eq!((&resumed["id"], &resumed["phase"]), (&json!(1), &json!("running")));
    let (status, stopped) =
        desk.admin(Method::POST, "experiment/stop", json!({"reason": "seen enough"})).await;
    let stopped = &stopped["experiment"];
    assert_eq!(
        (status.as_u16(), &stopped["ending"]),
        (200, &json!("stopped by ada: seen enough")),
        "{stopped}"
    );
    assert_eq!(desk.weights().await, json!({"v1": 100}));
    let (_, history) = desk.admin(Method::GET, "experiment/history", json!({})).await;
    assert_eq!(&history["experiments"][0], stopped, "what was known is kept");
    assert_eq!(result(stopped, "is-json")["difference"]["differs"], true);
    let (status, error) = desk.admin(Method::POST, "experiment/stop", json!({})).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("no_experiment_runs")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_and_its_twin_are_not_called_different_and_an_operators_route_ends_it() {
    let desk = desk().await;
    for (body, status, code) in [
        (json!({"control": "v2", "treatment": "v1", "percent": 50}), 409, "version_is_not_stable"),
        (json!({"control": "v1", "treatment": "v1", "percent": 50}), 400, "invalid_value"),
        (json!({"control": "v1", "treatment": "v9", "percent": 50}), 404, "version_not_found"),
        (json!({"control": "v1", "treatment": "v2", "percent": 100}), 400, "invalid_value"),
        (json!({"control": "v1", "treatment": "v2", "percent": 5, "duration": "soon"}), 400, "invalid_value"),
        (json!({"control": "v1", "treatment": "v2", "percent": 5, "confidence": 1}), 400, "invalid_value"),
    ] {
        let (found, error) = desk.admin(Method::POST, "experiment", body.clone()).await;
        assert_eq!((found.as_u16(), &error["error"]["code"]), (status, &json!(code)), "{body}: {error}");
    }
    let body = json!({"control": "v1", "treatment": "twin", "percent": 40, "confidence": 0.999});
    assert_eq!(desk.admin(Method::POST, "experiment", body.clone()).await.0, 200);
    assert_eq!(desk.admin(Method::POST, "experiment", body).await.1["error"]["code"], "experiment_runs");
    let enough = async || {
        let now = desk.experiment().await;
        let answers = now["results"][0]["treatment"]["answers"].as_u64().unwrap_or(0);
        (answers >= 80).then_some(now)
    };
    let (found, _) = desk.while_customers_ask(enough).await;
    for measure in ["overall", "is-json", "refusal", "finished", "output_tokens"] {
        let result = result(&found, measure);
        assert_eq!(result["difference"]["differs"], false, "{result}");
        assert!(result["sentence"].as_str().unwrap().ends_with("it may be chance"), "{result}");
    }
    let (status, _) = desk.admin(Method::PUT, "route", json!({"weights": {"v1": 60, "v2": 40}})).await;
    assert_eq!(status, 200);
    let over = desk.experiment().await;
    assert_eq!((&over["phase"], &over["ending"]), (&json!("ended"), &json!("ada changed the route by hand")));
    assert_eq!(desk.weights().await, json!({"v1": 60, "v2": 40}));
}
