//! The transitions.

use jiff::Timestamp;

use super::event::{Action, Command, Event, Exposure, Next, Refusal, Transition};
use super::state::{AbortedFor, Basis, Judged, PromotedOn, Rollout, State, between, shown};
use crate::config::{Approval, EarlyPromote, OnInconclusive, Step};
use crate::ids::Weight;
use crate::release::Change;
use crate::release::analysis::Verdict;

/// Who moves a rollout where no operator does.
const SWITCHBACK: &str = "switchback";

/// When something happened, and by whom.
#[derive(Clone, Copy)]
struct Moment<'a> {
    at: Timestamp,
    actor: &'a str,
}

impl Moment<'static> {
    fn of(at: Timestamp) -> Self {
        Self { at, actor: SWITCHBACK }
    }
}

/// How matters stand when the steps are over.
enum Standing {
    Proven(String),
    NothingToJudge(String),
    Open(String),
}

impl Rollout {
    /// What follows when something happens at a time. Until what follows is in the store, `self` counts.
    pub fn apply(&self, event: Event, at: Timestamp) -> Result<Next, Refusal> {
        let what = event.name();
        if self.phase().is_terminal() {
            return Err(Refusal::Ended { what, place: self.place() });
        }
        let now = Moment::of(at);
        Ok(match event {
            Event::SuiteStarted | Event::NoSuite | Event::SuitePassed | Event::SuiteFailed { .. } => {
                return self.suite(event, now);
            }
            Event::Operator { command, by } => return self.obey(command, &by, at),
            Event::Tick => self.tick(now),
            Event::Restarted { last_seen } => self.restarted(last_seen, now),
            Event::Judged { verdict, finding, exposure } => self.judge(verdict, finding, &exposure, now),
            Event::CanaryDied { why } => {
                self.abort(AbortedFor::CanaryDied, format!("{} cannot answer: {why}", self.canary), now)
            }
            Event::StableDied { why } => self.stable_died(&why, now),
            Event::RolledBack { canary, by } => self.taken_over(canary, &by, at),
            Event::Superseded { by, actor } => {
                let reason = format!("rollout {by} of {} takes its place", self.model);
                self.to(State::Superseded { by }, Weight::ZERO, reason, Moment { at, actor: &actor })
            }
        })
    }

    fn suite(&self, event: Event, now: Moment<'_>) -> Result<Next, Refusal> {
        match (event, &self.state) {
            (Event::SuiteStarted, State::Pending) => {
                let reason = format!("{} is ready, and its regression suite begins", self.canary);
                Ok(self.to(State::Suite, self.weight, reason, now))
            }
            (Event::NoSuite, State::Pending) => {
                Ok(self.advance(0, format!("{} is ready and has no regression suite", self.canary), now))
            }
            (Event::SuitePassed, State::Suite) => {
                Ok(self.advance(0, format!("{} has passed its regression suite", self.canary), now))
            }
            (Event::SuiteFailed { why }, State::Suite) => {
                let reason = format!("{} has failed its regression suite: {why}", self.canary);
                Ok(self.abort(AbortedFor::Suite, reason, now))
            }
            (event, _) => Err(Refusal::NoSuiteRuns { what: event.name(), place: self.place() }),
        }
    }

    fn tick(&self, now: Moment<'_>) -> Next {
        let State::Step { step, watched, running_since } = self.state else {
            return Next::Same(self.clone());
        };
        let Some(time) = self.pause(step) else { return Next::Same(self.clone()) };
        if watched + between(running_since, now.at) < time {
            return Next::Same(self.clone());
        }
        let (name, time) = (self.name_of(step), shown(time));
        let done = format!("{name} is over after {time} {}{}", self.exposure(), self.last_look());
        self.advance(step + 1, done, now)
    }

    fn restarted(&self, last_seen: Timestamp, now: Moment<'_>) -> Next {
        let State::Step { step, watched, running_since } = self.state else {
            return Next::Same(self.clone());
        };
        let away = between(last_seen.max(running_since), now.at);
        if away.is_zero() {
            return Next::Same(self.clone());
        }
        let watched = watched + between(running_since, last_seen);
        let reason =
            format!("the server was away for {}, which {} does not count", shown(away), self.name_of(step));
        self.to(State::Step { step, watched, running_since: now.at }, self.weight, reason, now)
    }

    /// Without stable there is nothing to compare with: time that nobody can judge does not count, and whoever brings it
    /// back says when to go on. Where no time runs, nothing needs to be stopped.
    fn stable_died(&self, why: &str, now: Moment<'_>) -> Next {
        let State::Step { step, watched, running_since } = self.state else {
            return Next::Same(self.clone());
        };
        let watched = watched + between(running_since, now.at);
        let reason = format!(
            "{}, which {} is compared with, cannot answer: {why}; {} is paused after {}",
            self.stable,
            self.canary,
            self.name_of(step),
            shown(watched)
        );
        self.to(State::Paused { step, watched }, self.weight, reason, now)
    }

