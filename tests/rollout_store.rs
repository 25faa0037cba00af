//! Rollouts in the store: what is written together, what survives, and stores of older releases.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use common::stores::Place;
use jiff::Timestamp;
use switchback::config::ReadyMade;
use switchback::ids::{ModelName, RolloutId, VersionName, Weight};
use switchback::release::Change;
use switchback::release::analysis::Verdict;
use switchback::release::rollout::{
    Basis, Command, Event, Exposure, NewRollout, Next, Phase, Rollout, Transition, WaitsFor,
};
use switchback::store::{ArmCounts, BucketRun, ObservationRow, RouteRow, Store, StoreError};

fn model() -> ModelName {
    "desk".parse().unwrap()
}

fn anna() -> Change {
    Change { actor: "anna".to_owned(), reason: "a test".to_owned() }
}

fn minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + minute * 60).unwrap()
}

fn begin(id: RolloutId, model: ModelName, canary: &str) -> Transition {
    let new = NewRollout {
        id,
        model,
        stable: "v1".parse().unwrap(),
        canary: canary.parse().unwrap(),
        policy: ReadyMade::CustomerFacing.policy(),
        basis: Basis::Checks,
    };
    Rollout::begin(new, &anna(), minute(0)).unwrap()
}

/// The route that a transition asks for.
fn route(transition: &Transition, revision: u64) -> Option<RouteRow> {
    transition.action?;
    let weights: BTreeMap<VersionName, Weight> = transition.rollout.weights();
    let runs = weights.iter().map(|(v, w)| BucketRun { version: v.clone(), buckets: w.basis_points() });
    Some(RouteRow {
        model: transition.rollout.model.clone(),
        revision,
        bucket_runs: runs.collect(),
        weights,
        rollback_points: Vec::new(),
        at: transition.at,
        actor: transition.actor.clone(),
        reason: transition.reason.clone(),
    })
}

/// Writes what follows from an event.
async fn tell(store: &Store, rollout: &Rollout, event: Event, at: Timestamp, revision: u64) -> Rollout {
    let Next::Moved(transition) = rollout.apply(event, at).unwrap() else { panic!("no transition") };
    store.append_transition(&transition.to_store(route(&transition, revision))).await.unwrap();
    transition.rollout
}

/// A rollout that is in its first step, with route revision 1.
async fn grown(store: &Store) -> Rollout {
    let begun = begin(store.next_rollout_id().await.unwrap(), model(), "v2");
    store.append_transition(&begun.to_store(None)).await.unwrap();
    tell(store, &begun.rollout, Event::NoSuite, minute(1), 1).await
}

#[tokio::test]
async fn a_restart_finds_a_rollout_where_it_was_and_the_weights_that_it_says() {
    for place in Place::all().await {
        let store = place.open().await;
        let rollout = grown(&store).await;
        let by = anna();
        let rollout =
            tell(&store, &rollout, Event::Operator { command: Command::Pause, by }, minute(6), 0).await;
        drop(store);

        let store = place.open().await;
        let running = store.running_rollouts().await.unwrap();
        assert_eq!(running.len(), 1);
        assert_eq!((&*running[0].actor, running[0].updated_at), ("anna", minute(6)));
        assert_eq!(store.latest_routes().await.unwrap()[0].weights, rollout.weights());
        let again = Rollout::try_from(running[0].clone()).unwrap();
        assert_eq!(again, rollout);
        let resumed =
            tell(&store, &again, Event::Operator { command: Command::Resume, by: anna() }, minute(100), 0)
                .await;
        assert_eq!(resumed.waits_for(), WaitsFor::Until(minute(115)));

        let exposure = Exposure {
            weight: resumed.weight,
            lasted: Duration::ZERO,
            answers: 0,
            longest_answer: Duration::ZERO,
        };
        let verdict =
            Event::Judged { verdict: Verdict::Abort, finding: "abort: the numbers".to_owned(), exposure };
        let aborted = tell(&store, &resumed, verdict, minute(101), 2).await;
        assert!(store.running_rollouts().await.unwrap().is_empty());
        let ended = store.rollouts(&model(), 10).await.unwrap();
        assert_eq!(ended[0].ended_at, Some(minute(101)));
        assert_eq!(Rollout::try_from(ended[0].clone()).unwrap(), aborted);

        let history = store.rollout_history(&model(), 10).await.unwrap();
        let told: Vec<_> = history
            .iter()
            .rev()
            .map(|line| {
                let from = line.from.as_deref().unwrap_or("-");
                format!("{} {from} > {} {} {}", line.seq, line.to, line.to_weight, line.actor)
            })
            .collect();
        let expected = [
            "1 - > pending 0 anna",
            "2 pending > step 2 5 switchback",
            "3 step 2 > paused 2 5 anna",
            "4 paused 2 > step 2 5 anna",
            "5 step 2 > aborted 0 switchback",
        ];
        assert_eq!(told, expected);
        assert_eq!(history[0].reason, "the analysis says abort: the numbers");
        assert_eq!(store.rollout_history(&model(), 2).await.unwrap(), history[..2]);
        let audit = store.audit(10, Some("desk")).await.unwrap();
        assert_eq!(audit.len(), history.len(), "each transition has its line in the audit log");
        assert_eq!(audit[0].line.detail.as_deref(), Some("rollout 1: step 2 -> aborted, v2=0"));
    }
}

