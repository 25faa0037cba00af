//! Experiments end to end: two versions side by side over HTTP, compared and never promoted.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::desk::{Desk, desk, serve};
use reqwest::Method;
use serde_json::{Value, json};

async fn experiment(desk: &Desk) -> Value {
    desk.admin(Method::GET, "experiment", json!({})).await.1["experiment"].take()
}

fn result<'e>(experiment: &'e Value, measure: &str) -> &'e Value {
    let found = experiment["results"].as_array().unwrap().iter().find(|result| result["measure"] == measure);
    found.unwrap_or_else(|| panic!("no {measure} in {experiment}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_experiment_finds_the_difference_keeps_it_over_a_restart_and_promotes_nobody() {
    let desk = desk().await;
    let body =
        json!({"control": "v1", "treatment": "v3", "percentage": 50, "duration": "100h", "name": "short"});
    let (status, begun) = desk.admin(Method::POST, "experiment", body).await;
    assert_eq!((status.as_u16(), &begun["phase"]), (200, &json!("running")), "{begun}");
    assert_eq!(desk.weights().await, json!({"v1": 50, "v3": 50}));
    let differs = async || {
        let experiment = experiment(&desk).await;
        let result =
            experiment["results"].as_array()?.iter().find(|result| result["measure"] == "is-json")?;
        (result["difference"]["differs"] == true).then(|| experiment.clone())
    };
    let (found, _) = desk.while_customers_ask(3, 8, Duration::ZERO, differs).await;
    let json_share = result(&found, "is-json");
    assert!(json_share["difference"]["high"].as_f64().unwrap() < 0.0, "{json_share}");
    assert!(json_share["sentence"].as_str().unwrap().ends_with("they differ"), "{json_share}");
    let (status, error) =
        desk.admin(Method::POST, "rollout", json!({"canary": "v2", "policy": "hour"})).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("experiment_runs")), "{error}");
    let answers = |experiment: &Value| result(experiment, "is-json")["control"]["answers"].as_u64().unwrap();

    let Desk { app, folder, .. } = desk;
    app.shut_down().await;
    let desk = serve(folder).await;
    let known = async || Some(experiment(&desk).await).filter(|now| now["results"] != json!([]));
    let (resumed, _) = desk.while_customers_ask(3, 8, Duration::ZERO, known).await;
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
        (json!({"control": "v2", "treatment": "v1", "percentage": 50}), 409, "version_is_not_stable"),
        (json!({"control": "v1", "treatment": "v1", "percentage": 50}), 400, "invalid_value"),
        (json!({"control": "v1", "treatment": "v9", "percentage": 50}), 404, "version_not_found"),
        (json!({"control": "v1", "treatment": "v2", "percentage": 100}), 400, "invalid_value"),
        (
            json!({"control": "v1", "treatment": "v2", "percentage": 5, "duration": "soon"}),
            400,
            "invalid_value",
        ),
        (json!({"control": "v1", "treatment": "v2", "percentage": 5, "confidence": 1}), 400, "invalid_value"),
    ] {
        let (found, error) = desk.admin(Method::POST, "experiment", body.clone()).await;
        assert_eq!((found.as_u16(), &error["error"]["code"]), (status, &json!(code)), "{body}: {error}");
    }
    let body = json!({"control": "v1", "treatment": "twin", "percentage": 40, "confidence": 0.999});
    assert_eq!(desk.admin(Method::POST, "experiment", body.clone()).await.0, 200);
    assert_eq!(desk.admin(Method::POST, "experiment", body).await.1["error"]["code"], "experiment_runs");
    let enough = async || {
        let now = experiment(&desk).await;
        let answers = now["results"][0]["treatment"]["answers"].as_u64().unwrap_or(0);
        (answers >= 80).then_some(now)
    };
    let (found, _) = desk.while_customers_ask(3, 8, Duration::ZERO, enough).await;
    for measure in ["overall", "is-json", "refusal", "finished", "output_tokens"] {
        let result = result(&found, measure);
        assert_eq!(result["difference"]["differs"], false, "{result}");
        assert!(result["sentence"].as_str().unwrap().ends_with("it may be chance"), "{result}");
    }
    let (status, _) = desk.admin(Method::PUT, "route", json!({"weights": {"v1": 60, "v2": 40}})).await;
    assert_eq!(status, 200);
    let over = experiment(&desk).await;
    assert_eq!((&over["phase"], &over["ending"]), (&json!("ended"), &json!("ada changed the route by hand")));
    assert_eq!(desk.weights().await, json!({"v1": 60, "v2": 40}));
}
