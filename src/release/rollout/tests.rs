//! Each policy with a hand-turned clock, and what is refused.

use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::config::{Approval, EarlyPromote, OnInconclusive, Pause, Policy, ReadyMade, Step};
use crate::ids::Weight;
use crate::release::Change;
use crate::release::analysis::Verdict;

/// A rollout and a clock that stands still unless it is turned.
struct Bench {
    rollout: Rollout,
    now: Timestamp,
    /// `state weight action` and the reason of each transition.
    log: Vec<(String, String)>,
}

fn anna() -> Change {
    Change { actor: "anna".to_owned(), reason: "so she says".to_owned() }
}

fn weight(percent: u16) -> Weight {
    Weight::from_basis_points(percent * 100).unwrap()
}

impl Bench {
    fn pending(policy: Policy, basis: Basis) -> Self {
        let now = "2025-03-01T12:00:00Z".parse().unwrap();
        let new = NewRollout {
            id: RolloutId::new(7),
            model: "desk".parse().unwrap(),
            stable: "v1".parse().unwrap(),
            canary: "v2".parse().unwrap(),
            policy,
            basis,
        };
        let begun = Rollout::begin(new, &anna(), now).unwrap();
        Self { rollout: begun.rollout, now, log: Vec::new() }
    }

    fn started(policy: Policy) -> Self {
        let mut bench = Self::pending(policy, Basis::Checks);
        bench.tell(Event::NoSuite);
        bench
    }

    fn ready_made(policy: ReadyMade) -> Self {
        Self::started(policy.policy())
    }

    fn tell(&mut self, event: Event) -> &mut Self {
        match self.rollout.apply(event, self.now).unwrap() {
            Next::Same(rollout) => self.rollout = rollout,
            Next::Moved(transition) => {
                let Transition { rollout, action, reason, .. } = transition;
                let action = match action {
                    None => "-".to_owned(),
                    Some(Action::SetCanaryWeight(weight)) => format!("canary to {weight}"),
                    Some(Action::AllToCanary) => "all to canary".to_owned(),
                    Some(Action::AllToStable) => "all to stable".to_owned(),
                };
                self.log.push((format!("{} | {} | {action}", rollout.state, rollout.weight), reason));
                self.rollout = rollout;
            }
        }
        self
    }

    fn after(&mut self, minutes: u64) -> &mut Self {
        self.now = self.now.checked_add(Duration::from_mins(minutes)).unwrap();
        self.tell(Event::Tick)
    }

    /// By many answers over hours.
    fn says(&mut self, verdict: Verdict) -> &mut Self {
        self.says_after(verdict, 200, 1000)
    }

    fn says_after(&mut self, verdict: Verdict, minutes: u64, answers: u64) -> &mut Self {
        let (lasted, longest_answer) = (Duration::from_mins(minutes), Duration::from_mins(5));
        let exposure = Exposure { weight: self.rollout.weight, lasted, answers, longest_answer };
        self.tell(Event::Judged { verdict, finding: format!("{verdict}: the numbers"), exposure })
    }

    fn command(&mut self, command: Command) -> &mut Self {
        self.tell(Event::Operator { command, by: anna() })
    }

    fn refused(&self, event: Event) -> String {
        self.rollout.apply(event, self.now).unwrap_err().to_string()
    }

    fn went(&self) -> Vec<&str> {
        self.log.iter().map(|(step, _)| step.as_str()).collect()
    }

    fn last(&self) -> &str {
        &self.log.last().unwrap().0
    }

    fn why(&self) -> &str {
        &self.log.last().unwrap().1
    }
}

const GROWN: [&str; 2] = ["step 2 | 5 | canary to 5", "step 4 | 25 | canary to 25"];

#[test]
fn customer_facing_grows_to_5_and_25_and_is_promoted_on_evidence() {
    let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
    bench.says(Verdict::Continue).after(19).after(1).says(Verdict::Promote).after(39).after(1);
    let promoted = [&GROWN[..], &["step 4 | 25 | -", "promoted | 100 | all to canary"]].concat();
    assert_eq!(bench.went(), promoted, "the verdict is noted, and the steps run on");
    assert_eq!(bench.rollout.state, State::Promoted { on: PromotedOn::Evidence });
    assert!(bench.why().contains("step 4 of 5 is over after 40m at 25 %"), "{}", bench.why());
    assert!(bench.why().contains("promote: the numbers"), "{}", bench.why());
}