#[tokio::test]
async fn a_model_has_one_rollout_at_a_time() {
    for place in Place::all().await {
        let store = place.open().await;
        let first = grown(&store).await;
        let second = begin(store.next_rollout_id().await.unwrap(), model(), "v3");
        let error = store.append_transition(&second.to_store(None)).await.unwrap_err();
        assert!(matches!(error, StoreError::RolloutRuns { id, .. } if id == first.id), "{error:?}");
        assert!(error.to_string().contains("rollout 1 of desk still runs"), "{error}");
        let other = begin(second.rollout.id, "other".parse().unwrap(), "v3");
        store.append_transition(&other.to_store(None)).await.unwrap();

        let id = store.next_rollout_id().await.unwrap();
        let newer = begin(id, model(), "v3");
        let superseded = Event::Superseded { by: id, actor: "anna".to_owned() };
        let Next::Moved(over) = first.apply(superseded, minute(2)).unwrap() else { panic!("no transition") };
        assert_eq!(over.rollout.phase(), Phase::Superseded);
        let both = [over.to_store(route(&over, 2)), newer.to_store(None)];
        store.append_transitions(&both).await.unwrap();
        let running: Vec<_> = store.running_rollouts().await.unwrap().into_iter().map(|row| row.id).collect();
        assert_eq!(running, [other.rollout.id, id]);
        assert_eq!(store.latest_routes().await.unwrap()[0].weights, over.rollout.weights());
    }
}

#[tokio::test]
async fn a_transition_is_written_whole_or_not_at_all() {
    for place in Place::all().await {
        let store = place.open().await;
        let rollout = grown(&store).await;
        let Next::Moved(transition) = rollout.apply(Event::Tick, minute(21)).unwrap() else {
            panic!("no step")
        };
        let taken = route(&transition, 1);
        assert!(matches!(
            store.append_transition(&transition.to_store(taken)).await,
            Err(StoreError::Query(_))
        ));
        let running = store.running_rollouts().await.unwrap().remove(0);
        assert_eq!(Rollout::try_from(running).unwrap(), rollout);
        assert_eq!(store.latest_routes().await.unwrap()[0].weights, rollout.weights());
        assert_eq!(store.rollout_history(&model(), 10).await.unwrap().len(), 2);
        assert_eq!(store.audit(10, None).await.unwrap().len(), 2);

        // several together, too: the second of these comes too late
        let end = Event::CanaryDied { why: "a fault".to_owned() };
        let Next::Moved(died) = rollout.apply(end, minute(22)).unwrap() else { panic!("no transition") };
        let late = [died.to_store(route(&died, 2)), transition.to_store(route(&transition, 3))];
        let error = store.append_transitions(&late).await.unwrap_err();
        assert!(matches!(error, StoreError::NoSuchRollout { .. }), "{error:?}");
        assert_eq!(store.running_rollouts().await.unwrap().len(), 1);
    }
}

fn seen(rollout: RolloutId, check: &str, at: u32, answers: u32) -> ObservationRow {
    ObservationRow {
        rollout,
        check: check.to_owned(),
        minute: at,
        at: minute(at.into()),
        canary: ArmCounts { answers, failures: 1 },
        stable: ArmCounts { answers: 9 * answers, failures: 5 },
        snapshot: Some(format!("{{\"answers\": {answers}}}")),
    }
}

#[tokio::test]
async fn observations_go_on_from_the_newest_minute_of_each_check() {
    for place in Place::all().await {
        let store = place.open().await;
        let rollout = grown(&store).await.id;
        assert!(store.load_observations(rollout).await.unwrap().is_empty());
        store
            .save_observations(&[seen(rollout, "is-json", 1, 10), seen(rollout, "refusal", 1, 10)], None)
            .await
            .unwrap();
        store.save_observations(&[seen(rollout, "is-json", 2, 20)], None).await.unwrap();
        store.save_observations(&[seen(rollout, "is-json", 2, 25)], None).await.unwrap();
        drop(store);
        let store = place.open().await;
        // `refusal` is a check no more: an analysis of other checks does not go on from it
        let gone = ObservationRow { snapshot: None, ..seen(rollout, "refusal", 1, 10) };
        let newest = [seen(rollout, "is-json", 2, 25), gone];
        assert_eq!(store.load_observations(rollout).await.unwrap(), newest);
        let nobody = seen(RolloutId::new(99), "is-json", 1, 1);
        assert!(store.save_observations(&[seen(rollout, "is-json", 3, 30), nobody], None).await.is_err());
        assert_eq!(store.load_observations(rollout).await.unwrap(), newest, "all or none");
    }
}

#[tokio::test]
async fn a_store_of_the_first_release_migrates_and_keeps_its_routes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let first = folder.path().join("migrations");
    std::fs::create_dir(&first).unwrap();
    let name = "0001_routes_and_audit.sql";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/migrations").join(name);
    std::fs::copy(source, first.join(name)).unwrap();
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}?mode=rwc", path.display())).await.unwrap();
    sqlx::migrate::Migrator::new(first).await.unwrap().run(&pool).await.unwrap();
    let insert = r#"INSERT INTO route_revisions VALUES ('desk', 4, '{"v1": 100}',
        '[{"version": "v1", "buckets": 10000}]', '[]', '2025-01-01T00:00:00Z', 'anna', 'before')"#;
    sqlx::query(insert).execute(&pool).await.unwrap();
    pool.close().await;

    let store = Store::open(&path).await.unwrap();
    let routes = store.latest_routes().await.unwrap();
    assert_eq!((routes[0].revision, &*routes[0].reason), (4, "before"));
    let begun = begin(store.next_rollout_id().await.unwrap(), model(), "v2");
    store.append_transition(&begun.to_store(None)).await.unwrap();
    assert_eq!(store.running_rollouts().await.unwrap().len(), 1);
}
