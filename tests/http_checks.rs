//! Checks as operators meet them: in the configuration, and in `/metrics` after real answers.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Server, chat, serve, with};
use futures::{StreamExt, stream};
use serde_json::json;
use switchback::api::App;
use switchback::config::{self, Config};
use switchback::demo::{self, Case};
use switchback::quality::{Checks, FinishReason, Response, Verdict};
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The repository's own `switchback.yaml`, on free ports and with its state in `folder`.
fn demo_config(folder: &Path) -> PathBuf {
    let text = std::fs::read_to_string(Path::new(ROOT).join("switchback.yaml")).unwrap();
    let text = text
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:8081", "127.0.0.1:0")
        .replace("image: models/", &format!("image: {ROOT}/models/"));
    let path = folder.join("switchback.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

fn demo_checks() -> Checks {
    let config = config::load(&Path::new(ROOT).join("switchback.yaml")).unwrap();
    Checks::compile(&config.models[&"support-assistant".parse().unwrap()].checks, None).unwrap()
}

fn verdicts(checks: &Checks, text: &str) -> Vec<(String, Verdict)> {
    let response = Response {
        text: text.to_owned(),
        finish_reason: FinishReason::Stop,
        output_tokens: 1,
        time_to_first_token: None,
        elapsed: Duration::ZERO,
        tool_calls: Vec::new(),
        tools: std::sync::Arc::default(),
    };
    checks.judge(&response).map(|(name, judged)| (name.to_string(), judged.unwrap().verdict)).collect()
}

#[test]
fn every_right_answer_of_the_demo_passes_its_checks() {
    let checks = demo_checks();
    for case in demo::held_out(11, 300) {
        let failed: Vec<_> =
            verdicts(&checks, &case.answer()).into_iter().filter(|(_, v)| *v == Verdict::Fail).collect();
        assert!(failed.is_empty(), "{failed:?}: {}", case.answer());
    }
    let failed = |text: &str| -> Vec<String> {
        verdicts(&checks, text)
            .into_iter()
            .filter(|(_, v)| *v == Verdict::Fail)
            .map(|(name, _)| name)
            .collect()
    };
    assert_eq!(failed(demo::REFUSAL), ["is-json", "json-schema", "refusal"]);
    let answer = demo::held_out(11, 1).remove(0).answer();
    assert_eq!(failed(answer.trim_end_matches('}')), ["is-json", "json-schema"]);
    assert_eq!(failed(&answer.replace("\"priority\"", "\"prio\"")), ["json-schema"]);
}

/// The value of a counter, or 0 where it has not been counted yet.
async fn counter(server: &Server, name: &str, labels: &[(&str, &str)]) -> u64 {
    let text = server.get("/metrics").await.text().await.unwrap();
    let named = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    };
    let lines = text.lines().filter(named);
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Waits until so many answers of a version have been checked.
async fn checked(server: &Server, version: &str, count: u64) {
    let started = Instant::now();
    while counter(server, "switchback_responses_checked_total", &[("version", version)]).await < count {
        assert!(started.elapsed() < Duration::from_secs(20), "the answers of {version} were never checked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ask(server: &Server, version: &str, case: &Case) {
    let body = json!({
        "model": format!("support-assistant@{version}"), "temperature": 0, "max_tokens": 200,
        "messages": [
            {"role": "system", "content": demo::SYSTEM_PROMPT},
            {"role": "user", "content": case.message},
        ],
    });
    server.ask(CHAT, &body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_regression_fails_the_demos_checks_more_often_than_the_good_version() {
    let folder = tempfile::tempdir().unwrap();
    let config = demo_config(folder.path());
    let server = serve(folder, &config).await;
    let cases = demo::held_out(3, 40);
    for version in ["v1", "v3"] {
        stream::iter(&cases).for_each_concurrent(16, |case| ask(&server, version, case)).await;
        checked(&server, version, cases.len() as u64).await;
    }
    for check in ["is-json", "json-schema", "refusal"] {
        let mut failed = Vec::new();
        for version in ["v1", "v3"] {
            let count = async |result: &str| {
                let labels = [("check", check), ("version", version), ("result", result)];
                counter(&server, "switchback_checks_total", &labels).await
            };
            let (passed, lost) = (count("passed").await, count("failed").await);
            assert_eq!(passed + lost, cases.len() as u64, "{check} of {version}");
            failed.push(lost);
        }
        assert!(
            failed[0] <= 1 && failed[1] >= 4,
            "{check}: v1 failed {}, v3 failed {}",
            failed[0],
            failed[1]
        );
    }
    assert_eq!(counter(&server, "switchback_checks_dropped_total", &[]).await, 0);
}

/// The tiny model's server with these lines in its model's section.
async fn desk(lines: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = desk_config(&folder, lines);
    serve(folder, &path).await
}

fn desk_config(folder: &TempDir, lines: &str) -> PathBuf {
    let path = common::process::demo_config(folder.path());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{lines}")).unwrap();
    path
}

#[tokio::test]
async fn each_choice_is_checked_by_itself_streamed_or_not() {
    let server = desk(
        "    checks: [{ type: length, unit: tokens, max: 4 }, { type: finish-reason, value: length }]\n",
    )
    .await;
    let body = with(chat(), json!({"n": 3, "ignore_eos": true}));
    server.ask(CHAT, &body).await;
    server.events(CHAT, &with(body, json!({"stream": true}))).await;
    checked(&server, "v1", 6).await;
    for check in ["length", "finish-reason"] {
        let labels = [("check", check), ("result", "passed")];
        assert_eq!(counter(&server, "switchback_checks_total", &labels).await, 6, "{check}");
    }
}

#[tokio::test]
async fn a_sample_of_nothing_checks_nothing() {
    let server = desk("    checks: [is-json]\n    check_sample: 0\n").await;
    server.ask(CHAT, &chat()).await;
    server.app.gateway.end_checks().await;
    assert_eq!(counter(&server, "switchback_responses_checked_total", &[]).await, 0);
}

#[tokio::test]
async fn a_shutdown_judges_what_was_answered() {
    let Server { app, client, folder: _folder } = desk("    checks: [is-json]\n").await;
    let url = format!("http://{}{CHAT}", app.public);
    for _ in 0..5 {
        assert_eq!(client.post(&url).json(&chat()).send().await.unwrap().status(), 200);
    }
    let gateway = app.gateway.clone();
    app.shut_down().await;
    let text = gateway.render_metrics().unwrap();
    assert!(text.contains(r#"switchback_responses_checked_total{model="desk",version="v1"} 5"#), "{text}");
}

/// `embedding` with the tiny encoder of random weights.
fn embedding() -> String {
    format!("embedding: {{ image: {ROOT}/tests/fixtures/encoder/mean }}\n")
}

#[tokio::test]
async fn similar_answers_pass_and_others_fail() {
    let greedy = with(chat(), json!({"temperature": 0, "max_tokens": 40}));
    let answer = desk("    checks: [is-json]\n").await.ask(CHAT, &greedy).await;
    let answer = &answer["choices"][0]["message"]["content"];
    assert!(answer.as_str().unwrap().len() > 20, "{answer}");
    let server = desk(&format!(
        "    checks:\n      - {{ type: similar, name: same, value: {answer}, threshold: 1 }}\n\
         \x20     - {{ type: similar, name: other, value: [東京, refund], threshold: 0.9999 }}\n\
         \x20     - {{ type: not-similar, value: {answer} }}\n{}",
        embedding()
    ))
    .await;
    server.ask(CHAT, &greedy).await;
    checked(&server, "v1", 1).await;
    for (check, result) in [("same", "passed"), ("other", "failed"), ("not-similar", "failed")] {
        let labels = [("check", check), ("result", result)];
        assert_eq!(counter(&server, "switchback_checks_total", &labels).await, 1, "{check}");
    }
}

#[tokio::test]
async fn an_embedding_model_that_cannot_be_loaded_keeps_the_server_from_starting() {
    for (image, why) in [("not-there", "not-there is not a folder"), ("models/v1", "only bert")] {
        let (folder, config) = loaded(&format!(
            "    checks: [{{ type: similar, value: x }}]\nembedding: {{ image: {ROOT}/{image} }}\n"
        ));
        let error = App::start(config).await.unwrap_err().to_string();
        let place = format!(
            "{}:9: embedding: {ROOT}/{image} cannot be loaded: ",
            folder.path().join("switchback.yaml").display()
        );
        assert!(error.starts_with(&place) && error.contains(why), "{error}");
    }
}

fn loaded(lines: &str) -> (TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    let config = config::load(&desk_config(&folder, lines)).unwrap();
    (folder, config)
}

#[tokio::test]
async fn a_check_that_cannot_work_keeps_the_server_from_starting() {
    let (folder, config) = loaded(
        "    checks:\n      - is-json\n      - { type: regex, value: '(a' }\n      - { type: language, value: xx }\n",
    );
    let error = App::start(config).await.unwrap_err().to_string();
    let file = folder.path().join("switchback.yaml");
    let [first, second] = error.lines().collect::<Vec<_>>()[..] else { panic!("{error}") };
    let place = |line: u8, field: &str| format!("{}:{line}: models.desk.checks{field}: ", file.display());
    assert!(first.starts_with(&place(10, "[1].value")), "{error}");
    assert!(second.starts_with(&place(11, "[2].value")), "{error}");
    assert!(first.contains("is no regular expression: unclosed group; write it in"), "{error}");
}
