//! An answer as it comes: the deltas of all its choices in one stream, within one deadline, counted once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::FutureExt;
use futures::stream::{BoxStream, SelectAll, Stream, StreamExt};
use tokio::time::Sleep;

use super::GatewayError;
use super::backend::Backend;
use super::canned::AnsweredBy;
use super::checked::CheckedAnswer;
use super::kept::Keeping;
use super::speech::{Reading, call_id};
use crate::dialect::{Piece, Pieces};
use crate::engine::{Event, Failure, FinishReason, Generation, TokenLogprob, Usage};
use crate::ids::{ResponseId, VersionRef};
use crate::quality::{Tool, Watch};
use crate::telemetry::{Metrics, Outcome, RequestSample};

/// An admitted request.
#[derive(Debug)]
pub struct Answer {
    /// Names it.
    pub id: ResponseId,
    /// Who answers.
    pub by: AnsweredBy,
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
        reason: Ending,
    },
    /// More of what a choice thinks before it answers.
    Reasoning {
        /// Which choice.
        choice: usize,
        /// The text.
        text: String,
    },
    /// A choice begins to call a tool.
    Call {
        /// Which choice.
        choice: usize,
        /// Which of its calls, from 0.
        call: usize,
        /// Names the call.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of the arguments of the call that a choice made last.
    Arguments {
        /// Which choice.
        choice: usize,
        /// Which of its calls.
        call: usize,
        /// JSON, if the model kept to it.
        text: String,
    },
    /// All choices have ended; nothing follows.
    Done(Totals),
}

/// Why a choice ended, as its client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, or at a stop text.
    Stop,
    /// At its most tokens.
    Length,
    /// By itself, after it called tools.
    ToolCalls,
}

/// What all choices took together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Tokens.
    pub usage: Usage,
    /// Of the tokens generated, those of reasoning; none where that is not told from the answer.
    pub reasoning_tokens: Option<usize>,
}

/// The deltas of an answer. Ends after [`Delta::Done`] or after an error.
#[derive(Debug)]
pub enum AnswerStream {
    /// A version gives it.
    Version(Box<VersionStream>),
    /// A flag does: these are all.
    Canned(VecDeque<Delta>),
}

impl Stream for AnswerStream {
    type Item = Result<Delta, GatewayError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Version(stream) => stream.poll_next_unpin(cx),
            Self::Canned(deltas) => Poll::Ready(deltas.pop_front().map(Ok)),
        }
    }
}

/// The deltas that a version's engine gives.
pub struct VersionStream {
    running: SelectAll<BoxStream<'static, (usize, Option<Event>)>>,
    /// Which choices have not ended.
    open: Vec<bool>,
    /// How each choice is read.
    readings: Vec<Reading>,
    /// What is to be told next.
    ready: VecDeque<Delta>,
    /// Calls of each choice that its client was told of.
    called: Vec<usize>,
    id: ResponseId,
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
    /// None where the model keeps none of its answers.
    kept: Option<Keeping>,
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.over();
        }
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
    pub(super) id: ResponseId,
    pub(super) generations: Vec<Generation>,
    /// One for each of them.
    pub(super) readings: Vec<Reading>,
    /// The tools that the request offered.
    pub(super) offered: Arc<[Tool]>,
    pub(super) choices_per_prompt: usize,
    pub(super) prompt_tokens: usize,
    pub(super) keep_tokens: bool,
    pub(super) admitted: Instant,
    pub(super) allowed: Duration,
    pub(super) metrics: Metrics,
    pub(super) watch: Option<Watch>,
    pub(super) kept: Option<Keeping>,
}

impl VersionStream {
    pub(super) fn new(admission: Admission) -> Self {
        let Admission { backend, generations, choices_per_prompt, admitted, allowed, metrics, .. } =
            admission;
        metrics.request_started();
        let (open, called) = (vec![true; generations.len()], vec![0; generations.len()]);
        let offered = admission.offered;
        let checked =
            admission.watch.map(|watch| CheckedAnswer::new(watch, admitted, generations.len(), offered));
        let tagged = generations.into_iter().enumerate().map(|(choice, generation)| {
            let end = futures::stream::once(async move { (choice, None) });
            generation.map(move |event| (choice, Some(event))).chain(end).boxed()
        });
        Self {
            running: tagged.collect(),
            open,
            readings: admission.readings,
            ready: VecDeque::new(),
            called,
            id: admission.id,
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
                kept: admission.kept,
            },
            ended: false,
            _backend: backend,
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.ended = true;
        self.ready.clear();
        self.record.outcome = outcome;
        // Dropping the generations cancels those that still run.
        self.running.clear();
    }

    fn fail(&mut self, error: GatewayError) -> GatewayError {
        self.end(error.outcome());
        error
    }