#[test]
fn customer_facing_is_aborted_as_soon_as_the_verdict_falls() {
    let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
    bench.after(20).after(3).says(Verdict::Abort);
    assert_eq!(bench.went(), [GROWN[0], GROWN[1], "aborted | 0 | all to stable"]);
    assert_eq!(bench.rollout.state, State::Aborted { cause: AbortedFor::Verdict });
    assert_eq!(bench.why(), "the analysis says abort: the numbers");
}

#[test]
fn without_evidence_customer_facing_is_held_until_a_verdict() {
    for (verdict, end) in [
        (Verdict::Promote, "promoted | 100 | all to canary"),
        (Verdict::Abort, "aborted | 0 | all to stable"),
    ] {
        let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
        bench.says(Verdict::Continue).after(20).after(40).after(600).says(Verdict::Inconclusive);
        assert_eq!(bench.went()[2], "held | 25 | -");
        assert_eq!(bench.rollout.waits_for(), WaitsFor::Verdict);
        assert_eq!(bench.says(verdict).last(), end);
    }
}

#[test]
fn internal_classifier_is_promoted_after_half_an_hour_at_5() {
    let mut bench = Bench::ready_made(ReadyMade::InternalClassifier);
    bench.after(29).says(Verdict::Promote).after(1);
    assert_eq!(bench.went(), [GROWN[0], "step 2 | 5 | -", "promoted | 100 | all to canary"]);
}

#[test]
fn batch_watches_no_canary_and_says_so() {
    let bench = Bench::ready_made(ReadyMade::Batch);
    assert_eq!(bench.went(), ["promoted | 100 | all to canary"]);
    assert_eq!(bench.rollout.state, State::Promoted { on: PromotedOn::NothingToJudge });
    assert!(bench.why().contains("watches no canary"), "{}", bench.why());
}

#[test]
fn experimental_waits_for_an_operator_twice() {
    let mut bench = Bench::ready_made(ReadyMade::Experimental);
    bench.after(100_000);
    assert_eq!(bench.rollout.waits_for(), WaitsFor::Resume);
    bench.says(Verdict::Promote).command(Command::Resume).after(60);
    assert_eq!(bench.rollout.waits_for(), WaitsFor::Approval);
    bench.command(Command::Approve);
    let way = [
        "step 2 | 1 | canary to 1",
        "step 2 | 1 | -",
        "awaiting_approval | 1 | -",
        "promoted | 100 | all to canary",
    ];
    assert_eq!(bench.went(), way);
    assert_eq!(bench.why(), "approved by anna (so she says); the analysis says promote: the numbers");
}

#[test]
fn a_canary_that_turns_bad_while_it_awaits_approval_is_aborted() {
    let mut bench =
        Bench::started(Policy { approval: Approval::Manual, ..ReadyMade::InternalClassifier.policy() });
    bench.says(Verdict::Promote).after(30);
    assert_eq!(bench.last(), "awaiting_approval | 5 | -");
    assert_eq!(bench.says(Verdict::Abort).last(), "aborted | 0 | all to stable");
}

#[test]
fn the_policy_says_what_an_open_question_means() {
    let end = |on_inconclusive, approval| {
        let policy = Policy { on_inconclusive, approval, ..ReadyMade::InternalClassifier.policy() };
        let mut bench = Bench::started(policy);
        bench.says(Verdict::Continue).after(30);
        assert!(bench.why().contains("continue: the numbers"), "{}", bench.why());
        bench.rollout.state
    };
    assert_eq!(end(OnInconclusive::Hold, Approval::Auto), State::Held);
    let promoted = State::Promoted { on: PromotedOn::OnInconclusive };
    assert_eq!(end(OnInconclusive::Promote, Approval::Auto), promoted);
    assert_eq!(end(OnInconclusive::Promote, Approval::Manual), State::AwaitingApproval);
    let aborted = State::Aborted { cause: AbortedFor::OnInconclusive };
    assert_eq!(end(OnInconclusive::Abort, Approval::Manual), aborted);
}

