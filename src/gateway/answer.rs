//! An answer as it comes: the deltas of all its choices in one stream, within one deadline, counted once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::FutureExt;
use futures::stream::{BoxStream, SelectAll, Stream, StreamExt};
use tokio::time::Sleep;

use super::GatewayError;
use super::backend::Backend;
use super::checked::CheckedAnswer;
use crate::engine::{Event, Failure, FinishReason, Generation, TokenLogprob, Usage};
use crate::ids::{ResponseId, VersionRef};
use crate::quality::Watch;
use crate::telemetry::{Metrics, Outcome, RequestSample};

/// An admitted request.
#[derive(Debug)]
pub struct Answer {
    /// Names it.
    pub id: ResponseId,
    /// Who answers.
    pub version: VersionRef,
    /// Names what decides the answer.
    pub fingerprint: String,
    /// Of each prompt, its text if it is to be repeated.
    pub prompts: Vec<PromptEcho>,
    /// How many choices each prompt has; choice `i` belongs to prompt `i / choices_per_prompt`.
    pub choices_per_prompt: usize,
    /// The deltas. Dropping it cancels what still runs.
    pub stream: AnswerStream,
}

/// A prompt as the answer repeats it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptEcho {
    /// Its text, if asked for.
    pub text: Option<String>,
    /// Its tokens.
    pub tokens: usize,
}

/// The next piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// The log-probabilities of the prompt, if asked for; before any text of this choice.
    Prompt {
        /// Which choice.
        choice: usize,
        /// One a token; the first has none before it.
        tokens: Vec<TokenLogprob>,
    },
    /// Text of a choice; may be empty where it comes with a log-probability.
    Text {
        /// Which choice.
        choice: usize,
        /// The text.
        text: String,
        /// Of the token behind it, if asked for.
        logprob: Option<TokenLogprob>,
    },
    /// A choice has ended.
    Finished {
        /// Which choice.
        choice: usize,
        /// Why.
        reason: FinishReason,
    },
    /// All choices have ended; nothing follows.
    Done(Usage),
}

/// The deltas of an answer. Ends after [`Delta::Done`] or after an error.
pub struct AnswerStream {
    running: SelectAll<BoxStream<'static, (usize, Option<Event>)>>,
    /// Which choices have not ended.
    open: Vec<bool>,
    /// A request for no tokens at all: the engine makes one, and it is thrown away.
    keep_tokens: bool,
    deadline: Pin<Box<Sleep>>,
    allowed: Duration,
    choices_per_prompt: usize,
    /// Tokens of the choices that have ended, as their engine counts them.
    completed: usize,
    record: Record,
    ended: bool,
    /// Held so that the version is not freed under the request.
    _backend: Arc<Backend>,
}

/// What is told to the metrics and the checks when the stream is dropped, wherever that happens.
struct Record {
    metrics: Metrics,
    version: VersionRef,
    admitted: Instant,
    first_token: Option<Duration>,
    prompt_tokens: u64,
    cached_tokens: u64,
    generated_tokens: u64,
    outcome: Outcome,
    /// None where nothing is to be checked: then no text is gathered.
    checked: Option<CheckedAnswer>,
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(checked) = &mut self.checked {
            checked.over(self.outcome);
        }
        self.metrics.request_ended(
            &self.version,
            &RequestSample {
                outcome: self.outcome,
                elapsed: self.admitted.elapsed(),
                first_token: self.first_token,
                prompt_tokens: self.prompt_tokens,
                cached_tokens: self.cached_tokens,
                generated_tokens: self.generated_tokens,
            },
        );
    }
}

/// What a stream is made from.
pub(super) struct Admission {
    pub(super) backend: Arc<Backend>,
    pub(super) generations: Vec<Generation>,
    pub(super) choices_per_prompt: usize,
    pub(super) prompt_tokens: usize,
    pub(super) keep_tokens: bool,
    pub(super) admitted: Instant,
    pub(super) allowed: Duration,
    pub(super) metrics: Metrics,
    pub(super) watch: Option<Watch>,
}