    /// Makes ready what an event has for the client.
    fn on_event(&mut self, choice: usize, event: Event) -> Result<(), GatewayError> {
        match event {
            Event::Started { prompt, cached_tokens } => {
                if choice.is_multiple_of(self.choices_per_prompt) {
                    self.record.cached_tokens += cached_tokens as u64;
                }
                if !prompt.is_empty() {
                    self.ready.push_back(Delta::Prompt { choice, tokens: prompt });
                }
            }
            Event::Token(_) | Event::Text(_) if !self.keep_tokens => {}
            Event::Token(token) => {
                self.record.generated_tokens += 1;
                let admitted = self.record.admitted;
                self.record.first_token.get_or_insert_with(|| admitted.elapsed());
                if let Some(checked) = &mut self.record.checked {
                    checked.token(choice);
                }
                let pieces = self.readings[choice].token(&token.text);
                self.tell(choice, pieces, token.logprob);
            }
            Event::Text(text) => {
                let pieces = self.readings[choice].text(&text);
                self.tell(choice, pieces, None);
            }
            Event::Finished { reason, usage } => {
                self.open[choice] = false;
                if self.keep_tokens {
                    self.completed += usage.completion_tokens;
                }
                let pieces = self.readings[choice].end();
                self.tell(choice, pieces, None);
                if let Some(checked) = &mut self.record.checked {
                    checked.finished(choice, reason, usage.completion_tokens);
                }
                let reason = match reason {
                    FinishReason::Cancelled => {
                        return Err(self.fail(GatewayError::CutOff));
                    }
                    _ if !self.keep_tokens => Ending::Length,
                    FinishReason::Length => Ending::Length,
                    FinishReason::Stop if self.called[choice] > 0 => Ending::ToolCalls,
                    FinishReason::Stop => Ending::Stop,
                };
                if let Some(kept) = &mut self.record.kept {
                    kept.finished(choice, reason);
                }
                self.ready.push_back(Delta::Finished { choice, reason });
            }
            Event::Failed(why) => return Err(self.fail(why.into())),
        }
        Ok(())
    }

    /// Makes pieces of a choice ready. A log-probability goes with the first text, or with an empty one.
    fn tell(&mut self, choice: usize, pieces: Pieces, mut logprob: Option<TokenLogprob>) {
        for piece in pieces {
            if let Some(checked) = &mut self.record.checked {
                checked.piece(choice, &piece);
            }
            if let Some(kept) = &mut self.record.kept {
                kept.piece(choice, &piece);
            }
            let delta = match piece {
                Piece::Text(text) => Delta::Text { choice, text, logprob: logprob.take() },
                Piece::Reasoning(text) => Delta::Reasoning { choice, text },
                Piece::Call(name) => {
                    let call = self.called[choice];
                    self.called[choice] += 1;
                    Delta::Call { choice, call, id: call_id(self.id, choice, call), name }
                }
                Piece::Arguments(text) => {
                    Delta::Arguments { choice, call: self.called[choice].saturating_sub(1), text }
                }
            };
            self.ready.push_back(delta);
        }
        if logprob.is_some() {
            self.ready.push_back(Delta::Text { choice, text: String::new(), logprob });
        }
    }

    fn totals(&self) -> Totals {
        let usage = Usage {
            prompt_tokens: self.record.prompt_tokens as usize,
            completion_tokens: self.completed,
            cached_tokens: self.record.cached_tokens as usize,
        };
        let told = self.readings.iter().filter_map(Reading::reasoning_tokens);
        Totals { usage, reasoning_tokens: told.reduce(|sum, more| sum + more) }
    }
}

impl Stream for VersionStream {
    type Item = Result<Delta, GatewayError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(delta) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(delta)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        if self.deadline.poll_unpin(cx).is_ready() {
            let after = self.allowed;
            return Poll::Ready(Some(Err(self.fail(GatewayError::Deadline { after }))));
        }
        loop {
            match self.running.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    let totals = self.totals();
                    self.end(Outcome::Ok);
                    return Poll::Ready(Some(Ok(Delta::Done(totals))));
                }
                Poll::Ready(Some((choice, Some(event)))) => {
                    if let Err(error) = self.on_event(choice, event) {
                        return Poll::Ready(Some(Err(error)));
                    }
                    if let Some(delta) = self.ready.pop_front() {
                        return Poll::Ready(Some(Ok(delta)));
                    }
                }
                Poll::Ready(Some((choice, None))) if self.open[choice] => {
                    let error = GatewayError::Engine(Failure::Ended);
                    return Poll::Ready(Some(Err(self.fail(error))));
                }
                Poll::Ready(Some((_, None))) => {}
            }
        }
    }
}

impl std::fmt::Debug for VersionStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VersionStream")
            .field("version", &self.record.version)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}
