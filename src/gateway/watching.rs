//! From the checks of answers to the rollouts that they judge.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::config::{CheckKind, CheckSpec, Config, ModelConfig};
use crate::ids::ModelName;
use crate::quality::{self, Observation, Way};
use crate::release::analysis::{self, Measured};
use crate::release::{FeedbackCheck, Message, Request, Seen, SeenAnswer, Watched, WatchedCheck};
use crate::telemetry::{Metrics, Outcome};

/// Observations that may wait for the watcher.
pub(super) const SEEN: usize = 4096;

/// Hands what the checks saw to the watcher. What it cannot take at once is lost to rollouts, and counted: less
/// evidence, not wrong evidence.
pub(super) fn sink(watcher: mpsc::Sender<Message>, metrics: Metrics) -> quality::Sink {
    Box::new(move |observation: Observation| {
        let Some(one) = to_watch(observation) else { return };
        let model = one.version.model.clone();
        if watcher.try_send(Message::Seen(one)).is_err() {
            metrics.observation_dropped(&model);
        }
    })
}

/// What an observation says of its version on the route; nothing where the client named the version or
/// left, or where a flag makes the user unlike the others. A copy
/// that came to no end in time says nothing either: it had to wait for all others.
fn to_watch(observation: Observation) -> Option<Seen> {
    let measured = measured(&observation);
    let Observation { version, way, user, admitted, outcome, judgements, .. } = observation;
    let answer = match (way, outcome) {
        (Way::Routed | Way::Mirrored, Outcome::Ok) => SeenAnswer::Whole(
            judgements.into_iter().map(|(check, judgement)| (check, analysed(judgement.verdict))).collect(),
        ),
        (Way::Routed | Way::Mirrored, Outcome::Failed) => SeenAnswer::Broken,
        (Way::Routed, Outcome::Timeout) => SeenAnswer::TimedOut,
        (Way::Routed | Way::Mirrored, Outcome::Invalid) | (Way::Routed, Outcome::QueueFull) => {
            SeenAnswer::Refused
        }
        (Way::Routed | Way::Mirrored | Way::Flagged | Way::Pinned, _) => return None,
    };
    let request = if way == Way::Mirrored { Request::Copy } else { Request::Original };
    Some(Seen { version, user, admitted, answer, request, measured })
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

fn feedback_check(check: &CheckSpec) -> Option<FeedbackCheck> {
    match check.kind {
        CheckKind::Feedback { threshold } => Some(FeedbackCheck { name: check.name.clone(), threshold }),
        _ => None,
    }
}

fn watched_check(check: &CheckSpec) -> WatchedCheck {
    WatchedCheck { name: check.name.clone(), judges: check.kind.judges() }
}

pub(super) fn watched(config: &Config) -> BTreeMap<ModelName, Watched> {
    let watched = |settings: &ModelConfig| Watched {
        checks: settings.checks.iter().map(watched_check).collect(),
        feedback: settings.checks.iter().find_map(feedback_check),
    };
    config.models.iter().map(|(model, settings)| (model.clone(), watched(settings))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::VersionRef;

    #[test]
    fn a_full_queue_is_a_refusal_to_a_client_and_nothing_to_a_copy() {
        let seen = |way, outcome| {
            to_watch(Observation {
                version: VersionRef { model: "m".parse().unwrap(), version: "v1".parse().unwrap() },
                way,
                user: 7,
                admitted: jiff::Timestamp::UNIX_EPOCH,
                outcome,
                elapsed: Duration::from_millis(1),
                time_to_first_token: None,
                output_tokens: 0,
                judgements: Vec::new(),
            })
            .map(|seen| (seen.answer, seen.measured))
        };
        let refused = Some((SeenAnswer::Refused, Measured::default()));
        assert_eq!(seen(Way::Routed, Outcome::QueueFull), refused, "which is neither fast nor short");
        assert_eq!(seen(Way::Routed, Outcome::Invalid), refused);
        for (way, outcome) in [
            (Way::Mirrored, Outcome::QueueFull),
            (Way::Flagged, Outcome::QueueFull),
            (Way::Pinned, Outcome::QueueFull),
            (Way::Routed, Outcome::Cancelled),
            (Way::Routed, Outcome::Unavailable),
        ] {
            assert_eq!(seen(way, outcome), None, "{way:?} {outcome:?}");
        }
    }
}
