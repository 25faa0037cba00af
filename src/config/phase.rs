//! The states of a rollout in one word each: what webhooks subscribe to, and what stores, logs and answers show.

use serde::{Deserialize, Serialize};

/// A state in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the states say what they mean")]
pub enum Phase {
    Pending,
    Suite,
    Step,
    Paused,
    AwaitingApproval,
    Held,
    Promoted,
    Aborted,
    RolledBack,
    Superseded,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Suite,
        Self::Step,
        Self::Paused,
        Self::AwaitingApproval,
        Self::Held,
        Self::Promoted,
        Self::Aborted,
        Self::RolledBack,
        Self::Superseded,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Suite => "suite",
            Self::Step => "step",
            Self::Paused => "paused",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Held => "held",
            Self::Promoted => "promoted",
            Self::Aborted => "aborted",
            Self::RolledBack => "rolled_back",
            Self::Superseded => "superseded",
        }
    }

    /// True for the four in which a rollout has ended.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Promoted | Self::Aborted | Self::RolledBack | Self::Superseded)
    }
}
