//! Three servers over one PostgreSQL: a change on one is a change on all, one of them leads, and what it judges is what all
//! have seen. Skipped, with a word that says so, where the machine has no PostgreSQL.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::process::kill;
use common::replicas::{Replicas, SOON};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_on_one_is_in_force_on_all_within_a_second_and_no_request_fails() {
    let Some(replicas) = Replicas::start().await else { return };
    let changes = async || {
        let mut slowest = Duration::ZERO;
        for (i, share) in [5, 25, 50, 100, 30, 0].into_iter().enumerate() {
            let revision = replicas.set(i % 3, share).await;
            let made = Instant::now();
            replicas.everywhere(revision).await;
            slowest = slowest.max(made.elapsed());
        }
        Some(json!(slowest.as_millis() as u64))
    };
    let [a, b, c] = [0, 1, 2].map(|at| replicas.customers(at, 8));
    let over = tokio::sync::Notify::new();
    let others = async || {
        over.notified().await;
        over.notify_one();
        Some(json!(null))
    };
    let first = async {
        let (slowest, asked) = a.ask_until(&changes).await;
        over.notify_one();
        (slowest.unwrap().as_u64().unwrap(), asked)
    };
    let ((slowest, asked), (_, more), (_, most)) =
        tokio::join!(first, b.ask_until(&others), c.ask_until(&others));
    assert!(asked > 0 && more > 0 && most > 0, "nobody asked");
    assert!(slowest < 1000, "a change took {slowest} ms to be everywhere");

    // a user has the same version wherever he asks, and stays on it when the canary grows
    let users: Vec<String> = (0..24).map(|i| format!("user-{i}")).collect();
    let mut on_canary = BTreeSet::new();
    for share in [20, 50] {
        let revision = replicas.set(2, share).await;
        replicas.everywhere(revision).await;
        let mut now_on_canary = BTreeSet::new();
        for user in &users {
            let versions = [0, 1, 2].map(|at| replicas.version_of(at, user));
            let [a, b, c] = futures::future::join_all(versions).await.try_into().unwrap();
            assert!(a == b && b == c, "{user} got {a}, {b} and {c}");
            if a == "desk@v2" {
                now_on_canary.insert(user.clone());
            }
        }
        assert!(now_on_canary.is_superset(&on_canary), "at {share} %: {on_canary:?}, then {now_on_canary:?}");
        on_canary = now_on_canary;
    }
    assert!(!on_canary.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_on_all_replicas_are_all_made_one_after_the_other() {
    const EACH: u64 = 20;
    let Some(replicas) = Replicas::start().await else { return };
    let before = replicas.get(0, "route").await["revision"].as_u64().unwrap();
    let changing = (0..3).map(|at| {
        let replicas = &replicas;
        async move {
            let mut revisions = Vec::new();
            for i in 0..EACH {
                revisions.push(replicas.set(at, (3 * i + at as u64) % 100).await);
                // flags, too, are each replica's in turn
                let flag = json!({"percentage": i + 1});
                let (status, answer) =
                    replicas.admin(at, Method::PATCH, &format!("versions/v{}/flag", at + 1), flag).await;
                assert_eq!(status, 200, "{answer}");
            }
            revisions
        }
    });
    let revisions: Vec<u64> = futures::future::join_all(changing).await.concat();
    let distinct: BTreeSet<u64> = revisions.iter().copied().collect();
    let all: BTreeSet<u64> = (before + 1..=before + 3 * EACH).collect();
    assert_eq!(distinct, all, "each change has a revision of its own");
    for at in 0..3 {
        let began = Instant::now();
        while replicas.get(at, "route").await["revision"] != before + 3 * EACH
            || replicas.get(at, "flags").await["versions"]
                .as_object()
                .unwrap()
                .values()
                .any(|flag| flag["percentage"] != json!(EACH))
        {
            assert!(began.elapsed() < SOON, "replica {at}: {}", replicas.get(at, "flags").await);
        }
    }
    let url = format!("{}/admin/audit?limit=1000", replicas.all[0].admin);
    let audit: Value = replicas.client.get(url).send().await.unwrap().json().await.unwrap();
    let ids: Vec<i64> =
        audit["entries"].as_array().unwrap().iter().map(|line| line["id"].as_i64().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a - 1 == *b), "{ids:?}");
    for at in 0..3 {
        let who = format!("admin-{at}");
        let lines = audit["entries"].as_array().unwrap().iter().filter(|line| line["actor"] == who.as_str());
        assert_eq!(lines.count() as u64, 2 * EACH, "of {who}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_begun_on_a_follower_is_judged_by_the_leader_on_what_the_followers_saw() {
    let Some(replicas) = Replicas::start().await else { return };
    let leader = replicas.leader().await;
    let [begun_at, asked_at] = [1, 2].map(|i| (leader + i) % 3);
    let body = json!({"canary": "v3", "policy": "even", "reason": "a test"});
    let (status, rollout) = replicas.admin(begun_at, Method::POST, "rollout", body).await;
    assert_eq!((status.as_u16(), &rollout["weight"]), (200, &json!(50)), "{rollout}");
    // not one customer of the leader's
    let customers = replicas.customers(asked_at, 96);
    let ended = async || {
        Some(replicas.get(asked_at, "rollout").await["rollout"].take())
            .filter(|it| it["waits_for"] == "nothing")
    };
    let (rollout, asked) = customers.ask_until(ended).await;
    let Some(rollout) = rollout else { panic!("{} after {asked}", replicas.get(leader, "rollout").await) };
    assert_eq!(rollout["phase"], "aborted", "{rollout} after {asked}");
    assert!(rollout["finding"].as_str().unwrap().contains("`is-json`: "), "{rollout}");
    for at in 0..3 {
        replicas.rollout_until(at, |rollout| rollout["phase"] == "aborted").await;
        assert_eq!(replicas.get(at, "route").await["weights"], json!({"v1": 100}), "replica {at}");
    }
    let history = replicas.get(begun_at, "rollout/history").await["transitions"].take();
    assert_eq!(
        (&history[0]["actor"], &history[0]["to"]),
        (&json!("switchback"), &json!("aborted")),
        "{history}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_its_rollout_goes_on_to_its_end() {
    let Some(mut replicas) = Replicas::start().await else { return };
    let leader = replicas.leader().await;
    let body = json!({"canary": "v2", "policy": "quick", "reason": "a test"});
    let (status, rollout) = replicas.admin((leader + 1) % 3, Method::POST, "rollout", body).await;
    assert_eq!(status, 200, "{rollout}");
    kill(&["-9"], replicas.all[leader].id());
    let killed = Instant::now();
    replicas.all.remove(leader).ended();
    let next = replicas.leader().await;
    assert!(killed.elapsed() < Duration::from_secs(10), "nobody led for {:?}", killed.elapsed());
    for at in 0..2 {
        let ended = replicas.rollout_until(at, |rollout| rollout["waits_for"] == "nothing").await;
        assert_eq!(ended["phase"], "promoted", "{ended}");
        assert_eq!(replicas.get(at, "route").await["weights"], json!({"v2": 100}));
    }
    let url = format!("{}/admin/replica", replicas.all[next].admin);
    let replica: Value = replicas.client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(replica["leader"]["replica"], replica["replica"], "{replica}");
    assert!(replica["leader"]["term"].as_i64().unwrap() >= 2, "{replica}");

    // who did what, when and why: the beginning by whom it was asked, the rest by whoever led
    let url = format!("{}/admin/audit?model=desk", replicas.all[next].admin);
    let audit: Value = replicas.client.get(url).send().await.unwrap().json().await.unwrap();
    let lines = audit["entries"].as_array().unwrap().iter().rev();
    let rollout: Vec<&Value> = lines.filter(|line| line["action"] == "rollout").collect();
    let told = |line: &Value| line["detail"].as_str().unwrap().to_owned();
    assert_eq!(told(rollout[0]), "rollout 1: pending, v2=0", "{audit}");
    assert!(told(rollout.last().unwrap()).ends_with("-> promoted, v2=100"), "{audit}");
    assert!(rollout.iter().all(|line| !line["reason"].as_str().unwrap().is_empty()), "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_stops_changes_and_no_answer_and_its_return_ends_that() {
    let Some(mut replicas) = Replicas::start().await else { return };
    replicas.leader().await;
    let revision = replicas.set(0, 50).await;
    replicas.everywhere(revision).await;
    replicas.database.stop();
    for at in 0..3 {
        let asked = Instant::now();
        let body = json!({"weights": {"v1": 100}});
        let (status, error) = replicas.admin(at, Method::PUT, "route", body).await;
        assert_eq!((status.as_u16(), &error["error"]["code"]), (503, &json!("store_unavailable")), "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("serves its last routes") && !message.contains("hush-hush"), "{message}");
        assert!(asked.elapsed() < Duration::from_secs(8), "the refusal took {:?}", asked.elapsed());
    }
    for at in 0..3 {
        replicas.metric_until(at, "switchback_store_reachable", "0").await;
        replicas.metric_until(at, "switchback_leader", "0").await;
        let mut versions = BTreeSet::new();
        for i in 0..12 {
            versions.insert(replicas.version_of(at, &format!("user-{i}")).await);
        }
        assert_eq!(versions.len(), 2, "replica {at} keeps to its last route: {versions:?}");
        let ready = format!("{}/ready", replicas.all[at].public);
        assert_eq!(replicas.client.get(ready).send().await.unwrap().status(), 200);
    }
    replicas.database.go_on().await;
    for at in 0..3 {
        replicas.metric_until(at, "switchback_store_reachable", "1").await;
    }
    let leader = replicas.leader().await;
    let revision = replicas.set((leader + 1) % 3, 10).await;
    replicas.everywhere(revision).await;
    let body = json!({"canary": "v2", "policy": "quick", "on_conflict": "supersede"});
    replicas.admin(0, Method::PUT, "route", json!({"weights": {"v1": 100}})).await;
    let (status, rollout) = replicas.admin(0, Method::POST, "rollout", body).await;
    assert_eq!(status, 200, "{rollout}");
    replicas.rollout_until(1, |rollout| rollout["phase"] == "promoted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_about_an_answer_is_heard_by_any_replica_and_only_once() {
    let Some(replicas) = Replicas::start().await else { return };
    let leader = replicas.leader().await;
    let body = json!({"canary": "v2", "policy": "even"});
    let (status, rollout) = replicas.admin(leader, Method::POST, "rollout", body).await;
    assert_eq!(status, 200, "{rollout}");
    let asked_at = (leader + 1) % 3;
    let body = json!({"model": "desk", "user": "anna", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
    let url = format!("{}/v1/chat/completions", replicas.all[asked_at].public);
    let answer: Value = replicas.client.post(url).json(&body).send().await.unwrap().json().await.unwrap();
    let said_at = (leader + 2) % 3;
    let say = async |at: usize| {
        let url = format!("{}/v1/feedback", replicas.all[at].public);
        let body = json!({"response_id": answer["id"], "score": 1});
        replicas.client.post(url).json(&body).send().await.unwrap().status().as_u16()
    };
    let began = Instant::now();
    while say(said_at).await != 200 {
        assert!(began.elapsed() < SOON, "it is never heard");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for at in 0..3 {
        assert_eq!(say(at).await, 409, "replica {at}");
    }
}

impl Replicas {
    async fn metric_until(&self, at: usize, name: &str, value: &str) {
        let began = Instant::now();
        let wanted = format!("{name} {value}");
        loop {
            let text = self.client.get(format!("{}/metrics", self.all[at].public)).send().await.unwrap();
            let text = text.text().await.unwrap();
            if text.lines().any(|line| line == wanted) {
                return;
            }
            assert!(began.elapsed() < SOON, "{wanted} is not in {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
