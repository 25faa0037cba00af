//! What a rollout is at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::event::{Command, Exposure, Transition};
use crate::config::{Pause, Phase, Policy, Step};
use crate::ids::{ModelName, RolloutId, VersionName, Weight};
use crate::release::Change;
use crate::release::analysis::Verdict;

/// One rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Its number.
    pub id: RolloutId,
    /// The model.
    pub model: ModelName,
    /// The version that the canary is compared with, and that an abort goes back to.
    pub stable: VersionName,
    /// The version that is being rolled out.
    pub canary: VersionName,
    /// As it was when the rollout began: a later change of the configuration does not alter it.
    pub policy: Policy,
    /// What the canary is judged on.
    pub basis: Basis,
    /// When it began.
    pub started_at: Timestamp,
    /// Where it is.
    pub state: State,
    /// The canary's share of the traffic now.
    pub weight: Weight,
    /// What the analysis said last.
    pub judged: Option<Judged>,
}

/// What a rollout begins with.
#[derive(Debug, Clone)]
pub struct NewRollout {
    /// From [`crate::store::Store::next_rollout_id`].
    pub id: RolloutId,
    /// The model.
    pub model: ModelName,
    /// The version that has all traffic.
    pub stable: VersionName,
    /// The version that is to have it.
    pub canary: VersionName,
    /// How.
    pub policy: Policy,
    /// What the canary is judged on.
    pub basis: Basis,
}

/// What a canary is judged on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Checks of its answers.
    Checks,
    /// The model has no checks: a canary is promoted when its steps are over.
    Nothing,
}

/// What the analysis said, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// What to do.
    pub verdict: Verdict,
    /// Why, in one sentence with its numbers.
    pub finding: String,
    /// When it was said.
    pub at: Timestamp,
    /// Whether the canary had been watched for long enough at the share that it had then to be promoted early. What
    /// older servers wrote does not tell.
    #[serde(default)]
    pub ripe: bool,
}

/// Where a rollout is. Steps are counted from 0, as in the policy's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum State {
    /// It is written down; the canary is not asked yet.
    Pending,
    /// The regression suite runs; the canary has no traffic.
    Suite,
    /// A pause of the policy runs.
    Step {
        /// Which.
        step: usize,
        /// How long it was watched before `running_since`.
        watched: Duration,
        /// Since when it has been watched without a break.
        running_since: Timestamp,
    },
    /// An operator stopped the clock in a pause of the policy.
    Paused {
        /// Which.
        step: usize,
        /// How long it had been watched.
        watched: Duration,
    },
    /// All traffic may move as soon as an operator agrees.
    AwaitingApproval,
    /// The steps are over, and the evidence did not suffice; it is still gathered.
    Held,
    /// The canary has all traffic.
    Promoted {
        /// What that rests on.
        on: PromotedOn,
    },
    /// Stable has all traffic again.
    Aborted {
        /// Why.
        cause: AbortedFor,
    },
    /// Somebody changed the route by hand, so the rollout no longer owns it.
    RolledBack,
    /// A newer rollout of the model took its place.
    Superseded {
        /// The newer one.
        by: RolloutId,
    },
}

/// What a promotion rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotedOn {
    /// The analysis found it not worse.
    Evidence,
    /// No checks, or a policy that watches no canary.
    NothingToJudge,
    /// The policy's `on_inconclusive: promote`.
    OnInconclusive,
    /// An operator approved.
    Approval,
    /// An operator did not wait.
    Force,
}

/// Why a rollout was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortedFor {
    /// The analysis found it worse.
    Verdict,
    /// Its regression suite failed.
    Suite,
    /// Its engine died.
    CanaryDied,
    /// The policy's `on_inconclusive: abort`.
    OnInconclusive,
    /// An operator said so.
    Operator,
}

/// What moves a rollout next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// The canary to be ready.
    Start,
    /// The end of its suite.
    Suite,
    /// This time, unless the analysis or an operator is faster.
    Until(Timestamp),
    /// An operator who resumes.
    Resume,
    /// An operator who approves.
    Approval,
    /// A verdict.
    Verdict,
    /// Nothing: it has ended.
    Nothing,
}

impl WaitsFor {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Suite => "suite",
            Self::Until(_) => "time",
            Self::Resume => "resume",
            Self::Approval => "approval",
            Self::Verdict => "verdict",
            Self::Nothing => "nothing",
        }
    }
}

/// A rollout needs two versions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} has all traffic already; name another version to roll out")]
pub struct SameVersion(VersionName);

impl Rollout {
    /// Begins one, as a transition from nothing to `pending`.
    pub fn begin(new: NewRollout, by: &Change, at: Timestamp) -> Result<Transition, SameVersion> {
        let NewRollout { id, model, stable, canary, policy, basis } = new;
        if stable == canary {
            return Err(SameVersion(canary));
        }
        let words = if by.reason.is_empty() { String::new() } else { format!(": {}", by.reason) };
        let reason = format!("rollout of {canary} over {stable} begun by {}{words}", by.actor);
        let (state, weight) = (State::Pending, Weight::ZERO);
        let rollout =
            Self { id, model, stable, canary, policy, basis, started_at: at, state, weight, judged: None };
        let actor = by.actor.clone();
        Ok(Transition { rollout, from: None, from_weight: weight, action: None, reason, actor, at })
    }

    /// The route that the canary's weight means. Of no account once the rollout no longer owns the route.
    pub fn weights(&self) -> BTreeMap<VersionName, Weight> {
        let rest = Weight::FULL.basis_points() - self.weight.basis_points();
        let rest = Weight::from_basis_points(rest).unwrap_or(Weight::ZERO);
        BTreeMap::from([(self.stable.clone(), rest), (self.canary.clone(), self.weight)])
    }

