//! What happens to a rollout, and what follows.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::{Rollout, State};
use crate::ids::{RolloutId, Weight};
use crate::release::Change;
use crate::release::analysis::Verdict;

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The canary is ready, and its regression suite runs.
    SuiteStarted,
    /// The canary is ready, and has no regression suite.
    NoSuite,
    /// All cases of the suite are as they should be.
    SuitePassed,
    /// Some are not.
    SuiteFailed {
        /// Which, in one sentence.
        why: String,
    },
    /// Time has passed. What the analysis knows by then is to be told first.
    Tick,
    /// The server was down. Nobody watched meanwhile, so that time does not count.
    Restarted {
        /// Since when.
        last_seen: Timestamp,
    },
    /// The analysis has looked.
    Judged {
        /// What to do.
        verdict: Verdict,
        /// Why, in one sentence with its numbers.
        finding: String,
        /// What of it the canary has shown at the share that it has now.
        exposure: Exposure,
    },
    /// An operator has decided.
    Operator {
        /// What.
        command: Command,
        /// Who, and why.
        by: Change,
    },
    /// Somebody rolled the route back or set weights by hand.
    RolledBack {
        /// The canary's weight as it is now.
        canary: Weight,
        /// Who, and why.
        by: Change,
    },
    /// A newer rollout of the model begins.
    Superseded {
        /// The newer one.
        by: RolloutId,
        /// Who began it.
        actor: String,
    },
    /// The canary's engine has died, or it could not be loaded.
    CanaryDied {
        /// What it died of.
        why: String,
    },
    /// The version that the canary is compared with cannot answer.
    StableDied {
        /// What is known of it.
        why: String,
    },
}

/// How long, and on how many answers, a canary has been watched at one share of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exposure {
    /// Its share.
    pub weight: Weight,
    /// How long it has had it.
    pub lasted: Duration,
    /// Its answers to clients' own requests since then.
    pub answers: u64,
    /// How long an answer may take. It is counted when it ends: until then the quick ones are all there is to see.
    pub longest_answer: Duration,
}

/// What an operator can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Stop the clock of the step; weights stay.
    Pause,
    /// Go on.
    Resume,
    /// Give the canary all traffic, whatever the evidence.
    Promote,
    /// Give stable all traffic.
    Abort,
    /// End the step now.
    Skip,
    /// Let all traffic move.
    Approve,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pause, Self::Resume, Self::Promote, Self::Abort, Self::Skip, Self::Approve];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Skip => "skip",
            Self::Approve => "approve",
        }
    }

    /// What stands against it where it cannot be done.
    const fn obstacle(self) -> &'static str {
        match self {
            Self::Pause | Self::Skip => "no step of the rollout runs",
            Self::Resume => "the rollout is not paused",
            Self::Promote => "the canary has not passed its regression suite yet",
            Self::Approve => "the rollout does not await approval",
            Self::Abort => "there is nothing to abort",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The change of the route that a transition asks for. One transition is at most one revision of the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The canary gets this share, stable the rest.
    SetCanaryWeight(Weight),
    /// The canary gets all traffic.
    AllToCanary,
    /// Stable gets all traffic; the canary stays hot, to be looked at.
    AllToStable,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// No transition: at most newer numbers of a verdict that is known. Nothing needs to be written.
    Same(Rollout),
    /// A transition, to be written before it counts.
    Moved(Transition),
}

impl Next {
    /// The rollout as it is then.
    pub fn rollout(&self) -> &Rollout {
        match self {
            Self::Same(rollout) => rollout,
            Self::Moved(transition) => &transition.rollout,
        }
    }
}

/// A transition.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The rollout after it.
    pub rollout: Rollout,
    /// Where it was; nowhere at its beginning.
    pub from: Option<State>,
    /// The canary's weight before.
    pub from_weight: Weight,
    /// What the route must become.
    pub action: Option<Action>,
    /// Why, in one sentence.
    pub reason: String,
    /// Who: an operator, or `switchback`.
    pub actor: String,
    /// When.
    pub at: Timestamp,
}

/// An event that makes no sense now; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has ended.
    #[error("{what}: the rollout has ended: it is {place}; start a new one")]
    Ended {
        /// What was asked for.
        what: &'static str,
        /// Where the rollout is.
        place: String,
    },
    /// An operator's command.
    #[error("{command}: {}; it is {place}; what works now: {}", obstacle(*command, allowed), list(allowed))]
    NotNow {
        /// What was asked for.
        command: Command,
        /// Where the rollout is.
        place: String,
        /// What would do.
        allowed: &'static [Command],
    },
    /// A result of a suite that does not run.
    #[error("{what}: no regression suite of the rollout runs; it is {place}")]
    NoSuiteRuns {
        /// What was reported.
        what: &'static str,
        /// Where the rollout is.
        place: String,
    },
}

fn obstacle(command: Command, allowed: &[Command]) -> &'static str {
    match command {
        Command::Pause if allowed.contains(&Command::Resume) => "the rollout already waits for an operator",
        command => command.obstacle(),
    }
}

fn list(commands: &[Command]) -> String {
    commands.iter().map(|command| command.as_str()).collect::<Vec<_>>().join(", ")
}

impl Event {
    /// The event in a word or two.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::SuiteStarted | Self::NoSuite => "start",
            Self::SuitePassed => "suite passed",
            Self::SuiteFailed { .. } => "suite failed",
            Self::Tick => "tick",
            Self::Restarted { .. } => "restart",
            Self::Judged { .. } => "verdict",
            Self::Operator { command, .. } => command.as_str(),
            Self::RolledBack { .. } => "rollback",
            Self::Superseded { .. } => "supersede",
            Self::CanaryDied { .. } => "canary died",
            Self::StableDied { .. } => "stable died",
        }
    }
}