#[test]
fn a_model_without_checks_is_promoted_when_its_steps_are_over_and_says_so() {
    let mut bench = Bench::pending(ReadyMade::InternalClassifier.policy(), Basis::Nothing);
    bench.tell(Event::NoSuite).after(30);
    assert_eq!(bench.rollout.state, State::Promoted { on: PromotedOn::NothingToJudge });
    assert!(bench.why().contains("has no checks"), "{}", bench.why());
}

#[test]
fn early_promotion_skips_steps_but_not_an_approval_and_not_a_pause() {
    let early = Policy { early_promote: EarlyPromote::Yes, ..ReadyMade::CustomerFacing.policy() };
    let mut bench = Bench::started(early.clone());
    bench.after(3).says(Verdict::Promote);
    assert_eq!(bench.went(), [GROWN[0], "promoted | 100 | all to canary"]);

    let mut bench = Bench::started(Policy { approval: Approval::Manual, ..early.clone() });
    assert_eq!(bench.after(3).says(Verdict::Promote).last(), "awaiting_approval | 5 | -");

    let mut bench = Bench::started(early);
    bench.after(3).command(Command::Pause).says(Verdict::Promote);
    assert_eq!(bench.last(), "paused 2 | 5 | -");
    assert_eq!(bench.command(Command::Resume).last(), "promoted | 100 | all to canary");
}

#[test]
fn early_promotion_waits_until_the_canary_has_shown_enough_at_the_weight_that_it_has() {
    let early = Policy { early_promote: EarlyPromote::Yes, ..ReadyMade::CustomerFacing.policy() };
    let least = early.min_samples;
    let mut bench = Bench::started(early);
    bench.says_after(Verdict::Promote, 4, least).says_after(Verdict::Promote, 5, least - 1);
    assert_eq!(bench.went(), [GROWN[0], "step 2 | 5 | -"], "the verdict is noted");
    bench.command(Command::Pause).command(Command::Resume);
    assert_eq!(bench.last(), "step 2 | 5 | -", "nor does a pause make it ripe");
    // An operator was faster than the look: that was ripe at 5 %.
    let lasted = Duration::from_mins(5);
    let exposure = Exposure { weight: weight(5), lasted, answers: least, longest_answer: lasted };
    bench.command(Command::Skip);
    bench.tell(Event::Judged { verdict: Verdict::Promote, finding: "promote: more".to_owned(), exposure });
    assert_eq!(bench.last(), GROWN[1]);
    assert_eq!(bench.says_after(Verdict::Promote, 5, least).last(), "promoted | 100 | all to canary");
}

#[test]
fn what_was_ripe_at_one_weight_is_not_at_the_next() {
    let early = Policy { early_promote: EarlyPromote::Yes, ..ReadyMade::CustomerFacing.policy() };
    let mut bench = Bench::started(early);
    bench.says(Verdict::Continue);
    assert_eq!(bench.rollout.judged.as_ref().map(|judged| judged.ripe), Some(true));
    bench.after(20);
    assert_eq!(bench.rollout.judged.as_ref().map(|judged| judged.ripe), Some(false));
}

#[test]
fn time_that_an_operator_paused_or_the_server_was_down_does_not_count() {
    let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
    bench.after(15).command(Command::Pause).after(500).command(Command::Resume).after(3);
    let last_seen = bench.now;
    bench.now = bench.now.checked_add(Duration::from_mins(90)).unwrap();
    bench.tell(Event::Restarted { last_seen });
    assert!(bench.why().contains("away for 1h 30m"), "{}", bench.why());
    let end = bench.now.checked_add(Duration::from_mins(2)).unwrap();
    assert_eq!(bench.rollout.waits_for(), WaitsFor::Until(end));
    assert_eq!(bench.after(1).last(), "step 2 | 5 | -");
    assert_eq!(bench.after(1).last(), GROWN[1]);
}