    fn judge(&self, verdict: Verdict, finding: String, exposure: &Exposure, now: Moment<'_>) -> Next {
        let known = self.judged.as_ref().map_or(Verdict::Continue, |judged| judged.verdict);
        let reason = format!("the analysis says {finding}");
        let judged = Judged { verdict, finding, at: now.at, ripe: self.is_ripe(exposure) };
        let next = Self { judged: Some(judged), ..self.clone() };
        match (verdict, &self.state) {
            (Verdict::Abort, _) => next.abort(AbortedFor::Verdict, reason, now),
            // a canary without traffic proves nothing
            (_, State::Pending | State::Suite) => Next::Same(self.clone()),
            (Verdict::Promote, State::Held) => next.conclude(self.weight, String::new(), now),
            (Verdict::Promote, State::Step { .. }) if next.promotes_early() => {
                next.conclude(self.weight, String::new(), now)
            }
            // a change of mind belongs in the history; newer numbers alone do not
            _ if verdict != known => next.to(self.state.clone(), self.weight, reason, now),
            _ => Next::Same(next),
        }
    }

    fn obey(&self, command: Command, by: &Change, at: Timestamp) -> Result<Next, Refusal> {
        let refused = || Refusal::NotNow { command, place: self.place(), allowed: self.commands() };
        if !self.commands().contains(&command) {
            return Err(refused());
        }
        let now = Moment { at, actor: &by.actor };
        let said = |deed: String| format!("{deed} by {}{}", by.actor, in_his_words(by));
        let with_look = |deed: &str| format!("{}{}", said(deed.to_owned()), self.last_look());
        Ok(match (command, &self.state) {
            (Command::Abort, _) => self.abort(AbortedFor::Operator, with_look("aborted"), now),
            (Command::Promote, _) => self.promote(PromotedOn::Force, with_look("promoted"), now),
            (Command::Approve | Command::Resume, State::AwaitingApproval) => {
                self.promote(PromotedOn::Approval, with_look("approved"), now)
            }
            (Command::Pause, State::Step { step, watched, running_since }) => {
                let (step, watched) = (*step, *watched + between(*running_since, at));
                let deed = format!("{} paused after {}", self.name_of(step), shown(watched));
                self.to(State::Paused { step, watched }, self.weight, said(deed), now)
            }
            (Command::Resume, State::Paused { step, watched }) => {
                let deed = said(format!("{} resumed", self.name_of(*step)));
                self.resume(State::Step { step: *step, watched: *watched, running_since: at }, deed, now)
            }
            (Command::Resume, State::Step { step, .. }) => {
                let deed = said(format!("{} ended", self.name_of(*step)));
                self.advance(step + 1, format!("{deed}{}", self.last_look()), now)
            }
            (Command::Skip, State::Step { step, .. }) => {
                let deed = said(format!("{} skipped", self.name_of(*step)));
                self.advance(step + 1, format!("{deed}{}", self.last_look()), now)
            }
            _ => return Err(refused()),
        })
    }

    /// A verdict that came while the rollout was paused is acted on now.
    fn resume(&self, step: State, deed: String, now: Moment<'_>) -> Next {
        if self.promotes_early() {
            self.conclude(self.weight, deed, now)
        } else {
            self.to(step, self.weight, deed, now)
        }
    }

    /// Whether the steps need not be waited for: see [`Rollout::is_ripe`].
    fn promotes_early(&self) -> bool {
        let proven =
            |judged: &Judged| judged.verdict == Verdict::Promote && judged.ripe && self.weight > Weight::ZERO;
        self.policy.early_promote == EarlyPromote::Yes && self.judged.as_ref().is_some_and(proven)
    }

    /// `at 5 %`, or `with copies of 50 % of the requests`.
    fn exposure(&self) -> String {
        match self.mirror() {
            Weight::ZERO => format!("at {} %", self.weight),
            share => format!("with copies of {share} % of the requests"),
        }
    }

    /// The next pause of the policy from a step on, at the weight that it says, or the end of the steps. Weights that
    /// nobody would watch are not set on the way.
    fn advance(&self, from: usize, done: String, now: Moment<'_>) -> Next {
        let mut weight = self.weight;
        for (step, what) in self.policy.steps.iter().enumerate().skip(from) {
            match what {
                // all traffic: that is the promotion, which needs its evidence
                Step::SetWeight(Weight::FULL) => break,
                Step::SetWeight(next) => weight = *next,
                Step::SetMirrorRoute(_) => {}
                Step::Pause(_) => return self.watch(step, weight, &done, now),
            }
        }
        self.conclude(weight, done, now)
    }

