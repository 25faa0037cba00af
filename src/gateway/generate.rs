//! Chat and completion: from a command to an [`Answer`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;

use super::answer::{Admission, Answer, AnswerStream, PromptEcho, VersionStream};
use super::backend::Backend;
use super::canned::AnsweredBy;
use super::checked::saw_refusal;
use super::command::{Address, ChatCommand, CompletionCommand, Target};
use super::mirror::Copy;
use super::requests::{constraint, requests};
use super::resolve::{Answerer, Chosen};
use super::start::random_u128;
use super::work::{Work, prompts};
use super::{Gateway, GatewayError};
use crate::engine::{Generation, Priority, SubmitError};
use crate::ids::{ResponseId, VersionRef, Weight};
use crate::quality::{Watch, Way};
use crate::release::{Answered, ChosenBy, Message, user_number};

/// How often a request may meet a version that is just closing before it is told to come back. Each time the route
/// is read anew, so that twice is already rare.
const ATTEMPTS: usize = 8;

impl Gateway {
    /// Answers a conversation.
    pub async fn chat(&self, command: ChatCommand) -> Result<Answer, GatewayError> {
        self.answer(Work::Chat(command)).await
    }

    /// Goes on with one or more texts.
    pub async fn complete(&self, command: CompletionCommand) -> Result<Answer, GatewayError> {
        self.answer(Work::Completion(command)).await
    }

    async fn answer(&self, work: Work) -> Result<Answer, GatewayError> {
        let work = Arc::new(work);
        let result = self.admit(&work).await;
        if let Err(error) = &result {
            self.count_refusal(work.address(), error);
        }
        result
    }

    async fn admit(&self, work: &Arc<Work>) -> Result<Answer, GatewayError> {
        let (admitted, at) = (Instant::now(), self.inner().clock.now());
        let decoding = work.decoding();
        let seed = decoding.seed.unwrap_or_else(super::start::random_u64);
        for _ in 0..ATTEMPTS {
            if self.inner().closed.load(Ordering::Acquire) {
                return Err(GatewayError::ShuttingDown);
            }
            let Chosen { backend, by } = match self.answerer(work.address())? {
                Answerer::Version(chosen) => chosen,
                Answerer::Flag(canned) => return Ok(self.canned(work, canned)),
            };
            let way = self.way(work.address(), by);
            let refused =
                |error: &GatewayError| saw_refusal(self.watch(&backend, work, way, at), error, admitted);
            let prompts = prompts(&backend, work).await.inspect_err(refused)?;
            let constraint = constraint(&backend, work, &prompts).await.inspect_err(refused)?;
            let requests =
                requests(&backend, work, &prompts, constraint.as_ref(), seed, Priority::Foreground);
            let requests = requests.inspect_err(refused)?;
            let engine = backend.engine().inspect_err(refused)?;
            // All choices or none: a generation that is dropped here is cancelled.
            let submitted: Result<Vec<Generation>, SubmitError> =
                requests.into_iter().map(|request| engine.submit(request)).collect();
            match submitted {
                Ok(generations) => {
                    let choices = decoding.choices.get();
                    let readings = prompts
                        .iter()
                        .flat_map(|p| std::iter::repeat_with(|| p.speech.reading()).take(choices));
                    let readings = readings.collect();
                    let offered = prompts.first().map(|p| Arc::clone(&p.speech.offered)).unwrap_or_default();
                    let prompt_tokens = prompts.iter().map(|p| p.tokens.len()).sum();
                    let watch = self.watch(&backend, work, way, at);
                    self.mirror(&backend, work, way, seed, at);
                    let id = ResponseId::new(random_u128());
                    let kept = self.keep(id, &backend, work, generations.len(), at);
                    self.remember(id, &backend, work.address(), way);
                    return Ok(Answer {
                        id,
                        by: AnsweredBy::Version(backend.version().clone()),
                        fingerprint: backend.prepared.fingerprint(),
                        choices_per_prompt: choices,
                        prompts: prompts
                            .into_iter()
                            .map(|p| PromptEcho { tokens: p.tokens.len(), text: p.text })
                            .collect(),
                        stream: AnswerStream::Version(Box::new(VersionStream::new(Admission {
                            backend,
                            id,
                            generations,
                            readings,
                            offered,
                            choices_per_prompt: choices,
                            prompt_tokens,
                            keep_tokens: decoding.max_tokens != Some(0),
                            admitted,
                            allowed: self.inner().request_timeout,
                            metrics: self.inner().metrics.clone(),
                            watch,
                            kept,
                        }))),
                    });
                }
                // The version is being unloaded: the route or the residency already says so.
                Err(SubmitError::Closed) => tokio::task::yield_now().await,
                Err(SubmitError::QueueFull { retry_after }) => {
                    let error = GatewayError::QueueFull { retry_after };
                    refused(&error);
                    return Err(error);
                }
                Err(SubmitError::TooLong { tokens, limit }) => {
                    let param = work.param();
                    let error = GatewayError::TooLong { param, prompt: tokens, asked: 0, limit };
                    refused(&error);
                    return Err(error);
                }
            }
        }
        Err(GatewayError::no_version(work.address().target.model()))
    }

