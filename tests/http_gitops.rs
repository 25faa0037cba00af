//! The configuration's file leads: a server that runs takes what it holds, all or nothing.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Server, client, model};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use switchback::api::App;
use switchback::config::Source;

/// A configuration of one model, `desk`, in a folder of its own.
struct Files {
    file: PathBuf,
}

impl Files {
    /// Puts another in its place, as editors and Git do.
    fn write(&self, models: &str) {
        let text = format!(
            "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
             engine: {{ kv_tokens: 4096 }}\npolicies:\n  quick: {{ steps: [{{ setWeight: 5 }}, {{ pause: {{}} }}, {{ setWeight: 100 }}] }}\nmodels:\n  desk:\n{models}"
        );
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &self.file).unwrap();
    }
}

fn desk(version: &str, more: &str) -> String {
    format!(
        "    policy: quick\n    version: {version}\n    versions:\n      v1: {{ image: v1 }}\n      v2: {{ image: v2 }}\n{more}"
    )
}

/// A server that follows its file, which wants v1.
async fn following() -> (Server, Files) {
    let folder = tempfile::tempdir().unwrap();
    for version in ["v1", "v2", "v3"] {
        model::write(&folder.path().join(version), version);
    }
    let files = Files { file: folder.path().join("switchback.yaml") };
    files.write(&desk("v1", ""));
    let app = follow(&files.file).await;
    (Server { app, client: client(), folder }, files)
}

async fn follow(file: &Path) -> switchback::api::RunningApp {
    let source = Source { file: file.to_owned(), env: None };
    let stamp = source.stamp();
    let mut app = App::start(source.load().unwrap()).await.unwrap();
    app.follow(source, stamp);
    app.loaded().await;
    app
}

async fn config(server: &Server) -> Value {
    server.admin(Method::GET, "/admin/config", None).await.1
}

async fn rollout(server: &Server) -> Value {
    server.admin(Method::GET, "/admin/models/desk/rollout", None).await.1["rollout"].clone()
}

async fn stable(server: &Server) -> Value {
    server.admin(Method::GET, "/admin/models/desk/route", None).await.1["weights"].clone()
}

