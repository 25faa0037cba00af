//! The life of a request that an encoder or a cross-encoder answers: from its model to its version, through the version's
//! queue, to what is computed and the record of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::backend::{Prepared, Runner};
use super::command::Address;
use super::encoders::{NoPlace, Wanted};
use super::resolve::Chosen;
use super::{Gateway, GatewayError};
use crate::ids::VersionRef;
use crate::quality::{CutShort, FinishReason, Response, Watch};
use crate::release::user_number;
use crate::telemetry::{Metrics, Outcome, RequestSample};

/// How often a request may meet a version that is just closing.
const ATTEMPTS: usize = 8;

/// What was computed, and by whom.
pub(super) struct Encoded<T> {
    pub(super) version: VersionRef,
    /// Names what decides it.
    pub(super) fingerprint: String,
    pub(super) result: T,
    /// Tokens of all texts.
    pub(super) prompt_tokens: usize,
}

/// What the metrics and the checks are told when a request is over, wherever that happens.
struct Record {
    metrics: Metrics,
    version: VersionRef,
    admitted: Instant,
    prompt_tokens: usize,
    outcome: Outcome,
    watch: Option<Watch>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.admitted.elapsed();
        let first_token = (self.outcome == Outcome::Ok).then_some(elapsed);
        if let Some(watch) = &self.watch {
            match self.outcome {
                Outcome::Ok => watch.finished(silent(elapsed)),
                outcome => watch.cut_short(CutShort {
                    outcome,
                    elapsed,
                    time_to_first_token: None,
                    output_tokens: 0,
                }),
            }
        }
        let sample = RequestSample {
            outcome: self.outcome,
            elapsed,
            first_token,
            prompt_tokens: self.prompt_tokens as u64,
            cached_tokens: 0,
            generated_tokens: 0,
        };
        self.metrics.request_ended(&self.version, &sample);
    }
}

/// An answer without text: what is checked of it is its time.
fn silent(elapsed: Duration) -> Response {
    Response {
        text: String::new(),
        finish_reason: FinishReason::Stop,
        output_tokens: 0,
        time_to_first_token: Some(elapsed),
        elapsed,
        tool_calls: Vec::new(),
        tools: Arc::default(),
    }
}

/// The model of a version that is of the kind that a request asks for.
type Model<E> = fn(&Prepared) -> Result<&Arc<E>, GatewayError>;

impl Gateway {
    /// Has a version's model do a job, which gives its result and how many tokens it took.
    pub(super) async fn encode<E, T, J>(
        &self,
        address: &Address,
        model: Model<E>,
        job: J,
    ) -> Result<Encoded<T>, GatewayError>
    where
        E: Send + Sync + 'static,
        T: Send + 'static,
        J: Fn(&E, &Wanted) -> Result<(T, usize), GatewayError> + Send + Sync + 'static,
    {
        let job = Arc::new(job);
        for _ in 0..ATTEMPTS {
            match self.try_encode(address, model, &job).await {
                Ok(Some(encoded)) => return Ok(encoded),
                // The version is being unloaded: the route or the residency already says so.
                Ok(None) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
        let error = GatewayError::no_version(address.target.model());
        self.count_refusal(address, &error);
        Err(error)
    }

    async fn try_encode<E, T, J>(
        &self,
        address: &Address,
        model: Model<E>,
        job: &Arc<J>,
    ) -> Result<Option<Encoded<T>>, GatewayError>
    where
        E: Send + Sync + 'static,
        T: Send + 'static,
        J: Fn(&E, &Wanted) -> Result<(T, usize), GatewayError> + Send + Sync + 'static,
    {
        let refused = |error: &GatewayError| self.count_refusal(address, error);
        let (admitted, at) = (Instant::now(), self.inner().clock.now());
        if self.inner().closed.load(Ordering::Acquire) {
            return Err(GatewayError::ShuttingDown).inspect_err(refused);
        }
        let Chosen { backend, by } = self.resolve(address).inspect_err(refused)?;
        let model = Arc::clone(model(&backend.prepared).inspect_err(refused)?);
        let Runner::Encoder(queue) = &backend.runner else { return Ok(None) };
        let place = match queue.enter() {
            Ok(place) => place,
            Err(NoPlace::Closed) => return Ok(None),
            Err(NoPlace::Full(error)) => return Err(error).inspect_err(refused),
        };
        let way = self.way(address, by);
        let Address { target, sticky, .. } = address;
        let watch =
            self.inner().checks.watch(backend.version(), way, at, || user_number(sticky, target.model()));
        let metrics = self.inner().metrics.clone();
        metrics.request_started();
        let version = backend.version().clone();
        let outcome = Outcome::Cancelled;
        let mut record = Record { metrics, version, admitted, prompt_tokens: 0, outcome, watch };
        let allowed = self.inner().request_timeout;
        let job = Arc::clone(job);
        let work = queue.run(place, move |wanted| job(&model, wanted));
        let result = match tokio::time::timeout(allowed, work).await {
            Ok(result) => result,
            Err(_) => Err(GatewayError::Deadline { after: allowed }),
        };
        record.outcome = result.as_ref().map_or_else(GatewayError::outcome, |_| Outcome::Ok);
        let (result, prompt_tokens) = result?;
        record.prompt_tokens = prompt_tokens;
        let (version, fingerprint) = (backend.version().clone(), backend.prepared.fingerprint());
        Ok(Some(Encoded { version, fingerprint, result, prompt_tokens }))
    }
}
