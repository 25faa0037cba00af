//! Over HTTP: a canary whose engine dies while it has traffic.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::App;
use crate::ids::VersionRef;

async fn json_of(response: reqwest::Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_whose_engine_dies_is_aborted_and_its_users_go_on_with_stable() {
    let folder = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let config = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  desk:\n    checks: [is-json]\n    versions:\n      v1: {{ image: {0}/v1 }}\n      v2: {{ image: {0}/v2 }}\n\
         \x20   route: {{ v1: 100 }}\n\
         policies: {{ half: {{ steps: [{{setWeight: 50}}, {{pause: {{duration: 1h}}}}] }} }}\n",
        models.display()
    );
    let path = folder.path().join("switchback.yaml");
    std::fs::write(&path, config).unwrap();
    let mut app = App::start(crate::config::load(&path).unwrap()).await.unwrap();
    app.loaded().await;
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap();
    let (public, admin) =
        (format!("http://{}", app.public), format!("http://{}/admin/models/desk", app.admin));
    let begin = json!({"canary": "v2", "policy": "half"});
    let (status, begun) =
        json_of(client.post(format!("{admin}/rollout")).json(&begin).send().await.unwrap()).await;
    assert_eq!((status, &begun["weight"]), (200, &json!(50)), "{begun}");

    let canary = VersionRef { model: "desk".parse().unwrap(), version: "v2".parse().unwrap() };
    app.gateway.break_engine(&canary);
    let ask = async |user: usize| {
        let body = json!({
            "model": "desk", "user": format!("user-{user}"), "max_tokens": 2,
            "messages": [{"role": "user", "content": "hello"}],
        });
        let response = client.post(format!("{public}/v1/chat/completions")).json(&body).send().await.unwrap();
        json_of(response).await
    };
    // The first of the canary's users meets the failure; nobody after him does.
    let mut failed = 0;
    for user in 0..40 {
        let (status, answer) = ask(user).await;
        if status != 200 {
            assert_eq!((status, &answer["error"]["code"]), (500, &json!("engine_failed")), "{answer}");
            failed += 1;
        }
    }
    assert_eq!(failed, 1);
    let (status, health) = json_of(client.get(format!("{public}/health")).send().await.unwrap()).await;
    assert_eq!(status, 503, "{health}");

    let started = Instant::now();
    let rollout = loop {
        let (_, found) = json_of(client.get(format!("{admin}/rollout")).send().await.unwrap()).await;
        if found["rollout"]["phase"] == "aborted" {
            break found;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it goes on: {found}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (_, route) = json_of(client.get(format!("{admin}/route")).send().await.unwrap()).await;
    assert_eq!(route["weights"], json!({"v1": 100}), "{rollout}");
    let (_, history) = json_of(client.get(format!("{admin}/rollout/history")).send().await.unwrap()).await;
    let why = history["transitions"][0]["reason"].as_str().unwrap();
    assert!(why.starts_with("v2 cannot answer: "), "{why}");
}