/// Waits until something holds; fails after ten seconds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: never");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn audit(server: &Server) -> Vec<String> {
    let (_, audit) = server.admin(Method::GET, "/admin/audit", None).await;
    let line = |line: &Value| {
        format!(
            "{} {} {}",
            line["actor"].as_str().unwrap(),
            line["action"].as_str().unwrap(),
            line["detail"].as_str().unwrap_or_default()
        )
    };
    let mut lines: Vec<String> = audit["entries"].as_array().unwrap().iter().map(line).collect();
    lines.reverse();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wanted_version_is_rolled_out_and_a_revert_takes_it_back_at_once() {
    let (server, files) = following().await;
    until("v1 in force", || async { config(&server).await["versions"][0]["state"] == "in_force" }).await;
    files.write(&desk("v2", ""));
    until("a rollout of v2", || async { rollout(&server).await["phase"] == "step" }).await;
    let begun = rollout(&server).await;
    assert_eq!((&begun["canary"], &begun["weight"]), (&json!("v2"), &json!(5)), "{begun}");
    let wish = config(&server).await["versions"][0].clone();
    assert_eq!(
        wish,
        json!({"model": "desk", "version": "v2", "state": "under_way", "rollout": 1, "why": null})
    );

    // taken back while it is under way
    files.write(&desk("v1", ""));
    until("the rollout is aborted", || async { rollout(&server).await["phase"] == "aborted" }).await;
    assert_eq!(stable(&server).await, json!({"v1": 100}));

    // and again, to the end; then a revert goes back to what had all traffic, and a rollback from there does not go forward
    files.write(&desk("v2", ""));
    until("a second rollout", || async { rollout(&server).await["phase"] == "step" }).await;
    let (status, _) = server.admin(Method::POST, "/admin/models/desk/rollout/promote", Some(json!({}))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(stable(&server).await, json!({"v2": 100}));
    let reverted = Instant::now();
    files.write(&desk("v1", ""));
    until("v1 is back", || async { stable(&server).await == json!({"v1": 100}) }).await;
    assert!(reverted.elapsed() < Duration::from_secs(1), "{:?}", reverted.elapsed());
    let (status, _) = server.admin(Method::POST, "/admin/models/desk/rollback", Some(json!({}))).await;
    assert_eq!(status, StatusCode::CONFLICT);
    insta::assert_snapshot!(audit(&server).await.join("\n"), @r###"
    switchback first_route v1=100
    configuration configure version v1
    configuration rollout rollout 1: pending, v2=0
    switchback rollout rollout 1: pending -> step 2, v2=5
    configuration configure version v2 (was v1)
    configuration rollout rollout 1: step 2 -> aborted, v2=0
    configuration configure version v1 (was v2)
    configuration rollout rollout 2: pending, v2=0
    switchback rollout rollout 2: pending -> step 2, v2=5
    configuration configure version v2 (was v1)
    ada rollout rollout 2: step 2 -> promoted, v2=100
    configuration rollback v1=100
    configuration configure version v1 (was v2)
    "###);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_come_and_go_with_the_file() {
    let (server, files) = following().await;
    files.write(&desk("v3", "      v3: { image: v3 }\n"));
    until("v3 is rolled out", || async { rollout(&server).await["canary"] == "v3" }).await;
    let answer = server.ask("/v1/chat/completions", &with_model("desk@v3")).await;
    assert_eq!(answer["model"], "desk@v3", "{answer}");

    // a revert takes its traffic back and the version away, in one go
    files.write(&desk("v1", ""));
    until("v3 is taken back", || async { rollout(&server).await["phase"] == "aborted" }).await;
    until("v3 has left", || async {
        let answer = server.post("/v1/chat/completions", &with_model("desk@v3")).await;
        answer.status() == StatusCode::NOT_FOUND
    })
    .await;
    files.write(&desk("v3", "      v3: { image: v3 }\n"));
    until("v3 is rolled out again", || async { rollout(&server).await["id"] == 2 }).await;

    // v3 is needed while it is rolled out, so it cannot leave for another
    files.write(&desk("v2", ""));
    until("a refusal", || async { !config(&server).await["refused"].is_null() }).await;
    let why = config(&server).await["refused"]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("desk@v3 cannot leave the configuration"), "{why}");
    assert_eq!(rollout(&server).await["phase"], "step");
    assert_eq!(server.counted("switchback_config_in_force").await, 0);

    // once it has no traffic it leaves by itself, as the file still says so
    let (status, _) = server.admin(Method::POST, "/admin/models/desk/rollout/abort", Some(json!({}))).await;
    assert_eq!(status, StatusCode::OK);
    until("v3 has left", || async {
        let answer = server.post("/v1/chat/completions", &with_model("desk@v3")).await;
        answer.status() == StatusCode::NOT_FOUND
    })
    .await;
    until("v2 is rolled out", || async { rollout(&server).await["canary"] == "v2" }).await;
    assert_eq!(server.counted("switchback_config_in_force").await, 1);
    assert!(config(&server).await["refused"].is_null());
}

fn with_model(model: &str) -> Value {
    let mut body = common::chat();
    body["model"] = json!(model);
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_changes_nothing_and_is_told() {
    let (server, files) = following().await;
    let before = config(&server).await;
    let digest = |config: &Value| config["digest"].clone();
    for (models, told) in [
        (desk("v9", ""), "models.desk.version: the model has no such version"),
        (desk("v2", "    checks: [refusal]\n"), "models.desk.checks: changed, which takes a restart"),
        (
            desk("v2", "").replace("image: v1", "image: v3"),
            "desk@v1: image changed under the same name, and it is hot",
        ),
        (desk("v2", "      v3: { image: v3, prompt: nowhere.md }\n"), "desk@v3: prompt: "),
        ("    versions: [\n".to_owned(), "not readable YAML"),
    ] {
        files.write(&models);
        until(told, || async {
            config(&server).await["refused"]["why"].as_str().is_some_and(|why| why.contains(told))
        })
        .await;
        assert_eq!(digest(&config(&server).await), digest(&before));
        assert_eq!(rollout(&server).await, Value::Null, "{told}");
    }
    assert_eq!(server.counted("switchback_config_reloads_total{result=\"refused\"}").await, 5);
    assert_eq!(
        server.get("/ready").await.json::<Value>().await.unwrap(),
        json!({"ready": true, "reasons": []})
    );
    files.write(&desk("v1", ""));
    until("it is well again", || async { config(&server).await["refused"].is_null() }).await;
}

/// What a restart finds in its file is followed, too, and once: an abort is not forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_follows_the_file_and_remembers_what_it_followed() {
    let (server, files) = following().await;
    until("v1 in force", || async { config(&server).await["versions"][0]["state"] == "in_force" }).await;
    let Server { app, folder, .. } = server;
    app.shut_down().await;
    files.write(&desk("v2", ""));
    let server = Server { app: follow(&files.file).await, client: client(), folder };
    until("v2 is rolled out", || async { rollout(&server).await["canary"] == "v2" }).await;
    let (status, _) = server.admin(Method::POST, "/admin/models/desk/rollout/abort", Some(json!({}))).await;
    assert_eq!(status, StatusCode::OK);
    let Server { app, folder, .. } = server;
    app.shut_down().await;
    let server = Server { app: follow(&files.file).await, client: client(), folder };
    until("it is overridden", || async { config(&server).await["versions"][0]["state"] == "overridden" })
        .await;
    assert_eq!(rollout(&server).await["id"], 1);
    assert_eq!(stable(&server).await, json!({"v1": 100}));
}

/// A version that cannot be loaded is waited for, and the file can mend it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_fails_to_load_waits_for_a_better_file() {
    let (server, files) = following().await;
    files.write(&desk("v4", "      v4: { image: nowhere }\n"));
    until("it waits", || async {
        let wish = config(&server).await["versions"][0].clone();
        wish["state"] == "waiting" && wish["why"].as_str().unwrap().contains("cannot be loaded")
    })
    .await;
    assert_eq!(stable(&server).await, json!({"v1": 100}));
    files.write(&desk("v4", "      v4: { image: v3 }\n"));
    until("v4 is rolled out", || async { rollout(&server).await["canary"] == "v4" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_says_what_would_happen_and_changes_nothing() {
    let (server, files) = following().await;
    until("v1 in force", || async { config(&server).await["versions"][0]["state"] == "in_force" }).await;
    let before = std::fs::read_to_string(&files.file).unwrap();
    let plan = |text: String| {
        let body = json!({"config": text});
        server.admin(Method::POST, "/admin/config/plan", Some(body))
    };
    let (status, answer) = plan(before.replace("version: v1\n", "version: v2\n")).await;
    assert_eq!(status, StatusCode::OK);
    insta::assert_json_snapshot!(answer, @r###"
    {
      "changes": [
        "desk: version v1 -> v2: it is rolled out, by 5 % until resumed, 100 %"
      ],
      "obstacles": []
    }
    "###);
    let (_, answer) = plan(before.replace("listen: 127.0.0.1:0", "listen: 127.0.0.1:9")).await;
    insta::assert_json_snapshot!(answer, @r###"
    {
      "changes": [
        "server: changed, which takes a restart"
      ],
      "obstacles": [
        "server: changed, which takes a restart; restart the server, or put back what was there"
      ]
    }
    "###);
    let (_, answer) = plan(before.replace("image: v1", "imge: v1")).await;
    assert!(answer["obstacles"][0].as_str().unwrap().contains("did you mean `image`?"), "{answer}");
    assert_eq!(plan(before).await.1, json!({"changes": [], "obstacles": []}));
    assert_eq!(rollout(&server).await, Value::Null);
}

/// Residency, flags and what the public listener tells, as the file changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_move_and_flags_turn_with_the_file() {
    let (server, files) = following().await;
    let state = |name: &'static str| {
        let server = &server;
        async move { server.version(name).await["residency"]["state"].as_str().unwrap().to_owned() }
    };
    let with = |v2: &str| desk("v1", "").replace("image: v2", &format!("image: v2, {v2}"));
    for (file, wanted) in [
        ("residency: cold", "cold"),
        ("residency: warm", "warm"),
        ("residency: hot", "hot"),
        ("residency: warm", "warm"),
    ] {
        files.write(&with(file));
        until(wanted, || async { state("v2").await == wanted }).await;
    }
    files.write(&with("flag: { enabled: false, otherwise: refuse }"));
    until("v2 is closed", || async {
        let answer = server.post("/v1/chat/completions", &with_model("desk@v2")).await;
        answer.status() == StatusCode::FORBIDDEN
    })
    .await;
    // with traffic it cannot leave the device
    files.write(
        &desk("v1", "")
            .replace("image: v1", "image: v1, residency: cold")
            .replace("version: v1", "version: v2"),
    );
    until("a refusal", || async { !config(&server).await["refused"].is_null() }).await;
    let why = config(&server).await["refused"]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("desk@v1 cannot become cold") && why.contains("100 %"), "{why}");
    let public: Value = server.get("/ready?verbose").await.json().await.unwrap();
    let told = public["config"]["refused"]["why"].as_str().unwrap();
    assert!(told.starts_with("withheld"), "{public}");
    assert_eq!(public["config"]["file"], "switchback.yaml");
}

/// As Kubernetes does it: the mounted file is a link into `..data`, which is turned over; with an overlay beside it.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_is_followed_under_its_overlay() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    for version in ["v1", "v2"] {
        model::write(&folder.path().join(version), version);
    }
    let files = Files { file: folder.path().join("unused.yaml") };
    let volume = |name: &str, version: &str| {
        let at = folder.path().join(name);
        std::fs::create_dir(&at).unwrap();
        files.write(&desk("v1", ""));
        std::fs::rename(&files.file, at.join("switchback.yaml")).unwrap();
        std::fs::write(at.join("prod.yaml"), format!("models: {{ desk: {{ version: {version} }} }}\n"))
            .unwrap();
    };
    volume("..1", "v1");
    volume("..2", "v2");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("env")).unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("..data/switchback.yaml", at("switchback.yaml")).unwrap();
    symlink("../..data/prod.yaml", at("env/prod.yaml")).unwrap();
    let source = Source { file: at("switchback.yaml"), env: Some("prod".parse().unwrap()) };
    let stamp = source.stamp();
    let mut app = App::start(source.load().unwrap()).await.unwrap();
    app.follow(source, stamp);
    app.loaded().await;
    let turn = || {
        symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    turn();
    let server = Server { app, client: client(), folder: tempfile::tempdir().unwrap() };
    until("v2 is rolled out", || async { rollout(&server).await["canary"] == "v2" }).await;
    assert!(config(&server).await["overlay"].as_str().unwrap().ends_with("env/prod.yaml"));
}

