//! What comes back from an engine, as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel as bounded};

/// The events of one request. Ends after [`Event::Finished`] or [`Event::Failed`]; dropping it cancels the request.
#[derive(Debug)]
pub struct Generation {
    events: Receiver<Event>,
}

impl Stream for Generation {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }
}

/// Something that happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is computed; comes first.
    Started {
        /// Scores of the prompt's tokens, if asked for: one a token. The first has nothing before it, so that its
        /// score of 0 means nothing.
        prompt: Vec<TokenLogprob>,
        /// Prompt tokens that the prefix cache spared.
        cached_tokens: usize,
    },
    /// A token was generated.
    Token(TokenEvent),
    /// Text that was held back and belongs to the answer after all; at most once, before the end.
    Text(String),
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// The end, by a fault.
    Failed(Failure),
}

/// Why a request came to no good end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The caller asked for what makes no sense.
    #[error("the request makes no sense: {0}")]
    Invalid(String),
    /// The answer cannot go on within its grammar.
    #[error("the answer cannot go on within its grammar: {0}")]
    Constraint(String),
    /// Nothing can be chosen from what the model gave.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The model failed, and with it the engine.
    #[error("{0}")]
    Model(String),
    /// The engine's thread ended before the answer did.
    #[error("the engine ended before the answer did")]
    Ended,
}

/// Logits that nothing can be chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model gave logits that are not finite numbers, so no token can be chosen")]
pub struct Unusable;

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenEvent {
    /// What the answer grows by. Empty while a character is incomplete or a stop string may be under way.
    pub text: String,
    /// The token.
    pub token: u32,
    /// Its score, if asked for. A stop token that is no part of the text has none.
    pub logprob: Option<TokenLogprob>,
}

/// The score of a token: natural logarithms of the model's own probabilities, before any sampling setting.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Its text by itself; broken characters are replaced.
    pub text: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its log-probability, at least -9999.
    pub logprob: f32,
    /// The likeliest tokens in its place, likeliest first: token, text, bytes, log-probability.
    pub top: Vec<(u32, String, Vec<u8>, f32)>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End-of-text, a stop token or a stop string.
    Stop,
    /// It has its most tokens.
    Length,
    /// The engine was drained, and the deadline passed.
    Cancelled,
}

/// What a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the one that stopped it included.
    pub completion_tokens: usize,
    /// Prompt tokens that the prefix cache spared.
    pub cached_tokens: usize,
}

/// The most events beside the tokens': the start, text that was held back, the end.
const BESIDE_TOKENS: usize = 3;

/// The engine's end of a [`Generation`]. It has room for all events that a request can have, so that a slow client
/// holds nobody up. Whatever happens, exactly one event that ends it is sent.
#[derive(Debug)]
pub(super) struct Outbox {
    events: Sender<Event>,
    ended: bool,
}

/// Both ends, for an answer of at most `max_tokens`. Room is taken as events come, not before.
pub(super) fn channel(max_tokens: usize) -> (Outbox, Generation) {
    let (sender, receiver) = bounded(max_tokens + BESIDE_TOKENS);
    (Outbox { events: sender, ended: false }, Generation { events: receiver })
}

impl Outbox {
    /// Sends an event; a client that is gone misses it.
    pub(super) fn send(&mut self, event: Event) {
        self.ended |= matches!(event, Event::Finished { .. } | Event::Failed(_));
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::error!(?event, "a request had more events than it can have; this one is lost");
            debug_assert!(false, "more than max_tokens + {BESIDE_TOKENS} events");
        }
    }

    /// Whether the client is gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if !self.ended {
            self.send(Event::Failed(Failure::Ended));
        }
    }
}
