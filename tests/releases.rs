//! Routes over their store: what is refused, what survives, and what a damaged file says.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use switchback::clock::SystemClock;
use switchback::config::{Guardrails, Policy, ReadyMade};
use switchback::ids::{ModelName, VersionName, VersionRef, Weight};
use switchback::release::analysis::Measured;
use switchback::release::experiment::{EndedFor, Experiment, NewExperiment};
use switchback::release::rollout::{Basis, Phase};
use switchback::release::{
    Begin, Change, Declared, Entry, Followed, Intent, Message, OnConflict, Presence, Readiness, ReleaseError,
    Releases, Request, Seen, SeenAnswer, StickyKey, Traits, Watched, Watcher, Withdrawn,
};
use switchback::store::{Store, StoreError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// v1 and v2 are hot; v3 is while the switch is on.
#[derive(Default)]
struct Hot {
    v3: AtomicBool,
}

impl Readiness for Hot {
    fn presence(&self, version: &VersionRef) -> Presence {
        let hot = version.version.as_str() != "v3" || self.v3.load(Ordering::Relaxed);
        if hot { Presence::Hot } else { Presence::Gone }
    }
}

fn model() -> ModelName {
    "desk".parse().unwrap()
}

fn weights(text: &str) -> BTreeMap<VersionName, Weight> {
    let pair = |s: &str| s.split_once('=').map(|(v, w)| (v.parse().unwrap(), w.parse().unwrap())).unwrap();
    text.split(' ').map(pair).collect()
}

fn by(actor: &str) -> Change {
    Change { actor: actor.to_owned(), reason: "a test".to_owned() }
}

async fn start(folder: &Path, versions: &[&str], hot: Arc<Hot>) -> Result<Releases, ReleaseError> {
    start_wanting(folder, versions, None, hot).await
}

async fn start_wanting(
    folder: &Path,
    versions: &[&str],
    wanted: Option<&str>,
    hot: Arc<Hot>,
) -> Result<Releases, ReleaseError> {
    let wanted = wanted.map(|version| version.parse().unwrap());
    let store = Store::open(&folder.join("state.db")).await?;
    let versions: BTreeSet<VersionName> = versions.iter().map(|v| v.parse().unwrap()).collect();
    let declared = BTreeMap::from([(
        model(),
        Declared { versions, wanted, first_route: weights("v1=100"), flags: BTreeMap::new() },
    )]);
    Releases::start(store, declared, hot, Arc::new(SystemClock)).await
}

const ALL: [&str; 3] = ["v1", "v2", "v3"];

#[tokio::test]
async fn a_refused_change_leaves_route_and_log_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let releases = start(folder.path(), &ALL, Arc::default()).await.unwrap();
    let set = |text: &str| releases.set_weights(model(), weights(text), by("anna"));
    assert!(matches!(set("v1=90 v3=10").await, Err(ReleaseError::NotHot { .. })));
    assert!(matches!(set("v1=90 v9=10").await, Err(ReleaseError::UnknownVersion { .. })));
    assert!(matches!(set("v1=90 v2=9").await, Err(ReleaseError::SumNot100 { sum: 99.0 })));
    let unknown = releases.rollback("nobody".parse().unwrap(), by("anna")).await;
    assert!(matches!(unknown, Err(ReleaseError::UnknownModel { .. })));
    let nothing = releases.rollback(model(), by("anna")).await;
    assert!(matches!(nothing, Err(ReleaseError::NothingToRollBackTo { .. })));
    assert_eq!(releases.current(&model()).unwrap().revision, 1);
    assert_eq!(releases.audit(10, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_version_that_died_may_lose_traffic_but_not_get_more() {
    let folder = tempfile::tempdir().unwrap();
    let hot = Arc::new(Hot { v3: AtomicBool::new(true) });
    let releases = start(folder.path(), &ALL, Arc::clone(&hot)).await.unwrap();
    releases.set_weights(model(), weights("v1=50 v3=50"), by("anna")).await.unwrap();
    hot.v3.store(false, Ordering::Relaxed);
    let more = releases.set_weights(model(), weights("v1=40 v3=60"), by("anna")).await;
    assert!(matches!(more, Err(ReleaseError::NotHot { .. })));
    releases.set_weights(model(), weights("v1=90 v3=10"), by("anna")).await.unwrap();
    assert_eq!(releases.rollback(model(), by("anna")).await.unwrap().weights, weights("v1=100"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_withdrawn_gets_no_weight_and_one_with_weight_is_not_withdrawn() {
    let folder = tempfile::tempdir().unwrap();
    let hot = Arc::new(Hot { v3: AtomicBool::new(true) });
    let releases = start(folder.path(), &ALL, Arc::clone(&hot)).await.unwrap();
    let v3 = VersionRef { model: model(), version: "v3".parse().unwrap() };
    releases.set_weights(model(), weights("v3=100"), by("anna")).await.unwrap();
    let refused = releases.withdraw(v3.clone(), by("anna"), || panic!("it has weight")).await;
    assert!(matches!(refused, Err(ReleaseError::HasWeight { .. })));
    releases.set_weights(model(), weights("v2=100"), by("anna")).await.unwrap();

    // A rollback would lead to v3. Asked for while v3 is being withdrawn, it comes after that.
    let (entered, begun) = tokio::sync::oneshot::channel();
    let (go_on, may_end) = std::sync::mpsc::channel::<()>();
    let withdraw = {
        let (releases, hot) = (releases.clone(), Arc::clone(&hot));
        tokio::spawn(async move {
            let leave = move || {
                entered.send(()).unwrap();
                may_end.recv().unwrap();
                hot.v3.store(false, Ordering::Relaxed);
                Withdrawn::ToCold
            };
            releases.withdraw(v3, by("anna"), leave).await
        })
    };
    begun.await.unwrap();
    let rollback = {
        let releases = releases.clone();
        tokio::spawn(async move { releases.rollback(model(), by("ben")).await })
    };
    go_on.send(()).unwrap();
    withdraw.await.unwrap().unwrap();
    assert!(matches!(rollback.await.unwrap(), Err(ReleaseError::NotHot { .. })));
    assert_eq!(releases.current(&model()).unwrap().weights, weights("v2=100"));
    assert_eq!(releases.audit(1, None).await.unwrap()[0].action, "unload");
}

#[tokio::test]
async fn a_restart_finds_routes_users_and_log_again() {
    let folder = tempfile::tempdir().unwrap();
    let users: Vec<_> = (0..500).map(|i| StickyKey::from_user(&format!("user-{i}"))).collect();
    let releases = start(folder.path(), &ALL, Arc::default()).await.unwrap();
    for text in ["v1=95 v2=5", "v1=75 v2=25", "v2=100", "v1=10 v2=90"] {
        releases.set_weights(model(), weights(text), by("anna")).await.unwrap();
    }
    let before: Vec<_> =
        users.iter().map(|user| releases.routes().resolve(&model(), user, &Traits::default())).collect();
    let view = releases.current(&model()).unwrap();
    drop(releases);

    let again = start(folder.path(), &ALL, Arc::default()).await.unwrap();
    let after: Vec<_> =
        users.iter().map(|user| again.routes().resolve(&model(), user, &Traits::default())).collect();
    assert_eq!(before, after);
    assert_eq!(again.current(&model()).unwrap(), view);
    let log = again.audit(10, Some(model())).await.unwrap();
    let told: Vec<_> =
        log.iter().map(|line| (line.id, &*line.actor, line.detail.as_deref().unwrap())).collect();
    assert_eq!(told[0], (5, "anna", "v1=10 v2=90"));
    assert_eq!(told[4], (1, "switchback", "v1=100"));
    assert_eq!(again.rollback(model(), by("ben")).await.unwrap().weights, weights("v2=100"));
}

#[tokio::test]
async fn a_stored_route_to_a_version_that_is_gone_stops_the_start_with_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let releases = start(folder.path(), &ALL, Arc::default()).await.unwrap();
    releases.set_weights(model(), weights("v1=50 v2=50"), by("anna")).await.unwrap();
    drop(releases);
    let Err(error) = start(folder.path(), &["v1"], Arc::default()).await else { panic!("it started") };
    assert!(matches!(error, ReleaseError::Undeclared { .. }));
    assert!(error.to_string().contains("declare it"), "{error}");
}

/// A file that takes a version's traffic back may take the version away in one go, also where it is read by a restart.
#[tokio::test]
async fn a_stored_route_to_a_version_that_is_gone_is_taken_back_where_another_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let releases = start(folder.path(), &ALL, Arc::default()).await.unwrap();
    releases.set_weights(model(), weights("v1=50 v2=50"), by("anna")).await.unwrap();
    drop(releases);
    let releases = start_wanting(folder.path(), &["v1"], Some("v1"), Arc::default()).await.unwrap();
    assert_eq!(releases.current(&model()).unwrap().weights, weights("v1=50 v2=50"), "until it is followed");
    let begin = Begin {
        model: model(),
        canary: "v1".parse().unwrap(),
        policy: ReadyMade::CodeOnly.policy(),
        basis: Basis::Nothing,
        conflict: OnConflict::Supersede,
        entry: Entry::FirstStep,
    };
    let followed = releases.follow(begin.clone(), by("configuration")).await.unwrap();
    assert_eq!(followed, Followed::Now(Intent::TakeBack { aborts: None }));
    assert_eq!(releases.current(&model()).unwrap().weights, weights("v1=100"));
    assert_eq!(releases.follow(begin, by("configuration")).await.unwrap(), Followed::Before);
}

#[tokio::test]
async fn a_damaged_store_is_named_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let damaged = b"this is no database, however long one looks at it".repeat(100);
    std::fs::write(&path, &damaged).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("state.db"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
}

#[tokio::test]
async fn a_store_of_a_newer_release_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    Store::open(&path).await.unwrap().close().await;
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'from the future', TRUE, x'00', 0)";
    sqlx::query(newer).execute(&pool).await.unwrap();
    pool.close().await;
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Schema { .. }), "{error:?}");
    assert!(error.to_string().contains("newer"), "{error}");
}

