//! A version takes no traffic before it has passed its model's regression suite.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Server, serve};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The demo's versions, with the suite that ships and such terms, and further lines of `server`.
fn desk(terms: &str, server: &str) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (models, suite) = (root.join("models"), root.join("suites/support.yaml"));
    let (models, suite) = (models.display(), suite.display());
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images{server} }}\n\
         models:\n  desk:\n    suite: {{ file: {suite}, {terms} }}\n    checks: [is-json]\n    versions:\n      \
         v1: {{ image: {models}/v1 }}\n      v2: {{ image: {models}/v2 }}\n      v3: {{ image: {models}/v3 }}\n    \
         route: {{ v1: 100 }}\n"
    );
    let config = folder.path().join("switchback.yaml");
    std::fs::write(&config, text).unwrap();
    (folder, config)
}

async fn begin(server: &Server, canary: &str) -> Value {
    let body = json!({"canary": canary});
    let (status, rollout) = server.admin(Method::POST, "/admin/models/desk/rollout", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{rollout}");
    assert_eq!((&rollout["phase"], &rollout["waits_for"]), (&json!("suite"), &json!("suite")), "{rollout}");
    rollout
}

/// The rollout, once it no longer waits for its suite.
async fn after_suite(server: &Server) -> Value {
    let begun = Instant::now();
    loop {
        let (_, found) = server.admin(Method::GET, "/admin/models/desk/rollout", None).await;
        if found["rollout"]["phase"] != "suite" {
            return found["rollout"].clone();
        }
        assert!(begun.elapsed() < Duration::from_mins(2), "the suite never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn reasons(server: &Server) -> Vec<String> {
    let (_, history) = server.admin(Method::GET, "/admin/models/desk/rollout/history", None).await;
    let transitions = history["transitions"].as_array().unwrap().iter();
    transitions.map(|transition| transition["reason"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_breaks_cases_gets_no_traffic_and_one_that_holds_goes_on() {
    // a suite asks from within, so keys of clients are no matter
    let (folder, config) = desk("max_regressions: 12", ", api_keys: [\"sk-1\"]");
    let server = serve(folder, &config).await;
    begin(&server, "v3").await;
    let aborted = after_suite(&server).await;
    assert_eq!((&aborted["phase"], &aborted["weight"]), (&json!("aborted"), &json!(0)), "{aborted}");
    let why = reasons(&server).await.remove(0);
    assert!(
        why.contains("v3 has failed its regression suite") && why.contains("desk@v1 passes; 12 may be"),
        "{why}"
    );

    begin(&server, "v2").await;
    let rollout = after_suite(&server).await;
    assert_eq!((&rollout["phase"], &rollout["weight"]), (&json!("step"), &json!(5)), "{rollout}");
    assert!(reasons(&server).await[0].contains("v2 has passed its regression suite"));
}

/// A server that ends while a suite runs runs it again when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suite_that_a_restart_cut_off_is_run_again() {
    let (folder, config) = desk("min_pass: 80", "");
    let Server { app, client: _, folder } = serve(folder, &config).await;
    let server = Server { app, client: common::client(), folder };
    begin(&server, "v2").await;
    let Server { app, folder, .. } = server;
    app.shut_down().await;
    let server = serve(folder, &config).await;
    let rollout = after_suite(&server).await;
    assert_eq!((&rollout["phase"], &rollout["weight"]), (&json!("step"), &json!(5)), "{rollout}");
    assert!(reasons(&server).await[0].contains("v2 has passed its regression suite"));
}

/// Flags over the model are about users, and the server is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_open_to_few_is_tested_all_the_same() {
    let (folder, config) = desk("min_pass: 80", "");
    let server = serve(folder, &config).await;
    let few = json!({"cohorts": [{"users": ["ada"]}]});
    let (status, _) = server.admin(Method::PUT, "/admin/models/desk/flag", Some(few)).await;
    assert_eq!(status, StatusCode::OK);
    begin(&server, "v2").await;
    let rollout = after_suite(&server).await;
    assert_eq!(rollout["phase"], "step", "{:?}", reasons(&server).await);
}

#[tokio::test]
async fn a_suite_that_no_version_could_pass_keeps_the_server_from_starting() {
    let (folder, config) = desk("min_pass: 80", "");
    let suite = folder.path().join("suite.yaml");
    std::fs::write(&suite, "prompts: [hi]\ntests: [{ assert: [{ type: llm-rubric, value: kind }] }]\n")
        .unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites/support.yaml");
    std::fs::write(&config, text.replace(&shipped.display().to_string(), "suite.yaml")).unwrap();
    let config = switchback::config::load(&config).unwrap();
    let refused = switchback::api::App::start(config).await.unwrap_err().to_string();
    assert!(refused.contains("models.desk.suite") && refused.contains("it needs a judge"), "{refused}");
}

#[tokio::test]
async fn an_operator_need_not_wait_for_a_suite_to_abort() {
    let (folder, config) = desk("min_pass: 100", "");
    let server = serve(folder, &config).await;
    begin(&server, "v2").await;
    let (status, skipped) =
        server.admin(Method::POST, "/admin/models/desk/rollout/promote", Some(json!({}))).await;
    assert_eq!(status, StatusCode::CONFLICT, "{skipped}");
    let (status, aborted) =
        server.admin(Method::POST, "/admin/models/desk/rollout/abort", Some(json!({}))).await;
    assert_eq!((status, &aborted["phase"]), (StatusCode::OK, &json!("aborted")), "{aborted}");
}
