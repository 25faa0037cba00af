//! Rollouts and what goes with them in the store, of either kind: what is written together, what survives, and stores of
//! older releases.

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
use switchback::store::{
    ArmCounts, Attempt, BucketRun, ExperimentChange, ExperimentRow, NewAudit, ObservationRow, RouteRow,
    Store, StoreError, Subscription,
};

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
async fn what_is_to_be_told_waits_in_order_until_it_is_settled() {
    for place in Place::all().await {
        let store = place.open().await;
        let told = Subscription { receiver: "host-1".to_owned(), events: vec!["pending", "step"] };
        assert_eq!(store.subscribe(&[told], minute(0)).await.unwrap(), 0);
        let rollout = grown(&store).await;
        let first = store.next_delivery("host-1").await.unwrap().unwrap();
        assert_eq!((first.id, &*first.notice.event, first.notice.rollout), (1, "pending", rollout.id));
        let again = Attempt::Again { due_at: minute(9), error: "status 500".to_owned() };
        store.record_attempt(1, &again, minute(8)).await.unwrap();
        let first = store.next_delivery("host-1").await.unwrap().unwrap();
        assert_eq!((first.id, first.attempts, first.due_at), (1, 1, minute(9)));
        store.record_attempt(1, &Attempt::Delivered, minute(9)).await.unwrap();
        assert_eq!(store.next_delivery("host-1").await.unwrap().unwrap().id, 2);
        let dead = Attempt::Dead { error: "status 404".to_owned() };
        store.record_attempt(2, &dead, minute(10)).await.unwrap();
        let counts = store.delivery_counts("host-1").await.unwrap();
        assert_eq!((counts.pending, counts.delivered, counts.dead), (0, 1, 1));
        assert_eq!(store.last_failure("host-1").await.unwrap().unwrap().id, 2);
        let all = store.deliveries(10).await.unwrap();
        let settled: Vec<_> = all.iter().map(|row| (row.id, row.settled_at)).collect();
        assert_eq!(settled, [(2, Some(minute(10))), (1, Some(minute(9)))]);
    }
}

#[tokio::test]
async fn an_experiment_keeps_its_evidence_until_it_ends_and_a_wish_is_remembered() {
    for place in Place::all().await {
        let store = place.open().await;
        let begun = ExperimentRow {
            id: store.next_experiment_id().await.unwrap(),
            model: model(),
            control: "v1".parse().unwrap(),
            treatment: "v2".parse().unwrap(),
            terms: "{}".to_owned(),
            started_at: minute(0),
            actor: "anna".to_owned(),
            reason: "a test".to_owned(),
            ended_at: None,
            ending: None,
            findings: None,
        };
        let audit = NewAudit {
            at: minute(0),
            actor: "anna".to_owned(),
            action: "experiment".to_owned(),
            model: "desk".to_owned(),
            detail: None,
            reason: None,
        };
        let change = |experiment: &ExperimentRow| ExperimentChange {
            experiment: experiment.clone(),
            route: None,
            audit: audit.clone(),
        };
        store.append_experiment(&change(&begun)).await.unwrap();
        assert_eq!(store.running_experiments().await.unwrap(), std::slice::from_ref(&begun));
        let evidence = |text: &str| [("length".to_owned(), text.to_owned())];
        for text in ["[1]", "[2]"] {
            store.save_evidence(begun.id, &evidence(text), None).await.unwrap();
        }
        assert_eq!(store.load_evidence(begun.id).await.unwrap(), evidence("[2]"));
        let ended = ExperimentRow {
            ended_at: Some(minute(5)),
            ending: Some("{}".to_owned()),
            findings: Some("[]".to_owned()),
            ..begun.clone()
        };
        store.append_experiment(&change(&ended)).await.unwrap();
        store.save_evidence(begun.id, &evidence("[3]"), None).await.unwrap();
        assert_eq!(store.load_evidence(begun.id).await.unwrap(), [], "it has ended");
        assert_eq!(store.running_experiments().await.unwrap(), []);
        assert_eq!(store.experiments(&model(), 10).await.unwrap(), [ended]);

        assert_eq!(store.wanted(&model()).await.unwrap(), None);
        for version in ["v1", "v2"] {
            let version: VersionName = version.parse().unwrap();
            store.set_wanted(&model(), &version, &audit).await.unwrap();
            assert_eq!(store.wanted(&model()).await.unwrap(), Some(version));
        }
        let ids: Vec<_> = store.audit(10, None).await.unwrap().into_iter().map(|row| row.id).collect();
        assert_eq!(ids, [4, 3, 2, 1]);
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
