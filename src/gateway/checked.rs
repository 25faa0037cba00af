//! An answer's choices on their way to the checks: their texts, gathered as they stream by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::GatewayError;
use crate::dialect::Piece;
use crate::engine::FinishReason;
use crate::quality::{self, CutShort, Response, Tool, ToolCall, Watch};
use crate::telemetry::Outcome;

/// The choices of one answer that is to be checked.
pub(super) struct CheckedAnswer {
    watch: Watch,
    admitted: Instant,
    /// None once the choice has been handed over.
    choices: Vec<Option<Choice>>,
    /// The tools that the request offered.
    offered: Arc<[Tool]>,
}

#[derive(Default)]
struct Choice {
    text: String,
    calls: Vec<ToolCall>,
    tokens: usize,
    first_token: Option<Duration>,
}

impl CheckedAnswer {
    pub(super) fn new(watch: Watch, admitted: Instant, choices: usize, offered: Arc<[Tool]>) -> Self {
        Self { watch, admitted, choices: (0..choices).map(|_| Some(Choice::default())).collect(), offered }
    }

    /// A token came.
    pub(super) fn token(&mut self, choice: usize) {
        let admitted = self.admitted;
        if let Some(choice) = &mut self.choices[choice] {
            choice.tokens += 1;
            choice.first_token.get_or_insert_with(|| admitted.elapsed());
        }
    }

    /// A piece of the answer. What the model thinks is not judged.
    pub(super) fn piece(&mut self, choice: usize, piece: &Piece) {
        let Some(choice) = &mut self.choices[choice] else { return };
        match piece {
            Piece::Text(text) => choice.text.push_str(text),
            Piece::Reasoning(_) => {}
            Piece::Call(name) => {
                choice.calls.push(ToolCall { name: name.clone(), arguments: String::new() });
            }
            Piece::Arguments(text) => {
                if let Some(call) = choice.calls.last_mut() {
                    call.arguments.push_str(text);
                }
            }
        }
    }

    /// A choice ended by itself.
    pub(super) fn finished(&mut self, choice: usize, reason: FinishReason, tokens: usize) {
        let Some(finish_reason) = public_reason(reason) else { return };
        if let Some(choice) = self.choices[choice].take() {
            let called = finish_reason == quality::FinishReason::Stop && !choice.calls.is_empty();
            let finish_reason = if called { quality::FinishReason::ToolCalls } else { finish_reason };
            self.watch.finished(Response {
                text: choice.text,
                finish_reason,
                output_tokens: tokens,
                time_to_first_token: choice.first_token,
                elapsed: self.admitted.elapsed(),
                tool_calls: choice.calls,
                tools: Arc::clone(&self.offered),
            });
        }
    }

    /// The answer is over; choices that are still open were cut short.
    pub(super) fn over(&mut self, outcome: Outcome) {
        let elapsed = self.admitted.elapsed();
        for choice in self.choices.iter_mut().filter_map(Option::take) {
            self.watch.cut_short(CutShort {
                outcome,
                elapsed,
                time_to_first_token: choice.first_token,
                output_tokens: choice.tokens,
            });
        }
    }
}

/// Lets rollouts know that a version would not take a request: it cannot, or its queue is full, as one that is slower
/// than the other sheds load sooner. What says nothing of the version is not told.
pub(super) fn saw_refusal(watch: Option<Watch>, error: &GatewayError, admitted: Instant) {
    let outcome = error.outcome();
    let told = matches!(outcome, Outcome::Invalid | Outcome::QueueFull);
    if let Some(watch) = watch.filter(|_| told) {
        let elapsed = admitted.elapsed();
        watch.cut_short(CutShort { outcome, elapsed, time_to_first_token: None, output_tokens: 0 });
    }
}

/// The reason as clients see it; none where the answer was cut off.
fn public_reason(reason: FinishReason) -> Option<quality::FinishReason> {
    match reason {
        FinishReason::Stop => Some(quality::FinishReason::Stop),
        FinishReason::Length => Some(quality::FinishReason::Length),
        FinishReason::Cancelled => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::config::{CheckKind, CheckSpec};
    use crate::ids::{VersionRef, Weight};
    use crate::quality::{CheckQueue, Checks, Limits, Observation, Plan, Verdict, Way};
    use crate::telemetry::Metrics;

    fn version() -> VersionRef {
        VersionRef { model: "m".parse().unwrap(), version: "v1".parse().unwrap() }
    }

    fn queue() -> (CheckQueue, Receiver<Observation>) {
        let spec = CheckSpec { name: "is-json".parse().unwrap(), line: 1, kind: CheckKind::IsJson };
        let plan = Plan { checks: Checks::compile(&[spec], None).unwrap(), share: Weight::FULL };
        let (sender, seen) = channel();
        let plans = BTreeMap::from([(version().model, plan)]);
        let sink = Box::new(move |seen| sender.send(seen).unwrap());
        (CheckQueue::start(plans, Limits::default(), Metrics::new().unwrap(), sink).unwrap(), seen)
    }

    #[test]
    fn finished_choices_are_judged_by_their_whole_text_and_open_ones_are_only_counted() {
        let (queue, seen) = queue();
        let watch = queue.watch(&version(), Way::Routed, jiff::Timestamp::UNIX_EPOCH, || 7).unwrap();
        let mut answer = CheckedAnswer::new(watch, Instant::now(), 3, Arc::default());
        for (choice, text) in [(0, "{\"a\""), (1, "{"), (0, ""), (0, ": 1")] {
            answer.token(choice);
            answer.piece(choice, &Piece::Text(text.to_owned()));
        }
        answer.piece(0, &Piece::Reasoning("not JSON".into()));
        answer.piece(0, &Piece::Text("}".into()));
        answer.finished(0, FinishReason::Stop, 4);
        // What the engine cut off is no finished answer.
        answer.finished(1, FinishReason::Cancelled, 1);
        answer.over(Outcome::Unavailable);
        answer.over(Outcome::Unavailable);
        drop((answer, queue));
        let seen: Vec<_> = seen.iter().collect();
        let told: Vec<_> = seen.iter().map(|o| (o.outcome, o.output_tokens, o.judgements.len())).collect();
        let cut = Outcome::Unavailable;
        assert_eq!(told, [(Outcome::Ok, 4, 1), (cut, 1, 0), (cut, 0, 0)]);
        assert_eq!(seen[0].judgements[0].1.verdict, Verdict::Pass);
        assert!(seen[0].time_to_first_token.is_some() && seen[2].time_to_first_token.is_none());
    }
}
