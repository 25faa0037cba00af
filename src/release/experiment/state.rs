//! An experiment, and how it ends. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Chance;
use crate::ids::{ExperimentId, ModelName, VersionName, Weight};
use crate::release::Change;

/// Who ends an experiment where no operator does.
const SWITCHBACK: &str = "switchback";

/// Two versions of a model at a fixed share.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// Its number.
    pub id: ExperimentId,
    /// What it is called.
    pub name: Option<String>,
    /// The model.
    pub model: ModelName,
    /// The version that had all traffic, and gets it back.
    pub control: VersionName,
    /// The version that is tried.
    pub treatment: VersionName,
    /// The treatment's share of the users.
    pub share: Weight,
    /// Of each interval, at all looks together.
    pub confidence: Chance,
    /// When it began.
    pub started_at: Timestamp,
    /// Who began it, and why.
    pub by: Change,
    /// When it is over; none until an operator stops it.
    pub ends_at: Option<Timestamp>,
    /// How it ended, if it has.
    pub ended: Option<Ended>,
}

/// What an experiment begins with.
#[derive(Debug, Clone)]
pub struct NewExperiment {
    /// The model.
    pub model: ModelName,
    /// What it is called.
    pub name: Option<String>,
    /// The version that has all traffic.
    pub control: VersionName,
    /// The version that is tried.
    pub treatment: VersionName,
    /// The treatment's share of the users.
    pub share: Weight,
    /// Of each interval.
    pub confidence: Chance,
    /// How long it runs; none until an operator stops it.
    pub duration: Option<Duration>,
}

/// How an experiment ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// Why, in a word.
    pub cause: EndedFor,
    /// Who: an operator, or `switchback`.
    pub actor: String,
    /// Why, in a sentence.
    pub reason: String,
}

/// Why an experiment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedFor {
    /// Its time was over.
    Duration,
    /// An operator stopped it.
    Operator,
    /// The treatment's engine died.
    TreatmentDied,
    /// Control's engine died.
    ControlDied,
    /// Somebody changed the route by hand.
    RouteTaken,
}

/// What can happen to an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExperimentEvent {
    /// Time has passed.
    Tick,
    /// An operator has seen enough.
    Stop(Change),
    /// The treatment cannot answer.
    TreatmentDied,
    /// Control cannot answer.
    ControlDied,
    /// Somebody rolled the route back or set weights by hand.
    RouteTaken(Change),
}

impl Experiment {
    /// Begins one.
    pub fn begin(id: ExperimentId, new: NewExperiment, by: Change, at: Timestamp) -> Self {
        let NewExperiment { model, name, control, treatment, share, confidence, duration } = new;
        let ends_at = duration.map(|duration| at.checked_add(duration).unwrap_or(Timestamp::MAX));
        Self {
            id,
            name,
            model,
            control,
            treatment,
            share,
            confidence,
            started_at: at,
            by,
            ends_at,
            ended: None,
        }
    }

    /// The experiment after something happened, where that ends it. What has ended does not change.
    #[must_use]
    pub fn after(&self, event: ExperimentEvent, at: Timestamp) -> Option<Self> {
        if self.ended.is_some() {
            return None;
        }
        let not_hot = |version| format!("{version} is not hot any more; `switchback models` tells why");
        let words =
            |by: &Change| if by.reason.is_empty() { String::new() } else { format!(": {}", by.reason) };
        let (cause, actor, reason) = match event {
            ExperimentEvent::Tick => {
                self.ends_at.filter(|end| *end <= at)?;
                (EndedFor::Duration, SWITCHBACK.to_owned(), "its time is over".to_owned())
            }
            ExperimentEvent::Stop(by) => {
                let reason = format!("stopped by {}{}", by.actor, words(&by));
                (EndedFor::Operator, by.actor, reason)
            }
            ExperimentEvent::TreatmentDied => {
                (EndedFor::TreatmentDied, SWITCHBACK.to_owned(), not_hot(&self.treatment))
            }
            ExperimentEvent::ControlDied => {
                (EndedFor::ControlDied, SWITCHBACK.to_owned(), not_hot(&self.control))
            }
            ExperimentEvent::RouteTaken(by) => {
                let reason = format!("{} changed the route by hand{}", by.actor, words(&by));
                (EndedFor::RouteTaken, by.actor, reason)
            }
        };
        Some(Self { ended: Some(Ended { at, cause, actor, reason }), ..self.clone() })
    }

    /// The route that it asks for: its share while it runs, then all to control. None where the route is no longer its
    /// own, or where control cannot answer: others stand in for it until an operator decides.
    pub fn weights(&self) -> Option<BTreeMap<VersionName, Weight>> {
        match &self.ended {
            None => {
                let rest = Weight::FULL.basis_points() - self.share.basis_points();
                let rest = Weight::from_basis_points(rest).unwrap_or(Weight::ZERO);
                Some([(self.control.clone(), rest), (self.treatment.clone(), self.share)].into())
            }
            Some(Ended { cause: EndedFor::RouteTaken | EndedFor::ControlDied, .. }) => None,
            Some(_) => Some([(self.control.clone(), Weight::FULL)].into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minute: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + minute * 60).unwrap()
    }

    fn begun() -> Experiment {
        let name = |name: &str| name.parse().unwrap();
        let new = NewExperiment {
            model: "desk".parse().unwrap(),
            name: None,
            control: name("v1"),
            treatment: name("v2"),
            share: Weight::from_percent(30.0).unwrap(),
            confidence: 0.95.try_into().unwrap(),
            duration: Some(Duration::from_mins(10)),
        };
        Experiment::begin(ExperimentId::new(1), new, anna(), minute(0))
    }

    fn anna() -> Change {
        Change { actor: "anna".to_owned(), reason: "enough".to_owned() }
    }

    fn shares(experiment: &Experiment) -> Option<String> {
        let shares: Vec<String> =
            experiment.weights()?.iter().map(|(version, weight)| format!("{version}={weight}")).collect();
        Some(shares.join(" "))
    }

    #[test]
    fn it_runs_at_its_share_until_its_time_is_over() {
        let running = begun();
        assert_eq!(shares(&running).unwrap(), "v1=70 v2=30");
        assert_eq!(running.after(ExperimentEvent::Tick, minute(9)), None);
        let over = running.after(ExperimentEvent::Tick, minute(10)).unwrap();
        assert_eq!(over.ended.as_ref().unwrap().cause, EndedFor::Duration);
        assert_eq!(shares(&over).unwrap(), "v1=100");
    }

    #[test]
    fn whatever_ends_it_gives_control_all_traffic_if_it_can_answer_and_the_route_is_not_an_operators_own() {
        let table = [
            (ExperimentEvent::Stop(anna()), EndedFor::Operator, "stopped by anna: enough", true),
            (ExperimentEvent::TreatmentDied, EndedFor::TreatmentDied, "v2 is not hot", true),
            (ExperimentEvent::ControlDied, EndedFor::ControlDied, "v1 is not hot", false),
            (ExperimentEvent::RouteTaken(anna()), EndedFor::RouteTaken, "anna changed the route", false),
        ];
        for (event, cause, reason, back) in table {
            let over = begun().after(event.clone(), minute(1)).unwrap();
            let ended = over.ended.clone().unwrap();
            assert!(ended.cause == cause && ended.reason.starts_with(reason), "{ended:?}");
            assert_eq!(shares(&over).is_some(), back, "{ended:?}");
            assert_eq!(over.after(event, minute(2)), None, "what has ended does not change");
        }
    }
}
