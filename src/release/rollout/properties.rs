//! What holds after any sequence of events.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::config::{Approval, EarlyPromote, OnInconclusive, Pause, Policy, Step};
use crate::ids::Weight;
use crate::release::Change;
use crate::release::analysis::Verdict;

fn by() -> Change {
    Change { actor: "anna".to_owned(), reason: String::new() }
}

fn begun(policy: Policy, basis: Basis) -> Rollout {
    let new = NewRollout {
        id: RolloutId::new(1),
        model: "desk".parse().unwrap(),
        stable: "v1".parse().unwrap(),
        canary: "v2".parse().unwrap(),
        policy,
        basis,
    };
    Rollout::begin(new, &by(), Timestamp::UNIX_EPOCH).unwrap().rollout
}

/// Weights that grow, with pauses in between.
fn policies() -> impl Strategy<Value = Policy> {
    let pause = prop_oneof![
        4 => (0..40_u64).prop_map(|m| Some(Pause::For(Duration::from_mins(m)))),
        1 => Just(Some(Pause::UntilResumed)),
        2 => Just(None),
    ];
    let stage = (1..=10_000_u16, pause);
    let choices = (
        prop_oneof![Just(OnInconclusive::Hold), Just(OnInconclusive::Promote), Just(OnInconclusive::Abort)],
        prop_oneof![Just(Approval::Auto), Just(Approval::Manual)],
        prop_oneof![Just(EarlyPromote::Yes), Just(EarlyPromote::No)],
    );
    let stages = proptest::collection::vec(stage, 1..5);
    let mirror = prop::option::weighted(0.3, (1..=10_000_u16, 0..40_u64));
    (stages, choices, any::<bool>(), mirror).prop_map(|(mut stages, choices, to_the_end, mirror)| {
        stages.sort_by_key(|(weight, _)| *weight);
        let mut steps = Vec::new();
        if let Some((share, minutes)) = mirror {
            steps.push(Step::SetMirrorRoute(Weight::from_basis_points(share).unwrap()));
            steps.push(Step::Pause(Pause::For(Duration::from_mins(minutes))));
        }
        for (weight, pause) in stages {
            steps.push(Step::SetWeight(Weight::from_basis_points(weight).unwrap()));
            steps.extend(pause.map(Step::Pause));
        }
        steps.extend(to_the_end.then_some(Step::SetWeight(Weight::FULL)));
        let (on_inconclusive, approval, early_promote) = choices;
        Policy { steps, on_inconclusive, approval, early_promote, ..Policy::default() }
    })
}

fn judged((verdict, weight, minutes, answers): (Verdict, u16, u64, u64)) -> Event {
    let weight = Weight::from_basis_points(weight).unwrap();
    let (lasted, longest_answer) = (Duration::from_mins(minutes), Duration::from_mins(5));
    let exposure = Exposure { weight, lasted, answers, longest_answer };
    Event::Judged { verdict, finding: format!("{verdict}: the numbers"), exposure }
}

fn events() -> impl Strategy<Value = Event> {
    let verdicts = prop_oneof![
        6 => Just(Verdict::Continue),
        3 => Just(Verdict::Promote),
        2 => Just(Verdict::Inconclusive),
        1 => Just(Verdict::Abort),
    ];
    let commands = prop_oneof![
        6 => prop::sample::select(vec![Command::Pause, Command::Resume, Command::Skip, Command::Approve]),
        1 => prop::sample::select(vec![Command::Promote, Command::Abort]),
    ];
    prop_oneof![
        8 => Just(Event::Tick),
        4 => Just(Event::NoSuite),
        1 => prop::sample::select(vec![
            Event::SuiteStarted,
            Event::SuitePassed,
            Event::SuiteFailed { why: "a case".to_owned() },
        ]),
        6 => (verdicts, 0..=10_000_u16, 0..9_u64, 0..200_u64).prop_map(judged),
        6 => commands.prop_map(|command| Event::Operator { command, by: by() }),
        1 => (0..4000_i64).prop_map(|minute| Event::Restarted { last_seen: minute_of(minute) }),
        1 => prop::sample::select(vec![
            Event::RolledBack { canary: Weight::ZERO, by: by() },
            Event::Superseded { by: RolloutId::new(2), actor: "anna".to_owned() },
            Event::CanaryDied { why: "a fault".to_owned() },
            Event::StableDied { why: "a fault".to_owned() },
        ]),
    ]
}

fn minute_of(minute: i64) -> Timestamp {
    Timestamp::from_second(minute * 60).unwrap()
}

/// Events, each with the minutes since the one before it.
fn histories() -> impl Strategy<Value = Vec<(i64, Event)>> {
    proptest::collection::vec((0..30_i64, events()), 0..60)
}

/// The last weight that the policy sets before a step.
fn weight_before(policy: &Policy, step: usize) -> Weight {
    let weight = |step: &Step| match step {
        Step::SetWeight(weight) => Some(*weight),
        Step::SetMirrorRoute(_) | Step::Pause(_) => None,
    };
    policy.steps[..step].iter().filter_map(weight).next_back().unwrap_or(Weight::ZERO)
}

