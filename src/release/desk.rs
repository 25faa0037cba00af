//! The analysis of one rollout: its tests, and what each answer says to them.

use std::time::Duration;

use super::analysis::{Arm, Counts, Guardrails, Judgement, Outcome, Panel, Terms, UserCell};
use super::rollout::{Exposure, Rollout, RolloutId};
use super::watcher::{Request, Seen, SeenAnswer, WatchedCheck};
use crate::config::Judges;
use crate::ids::Weight;
use crate::store::ArmCounts;

/// The name of the test that counts answers which were never finished.
pub const FINISHED: &str = "finished";

/// The analysis of one rollout.
pub(super) struct Desk {
    pub(super) rollout: RolloutId,
    pub(super) checks: Vec<WatchedCheck>,
    pub(super) panel: Panel,
    pub(super) guardrails: Guardrails,
    /// The canary's weight, and its share of copies, that the open strata belong to.
    pub(super) exposure: (Weight, Weight),
    /// While stable cannot answer, there is nothing to compare the canary's answers with: they are not taken in.
    pub(super) suspended: bool,
    /// Answers to earlier requests are of another exposure: with another share, or of no rollout yet.
    pub(super) since: jiff::Timestamp,
    /// Since when the exposure has been watched without a break.
    pub(super) watched_since: jiff::Timestamp,
    /// The canary's answers to clients' own requests meanwhile.
    pub(super) originals: u64,
    pub(super) saved: jiff::Timestamp,
}

/// What is written of one test: its name, the counts of canary and stable, and what it goes on from.
pub(super) type Written = (String, Counts, Counts, Option<String>);

impl Desk {
    /// A new one. What was asked since the rollout began counts.
    pub(super) fn new(rollout: &Rollout, checks: Vec<WatchedCheck>, now: jiff::Timestamp) -> Self {
        let names = names(&checks);
        Self {
            rollout: rollout.id,
            checks,
            panel: Panel::new(names, Terms::from(&rollout.policy)),
            guardrails: Guardrails::new(&rollout.policy),
            exposure: (rollout.weight, rollout.mirror()),
            suspended: false,
            // A clock may have been set back.
            since: rollout.started_at.min(now),
            watched_since: now,
            originals: 0,
            saved: now,
        }
    }

    /// Takes in an answer of the exposure that it has.
    pub(super) fn take(&mut self, rollout: &Rollout, arm: Arm, seen: &Seen) {
        let (user, mirror) = (UserCell::of(seen.user), rollout.mirror());
        if let Some(outcomes) = outcomes(&self.checks, &seen.answer, mirror) {
            self.panel.observe(arm, user, &outcomes);
            let original = arm == Arm::Canary && seen.request == Request::Original;
            self.originals += u64::from(original);
        }
        // Copies wait for all others: neither arm is judged by its time meanwhile.
        let untimed = mirror > Weight::ZERO || seen.request == Request::Copy;
        let measured = if untimed { seen.measured.untimed() } else { seen.measured };
        self.guardrails.observe(arm, user, &measured);
    }

    pub(super) fn look(&mut self) -> Judgement {
        self.guardrails.look();
        self.guardrails.over(self.panel.look())
    }

    /// Keeps what comes apart from what was, where the canary's share is another, or stable is back.
    pub(super) fn follow(&mut self, rollout: &Rollout, now: jiff::Timestamp) {
        let exposure = (rollout.weight, rollout.mirror());
        if self.exposure != exposure || self.suspended {
            self.cut();
            (self.exposure, self.suspended) = (exposure, false);
            (self.since, self.watched_since, self.originals) = (now, now, 0);
        }
    }

    /// What the canary has shown at the share that it has.
    pub(super) fn exposure(&self, now: jiff::Timestamp, longest_answer: Duration) -> Exposure {
        let lasted = Duration::try_from(self.watched_since.duration_until(now)).unwrap_or_default();
        Exposure { weight: self.exposure.0, lasted, answers: self.originals, longest_answer }
    }

    /// Nothing is judged until [`Desk::follow`] is called.
    pub(super) fn suspend(&mut self) {
        if !self.suspended {
            self.cut();
            self.suspended = true;
        }
    }

    pub(super) fn cut(&mut self) {
        self.panel.cut();
        self.guardrails.cut();
    }

    /// All that a restart goes on from.
    pub(super) fn written(&self) -> Vec<Written> {
        let checks = self.panel.snapshots().into_iter().zip(self.panel.findings());
        let checks = checks.map(|((check, snapshot), (_, finding))| {
            (check, finding.canary, finding.stable, serde_json::to_string(&snapshot).ok())
        });
        let limits = self.guardrails.snapshots().into_iter().zip(self.guardrails.findings());
        let limits =
            limits.map(|((name, snapshot), finding)| (name, finding.canary, finding.stable, snapshot));
        checks.chain(limits).collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        names(&self.checks)
    }
}

/// What an answer says to each check and to [`FINISHED`], to which a refusal says the only thing that it says. Nothing
/// where a check broke: what it would have said is not known. While the canary answers copies, nobody waits for it, so
/// that no arm is judged by its time.
pub(super) fn outcomes(
    checks: &[WatchedCheck],
    answer: &SeenAnswer,
    mirror: Weight,
) -> Option<Vec<Option<Outcome>>> {
    if *answer == SeenAnswer::TimedOut && mirror > Weight::ZERO {
        return None;
    }
    let mut outcomes = Vec::with_capacity(checks.len() + 1);
    for WatchedCheck { name, judges } in checks {
        outcomes.push(match answer {
            _ if *judges == Judges::Reception => None,
            _ if *judges == Judges::Time && mirror > Weight::ZERO => None,
            // What was not there to be checked was not what it should be.
            SeenAnswer::Broken | SeenAnswer::TimedOut => Some(Outcome::Failed),
            SeenAnswer::Refused => None,
            SeenAnswer::Whole(said) => Some(said.iter().find(|(check, _)| check == name)?.1),
        });
    }
    let finished = if matches!(answer, SeenAnswer::Whole(_)) { Outcome::Passed } else { Outcome::Failed };
    outcomes.push(Some(finished));
    Some(outcomes)
}

pub(super) fn names(checks: &[WatchedCheck]) -> Vec<String> {
    checks.iter().map(|check| check.name.to_string()).chain([FINISHED.to_owned()]).collect()
}

pub(super) fn counts(counts: Counts) -> ArmCounts {
    ArmCounts {
        answers: u32::try_from(counts.answers).unwrap_or(u32::MAX),
        failures: u32::try_from(counts.failures).unwrap_or(u32::MAX),
    }
}