    /// The state in one word.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// What moves it next.
    pub fn waits_for(&self) -> WaitsFor {
        match &self.state {
            State::Pending => WaitsFor::Start,
            State::Suite => WaitsFor::Suite,
            State::Step { step, watched, running_since } => {
                self.pause(*step).map_or(WaitsFor::Resume, |time| {
                    WaitsFor::Until(later(*running_since, time.saturating_sub(*watched)))
                })
            }
            State::Paused { .. } => WaitsFor::Resume,
            State::AwaitingApproval => WaitsFor::Approval,
            State::Held => WaitsFor::Verdict,
            State::Promoted { .. } | State::Aborted { .. } | State::RolledBack | State::Superseded { .. } => {
                WaitsFor::Nothing
            }
        }
    }

    /// What an operator can do now.
    pub fn commands(&self) -> &'static [Command] {
        use Command::{Abort, Approve, Pause, Promote, Resume, Skip};
        match &self.state {
            // a version takes no traffic before its suite has passed, whoever asks
            State::Pending | State::Suite => &[Abort],
            State::Step { step, .. } if self.pause(*step).is_none() => &[Resume, Skip, Promote, Abort],
            State::Step { .. } => &[Pause, Skip, Promote, Abort],
            State::Paused { .. } => &[Resume, Promote, Abort],
            State::AwaitingApproval => &[Approve, Resume, Promote, Abort],
            State::Held => &[Promote, Abort],
            State::Promoted { .. } | State::Aborted { .. } | State::RolledBack | State::Superseded { .. } => {
                &[]
            }
        }
    }

    /// The share of stable's requests that the canary gets a copy of: from the policy's `setMirrorRoute` to its first
    /// weight, also where the steps are over without one and the evidence is still gathered.
    pub fn mirror(&self) -> Weight {
        let over = match &self.state {
            State::Step { step, .. } | State::Paused { step, .. } => *step,
            State::AwaitingApproval | State::Held if self.weight == Weight::ZERO => self.policy.steps.len(),
            _ => return Weight::ZERO,
        };
        let share = |step: &Step| match step {
            Step::SetMirrorRoute(share) => Some(*share),
            Step::SetWeight(Weight::FULL) | Step::Pause(_) => None,
            Step::SetWeight(_) => Some(Weight::ZERO),
        };
        self.policy.steps.iter().take(over).filter_map(share).next_back().unwrap_or(Weight::ZERO)
    }

    /// Whether a canary could be promoted early on what it has shown: enough answers to clients, at the share that it has
    /// now, for as long as an answer may take. Copies do not show how fast it is, and what it showed at another share is
    /// of another time.
    pub fn is_ripe(&self, exposure: &Exposure) -> bool {
        let Exposure { weight, lasted, answers, longest_answer } = *exposure;
        self.weight > Weight::ZERO
            && weight == self.weight
            && lasted >= longest_answer
            && answers >= self.policy.min_samples
    }

    /// How long the pause of a step lasts; `None` for one that waits for an operator.
    pub(super) fn pause(&self, step: usize) -> Option<Duration> {
        match self.policy.steps.get(step) {
            Some(Step::Pause(Pause::For(time))) => Some(*time),
            _ => None,
        }
    }

    /// Where it is, for people: `in step 2 of 5`.
    pub(super) fn place(&self) -> String {
        match &self.state {
            State::Pending => "pending".to_owned(),
            State::Suite => "in its regression suite".to_owned(),
            State::Step { step, .. } => format!("in {}", self.name_of(*step)),
            State::Paused { step, .. } => format!("paused in {}", self.name_of(*step)),
            State::AwaitingApproval => "awaiting approval".to_owned(),
            State::Held => "held, as the evidence does not suffice".to_owned(),
            State::Promoted { .. } => "promoted".to_owned(),
            State::Aborted { .. } => "aborted".to_owned(),
            State::RolledBack => "rolled back".to_owned(),
            State::Superseded { by } => format!("superseded by rollout {by}"),
        }
    }

    /// `step 2 of 5`.
    pub(super) fn name_of(&self, step: usize) -> String {
        format!("step {} of {}", step + 1, self.policy.steps.len())
    }
}

impl State {
    /// The state in one word.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Pending => Phase::Pending,
            Self::Suite => Phase::Suite,
            Self::Step { .. } => Phase::Step,
            Self::Paused { .. } => Phase::Paused,
            Self::AwaitingApproval => Phase::AwaitingApproval,
            Self::Held => Phase::Held,
            Self::Promoted { .. } => Phase::Promoted,
            Self::Aborted { .. } => Phase::Aborted,
            Self::RolledBack => Phase::RolledBack,
            Self::Superseded { .. } => Phase::Superseded,
        }
    }

    /// The step that it is in, counted from 1.
    pub fn step_number(&self) -> Option<usize> {
        match self {
            Self::Step { step, .. } | Self::Paused { step, .. } => Some(step + 1),
            _ => None,
        }
    }
}

/// As logs and tables show it: `step 2`, `held`.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phase().as_str())?;
        self.step_number().map_or(Ok(()), |step| write!(f, " {step}"))
    }
}

/// How long it is from one time to a later one; nothing where a clock was set back in between.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(from.duration_until(to)).unwrap_or_default()
}

fn later(from: Timestamp, time: Duration) -> Timestamp {
    from.checked_add(time).unwrap_or(Timestamp::MAX)
}

/// A time as people write it: `20m`, `1h 30m`.
pub fn shown(time: Duration) -> String {
    // what is below a second is of no interest to people, but for pauses that are that short
    let time = if time.as_secs() > 0 { Duration::from_secs(time.as_secs()) } else { time };
    SignedDuration::try_from(time).map_or_else(|_| format!("{time:?}"), |time| format!("{time:#}"))
}