impl AnswerStream {
    pub(super) fn new(admission: Admission) -> Self {
        let Admission { backend, generations, choices_per_prompt, admitted, allowed, metrics, watch, .. } =
            admission;
        metrics.request_started();
        let open = vec![true; generations.len()];
        let checked = watch.map(|watch| CheckedAnswer::new(watch, admitted, generations.len()));
        let tagged = generations.into_iter().enumerate().map(|(choice, generation)| {
            let end = futures::stream::once(async move { (choice, None) });
            generation.map(move |event| (choice, Some(event))).chain(end).boxed()
        });
        Self {
            running: tagged.collect(),
            open,
            keep_tokens: admission.keep_tokens,
            deadline: Box::pin(tokio::time::sleep_until((admitted + allowed).into())),
            allowed,
            choices_per_prompt,
            completed: 0,
            record: Record {
                metrics,
                version: backend.version().clone(),
                admitted,
                first_token: None,
                prompt_tokens: admission.prompt_tokens as u64,
                cached_tokens: 0,
                generated_tokens: 0,
                outcome: Outcome::Cancelled,
                checked,
            },
            ended: false,
            _backend: backend,
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.ended = true;
        self.record.outcome = outcome;
        // Dropping the generations cancels those that still run.
        self.running.clear();
    }

    fn fail(&mut self, outcome: Outcome, error: GatewayError) -> Result<Delta, GatewayError> {
        self.end(outcome);
        Err(error)
    }

    /// The delta of one event; none where the event has nothing for the client.
    fn on_event(&mut self, choice: usize, event: Event) -> Option<Result<Delta, GatewayError>> {
        match event {
            Event::Started { prompt, cached_tokens } => {
                if choice.is_multiple_of(self.choices_per_prompt) {
                    self.record.cached_tokens += cached_tokens as u64;
                }
                (!prompt.is_empty()).then_some(Ok(Delta::Prompt { choice, tokens: prompt }))
            }
            Event::Token(token) => {
                if !self.keep_tokens {
                    return None;
                }
                self.record.generated_tokens += 1;
                let admitted = self.record.admitted;
                self.record.first_token.get_or_insert_with(|| admitted.elapsed());
                if let Some(checked) = &mut self.record.checked {
                    checked.token(choice, &token.text);
                }
                let nothing = token.text.is_empty() && token.logprob.is_none();
                (!nothing).then_some(Ok(Delta::Text { choice, text: token.text, logprob: token.logprob }))
            }
            Event::Text(text) if self.keep_tokens && !text.is_empty() => {
                if let Some(checked) = &mut self.record.checked {
                    checked.text(choice, &text);
                }
                Some(Ok(Delta::Text { choice, text, logprob: None }))
            }
            Event::Text(_) => None,
            Event::Finished { reason, usage } => {
                self.open[choice] = false;
                if self.keep_tokens {
                    self.completed += usage.completion_tokens;
                }
                if reason == FinishReason::Cancelled {
                    return Some(self.fail(Outcome::Unavailable, GatewayError::CutOff));
                }
                if let Some(checked) = &mut self.record.checked {
                    checked.finished(choice, reason, usage.completion_tokens);
                }
                let reason = if self.keep_tokens { reason } else { FinishReason::Length };
                Some(Ok(Delta::Finished { choice, reason }))
            }
            Event::Failed(Failure::Constraint(why)) => {
                Some(self.fail(Outcome::Invalid, GatewayError::Grammar { why }))
            }
            Event::Failed(why) => Some(self.fail(Outcome::Failed, GatewayError::Engine(why))),
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.record.prompt_tokens as usize,
            completion_tokens: self.completed,
            cached_tokens: self.record.cached_tokens as usize,
        }
    }
}

impl Stream for AnswerStream {
    type Item = Result<Delta, GatewayError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.deadline.poll_unpin(cx).is_ready() {
            let after = self.allowed;
            return Poll::Ready(Some(self.fail(Outcome::Timeout, GatewayError::Deadline { after })));
        }
        loop {
            match self.running.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    let usage = self.usage();
                    self.end(Outcome::Ok);
                    return Poll::Ready(Some(Ok(Delta::Done(usage))));
                }
                Poll::Ready(Some((choice, Some(event)))) => {
                    if let Some(item) = self.on_event(choice, event) {
                        return Poll::Ready(Some(item));
                    }
                }
                Poll::Ready(Some((choice, None))) if self.open[choice] => {
                    let error = GatewayError::Engine(Failure::Ended);
                    return Poll::Ready(Some(self.fail(Outcome::Failed, error)));
                }
                Poll::Ready(Some((_, None))) => {}
            }
        }
    }
}

impl std::fmt::Debug for AnswerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerStream")
            .field("version", &self.record.version)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}