    /// A pause of the policy begins.
    fn watch(&self, step: usize, weight: Weight, done: &str, now: Moment<'_>) -> Next {
        let time = self.pause(step).map_or("until resumed".to_owned(), shown_for);
        let state = State::Step { step, watched: std::time::Duration::ZERO, running_since: now.at };
        // What was shown at the share before is no reason to skip this one.
        let judged = self.judged.clone().map(|judged| Judged { ripe: false, ..judged });
        let then = Self { state, weight, ..self.clone() };
        let reason = format!("{done}; {} is {} {time}", self.name_of(step), then.exposure());
        Self { judged, ..self.clone() }.to(then.state, weight, reason, now)
    }

    /// What follows where all traffic would move next.
    fn conclude(&self, weight: Weight, done: String, now: Moment<'_>) -> Next {
        let so_far = |why: String| if done.is_empty() { why } else { format!("{done}; {why}") };
        match (self.standing(), self.policy.on_inconclusive) {
            (Standing::Proven(why), _) => self.promote_or_ask(PromotedOn::Evidence, weight, so_far(why), now),
            (Standing::NothingToJudge(why), _) => {
                self.promote_or_ask(PromotedOn::NothingToJudge, weight, so_far(why), now)
            }
            (Standing::Open(why), OnInconclusive::Promote) => {
                let why = so_far(format!("{why}, and the policy promotes then"));
                self.promote_or_ask(PromotedOn::OnInconclusive, weight, why, now)
            }
            (Standing::Open(why), OnInconclusive::Abort) => {
                let why = so_far(format!("{why}, and the policy aborts then"));
                self.abort(AbortedFor::OnInconclusive, why, now)
            }
            (Standing::Open(why), OnInconclusive::Hold) => {
                let why = so_far(format!("{why}, so it is held at {weight} % and watched on"));
                self.to(State::Held, weight, why, now)
            }
        }
    }

    fn standing(&self) -> Standing {
        let finding = |judged: &Judged| format!("the analysis says {}", judged.finding);
        match &self.judged {
            Some(judged) if judged.verdict == Verdict::Promote => Standing::Proven(finding(judged)),
            _ if self.basis == Basis::Nothing => {
                Standing::NothingToJudge(format!("{} has no checks that could judge the canary", self.model))
            }
            _ if !self.watches() => {
                Standing::NothingToJudge("the policy watches no canary before all traffic moves".to_owned())
            }
            Some(judged) => Standing::Open(finding(judged)),
            None => Standing::Open("the analysis has not looked yet".to_owned()),
        }
    }

    /// Whether the policy has a pause before all traffic moves.
    fn watches(&self) -> bool {
        let before_all = |step: &&Step| !matches!(step, Step::SetWeight(Weight::FULL));
        let mut steps = self.policy.steps.iter().take_while(before_all);
        steps.any(|step| matches!(step, Step::Pause(_)))
    }

    fn promote_or_ask(&self, on: PromotedOn, weight: Weight, why: String, now: Moment<'_>) -> Next {
        match self.policy.approval {
            Approval::Auto => self.promote(on, why, now),
            Approval::Manual => {
                let reason = format!("{why}; an operator has the last word");
                self.to(State::AwaitingApproval, weight, reason, now)
            }
        }
    }

    fn promote(&self, on: PromotedOn, why: String, now: Moment<'_>) -> Next {
        self.to(State::Promoted { on }, Weight::FULL, why, now)
    }

    fn abort(&self, cause: AbortedFor, why: String, now: Moment<'_>) -> Next {
        self.to(State::Aborted { cause }, Weight::ZERO, why, now)
    }

    /// The route is another's now: nothing is to be done about it.
    fn taken_over(&self, canary: Weight, by: &Change, at: Timestamp) -> Next {
        let reason =
            format!("{} changed the route by hand, the canary to {canary} %{}", by.actor, in_his_words(by));
        let next = self.to(State::RolledBack, canary, reason, Moment { at, actor: &by.actor });
        match next {
            Next::Moved(transition) => Next::Moved(Transition { action: None, ..transition }),
            same @ Next::Same(_) => same,
        }
    }

    fn to(&self, state: State, weight: Weight, reason: String, now: Moment<'_>) -> Next {
        let action = match weight {
            weight if weight == self.weight => None,
            Weight::ZERO => Some(Action::AllToStable),
            Weight::FULL => Some(Action::AllToCanary),
            weight => Some(Action::SetCanaryWeight(weight)),
        };
        Next::Moved(Transition {
            from: Some(self.state.clone()),
            from_weight: self.weight,
            action,
            reason,
            actor: now.actor.to_owned(),
            at: now.at,
            rollout: Self { state, weight, ..self.clone() },
        })
    }

    fn last_look(&self) -> String {
        let look = |judged: &Judged| format!("; the analysis says {}", judged.finding);
        self.judged.as_ref().map(look).unwrap_or_default()
    }
}

fn in_his_words(by: &Change) -> String {
    if by.reason.is_empty() { String::new() } else { format!(" ({})", by.reason) }
}

fn shown_for(time: std::time::Duration) -> String {
    format!("for {}", shown(time))
}