#[test]
fn a_clock_that_is_set_back_ends_no_step() {
    let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
    bench.now = bench.now.checked_sub(Duration::from_hours(1)).unwrap();
    bench.tell(Event::Tick).command(Command::Pause).command(Command::Resume).after(19);
    assert_eq!(bench.last(), "step 2 | 5 | -");
    assert_eq!(bench.after(1).last(), GROWN[1]);
}

#[test]
fn a_skip_shortens_time_but_not_evidence() {
    let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
    bench.command(Command::Skip).command(Command::Skip);
    assert_eq!(bench.went(), [GROWN[0], GROWN[1], "held | 25 | -"]);
    assert_eq!(bench.command(Command::Promote).last(), "promoted | 100 | all to canary");
    assert_eq!(bench.rollout.state, State::Promoted { on: PromotedOn::Force });
}

#[test]
fn a_suite_comes_before_any_traffic() {
    let started = || {
        let mut bench = Bench::pending(ReadyMade::CustomerFacing.policy(), Basis::Checks);
        bench.tell(Event::SuiteStarted).says(Verdict::Promote).after(60);
        assert_eq!(bench.went(), ["suite | 0 | -"]);
        bench
    };
    let text = started().refused(Event::Operator { command: Command::Promote, by: anna() });
    assert!(text.contains("has not passed its regression suite"), "{text}");
    assert_eq!(started().tell(Event::SuitePassed).last(), GROWN[0]);
    let mut failed = started();
    failed.tell(Event::SuiteFailed { why: "3 of 20 cases".to_owned() });
    assert_eq!(failed.last(), "aborted | 0 | -", "no traffic, so no change of the route");
    assert_eq!(failed.why(), "v2 has failed its regression suite: 3 of 20 cases");
}

#[test]
fn what_comes_from_outside_ends_a_rollout() {
    let grown = || {
        let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
        bench.after(20);
        bench
    };
    let died = Event::CanaryDied { why: "out of memory".to_owned() };
    assert_eq!(grown().tell(died).last(), "aborted | 0 | all to stable");
    let newer = Event::Superseded { by: RolloutId::new(8), actor: "ben".to_owned() };
    assert_eq!(grown().tell(newer).last(), "superseded | 0 | all to stable");
    let by_hand = Event::RolledBack { canary: weight(60), by: anna() };
    assert_eq!(grown().tell(by_hand).last(), "rolled_back | 60 | -", "the route is as somebody made it");
}

#[test]
fn a_step_whose_stable_died_is_paused_until_an_operator_resumes_it() {
    let died = || Event::StableDied { why: "it is not hot any more".to_owned() };
    let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
    bench.after(15).tell(died());
    assert_eq!(bench.last(), "paused 2 | 5 | -", "no weight moves");
    assert_eq!(
        bench.why(),
        "v1, which v2 is compared with, cannot answer: it is not hot any more; step 2 of 5 is paused after 15m"
    );
    let moves = bench.log.len();
    bench.tell(died()).after(500).tell(died());
    assert_eq!(bench.log.len(), moves, "it is told once");
    bench.command(Command::Resume).after(4);
    assert_eq!(bench.last(), "step 2 | 5 | -", "the time of the outage does not count");
    assert_eq!(bench.after(1).last(), GROWN[1]);

    let mut held = Bench::ready_made(ReadyMade::CustomerFacing);
    held.says(Verdict::Continue).after(20).after(40).tell(died());
    assert_eq!(held.last(), "held | 25 | -", "where no time runs, nothing is stopped");
}

#[test]
fn weights_that_nobody_watches_are_not_set_on_the_way() {
    let steps = vec![
        Step::SetWeight(weight(5)),
        Step::SetWeight(weight(20)),
        Step::Pause(Pause::For(Duration::from_mins(1))),
        Step::SetWeight(weight(50)),
    ];
    let mut bench = Bench::started(Policy { steps, ..Policy::default() });
    assert_eq!(bench.went(), ["step 3 | 20 | canary to 20"]);
    assert_eq!(bench.after(1).last(), "held | 50 | canary to 50");
}