const LOOK_EVERY: Duration = Duration::from_millis(5);
const LONGEST_ANSWER: Duration = Duration::from_mins(5);

fn watcher_of(releases: &Releases) -> Watcher {
    let models = BTreeMap::from([(model(), Watched { checks: Vec::new(), feedback: None })]);
    let (hot, clock) = (Arc::new(Hot::default()), Arc::new(SystemClock));
    Watcher::new(releases.clone(), hot, clock, LONGEST_ANSWER, models)
}

/// Lets a watcher see answers of 100 tokens from v1 and of `tokens` from v2, one of each user, and stops it `once` so.
async fn watch(releases: &Releases, users: std::ops::Range<u64>, tokens: usize, once: impl Fn() -> bool) {
    let watcher = watcher_of(releases);
    let (sender, seen) = mpsc::channel(4096);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watcher.run(seen, LOOK_EVERY, stop.clone(), stop.clone()));
    for user in users {
        let (version, tokens) = if user % 2 == 0 { ("v2", tokens) } else { ("v1", 100) };
        let measured = Measured { output_tokens: Some(tokens + user as usize % 9), ..Measured::default() };
        let version = VersionRef { model: model(), version: version.parse().unwrap() };
        let user = user.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (answer, admitted) = (SeenAnswer::Whole(Vec::new()), jiff::Timestamp::now());
        sender
            .send(Message::Seen(Seen {
                version,
                user,
                admitted,
                answer,
                request: Request::Original,
                measured,
            }))
            .await
            .unwrap();
    }
    let waiting = async {
        while !once() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_talks_too_much_is_aborted_by_its_guardrail_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let releases = start(folder.path(), &ALL, Arc::default()).await.unwrap();
    let policy = ReadyMade::CustomerFacing.policy();
    let (canary, basis) = ("v2".parse().unwrap(), Basis::Checks);
    let new = Begin {
        model: model(),
        canary,
        policy,
        basis,
        conflict: OnConflict::Refuse,
        entry: Entry::FirstStep,
    };
    releases.begin_rollout(new, by("anna")).await.unwrap();
    // Too few users of either version to say anything.
    watch(&releases, 0..40, 300, || true).await;
    let rollout = releases.rollout(&model()).await.unwrap().unwrap();
    assert_eq!(rollout.phase(), Phase::Step, "{rollout:?}");
    drop(releases);

    let releases = start(folder.path(), &ALL, Arc::default()).await.unwrap();
    watch(&releases, 40..400, 300, || releases.rollouts().get(&model()).is_none()).await;
    let rollout = releases.rollout(&model()).await.unwrap().unwrap();
    assert_eq!(rollout.phase(), Phase::Aborted, "{rollout:?}");
    let finding = &rollout.judged.as_ref().unwrap().finding;
    assert!(finding.starts_with("abort by guardrail `output_length`: "), "{finding}");
    assert!(finding.contains(": +192 %, surely between +"), "{finding}");
    assert_eq!(releases.current(&model()).unwrap().weights, weights("v1=100"));
    let last = releases.rollout_history(&model(), 1).await.unwrap().remove(0);
    assert!(last.reason.contains("output_length"), "{}", last.reason);
}