/// How long the configuration changes under load: two seconds, or as many as the environment says.
const SECONDS: &str = "SWITCHBACK_TEST_RELOAD_SECONDS";

/// Ten times a second the file holds something else: another wanted version, a version more, one less, nonsense.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_to_reloads() {
    let (server, files) = following().await;
    until("v1 in force", || async { config(&server).await["versions"][0]["state"] == "in_force" }).await;
    let seconds = std::env::var(SECONDS).map_or(2, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients = (0..4).map(|client| {
        let server = &server;
        async move {
            let mut answers = 0_u64;
            while Instant::now() < end {
                let mut body = common::chat();
                body["user"] = json!(format!("user {client} {answers}"));
                server.ask("/v1/chat/completions", &body).await;
                answers += 1;
            }
            answers
        }
    });
    let changes = async {
        let v3 = "      v3: { image: v3 }\n";
        let texts = [
            desk("v1", v3),
            desk("v2", v3),
            desk("v2", ""),
            desk("v1", "      v3: { image: v3, residency: warm }\n"),
            desk("v3", v3),
            "    versions: [\n".to_owned(),
            desk("v1", ""),
        ];
        for text in texts.iter().cycle() {
            if Instant::now() >= end {
                break;
            }
            files.write(text);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(clients), changes);
    let applied = server.counted("switchback_config_reloads_total{result=\"applied\"}").await;
    let refused = server.counted("switchback_config_reloads_total{result=\"refused\"}").await;
    println!("{} answers, {applied} configurations applied, {refused} refused", answers.iter().sum::<u64>());
    assert!(applied >= seconds, "{applied} applied, {refused} refused in {seconds} s");
    files.write(&desk("v1", ""));
    until("v1 has all traffic", || async {
        stable(&server).await == json!({"v1": 100}) && config(&server).await["refused"].is_null()
    })
    .await;
}
