//! From the checks of answers to the rollouts that they judge.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{Config, ModelConfig};
use crate::ids::ModelName;
use crate::quality::{self, Observation, Way};
use crate::release::{Seen, SeenAnswer, Watched, analysis};
use crate::telemetry::Outcome;

/// Observations that may wait for the watcher.
pub(super) const SEEN: usize = 4096;

/// How often rollouts are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Hands what the checks saw to the watcher. What it cannot take at once is lost to rollouts: less evidence, not wrong
/// evidence.
pub(super) fn sink(seen: mpsc::Sender<Seen>) -> quality::Sink {
    Box::new(move |observation: Observation| {
        if let Some(one) = to_watch(observation) {
            let _ = seen.try_send(one);
        }
    })
}

/// What an observation says of its version on the route; nothing where the client named the version or left.
fn to_watch(observation: Observation) -> Option<Seen> {
    let Observation { version, way, user, outcome, judgements, .. } = observation;
    let answer = match (way, outcome) {
        (Way::Routed, Outcome::Ok) => SeenAnswer::Whole(
            judgements.into_iter().map(|(check, judgement)| (check, analysed(judgement.verdict))).collect(),
        ),
        (Way::Routed, Outcome::Failed | Outcome::Timeout) => SeenAnswer::Broken,
        (Way::Routed | Way::Pinned, _) => return None,
    };
    Some(Seen { version, user, answer })
}

fn analysed(verdict: quality::Verdict) -> analysis::Outcome {
    match verdict {
        quality::Verdict::Pass => analysis::Outcome::Passed,
        quality::Verdict::Fail => analysis::Outcome::Failed,
    }
}

pub(super) fn watched(config: &Config) -> BTreeMap<ModelName, Watched> {
    let checks = |settings: &ModelConfig| settings.checks.iter().map(|check| check.name.clone()).collect();
    config
        .models
        .iter()
        .map(|(model, settings)| (model.clone(), Watched { checks: checks(settings) }))
        .collect()
}