#[tokio::test]
async fn an_answer_that_ends_while_the_server_drains_is_evidence_too() {
    let folder = tempfile::tempdir().unwrap();
    let releases = start(folder.path(), &ALL, Arc::default()).await.unwrap();
    let (policy, canary) = (ReadyMade::CustomerFacing.policy(), "v2".parse().unwrap());
    let new = Begin {
        model: model(),
        canary,
        policy,
        basis: Basis::Checks,
        conflict: OnConflict::Refuse,
        entry: Entry::FirstStep,
    };
    let rollout = releases.begin_rollout(new, by("anna")).await.unwrap().id;
    let watcher = watcher_of(&releases);
    let (sender, seen) = mpsc::channel(1);
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let watching = tokio::spawn(watcher.run(seen, LOOK_EVERY, stop.clone(), end.clone()));
    let see = async |answer| {
        let version = VersionRef { model: model(), version: "v2".parse().unwrap() };
        let (request, measured, admitted) = (Request::Original, Measured::default(), jiff::Timestamp::now());
        let seen = Seen { version, user: 7, admitted, answer, request, measured };
        sender.send(Message::Seen(seen)).await.unwrap();
    };
    // the desk is there once a look has written something down
    see(SeenAnswer::Whole(Vec::new())).await;
    let running = || releases.rollouts().get(&model()).unwrap();
    while running().judged.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.cancel();
    // a channel of one: the third is taken only by a watcher that still listens
    for _ in 0..3 {
        see(SeenAnswer::Refused).await;
    }
    end.cancel();
    watching.await.unwrap();
    drop(releases);
    let store = Store::open(&folder.path().join("state.db")).await.unwrap();
    let rows = store.load_observations(rollout).await.unwrap();
    let finished = rows.iter().find(|row| row.check == "finished").unwrap();
    assert_eq!(finished.canary.failures, 3, "a refusal counts: {rows:?}");
}

