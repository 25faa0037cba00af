//! Limits that a canary is held to beside the quality of its answers: how long they take, and how long they are.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::policy::Chance;

/// The guardrails of a policy. Without any, nothing but the checks can abort a canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guardrails {
    /// The most that the chance may be that any of them aborts a canary that keeps within all of them. It is beside the
    /// policy's own alpha, not a part of it.
    pub alpha: Chance,
    /// Limits on times.
    pub times: BTreeMap<Timing, TimeLimit>,
    /// By how much the mean number of output tokens may differ from stable's, either way.
    pub output_length: Option<RelativeChange>,
}

/// What can be timed of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// From admission to the last token: what a client waits for who does not stream. Longer answers take longer.
    Latency,
    /// From admission to the first token.
    TimeToFirstToken,
    /// From the first token to the last, for each token behind the first: the speed, whatever the length.
    TimePerOutputToken,
}

/// How much slower a canary may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimeLimit {
    /// The share of answers that are faster than the time which is compared: 0.95 compares 95th percentiles.
    pub quantile: Chance,
    /// The canary's time over stable's, at most.
    pub max_ratio: Ratio,
}

/// How many times as much, above 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

/// A relative change, such as 0.3 for 30 percent; above 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct RelativeChange(f64);

impl Timing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Latency, Self::TimeToFirstToken, Self::TimePerOutputToken];

    /// The key in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::TimeToFirstToken => "time_to_first_token",
            Self::TimePerOutputToken => "time_per_output_token",
        }
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Guardrails {
    /// None at all.
    pub const fn none() -> Self {
        Self { alpha: Chance::GUARDRAILS, times: BTreeMap::new(), output_length: None }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.times.len() + usize::from(self.output_length.is_some())
    }
}

impl Default for Guardrails {
    fn default() -> Self {
        Self::none()
    }
}

impl Ratio {
    /// Above 1; a hundred times is past any use.
    pub fn new(ratio: f64) -> Option<Self> {
        (ratio > 1.0 && ratio <= 100.0).then_some(Self(ratio))
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl RelativeChange {
    /// From a percentage above 0; a hundred times as much is past any use.
    pub fn percent(percent: f64) -> Option<Self> {
        (percent > 0.0 && percent <= 10_000.0).then_some(Self(percent / 100.0))
    }

    /// As a share: 0.3 for 30 percent.
    pub const fn share(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Ratio {
    type Error = &'static str;
    fn try_from(number: f64) -> Result<Self, Self::Error> {
        Self::new(number).ok_or("give a ratio above 1 and up to 100")
    }
}

impl From<Ratio> for f64 {
    fn from(number: Ratio) -> f64 {
        number.0
    }
}

impl TryFrom<f64> for RelativeChange {
    type Error = &'static str;
    fn try_from(number: f64) -> Result<Self, Self::Error> {
        Self::percent(number * 100.0).ok_or("give a change above 0")
    }
}

impl From<RelativeChange> for f64 {
    fn from(number: RelativeChange) -> f64 {
        number.0
    }
}
