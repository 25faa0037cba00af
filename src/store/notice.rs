//! What a webhook tells of a rollout. Its JSON is what receivers get, so its names do not change.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{ModelName, RolloutId, VersionName, Weight};

/// A rollout has come to another state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutNotice {
    /// The name of the state.
    pub event: String,
    /// When.
    pub at: Timestamp,
    /// The model.
    pub model: ModelName,
    /// The rollout's number.
    pub rollout: RolloutId,
    /// The version that the canary is compared with.
    pub stable: VersionName,
    /// The version that is rolled out.
    pub canary: VersionName,
    /// Where the rollout was, such as `step 2`; nowhere at its beginning.
    pub from: Option<String>,
    /// Where it is now.
    pub to: String,
    /// The model's route from then on, in percent.
    pub weights: BTreeMap<VersionName, Weight>,
    /// What moves it next: `time`, `resume`, `approval`, `verdict`, ... or `nothing`.
    pub waits_for: String,
    /// Who did it.
    pub actor: String,
    /// Why, in one sentence.
    pub reason: String,
    /// What the analysis said last, in a word.
    pub verdict: Option<String>,
    /// And why, with its numbers.
    pub finding: Option<String>,
}
