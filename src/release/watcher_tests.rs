//! The watcher look by look, with a clock and versions that a test turns.

use std::sync::Mutex;

use jiff::Timestamp;

use super::*;
use crate::config::{EarlyPromote, Guardrails, Pause, Policy, ReadyMade, Step};
use crate::ids::{VersionName, Weight};
use crate::release::rollout::{AbortedFor, Basis, Command, State};
use crate::release::{Begin, Change, Declared, Entry, OnConflict, Presence};
use crate::store::Store;

/// A clock that stands still unless it is turned.
struct Hand(Mutex<Timestamp>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// The versions that are not hot.
#[derive(Default)]
struct Missing(Mutex<BTreeMap<VersionName, Presence>>);

impl Readiness for Missing {
    fn presence(&self, version: &VersionRef) -> Presence {
        self.0.lock().unwrap().get(&version.version).copied().unwrap_or(Presence::Hot)
    }
}

const LONGEST_ANSWER: Duration = Duration::from_mins(5);

struct Bench {
    watcher: Watcher,
    releases: Releases,
    clock: Arc<Hand>,
    missing: Arc<Missing>,
    users: u64,
    _folder: tempfile::TempDir,
}

fn model() -> ModelName {
    "desk".parse().unwrap()
}

fn name(version: &str) -> VersionName {
    version.parse().unwrap()
}

fn anna() -> Change {
    Change { actor: "anna".to_owned(), reason: "a test".to_owned() }
}

impl Bench {
    /// v1 has all traffic, and v2 is rolled out.
    async fn begun(policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state.db")).await.unwrap();
        let declared = Declared {
            wanted: None,
            versions: ["v1", "v2", "v3"].map(name).into(),
            first_route: BTreeMap::from([(name("v1"), Weight::FULL)]),
            flags: BTreeMap::new(),
        };
        let clock = Arc::new(Hand(Mutex::new("2026-03-01T12:00:00Z".parse().unwrap())));
        let missing = Arc::new(Missing::default());
        let (declared, ready, time) = (BTreeMap::from([(model(), declared)]), missing.clone(), clock.clone());
        let releases = Releases::start(store, declared, ready, time).await.unwrap();
        let check = WatchedCheck { name: "is-json".parse().unwrap(), judges: Judges::Content };
        let watched = BTreeMap::from([(model(), Watched { checks: vec![check], feedback: None })]);
        let mut watcher =
            Watcher::new(releases.clone(), missing.clone(), clock.clone(), LONGEST_ANSWER, watched);
        watcher.take_up().await;
        let bench = Self { watcher, releases, clock, missing, users: 0, _folder: folder };
        bench.begin("v2", policy, OnConflict::Refuse).await.unwrap();
        bench
    }

    async fn begin(
        &self,
        canary: &str,
        policy: Policy,
        conflict: OnConflict,
    ) -> Result<Rollout, ReleaseError> {
        let (canary, basis) = (name(canary), Basis::Checks);
        self.releases
            .begin_rollout(
                Begin { model: model(), canary, policy, basis, conflict, entry: Entry::FirstStep },
                anna(),
            )
            .await
    }

    /// Answers of a version, each to another user; the first of them fail.
    fn answers(&mut self, version: &str, answers: u64, failures: u64) {
        self.late_answers(version, answers, failures, Request::Original, 0);
    }

    /// The same, to what was asked some seconds ago.
    fn late_answers(&mut self, version: &str, answers: u64, failures: u64, request: Request, ago: i64) {
        for i in 0..answers {
            self.users += 1;
            let said = if i < failures { Outcome::Failed } else { Outcome::Passed };
            self.watcher.take(Message::Seen(Seen {
                version: VersionRef { model: model(), version: name(version) },
                user: self.users.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                answer: SeenAnswer::Whole(vec![("is-json".parse().unwrap(), said)]),
                request,
                admitted: self.clock.now() - jiff::SignedDuration::from_secs(ago),
                measured: Measured::default(),
            }));
        }
    }

    /// Time passes, and there is a look.
    async fn after(&mut self, seconds: i64) -> Arc<Rollout> {
        {
            let mut now = self.clock.0.lock().unwrap();
            *now += jiff::SignedDuration::from_secs(seconds);
        }
        self.watcher.look_at_all().await;
        self.rollout().await
    }

    /// The server ends now and comes up again after a while, with one version still on its way.
    async fn restarts(&mut self, seconds: i64, coming: &str) {
        self.watcher.save_all().await;
        let (releases, missing, clock) = (self.releases.clone(), self.missing.clone(), self.clock.clone());
        let models = self.watcher.models.clone();
        self.watcher = Watcher::new(releases, missing, clock, LONGEST_ANSWER, models);
        *self.clock.0.lock().unwrap() += jiff::SignedDuration::from_secs(seconds);
        self.is(coming, Presence::Coming);
        self.watcher.take_up().await;
    }

    async fn rollout(&self) -> Arc<Rollout> {
        self.releases.rollout(&model()).await.unwrap().unwrap()
    }

    async fn order(&self, command: Command) -> Result<Rollout, ReleaseError> {
        let event = Event::Operator { command, by: anna() };
        self.releases.move_rollout(model(), self.rollout().await.id, event).await
    }

    fn is(&self, version: &str, presence: Presence) {
        self.missing.0.lock().unwrap().insert(name(version), presence);
    }

    fn dies(&self, version: &str) {
        self.is(version, Presence::Gone);
    }

    fn comes_back(&self, version: &str) {
        self.is(version, Presence::Hot);
    }

    fn weight_of(&self, version: &str) -> Weight {
        let route = self.releases.current(&model()).unwrap();
        route.weights.get(&name(version)).copied().unwrap_or(Weight::ZERO)
    }
}

#[tokio::test]
async fn a_canary_that_turns_bad_after_it_was_found_good_is_aborted() {
    let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
    let mut rollout = bench.after(0).await;
    while rollout.weight == Weight::from_percent(5.0).unwrap() {
        bench.answers("v2", 50, 4);
        bench.answers("v1", 950, 76);
        rollout = bench.after(30).await;
    }
    assert_eq!(rollout.judged.as_ref().unwrap().verdict, Verdict::Promote, "{rollout:?}");
    let mut looks = 0;
    while !rollout.phase().is_terminal() {
        bench.answers("v2", 25, 8);
        bench.answers("v1", 75, 6);
        rollout = bench.after(30).await;
        looks += 1;
    }
    assert_eq!(rollout.state, State::Aborted { cause: AbortedFor::Verdict }, "{rollout:?}");
    assert!(looks < 12, "after {looks} looks");
    assert_eq!(bench.weight_of("v1"), Weight::FULL);
}

fn percent(share: f64) -> Weight {
    Weight::from_percent(share).unwrap()
}

#[tokio::test]
async fn no_transition_gives_more_traffic_to_a_version_that_is_not_hot() {
    let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
    bench.after(0).await;
    let refused = |done: Result<Rollout, ReleaseError>, version: &str| {
        assert!(
            matches!(&done, Err(ReleaseError::NotHot { version: of }) if of.version == name(version)),
            "{done:?}"
        );
    };
    bench.dies("v2");
    for command in [Command::Skip, Command::Promote] {
        refused(bench.order(command).await, "v2");
    }
    bench.comes_back("v2");
    bench.dies("v1");
    refused(bench.order(Command::Abort).await, "v1");
    let newer = bench.begin("v3", ReadyMade::CustomerFacing.policy(), OnConflict::Supersede).await;
    refused(newer, "v1");
    assert_eq!((bench.weight_of("v1"), bench.weight_of("v2")), (percent(95.0), percent(5.0)));
    assert_eq!(bench.rollout().await.state.step_number(), Some(2), "nothing was written");
    // v1 has none of the traffic that it loses.
    bench.order(Command::Promote).await.unwrap();
    assert_eq!(bench.weight_of("v2"), Weight::FULL);
}

#[tokio::test]
async fn a_canary_that_dies_is_aborted_and_a_newer_one_takes_its_place() {
    let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
    bench.after(0).await;
    bench.dies("v2");
    let newer = bench.begin("v3", ReadyMade::CustomerFacing.policy(), OnConflict::Supersede).await.unwrap();
    assert_eq!(
        (newer.weight, bench.weight_of("v1"), bench.weight_of("v3")),
        (percent(5.0), percent(95.0), percent(5.0))
    );
    bench.dies("v3");
    let rollout = bench.after(1).await;
    assert_eq!(rollout.state, State::Aborted { cause: AbortedFor::CanaryDied });
    assert_eq!(bench.weight_of("v1"), Weight::FULL);
}

#[tokio::test]
async fn that_a_rollout_cannot_move_is_told_once_a_minute() {
    let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
    assert!(bench.watcher.may_grumble(&model()) && !bench.watcher.may_grumble(&model()));
    bench.after(59).await;
    assert!(!bench.watcher.may_grumble(&model()));
    bench.after(1).await;
    assert!(bench.watcher.may_grumble(&model()));
}

#[tokio::test]
async fn while_stable_is_not_hot_nothing_is_judged_and_no_time_passes() {
    let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
    bench.after(0).await;
    bench.answers("v2", 20, 0);
    bench.answers("v1", 380, 30);
    let before = bench.after(300).await;
    bench.dies("v1");
    let paused = bench.after(1).await;
    assert_eq!(paused.state.to_string(), "paused 2");
    let last = bench.releases.rollout_history(&model(), 1).await.unwrap().remove(0);
    assert!(
        last.reason.starts_with("v1, which v2 is compared with, cannot answer: it is not hot"),
        "{last:?}"
    );
    assert!(last.reason.ends_with("step 2 of 5 is paused after 5m 1s"), "{last:?}");
    // Those who would have met v1 get no answer at all; v2 fails meanwhile, but beside nobody.
    bench.answers("v2", 200, 200);
    bench.after(3600).await;
    bench.answers("v2", 200, 200);
    assert_eq!(bench.after(3600).await.judged, before.judged);
    assert_eq!(bench.releases.rollout_history(&model(), 10).await.unwrap().len(), 3, "it is told once");

    bench.comes_back("v1");
    bench.after(1).await;
    bench.order(Command::Resume).await.unwrap();
    bench.answers("v1", 380, 30);
    let rollout = bench.after(14 * 60).await;
    assert_eq!(rollout.state.to_string(), "step 2");
    let finding = &rollout.judged.as_ref().unwrap().finding;
    assert!(
        finding.contains("of 20 canary answers pass") && finding.contains("of 760 stable ones"),
        "{finding}"
    );
    assert_eq!(bench.after(60).await.state.to_string(), "step 4");
}

#[tokio::test]
async fn an_answer_to_what_was_asked_at_another_weight_counts_for_nobody() {
    let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
    bench.after(0).await;
    bench.late_answers("v1", 10, 0, Request::Original, 1);
    bench.answers("v1", 20, 0);
    bench.order(Command::Skip).await.unwrap();
    // Before the watcher has looked: it follows the route, not its own looks.
    bench.answers("v1", 30, 0);
    let rollout = bench.after(10).await;
    assert!(rollout.judged.as_ref().unwrap().finding.contains("of 50 stable ones"), "{rollout:?}");
    bench.late_answers("v1", 100, 0, Request::Original, 11);
    bench.late_answers("v1", 5, 0, Request::Original, 10);
    let rollout = bench.after(1).await;
    assert!(rollout.judged.as_ref().unwrap().finding.contains("of 55 stable ones"), "{rollout:?}");
}

#[tokio::test]
async fn what_copies_have_shown_promotes_nobody_before_clients_have_been_answered() {
    let pause = |minutes| Step::Pause(Pause::For(Duration::from_mins(minutes)));
    let steps = vec![
        Step::SetMirrorRoute(Weight::FULL),
        pause(10),
        Step::SetWeight(percent(5.0)),
        pause(60),
        Step::SetWeight(Weight::FULL),
    ];
    let early_promote = EarlyPromote::Yes;
    let policy = Policy { steps, early_promote, guardrails: Guardrails::none(), ..Policy::default() };
    let mut bench = Bench::begun(policy).await;
    bench.after(0).await;
    while bench.rollout().await.mirror() > Weight::ZERO {
        bench.late_answers("v2", 200, 16, Request::Copy, 0);
        bench.answers("v1", 200, 16);
        bench.after(60).await;
    }
    let rollout = bench.after(1).await;
    assert_eq!(rollout.judged.as_ref().unwrap().verdict, Verdict::Promote);
    assert_eq!(rollout.state.to_string(), "step 4", "at the first looks at a real weight");
    // Those that take long have not ended yet.
    bench.answers("v2", 40, 3);
    bench.answers("v1", 760, 61);
    assert_eq!(bench.after(4 * 60).await.state.to_string(), "step 4");
    assert_eq!(bench.after(60).await.phase(), Phase::Promoted);
}

#[tokio::test]
async fn a_rollout_waits_for_the_first_load_of_its_own_versions_and_dies_of_none() {
    for coming in ["v1", "v2"] {
        let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
        bench.after(0).await;
        bench.answers("v2", 20, 0);
        bench.answers("v1", 380, 30);
        let before = bench.after(300).await;
        bench.restarts(600, coming).await;
        assert_eq!(*bench.after(900).await, *before, "neither time nor death while {coming} is loaded");
        bench.comes_back(coming);
        let rollout = bench.after(1).await;
        assert_eq!(rollout.state.to_string(), "step 2");
        let last = bench.releases.rollout_history(&model(), 1).await.unwrap().remove(0);
        assert!(last.reason.contains("away for 25m 1s"), "{last:?}");
        bench.answers("v1", 380, 30);
        let rollout = bench.after(14 * 60 + 59).await;
        let finding = &rollout.judged.as_ref().unwrap().finding;
        assert!(finding.contains("of 20 canary") && finding.contains("of 760 stable"), "{finding}");
        assert_eq!(rollout.state.to_string(), "step 2");
        assert_eq!(bench.after(1).await.state.to_string(), "step 4");
    }
}

#[tokio::test]
async fn a_canary_whose_first_load_failed_is_aborted_and_a_newer_rollout_waits_for_nothing() {
    let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
    bench.after(0).await;
    bench.restarts(60, "v2").await;
    bench.begin("v3", ReadyMade::CustomerFacing.policy(), OnConflict::Supersede).await.unwrap();
    bench.answers("v1", 10, 0);
    let rollout = bench.after(1).await;
    assert!(rollout.judged.is_some(), "the newer one is looked at: {rollout:?}");
    bench.restarts(60, "v3").await;
    bench.dies("v3");
    bench.after(1).await;
    let rollout = bench.after(1).await;
    assert_eq!(rollout.state, State::Aborted { cause: AbortedFor::CanaryDied });
}

#[tokio::test]
async fn a_stable_that_is_loaded_again_has_died_before() {
    let mut bench = Bench::begun(ReadyMade::CustomerFacing.policy()).await;
    bench.after(0).await;
    bench.is("v2", Presence::Coming);
    assert_eq!(bench.after(1).await.state.to_string(), "step 2", "a canary that is loaded has not died");
    bench.comes_back("v2");
    bench.is("v1", Presence::Coming);
    assert_eq!(bench.after(1).await.state.to_string(), "paused 2");
}