    /// How a request came to its version; only what was routed is evidence for a rollout.
    pub(super) fn way(&self, address: &Address, by: Option<ChosenBy>) -> Way {
        match (&address.target, by) {
            (Target::Pinned(_), _) => Way::Pinned,
            (Target::Routed(_), Some(ChosenBy::Route)) if self.could_get_either(address) => Way::Routed,
            (Target::Routed(_), _) => Way::Flagged,
        }
    }

    /// The way to the checks, where this answer is to be checked. One of no tokens has nothing to check.
    pub(super) fn watch(&self, backend: &Backend, work: &Work, way: Way, at: Timestamp) -> Option<Watch> {
        if work.decoding().max_tokens == Some(0) {
            return None;
        }
        let Address { target, sticky, .. } = work.address();
        self.inner().checks.watch(backend.version(), way, at, || user_number(sticky, target.model()))
    }

    /// Lets the answer be found again where its reader may have a word about it. What finds no room is not found then.
    pub(super) fn remember(&self, response: ResponseId, backend: &Backend, address: &Address, way: Way) {
        let Address { target, sticky, .. } = address;
        let model = target.model();
        let takes_feedback = self.configured(model, |config| config.feedback_check().is_some());
        if takes_feedback != Some(true) {
            return;
        }
        let user = (way == Way::Routed).then(|| user_number(sticky, model));
        let answered = Answered { response, version: backend.version().clone(), user };
        if self.inner().watcher.try_send(Message::Answered(answered)).is_err() {
            self.inner().metrics.observation_dropped(model);
        }
    }

    /// Leaves a copy of a request that stable answers, where a canary is watched on copies.
    pub(super) fn mirror(
        &self,
        backend: &Backend,
        work: &Arc<Work>,
        way: Way,
        seed: u64,
        admitted: Timestamp,
    ) {
        if way != Way::Routed {
            return;
        }
        let model = work.address().target.model();
        let Some(rollout) = self.inner().releases.rollouts().get(model) else { return };
        let share = rollout.mirror();
        if share == Weight::ZERO || backend.version().version != rollout.stable {
            return;
        }
        self.inner().mirror.offer(share, || {
            let canary = VersionRef { model: model.clone(), version: rollout.canary.clone() };
            Copy { work: Arc::clone(work), canary, seed, admitted }
        });
    }

    pub(super) fn count_refusal(&self, address: &Address, error: &GatewayError) {
        let model = address.target.model();
        let known = self.configured(model, |_| ()).is_some();
        self.inner().metrics.request_refused(if known { model.as_str() } else { "" }, "", error.outcome());
    }
}
