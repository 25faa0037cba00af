//! Two handles of one database in one process, as two replicas have them: turns, terms, and evidence that changes hands.
//! Skipped, with a word that says so, where the machine has no PostgreSQL.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::postgres::Postgres;
use jiff::Timestamp;
use sqlx::{Connection, PgConnection};
use switchback::clock::SystemClock;
use switchback::config::{Pause, Policy, ReadyMade, Step};
use switchback::ids::{ModelName, VersionName, VersionRef, Weight};
use switchback::release::analysis::Measured;
use switchback::release::rollout::Basis;
use switchback::release::{
    Begin, Change, Declared, Entry, Message, OnConflict, Presence, Readiness, Releases, Request, Seen,
    SeenAnswer, Watched, Watcher,
};
use switchback::store::{BucketRun, NewAudit, RouteRow, Store, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn model() -> ModelName {
    "desk".parse().unwrap()
}

fn version(name: &str) -> VersionRef {
    VersionRef { model: model(), version: name.parse().unwrap() }
}

/// A first route of some revision, and its line in the log.
fn route(revision: u64) -> (RouteRow, NewAudit) {
    let v1: VersionName = "v1".parse().unwrap();
    let at = Timestamp::from_second(1_700_000_000).unwrap();
    let row = RouteRow {
        model: model(),
        revision,
        weights: BTreeMap::from([(v1.clone(), Weight::FULL)]),
        bucket_runs: vec![BucketRun { version: v1, buckets: 10_000 }],
        rollback_points: Vec::new(),
        at,
        actor: "anna".to_owned(),
        reason: "a test".to_owned(),
    };
    let line = NewAudit {
        at,
        actor: "anna".to_owned(),
        action: "set_weights".to_owned(),
        model: "desk".to_owned(),
        detail: None,
        reason: None,
    };
    (row, line)
}

async fn connect(database: &Postgres, name: &str) -> Store {
    Store::connect(&database.url(), name).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_has_the_turn_and_who_lost_it_unawares_writes_nothing() {
    let Some(database) = Postgres::start().await else { return };
    let (a, b) = (connect(&database, "a").await, connect(&database, "b").await);
    let turn = a.take_turn().await.unwrap();
    let waiting = b.take_turn();
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "two have the turn");

    // the database takes a for dead; a does not know yet
    let mut operator = PgConnection::connect(&database.url()).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    sqlx::query(end).execute(&mut operator).await.unwrap();
    let other = waiting.await.unwrap();
    let (row, line) = route(1);
    b.append_route(&row, &line).await.unwrap();
    assert_eq!(other.changes_made(), 1);
    other.give_back().await;
    let (row, line) = route(2);
    let late = a.append_route(&row, &line).await;
    assert!(matches!(late, Err(StoreError::Busy)), "{late:?}");
    assert_eq!(b.latest_routes().await.unwrap()[0].revision, 1);
    turn.give_back().await;

    let turn = a.take_turn().await.unwrap();
    a.append_route(&row, &line).await.unwrap();
    turn.give_back().await;
    assert_eq!((a.changes_made().await.unwrap(), b.changes_made().await.unwrap()), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_leads_nowhere_is_told_without_its_password() {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://ada:hush-hush@{nowhere}/switchback");
    let asked = Instant::now();
    let error = Store::connect(&url, "a").await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains(&format!("cannot open the store {nowhere}/switchback")), "{text}");
    assert!(!text.contains("hush-hush"), "{text}");
    assert!(asked.elapsed() < Duration::from_secs(8), "it took {:?}", asked.elapsed());
}

/// All versions are hot.
struct AllHot;

impl Readiness for AllHot {
    fn presence(&self, _: &VersionRef) -> Presence {
        Presence::Hot
    }
}

/// A replica without HTTP: what it hears, whether it leads, and its watcher.
struct Replica {
    store: Store,
    releases: Releases,
    sees: mpsc::Sender<Message>,
    stop: CancellationToken,
    watching: JoinHandle<()>,
    others: [JoinHandle<()>; 2],
}

impl Replica {
    async fn start(database: &Postgres, name: &str) -> Self {
        let store = connect(database, name).await;
        let declared = Declared {
            versions: ["v1", "v2"].map(|name| name.parse().unwrap()).into(),
            wanted: None,
            first_route: BTreeMap::from([("v1".parse().unwrap(), Weight::FULL)]),
            flags: BTreeMap::new(),
        };
        let declared = BTreeMap::from([(model(), declared)]);
        let clock = Arc::new(SystemClock);
        let releases =
            Releases::start(store.clone(), declared, Arc::new(AllHot), clock.clone()).await.unwrap();
        let watched = BTreeMap::from([(model(), Watched { checks: Vec::new(), feedback: None })]);
        let watcher =
            Watcher::new(releases.clone(), Arc::new(AllHot), clock, Duration::from_mins(5), watched);
        let stop = CancellationToken::new();
        let (sees, inbox) = mpsc::channel(4096);
        let look_every = Duration::from_millis(20);
        let watching = tokio::spawn(watcher.run(inbox, look_every, stop.clone(), stop.clone()));
        let (listening, standing, until) = (store.clone(), store.clone(), stop.clone());
        let others = [
            tokio::spawn(async move { listening.listen(until).await }),
            tokio::spawn(async move { standing.stand_for_lead().await }),
        ];
        Self { store, releases, sees, stop, watching, others }
    }

    async fn leads(&self) {
        self.until(|replica| replica.store.leads()).await;
    }

    async fn until(&self, so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !so(self) {
            let rollout = self.releases.rollouts().get(&model());
            assert!(began.elapsed() < Duration::from_secs(20), "it never came to that: {rollout:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Answers of both versions, each to a user of its own.
    async fn sees(&self, users: std::ops::Range<u64>) {
        for user in users {
            let version = version(if user % 2 == 0 { "v2" } else { "v1" });
            let user = user.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let (answer, admitted) = (SeenAnswer::Whole(Vec::new()), Timestamp::now());
            let (request, measured) = (Request::Original, Measured::default());
            let seen = Seen { version, user, admitted, answer, request, measured };
            self.sees.send(Message::Seen(seen)).await.unwrap();
        }
    }

    fn says(&self, what: &str) -> bool {
        let rollout = self.releases.rollouts().get(&model());
        rollout.and_then(|rollout| rollout.judged.clone()).is_some_and(|judged| judged.finding.contains(what))
    }

    /// Dies as a process does: nothing is written, and its connections break.
    fn dies(self) {
        self.watching.abort();
        self.others.iter().for_each(JoinHandle::abort);
    }

    async fn stops(self) {
        self.stop.cancel();
        self.watching.await.unwrap();
        for other in self.others {
            other.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_counted_once_whoever_leads() {
    let Some(database) = Postgres::start().await else { return };
    let first = Replica::start(&database, "first").await;
    first.leads().await;
    let second = Replica::start(&database, "second").await;
    let policy = Policy {
        steps: vec![Step::SetWeight(Weight::from_percent(50.0).unwrap()), Step::Pause(Pause::UntilResumed)],
        ..ReadyMade::CustomerFacing.policy()
    };
    let new = Begin {
        model: model(),
        canary: "v2".parse().unwrap(),
        policy,
        basis: Basis::Checks,
        conflict: OnConflict::Refuse,
        entry: Entry::FirstStep,
    };
    let by = Change { actor: "anna".to_owned(), reason: "a test".to_owned() };
    let rollout = second.releases.begin_rollout(new, by).await.unwrap();
    first.until(|first| first.says("of 0 canary answers")).await;
    second.until(|second| second.says("of 0 canary answers")).await;
    // each looks at least once, so that both know since when the share is what it is
    tokio::time::sleep(Duration::from_millis(100)).await;

    second.sees(0..40).await;
    first.until(|first| first.says("of 20 canary answers")).await;
    // and what the leader says is what all say
    second.until(|second| second.says("of 20 canary answers")).await;
    assert!(database.number("SELECT COUNT(*) FROM parcels").await > 0, "it is kept until it is written down");
    first.dies();

    second.leads().await;
    second.sees(40..50).await;
    second.until(|second| second.says("of 25 canary answers")).await;
    let third = Replica::start(&database, "third").await;
    let store = third.store.clone();
    second.stops().await;
    assert_eq!(database.number("SELECT COUNT(*) FROM parcels").await, 0, "it is written down");
    let rows = store.load_observations(rollout.id).await.unwrap();
    let finished = rows.iter().find(|row| row.check == "finished").unwrap();
    assert_eq!((finished.canary.answers, finished.stable.answers), (25, 25), "{rows:?}");

    third.leads().await;
    third.sees(50..60).await;
    third.until(|third| third.says("of 30 canary answers")).await;
    third.stops().await;
    assert_eq!(database.number("SELECT term FROM lead").await, 3);
}