/// v3 at a tenth against v1.
fn experiment(duration: Option<Duration>) -> NewExperiment {
    let (control, treatment) = ("v1".parse().unwrap(), "v3".parse().unwrap());
    let (share, confidence) = ("10".parse().unwrap(), 0.95.try_into().unwrap());
    NewExperiment { model: model(), name: None, control, treatment, share, confidence, duration }
}

/// Lets a watcher look until no experiment runs; the last one.
async fn until_over(releases: &Releases, hot: &Arc<Hot>) -> Experiment {
    let models = BTreeMap::from([(model(), Watched { checks: Vec::new(), feedback: None })]);
    let (clock, readiness) = (Arc::new(SystemClock), Arc::<Hot>::clone(hot));
    let watcher = Watcher::new(releases.clone(), readiness, clock, LONGEST_ANSWER, models);
    let (_sender, seen) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watcher.run(seen, LOOK_EVERY, stop.clone(), stop.clone()));
    let waiting = async {
        while releases.running_experiment(&model()).is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    stop.cancel();
    watching.await.unwrap();
    let report = releases.experiment(&model()).await.unwrap().unwrap();
    Experiment::clone(&report.experiment)
}

#[tokio::test]
async fn an_experiment_ends_when_its_time_is_over_or_an_arm_dies_and_control_has_all_traffic_if_it_lives() {
    let folder = tempfile::tempdir().unwrap();
    let hot = Arc::new(Hot { v3: AtomicBool::new(true) });
    let releases = start(folder.path(), &ALL, Arc::clone(&hot)).await.unwrap();
    for (duration, dies, cause) in
        [(Some(Duration::from_millis(1)), false, EndedFor::Duration), (None, true, EndedFor::TreatmentDied)]
    {
        releases.begin_experiment(experiment(duration), by("anna")).await.unwrap();
        assert_eq!(releases.current(&model()).unwrap().weights, weights("v1=90 v3=10"));
        hot.v3.store(!dies, Ordering::Relaxed);
        let ended = until_over(&releases, &hot).await.ended.unwrap();
        assert_eq!((ended.cause, ended.actor.as_str()), (cause, "switchback"), "{ended:?}");
        assert_eq!(releases.current(&model()).unwrap().weights, weights("v1=100"));
    }
    let lines = releases.audit(10, None).await.unwrap();
    let told: Vec<_> = lines.iter().map(|line| (line.action.as_str(), line.actor.as_str())).collect();
    // with v3 as control: it dies, and would get all traffic and answer none
    hot.v3.store(true, Ordering::Relaxed);
    releases.set_weights(model(), weights("v3=100"), by("anna")).await.unwrap();
    let new = experiment(None);
    let turned = NewExperiment { control: new.treatment, treatment: new.control, ..new };
    releases.begin_experiment(turned, by("anna")).await.unwrap();
    hot.v3.store(false, Ordering::Relaxed);
    let ended = until_over(&releases, &hot).await.ended.unwrap();
    assert_eq!(ended.cause, EndedFor::ControlDied, "{ended:?}");
    assert_eq!(releases.current(&model()).unwrap().weights, weights("v1=10 v3=90"));
    let (anna, switchback) = (("experiment", "anna"), ("experiment", "switchback"));
    assert_eq!(told, [switchback, anna, switchback, anna, ("first_route", "switchback")]);
}