fn check(before: &Rollout, event: &Event, transition: &Transition) -> Result<(), TestCaseError> {
    let after = &transition.rollout;
    let allowed = matches!(after.phase(), Phase::Aborted | Phase::RolledBack | Phase::Superseded);
    prop_assert!(after.weight >= before.weight || (allowed && after.weight == Weight::ZERO));
    prop_assert!(
        after.mirror() == Weight::ZERO || after.weight == Weight::ZERO,
        "copies and traffic at once"
    );
    match &after.state {
        State::Step { step, .. } | State::Paused { step, .. } => {
            prop_assert_eq!(after.weight, weight_before(&after.policy, *step));
        }
        State::Pending | State::Suite => prop_assert_eq!(after.weight, Weight::ZERO),
        State::AwaitingApproval | State::Held => prop_assert!(after.weight < Weight::FULL),
        State::Promoted { on } => {
            prop_assert_eq!(after.weight, Weight::FULL);
            prop_assert!(is_owed(before, event, *on), "{on:?} after {event:?}");
            if let (Event::Judged { exposure, .. }, State::Step { .. }) = (event, &before.state) {
                prop_assert!(before.is_ripe(exposure), "early after {exposure:?}");
            }
        }
        _ => prop_assert_eq!(after.weight, Weight::ZERO),
    }
    let asked = match transition.action {
        None => before.weight,
        Some(Action::SetCanaryWeight(weight)) => weight,
        Some(Action::AllToCanary) => Weight::FULL,
        Some(Action::AllToStable) => Weight::ZERO,
    };
    prop_assert!(asked == after.weight || after.phase() == Phase::RolledBack);
    let told = after.judged.as_ref().filter(|_| matches!(event, Event::Tick | Event::Judged { .. }));
    prop_assert!(told.is_none_or(|judged| transition.reason.contains(&judged.finding)));
    Ok(())
}

/// Whether a promotion rests on what it says.
fn is_owed(before: &Rollout, event: &Event, on: PromotedOn) -> bool {
    let by_hand =
        |commands: &[Command]| matches!(event, Event::Operator { command, .. } if commands.contains(command));
    let proven = matches!(event, Event::Judged { verdict: Verdict::Promote, .. })
        || before.judged.as_ref().is_some_and(|judged| judged.verdict == Verdict::Promote);
    let auto = before.policy.approval == Approval::Auto;
    match on {
        PromotedOn::Evidence => auto && proven,
        PromotedOn::OnInconclusive => auto && before.policy.on_inconclusive == OnInconclusive::Promote,
        // a policy that watches stops at a weight before all traffic moves
        PromotedOn::NothingToJudge => {
            auto && (before.basis == Basis::Nothing || before.weight == Weight::ZERO)
        }
        PromotedOn::Approval => {
            before.state == State::AwaitingApproval && by_hand(&[Command::Approve, Command::Resume])
        }
        PromotedOn::Force => by_hand(&[Command::Promote]),
    }
}

proptest! {
    #[test]
    fn the_invariants_hold_after_any_history(
        policy in policies(),
        basis in prop_oneof![3 => Just(Basis::Checks), 1 => Just(Basis::Nothing)],
        history in histories(),
    ) {
        let (mut rollout, mut minute) = (begun(policy, basis), 0);
        for (later, mut event) in history {
            minute += later;
            // Most of what is told is of the share that the canary has.
            if let Event::Judged { exposure, .. } = &mut event
                && exposure.weight.basis_points() % 4 > 0
            {
                exposure.weight = rollout.weight;
            }
            for command in Command::ALL {
                let taken = rollout.apply(Event::Operator { command, by: by() }, minute_of(minute)).is_ok();
                prop_assert_eq!(taken, rollout.commands().contains(&command));
            }
            let Ok(next) = rollout.apply(event.clone(), minute_of(minute)) else { continue };
            prop_assert!(!rollout.phase().is_terminal(), "{} after {event:?}", rollout.state);
            if let Next::Moved(transition) = &next {
                check(&rollout, &event, transition)?;
                // a crash between any two transitions changes nothing
                let stored = transition.to_store(None).rollout;
                prop_assert_eq!(&Rollout::try_from(stored).unwrap(), &transition.rollout);
            } else {
                let same = Rollout { judged: rollout.judged.clone(), ..next.rollout().clone() };
                prop_assert_eq!(&same, &rollout);
            }
            rollout = next.rollout().clone();
        }
    }

    #[test]
    fn the_same_history_gives_the_same_rollout(policy in policies(), history in histories()) {
        let play = || {
            let mut minute = 0;
            history.iter().fold(begun(policy.clone(), Basis::Checks), |rollout, (later, event)| {
                minute += later;
                let next = rollout.apply(event.clone(), minute_of(minute));
                next.map_or(rollout, |next| next.rollout().clone())
            })
        };
        prop_assert_eq!(play(), play());
    }

    /// However a pause is cut up by an operator, it is over when the time that was watched is its own.
    #[test]
    fn a_pause_keeps_what_is_left_of_it(cuts in proptest::collection::vec((0..6_i64, 0..100_i64), 0..6)) {
        let steps = vec![
            Step::SetWeight(Weight::from_basis_points(500).unwrap()),
            Step::Pause(Pause::For(Duration::from_mins(30))),
            Step::SetWeight(Weight::FULL),
        ];
        let mut minute = 0;
        let mut rollout = begun(Policy { steps, ..Policy::default() }, Basis::Checks);
        let mut tell = |minute: i64, event: Event| {
            rollout = rollout.apply(event, minute_of(minute)).unwrap().rollout().clone();
            (rollout.phase(), rollout.waits_for())
        };
        tell(minute, Event::NoSuite);
        let mut watched = 0;
        for (run, rest) in cuts {
            let operator = |command| Event::Operator { command, by: by() };
            tell(minute + run, operator(Command::Pause));
            watched += run;
            minute += run + rest;
            tell(minute, Event::Tick);
            let (_, next) = tell(minute, operator(Command::Resume));
            prop_assert_eq!(next, WaitsFor::Until(minute_of(minute + 30 - watched)));
        }
        let left = 30 - watched;
        if left > 0 {
            prop_assert_eq!(tell(minute + left - 1, Event::Tick).0, Phase::Step);
        }
        prop_assert_eq!(tell(minute + left, Event::Tick).0, Phase::Held);
    }
}
