//! A rollout policy: how a canary grows, and what it is held to. The ready-made ones are here too.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::guardrails::{Guardrails, Ratio, RelativeChange, TimeLimit, Timing};
use crate::ids::Weight;

/// A risk profile: steps, and the errors that a decision may make.
///
/// Its JSON is what the store keeps of a rollout's policy. A field that is missing there is younger than the rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// What happens in turn; weights never fall.
    pub steps: Vec<Step>,
    /// The drop of a pass rate that must be caught.
    pub margin: PercentagePoints,
    /// The most that the chance of aborting a canary may be that is no worse.
    pub alpha: Chance,
    /// The least that the chance of aborting a canary may be that is worse by the margin.
    pub power: Chance,
    /// Canary answers before which nothing is decided.
    pub min_samples: u64,
    /// What follows when the steps are over and the traffic did not suffice to tell.
    pub on_inconclusive: OnInconclusive,
    /// Who has the last word before all traffic moves.
    pub approval: Approval,
    /// Whether a canary that has proved itself waits for its steps to pass.
    pub early_promote: EarlyPromote,
    /// What it is held to beside the quality of its answers.
    pub guardrails: Guardrails,
}

/// One step, as Argo Rollouts names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sends the canary a copy of this share of stable's requests. Its answers are checked and thrown away.
    SetMirrorRoute(Weight),
    /// Gives the canary this share, and ends the copies.
    SetWeight(Weight),
    /// Waits, and watches.
    Pause(Pause),
}

/// How long a step waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// So long.
    For(Duration),
    /// Until an operator resumes.
    UntilResumed,
}

/// What follows when the analysis cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// The weights stay as they are until it can, or an operator decides.
    Hold,
    /// As if it had proved itself.
    Promote,
    /// As if it had failed.
    Abort,
}

/// Who has the last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// The analysis.
    Auto,
    /// An operator.
    Manual,
}

/// Whether a canary that has proved itself waits for its steps to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyPromote {
    /// It is promoted at once.
    Yes,
    /// It waits.
    No,
}

/// A difference of two percentages, above 0 and below 100.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct PercentagePoints(f64);

impl PercentagePoints {
    /// Above 0 and below 100.
    pub fn new(points: f64) -> Option<Self> {
        (points > 0.0 && points < 100.0).then_some(Self(points))
    }

    /// As a share: 0.03 for three points.
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl TryFrom<f64> for PercentagePoints {
    type Error = &'static str;
    fn try_from(number: f64) -> Result<Self, Self::Error> {
        Self::new(number).ok_or("give percentage points above 0 and below 100")
    }
}

impl From<PercentagePoints> for f64 {
    fn from(number: PercentagePoints) -> f64 {
        number.0
    }
}

impl FromStr for PercentagePoints {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        s.parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| "give percentage points above 0 and below 100".into())
    }
}

impl fmt::Display for PercentagePoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A probability, above 0 and below 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Chance(f64);

impl Chance {
    /// What guardrails have for all their errors where nothing else is said.
    pub(super) const GUARDRAILS: Self = Self(0.001);

    /// Above 0 and below 1.
    pub fn new(chance: f64) -> Option<Self> {
        (chance > 0.0 && chance < 1.0).then_some(Self(chance))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Chance {
    type Error = &'static str;
    fn try_from(number: f64) -> Result<Self, Self::Error> {
        Self::new(number).ok_or("give a probability above 0 and below 1")
    }
}

impl From<Chance> for f64 {
    fn from(number: Chance) -> f64 {
        number.0
    }
}

impl FromStr for Chance {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        s.parse().ok().and_then(Self::new).ok_or_else(|| "give a probability above 0 and below 1".into())
    }
}

/// No policy of this name; says which there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy {name:?}; there are {known}")]
pub struct UnknownPolicy {
    /// As asked, cut to a length fit for a message.
    pub name: String,
    /// Those that there are.
    pub known: String,
}

impl Policy {
    /// The policy of this name: ready-made, or one of the configuration's `own`, whose names are others.
    pub fn named(name: &str, own: &BTreeMap<String, Self>) -> Result<Self, UnknownPolicy> {
        let ready_made = || ReadyMade::named(name).map(ReadyMade::policy);
        own.get(name).cloned().or_else(ready_made).ok_or_else(|| {
            let known =
                ReadyMade::ALL.iter().map(|policy| policy.name()).chain(own.keys().map(String::as_str));
            let known = known.collect::<Vec<_>>().join(", ");
            UnknownPolicy { name: name.chars().take(80).collect(), known }
        })
    }
}

/// The policies that come with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyMade {
    /// 5, 25, 100 % within an hour, three points: what customers read.
    CustomerFacing,
    /// 5, 100 % within half an hour, five points: what other programs read.
    InternalClassifier,
    /// 5, 25, 100 % within twenty minutes, three points: the same version in other hands.
    CodeOnly,
    /// No canary: what runs at night.
    Batch,
    /// One percent of the users until an operator decides.
    Experimental,
}