#[tokio::test]
async fn a_rollout_and_an_experiment_exclude_each_other_and_a_rollback_ends_either() {
    let folder = tempfile::tempdir().unwrap();
    let hot = Arc::new(Hot { v3: AtomicBool::new(true) });
    let releases = start(folder.path(), &ALL, Arc::clone(&hot)).await.unwrap();
    let rollout = || Begin {
        model: model(),
        canary: "v2".parse().unwrap(),
        policy: ReadyMade::CustomerFacing.policy(),
        basis: Basis::Checks,
        conflict: OnConflict::Supersede,
        entry: Entry::FirstStep,
    };
    releases.begin_experiment(experiment(None), by("anna")).await.unwrap();
    let refused = releases.begin_rollout(rollout(), by("anna")).await;
    assert!(matches!(refused, Err(ReleaseError::ExperimentRuns { .. })), "{refused:?}");
    releases.rollback(model(), by("ben")).await.unwrap();
    let report = releases.experiment(&model()).await.unwrap().unwrap();
    assert_eq!(report.experiment.ended.as_ref().unwrap().cause, EndedFor::RouteTaken);
    assert_eq!(releases.current(&model()).unwrap().weights, weights("v1=100"));

    releases.begin_rollout(rollout(), by("anna")).await.unwrap();
    let refused = releases.begin_experiment(experiment(None), by("anna")).await;
    assert!(matches!(refused, Err(ReleaseError::RolloutRuns { .. })), "{refused:?}");
}

/// While versions are compared by their times, nothing may make one wait for the other.
#[tokio::test]
async fn times_are_compared_by_experiments_and_by_guardrails_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let hot = Arc::new(Hot { v3: AtomicBool::new(true) });
    let releases = start(folder.path(), &ALL, hot).await.unwrap();
    assert!(!releases.compares_times());
    releases.begin_experiment(experiment(None), by("anna")).await.unwrap();
    assert!(releases.compares_times());
    releases.rollback(model(), by("ben")).await.unwrap();
    assert!(!releases.compares_times());

    let timed = ReadyMade::CustomerFacing.policy();
    let untimed = Policy { guardrails: Guardrails::none(), ..timed.clone() };
    for (policy, compares) in [(timed, true), (untimed, false)] {
        let (canary, basis) = ("v2".parse().unwrap(), Basis::Checks);
        let new = Begin {
            model: model(),
            canary,
            policy,
            basis,
            conflict: OnConflict::Supersede,
            entry: Entry::FirstStep,
        };
        releases.begin_rollout(new, by("anna")).await.unwrap();
        assert_eq!(releases.compares_times(), compares);
    }
}
