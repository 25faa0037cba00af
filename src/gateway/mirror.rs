//! Copies of requests, for a canary that is watched before it has traffic. Its answers are checked and thrown away.
//!
//! A copy costs the request nothing but one try to put it into a queue. It is computed in the background, in time that
//! no client needs; whatever finds no room, or waits too long, is dropped and counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::GatewayError;
use super::backend::Backend;
use super::checked::{CheckedAnswer, saw_refusal};
use super::requests::{constraint, requests};
use super::residency::Residency;
use super::speech::{Reading, Speech};
use super::work::{Work, prompts};
use crate::engine::{Event, FinishReason, GenerateRequest, Generation, Priority};
use crate::ids::{ModelName, VersionRef, Weight};
use crate::quality::{CheckQueue, Way};
use crate::release::user_number;
use crate::telemetry::{Metrics, MirrorOutcome, Outcome};

/// Copies that may wait for one of the places below. Each holds its request's text.
const WAITING: usize = 32;

/// Copies that are computed at once. More would make each step longer, and whoever comes in meanwhile waits for its end.
const AT_ONCE: usize = 4;

/// How old a copy may be when its prompt has been read. What is dropped by then is dropped for want of time, whatever its
/// answer would have been; later, long answers would be dropped rather than short ones.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer that has begun may take.
const LONGEST: Duration = Duration::from_mins(10);

/// A request that the canary is to answer too.
pub(super) struct Copy {
    pub(super) work: Arc<Work>,
    pub(super) canary: VersionRef,
    /// The seed of stable's answer.
    pub(super) seed: u64,
    /// When the request came.
    pub(super) admitted: Timestamp,
}

/// Where requests leave their copies.
#[derive(Debug)]
pub(super) struct Mirror {
    copies: mpsc::Sender<(Copy, Instant)>,
    asked: AtomicU64,
    metrics: Metrics,
}

/// What it takes to answer copies.
#[derive(Clone)]
pub(super) struct Shadow {
    pub(super) residency: Residency,
    pub(super) checks: CheckQueue,
    pub(super) metrics: Metrics,
    /// The models that have checks: of those, answers that are not in the sample need not be made.
    pub(super) checked: Arc<BTreeSet<ModelName>>,
}

impl Mirror {
    pub(super) fn new(metrics: Metrics) -> (Self, Copies) {
        let (copies, inbox) = mpsc::channel(WAITING);
        (Self { copies, asked: AtomicU64::new(0), metrics }, Copies(inbox))
    }

    /// Leaves a copy of a share of the requests. Never waits.
    pub(super) fn offer(&self, share: Weight, copy: impl FnOnce() -> Copy) {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if !share.holds(xxh3_64(&number.to_le_bytes())) {
            return;
        }
        match self.copies.try_reserve() {
            Ok(room) => room.send((copy(), Instant::now())),
            Err(_) => self.metrics.mirrored(&copy().canary, MirrorOutcome::Dropped),
        }
    }
}

/// The copies that wait.
pub(super) struct Copies(mpsc::Receiver<(Copy, Instant)>);

impl Copies {
    /// Lets the canaries answer until `stop`.
    pub(super) async fn answer(mut self, shadow: Shadow, stop: CancellationToken) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                // Those that run are dropped with the set, and their engines forget them.
                () = stop.cancelled() => return,
                _ = running.join_next(), if !running.is_empty() => {}
                copy = self.0.recv(), if running.len() < AT_ONCE => {
                    let Some((copy, asked)) = copy else { return };
                    let shadow = shadow.clone();
                    running.spawn(async move { shadow.take(copy, asked).await });
                }
            }
        }
    }
}

impl Shadow {
    async fn take(&self, copy: Copy, asked: Instant) {
        let canary = copy.canary.clone();
        let answer = tokio::time::timeout(LONGEST, self.answer(copy, asked + PATIENCE));
        let outcome = answer.await.unwrap_or(Some(MirrorOutcome::Late));
        if let Some(outcome) = outcome {
            self.metrics.mirrored(&canary, outcome);
        }
    }

    /// How the canary fared; nothing where nobody wants to know. Of several choices it makes the first.
    async fn answer(&self, copy: Copy, begin_by: Instant) -> Option<MirrorOutcome> {
        let Copy { work, canary, seed, admitted } = copy;
        let user = || user_number(&work.address().sticky, &canary.model);
        let watch = self.checks.watch(&canary, Way::Mirrored, admitted, user);
        if watch.is_none() && self.checked.contains(&canary.model) {
            return None;
        }
        let Some(backend) = self.residency.hot(&canary) else { return Some(MirrorOutcome::Dropped) };
        let (first, speech) = match first(&backend, &work, seed).await {
            Ok(first) => first?,
            // It may refuse what stable took, as it would refuse a client.
            Err(error) => {
                saw_refusal(watch, &error, Instant::now());
                return Some(MirrorOutcome::Refused);
            }
        };
        // Nobody reads scores.
        let request = GenerateRequest { logprobs: None, prompt_logprobs: None, ..first };
        let submitted = backend.engine().ok().and_then(|engine| engine.submit(request).ok());
        let Some(generation) = submitted else { return Some(MirrorOutcome::Dropped) };
        let offered = Arc::clone(&speech.offered);
        let checked = watch.map(|watch| CheckedAnswer::new(watch, Instant::now(), 1, offered));
        Some(read(generation, speech.reading(), checked, begin_by).await)
    }
}

/// What the canary's engine is asked, of several choices for the first.
async fn first(
    backend: &Arc<Backend>,
    work: &Arc<Work>,
    seed: u64,
) -> Result<Option<(GenerateRequest, Speech)>, GatewayError> {
    let prompts = prompts(backend, work).await?;
    let constraint = constraint(backend, work, &prompts).await?;
    let requests = requests(backend, work, &prompts, constraint.as_ref(), seed, Priority::Background)?;
    let speeches = prompts.into_iter().map(|prompt| prompt.speech);
    Ok(requests.into_iter().zip(speeches).next())
}

/// Reads an answer to its end.
async fn read(
    mut generation: Generation,
    mut reading: Reading,
    mut checked: Option<CheckedAnswer>,
    begin_by: Instant,
) -> MirrorOutcome {
    let Ok(first) = tokio::time::timeout_at(begin_by.into(), generation.next()).await else {
        return MirrorOutcome::Late;
    };
    let mut events = futures::stream::iter(first).chain(generation);
    while let Some(event) = events.next().await {
        match (event, &mut checked) {
            (Event::Finished { reason: FinishReason::Cancelled, .. }, _) => return MirrorOutcome::Dropped,
            (Event::Finished { reason, usage }, checked) => {
                if let Some(checked) = checked {
                    reading.end().into_iter().for_each(|piece| checked.piece(0, &piece));
                    checked.finished(0, reason, usage.completion_tokens);
                }
                return MirrorOutcome::Answered;
            }
            (Event::Failed(why), checked) => {
                if let Some(checked) = checked {
                    checked.over(GatewayError::from(why).outcome());
                }
                return MirrorOutcome::Failed;
            }
            (Event::Token(token), Some(checked)) => {
                checked.token(0);
                reading.token(&token.text).into_iter().for_each(|piece| checked.piece(0, &piece));
            }
            (Event::Text(text), Some(checked)) => {
                reading.text(&text).into_iter().for_each(|piece| checked.piece(0, &piece));
            }
            (Event::Started { .. } | Event::Token(_) | Event::Text(_), _) => {}
        }
    }
    if let Some(checked) = &mut checked {
        checked.over(Outcome::Failed);
    }
    MirrorOutcome::Failed
}