impl ReadyMade {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::CustomerFacing, Self::InternalClassifier, Self::CodeOnly, Self::Batch, Self::Experimental];

    /// The name in configurations and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CustomerFacing => "customer-facing",
            Self::InternalClassifier => "internal-classifier",
            Self::CodeOnly => "code-only",
            Self::Batch => "batch",
            Self::Experimental => "experimental",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// What it says.
    pub fn policy(self) -> Policy {
        let weight =
            |percent: u16| Step::SetWeight(Weight::from_basis_points(percent * 100).unwrap_or(Weight::FULL));
        let pause = |minutes: u64| Step::Pause(Pause::For(Duration::from_mins(minutes)));
        let (steps, points) = match self {
            Self::CustomerFacing => (vec![weight(5), pause(20), weight(25), pause(40), weight(100)], 3.0),
            Self::InternalClassifier => (vec![weight(5), pause(30), weight(100)], 5.0),
            Self::CodeOnly => (vec![weight(5), pause(5), weight(25), pause(15), weight(100)], 3.0),
            Self::Batch => (vec![weight(100)], 5.0),
            Self::Experimental => (vec![weight(1), Step::Pause(Pause::UntilResumed)], 5.0),
        };
        let guardrails = match self {
            Self::CustomerFacing | Self::CodeOnly | Self::Experimental => gross(),
            Self::InternalClassifier | Self::Batch => Guardrails::none(),
        };
        let approval = if self == Self::Experimental { Approval::Manual } else { Approval::Auto };
        Policy { steps, margin: PercentagePoints(points), approval, guardrails, ..Policy::default() }
    }
}

/// What people who wait for answers would notice: one in twenty takes twice as long, or they are half as long again or
/// half as long.
fn gross() -> Guardrails {
    let quantile = Chance(0.95);
    let twice = Ratio::new(2.0).map(|max_ratio| (Timing::Latency, TimeLimit { quantile, max_ratio }));
    Guardrails {
        times: twice.into_iter().collect(),
        output_length: RelativeChange::percent(50.0),
        ..Guardrails::none()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            margin: PercentagePoints(3.0),
            alpha: Chance(0.01),
            power: Chance(0.95),
            min_samples: 30,
            on_inconclusive: OnInconclusive::Hold,
            approval: Approval::Auto,
            early_promote: EarlyPromote::No,
            guardrails: Guardrails::none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_made_policies_keep_what_their_names_promise() {
        for policy in ReadyMade::ALL {
            assert_eq!(ReadyMade::named(policy.name()), Some(policy));
        }
        let minutes = |policy: ReadyMade| {
            let pause = |step: &Step| match step {
                Step::Pause(Pause::For(time)) => time.as_secs() / 60,
                _ => 0,
            };
            policy.policy().steps.iter().map(pause).sum::<u64>()
        };
        assert_eq!(ReadyMade::ALL.map(minutes), [60, 30, 20, 0, 0]);
        assert_eq!(ReadyMade::Experimental.policy().approval, Approval::Manual);
    }

    #[test]
    fn a_policy_reads_back_as_it_was_written() {
        for policy in ReadyMade::ALL.map(ReadyMade::policy) {
            let text = serde_json::to_string(&policy).unwrap();
            assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy, "{text}");
        }
        assert!(serde_json::from_str::<Policy>(r#"{"margin": 0}"#).is_err());
    }

    #[test]
    fn margins_and_chances_that_mean_nothing_are_refused() {
        for bad in ["0", "-1", "100", "NaN", "x"] {
            assert!(bad.parse::<PercentagePoints>().is_err(), "{bad}");
        }
        for bad in ["0", "1", "1.5", "NaN"] {
            assert!(bad.parse::<Chance>().is_err(), "{bad}");
        }
    }
}
