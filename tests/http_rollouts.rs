//! Rollouts end to end: real traffic over HTTP to the demo's versions, judged on their answers, moved by themselves.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::desk::{Desk, configure, desk, serve, serve_looking};
use reqwest::Method;
use serde_json::{Value, json};
use switchback::api::App;
use tokio::sync::mpsc;

/// How often each rollout is played, each time with other customers: once here, and as often as this variable says to
/// show more.
const REPEATS: &str = "SWITCHBACK_TEST_ROLLOUTS";

fn repeats() -> u64 {
    std::env::var(REPEATS).map_or(1, |times| times.parse().unwrap())
}

/// What a webhook was told.
type News = mpsc::UnboundedReceiver<Value>;

async fn newsroom() -> (String, News) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/services/token", listener.local_addr().unwrap());
    let (sender, news) = mpsc::unbounded_channel();
    let take = move |axum::Json(message): axum::Json<Value>| async move { drop(sender.send(message)) };
    let router = axum::Router::new().route("/services/token", axum::routing::post(take));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, news)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regression_is_aborted_by_itself_and_its_checks_are_named() {
    for seed in 1..=repeats() {
        let desk = desk().await;
        let begun = desk.start("v3", "hour").await;
        assert_eq!(
            (&begun["phase"], &begun["step"], &begun["weight"]),
            (&json!("step"), &json!(2), &json!(5))
        );
        assert_eq!(desk.weights().await, json!({"v1": 95, "v3": 5}));
        let (rollout, asked) = desk.until_it_ends(seed, 8, Duration::ZERO).await;
        assert_eq!(rollout["phase"], "aborted", "seed {seed}: {rollout} after {asked}");
        assert!(rollout["finding"].as_str().unwrap().contains("`is-json`: "), "seed {seed}: {rollout}");
        assert_eq!(desk.weights().await, json!({"v1": 100}));
        let (_, models) = desk.admin(Method::GET, "route", json!({})).await;
        assert_eq!(models["stable"], "v1");
        let (_, history) = desk.admin(Method::GET, "rollout/history", json!({})).await;
        let last = &history["transitions"][0];
        assert_eq!((&last["to"], &last["actor"]), (&json!("aborted"), &json!("switchback")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_canary_is_promoted_by_itself() {
    for seed in 1..=repeats() {
        let desk = desk().await;
        desk.start("v2", "hour").await;
        let (rollout, asked) = desk.until_it_ends(seed, 8, Duration::ZERO).await;
        assert_eq!(rollout["phase"], "promoted", "seed {seed}: {rollout} after {asked}");
        assert_eq!(desk.weights().await, json!({"v2": 100}));
        let (status, route) = desk.admin(Method::POST, "rollback", json!({})).await;
        assert_eq!(
            (status.as_u16(), &route["weights"]),
            (200, &json!({"v1": 100})),
            "and it can be rolled back"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regression_is_found_on_copies_before_any_user_meets_it() {
    let desk = desk().await;
    let begun = desk.start("v3", "copies-first").await;
    assert_eq!((&begun["mirror"], &begun["weight"]), (&json!(100), &json!(0)));
    assert_eq!(desk.weights().await, json!({"v1": 100}));
    // Copies are answered in the time that customers leave.
    let (rollout, asked) = desk.until_it_ends(5, 1, Duration::from_millis(20)).await;
    assert_eq!(rollout["phase"], "aborted", "{rollout} after {asked}");
    assert!(rollout["finding"].as_str().unwrap().contains("`is-json`: "), "{rollout}");
    let metrics = desk.client.get(format!("http://{}/metrics", desk.app.public)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let of_v3 =
        |line: &&str| line.starts_with("switchback_requests_total{") && line.contains("version=\"v3\"");
    assert_eq!(metrics.lines().find(of_v3), None, "no customer was answered by the canary");
    assert!(metrics.contains(r#"switchback_mirrored_total{model="desk",outcome="answered",version="v3"}"#));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_has_the_last_word() {
    let desk = desk().await;
    let (status, error) = desk.order("pause").await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("rollout_not_in_that_state")));
    for (body, status, code) in [
        (json!({"canary": "v9", "policy": "hour"}), 404, "version_not_found"),
        (json!({"canary": "v1", "policy": "hour"}), 400, "invalid_value"),
        (json!({"canary": "v2", "policy": "hope"}), 400, "invalid_value"),
        (json!({"policy": "by-hand"}), 400, "missing_required_parameter"),
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
            self.admin(Method::POST, "rollout", json!({"canary": "v2", "policy": "hour"})).await;
        assert_eq!((status.as_u16(), &error["error"]["code"]), (409, &json!("route_is_split")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_where_it_was_after_a_restart() {
    let look_every = Duration::from_millis(10);
    let desk = serve_looking(tempfile::tempdir().unwrap(), look_every).await;
    desk.start("v2", "by-hand").await;
    desk.order("resume").await;
    let before = (desk.rollout().await, desk.weights().await);
    let Desk { app, folder, .. } = desk;
    // A drain may take long; that its engine goes is not the canary's fault. There would be a hundred looks.
    app.gateway.shut_down().await;
    let model = "desk".parse().unwrap();
    for _ in 0..100 {
        tokio::time::sleep(look_every).await;
        let rollout = app.gateway.rollout(&model).await.unwrap().unwrap();
        assert_eq!(rollout.state.to_string(), "step 4", "{rollout:?}");
    }
    app.shut_down().await;

    let desk = serve(folder).await;
    let (rollout, weights) = (desk.rollout().await, desk.weights().await);
    assert_eq!((&rollout["id"], &rollout["step"], &weights), (&before.0["id"], &before.0["step"], &before.1));
    assert_eq!(rollout["weight"], 50);
    assert_eq!(desk.order("abort").await.1["phase"], "aborted");
    assert_eq!(desk.weights().await, json!({"v1": 100}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_is_told_what_a_rollout_does_and_operators_see_that_it_was() {
    let (url, mut news) = newsroom().await;
    let folder = tempfile::tempdir().unwrap();
    let path = configure(folder.path());
    let config = std::fs::read_to_string(&path).unwrap() + &format!("webhooks: [{{url: '{url}'}}]\n");
    std::fs::write(&path, config).unwrap();
    let mut app = App::start(switchback::config::load(&path).unwrap()).await.unwrap();
    app.loaded().await;
    let desk = Desk { app, client: common::client(), folder };
    desk.start("v2", "by-hand").await;
    desk.order("abort").await;
    let mut titles = Vec::new();
    while titles.len() < 2 {
        let message = tokio::time::timeout(Duration::from_secs(20), news.recv()).await.unwrap().unwrap();
        titles.push(message["text"].as_str().unwrap().to_owned());
        assert_eq!(message["blocks"][0]["type"], "section");
    }
    assert_eq!(titles, ["desk: v2 is in step 2 with 5 % of the traffic", "desk: v2 is aborted"]);

    let view = format!("http://{}/admin/webhooks?limit=1", desk.app.admin);
    let started = Instant::now();
    let webhooks = loop {
        let webhooks: Value = desk.client.get(&view).send().await.unwrap().json().await.unwrap();
        if webhooks["webhooks"][0]["delivered"] == 2 {
            break webhooks;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{webhooks}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let newest = &webhooks["deliveries"];
    assert_eq!((newest.as_array().unwrap().len(), &newest[0]["event"]), (1, &json!("aborted")));
    assert_eq!((&newest[0]["state"], &newest[0]["attempts"]), (&json!("delivered"), &json!(0)));
    let receiver = webhooks["webhooks"][0]["receiver"].as_str().unwrap();
    assert!(receiver.starts_with("127.0.0.1-") && !webhooks.to_string().contains("token"), "{webhooks}");
    let refused = desk.client.get(view.replace("limit=1", "limit=0")).send().await.unwrap();
    assert_eq!(refused.status(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_flag_keeps_from_the_canary_counts_for_neither_side() {
    let desk = desk().await;
    let flag = json!({"cohorts": [{"user_prefix": "staff-"}]});
    let (status, _) = desk.admin(Method::PUT, "versions/v2/flag", flag).await;
    assert_eq!(status, 200);
    desk.start("v2", "by-hand").await;
    desk.order("resume").await;
    desk.until_the_analysis_says("of 0 canary answers pass").await;
    let mut versions = BTreeMap::new();
    // the guests first: what is seen comes in order, so whoever has seen the last has seen all
    for user in ["guest", "staff"].iter().flat_map(|name| (0..12).map(move |i| format!("{name}-{i}"))) {
        let body = json!({
            "model": "desk", "user": user, "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}],
        });
        let url = format!("http://{}/v1/chat/completions", desk.app.public);
        let response = desk.client.post(url).json(&body).send().await.unwrap();
        let version = response.headers()["x-switchback-version"].to_str().unwrap().to_owned();
        assert!(version == "desk@v1" || user.starts_with("staff-"), "{user} got {version}");
        response.bytes().await.unwrap();
        *versions.entry((user.starts_with("staff-"), version)).or_insert(0) += 1;
    }
    let staff = |version: &str| versions.get(&(true, version.to_owned())).copied().unwrap_or(0);
    assert!(staff("desk@v1") > 0 && staff("desk@v2") > 0, "{versions:?}");
    let (canary, stable) = (staff("desk@v2"), staff("desk@v1"));
    desk.until_the_analysis_says(&format!("of {canary} canary answers pass")).await;
    desk.until_the_analysis_says(&format!("of {stable} stable ones")).await;
}

impl Desk {
    async fn until_the_analysis_says(&self, what: &str) {
        let started = Instant::now();
        loop {
            let rollout = self.rollout().await;
            if rollout["finding"].as_str().is_some_and(|finding| finding.contains(what)) {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{what:?} is not in {rollout}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_version_in_other_hands_takes_less_time_than_a_new_one() {
    let desk = desk().await;
    for (canary, minutes) in [("twin", 5), ("v2", 20)] {
        let body = json!({"canary": canary, "on_conflict": "supersede"});
        let (status, rollout) = desk.admin(Method::POST, "rollout", body).await;
        assert_eq!(status, 200, "{rollout}");
        let time = |name: &str| rollout[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let first_step = time("until").duration_since(time("started_at"));
        assert_eq!(first_step.as_mins(), minutes, "{rollout}");
    }
}