#[test]
fn a_refusal_says_where_the_rollout_is_and_what_would_do() {
    let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
    let ask = |bench: &Bench, command| bench.refused(Event::Operator { command, by: anna() });
    let mut said = vec![ask(&bench, Command::Resume), ask(&bench, Command::Approve)];
    said.push(bench.refused(Event::SuitePassed));
    said.push(ask(bench.command(Command::Pause), Command::Pause));
    said.push(ask(bench.command(Command::Abort), Command::Abort));
    said.push(Bench::pending(Policy::default(), Basis::Checks).refused(Event::SuitePassed));
    said.push(ask(&Bench::ready_made(ReadyMade::Experimental), Command::Pause));
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn a_rollout_to_the_version_that_serves_is_refused() {
    let v1: crate::ids::VersionName = "v1".parse().unwrap();
    let new = NewRollout {
        id: RolloutId::new(1),
        model: "desk".parse().unwrap(),
        stable: v1.clone(),
        canary: v1,
        policy: Policy::default(),
        basis: Basis::Checks,
    };
    let error = Rollout::begin(new, &anna(), Timestamp::UNIX_EPOCH).unwrap_err();
    assert_eq!(error.to_string(), "v1 has all traffic already; name another version to roll out");
}

/// What the store holds must be readable for ever.
#[test]
fn the_stored_form_keeps_its_names() {
    let mut bench = Bench::ready_made(ReadyMade::CustomerFacing);
    bench.after(5).says(Verdict::Promote);
    let Next::Moved(paused) =
        bench.rollout.apply(Event::Operator { command: Command::Pause, by: anna() }, bench.now).unwrap()
    else {
        panic!("a pause is a transition")
    };
    let stored = paused.to_store(None).rollout;
    insta::assert_snapshot!(format!("{}\n{}", stored.policy, stored.state));
    assert_eq!(Rollout::try_from(stored).unwrap(), paused.rollout);
}

#[test]
fn copies_come_first_and_end_with_the_first_weight() {
    let pause = |minutes| Step::Pause(Pause::For(Duration::from_mins(minutes)));
    let steps = vec![Step::SetMirrorRoute(weight(50)), pause(10), Step::SetWeight(weight(5)), pause(20)];
    let policy = Policy { steps, early_promote: EarlyPromote::Yes, ..Policy::default() };
    let mut bench = Bench::started(policy);
    assert_eq!((bench.rollout.mirror(), bench.rollout.weight), (weight(50), Weight::ZERO));
    assert!(
        bench.log[0].1.ends_with("step 2 of 4 is with copies of 50 % of the requests for 10m"),
        "{:?}",
        bench.log
    );
    // Copies do not tell how fast it is, so it is not promoted on them alone.
    bench.says(Verdict::Promote);
    assert_eq!(bench.rollout.phase(), Phase::Step);
    bench.after(10);
    assert_eq!((bench.rollout.mirror(), bench.rollout.weight), (Weight::ZERO, weight(5)));
    assert!(bench.log[2].1.starts_with("step 2 of 4 is over after 10m with copies of 50 % of the requests"));
    let mut bad = Bench::started(Policy {
        steps: vec![Step::SetMirrorRoute(weight(50)), pause(10)],
        ..Policy::default()
    });
    bad.says(Verdict::Abort);
    assert_eq!((bad.rollout.phase(), bad.rollout.mirror()), (Phase::Aborted, Weight::ZERO));
}

#[test]
fn copies_go_on_while_the_evidence_does_not_suffice() {
    let steps = vec![Step::SetMirrorRoute(weight(100)), Step::Pause(Pause::For(Duration::from_mins(10)))];
    let mut bench = Bench::started(Policy { steps, ..Policy::default() });
    bench.says(Verdict::Continue).after(10);
    assert_eq!((bench.rollout.phase(), bench.rollout.mirror()), (Phase::Held, Weight::FULL));
    bench.says(Verdict::Promote);
    assert_eq!((bench.rollout.phase(), bench.rollout.mirror()), (Phase::Promoted, Weight::ZERO));
}
