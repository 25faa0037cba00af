//! From the checks of answers to the rollouts that they judge.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{CheckSpec, Config, ModelConfig};
use crate::ids::ModelName;
use crate::quality::{self, Observation, Way};
use crate::release::analysis::{self, Measured};
use crate::release::{Seen, SeenAnswer, Watched, WatchedCheck};
use crate::telemetry::{Metrics, Outcome};

/// Observations that may wait for the watcher.
pub(super) const SEEN: usize = 4096;

/// How often rollouts are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Hands what the checks saw to the watcher. What it cannot take at once is lost to rollouts, and counted: less
/// evidence, not wrong evidence.
pub(super) fn sink(seen: mpsc::Sender<Seen>, metrics: Metrics) -> quality::Sink {
    Box::new(move |observation: Observation| {
        let Some(one) = to_watch(observation) else { return };
        if let Err(lost) = seen.try_send(one) {
            metrics.observation_dropped(&lost.into_inner().version.model);
        }
    })
}

/// What an observation says of its version on the route; nothing where the client named the version or left. A copy
/// that came to no end in time says nothing either: it had to wait for all others.
fn to_watch(observation: Observation) -> Option<Seen> {
    let measured = measured(&observation);
    let Observation { version, way, user, outcome, judgements, .. } = observation;
    let answer = match (way, outcome) {
        (Way::Routed | Way::Mirrored, Outcome::Ok) => SeenAnswer::Whole(
            judgements.into_iter().map(|(check, judgement)| (check, analysed(judgement.verdict))).collect(),
        ),
        (Way::Routed, Outcome::Failed | Outcome::Timeout) | (Way::Mirrored, Outcome::Failed) => {
            SeenAnswer::Broken
        }
        (Way::Routed | Way::Mirrored | Way::Pinned, _) => return None,
    };
    Some(Seen { version, user, answer, measured })
}

/// What an answer's times and length are known to be. One that ran out of time took no less than that; one that failed
/// ended early, which makes it neither fast nor short.
fn measured(observation: &Observation) -> Measured {
    let Observation { outcome, elapsed, time_to_first_token, output_tokens, .. } = observation;
    match outcome {
        Outcome::Ok => Measured {
            latency: Some(*elapsed),
            first_token: *time_to_first_token,
            output_tokens: Some(*output_tokens),
        },
        Outcome::Timeout => Measured {
            latency: Some(*elapsed),
            first_token: Some(time_to_first_token.unwrap_or(*elapsed)),
            output_tokens: None,
        },
        _ => Measured::default(),
    }
}

fn analysed(verdict: quality::Verdict) -> analysis::Outcome {
    match verdict {
        quality::Verdict::Pass => analysis::Outcome::Passed,
        quality::Verdict::Fail => analysis::Outcome::Failed,
    }
}

fn watched_check(check: &CheckSpec) -> WatchedCheck {
    WatchedCheck { name: check.name.clone(), judges: check.kind.judges() }
}

pub(super) fn watched(config: &Config) -> BTreeMap<ModelName, Watched> {
    let checks = |settings: &ModelConfig| settings.checks.iter().map(watched_check).collect();
    config
        .models
        .iter()
        .map(|(model, settings)| (model.clone(), Watched { checks: checks(settings) }))
        .collect()
}
