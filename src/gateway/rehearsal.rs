//! What versions cost a request, without the answer itself; for benchmarks.

use std::sync::Arc;
use std::time::Duration;

use super::resolve::Chosen;
use super::work::Work;
use super::{Address, CompletionCommand, Decoding, Echo, Gateway, GatewayError};
use crate::ids::{ResponseId, VersionRef};
use crate::quality::{FinishReason, Response};

/// A request whose answer is known before it is asked.
pub struct Rehearsal {
    work: Arc<Work>,
    answer: Response,
}

impl Rehearsal {
    /// A request of somebody for a model, and the text that answers it.
    pub fn new(address: Address, answer: &str) -> Self {
        let command = CompletionCommand {
            address,
            prompts: Vec::new(),
            echo: Echo::Omit,
            decoding: Decoding::default(),
        };
        let answer = Response {
            text: answer.to_owned(),
            finish_reason: FinishReason::Stop,
            output_tokens: answer.split_whitespace().count(),
            time_to_first_token: Some(Duration::from_millis(10)),
            elapsed: Duration::from_millis(50),
            tool_calls: Vec::new(),
            tools: Arc::default(),
        };
        Self { work: Arc::new(Work::Completion(command)), answer }
    }
}

impl std::fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rehearsal(..)")
    }
}

impl Gateway {
    /// Does all that a request costs because models have versions, and nothing else: finds its version, leaves a copy
    /// where a canary is watched on copies, remembers it for feedback, and queues its answer for the checks.
    pub fn rehearse(&self, rehearsal: Rehearsal) -> Result<VersionRef, GatewayError> {
        let Rehearsal { work, answer } = rehearsal;
        let at = self.inner().clock.now();
        let Chosen { backend, by } = self.resolve(work.address())?;
        let way = self.way(work.address(), by);
        let watch = self.watch(&backend, &work, way, at);
        self.mirror(&backend, &work, way, 0, at);
        self.remember(ResponseId::new(super::start::random_u128()), &backend, work.address(), way);
        if let Some(watch) = watch {
            watch.finished(answer);
        }
        Ok(backend.version().clone())
    }
}
