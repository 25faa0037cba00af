//! Compiling structures for one version, away from all threads that others wait for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, oneshot};

use super::Structure;
use super::recent::Recent;
use crate::engine::{Constraint, ConstraintError, GrammarCompiler};
use crate::gateway::GatewayError;
use crate::model::LoadedModel;

/// Compiled grammars that a version remembers.
const REMEMBERED: usize = 64;

/// Grammars of a version that are compiled at once. Who comes later waits, and finds what others have compiled meanwhile.
const AT_ONCE: usize = 2;

/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Rules that refer to each other in a chain are followed in depth; only what is used is taken from the machine.
const STACK: usize = 256 << 20;

/// What a version has compiled, and the means to compile more.
#[derive(Debug)]
pub(in crate::gateway) struct Structures {
    /// Made for the first request that needs it: it holds a second copy of the vocabulary.
    compiler: OnceCell<GrammarCompiler>,
    compiled: Recent<Constraint>,
    places: Arc<Semaphore>,
}

impl Default for Structures {
    fn default() -> Self {
        Self {
            compiler: OnceCell::new(),
            compiled: Recent::new(REMEMBERED),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Structures {
    /// The constraint that a structure becomes for a model.
    pub(in crate::gateway) async fn constraint(
        &self,
        model: &LoadedModel,
        structure: &Arc<Structure>,
    ) -> Result<Constraint, GatewayError> {
        if let Some(constraint) = self.compiled.get(structure.key()) {
            return Ok(constraint);
        }
        let busy = GatewayError::QueueFull { retry_after: Duration::from_secs(1) };
        let place = tokio::time::timeout(DEADLINE, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(busy) };
        if let Some(constraint) = self.compiled.get(structure.key()) {
            return Ok(constraint);
        }
        let compiler = self.compiler(model).await.map_err(|why| refused(structure, &why.to_string()))?;
        let (asked, compiler) = (Arc::clone(structure), compiler.clone());
        let compiled = on_a_thread(place, move || {
            let grammar = asked.grammar().map_err(ConstraintError::Grammar)?;
            compiler.compile(grammar)
        });
        let Ok(compiled) = tokio::time::timeout(DEADLINE, compiled).await else {
            let why = format!("it takes more than {} s to compile; make it simpler", DEADLINE.as_secs());
            return Err(refused(structure, &why));
        };
        let constraint = compiled?.map_err(|why| refused(structure, &why.to_string()))?;
        self.compiled.put(structure.key().to_owned(), constraint.clone());
        Ok(constraint)
    }

    async fn compiler(&self, model: &LoadedModel) -> Result<&GrammarCompiler, ConstraintError> {
        let make = || async {
            let (tokenizer, vocab, eos) = (model.tokenizer.clone(), model.info.vocab_size, model.eos.clone());
            let made = tokio::task::spawn_blocking(move || GrammarCompiler::new(&tokenizer, vocab, &eos));
            made.await.unwrap_or_else(|error| Err(ConstraintError::Tokenizer(error.to_string())))
        };
        self.compiler.get_or_try_init(make).await
    }
}

fn refused(structure: &Structure, why: &str) -> GatewayError {
    let param = structure.param();
    GatewayError::invalid(param, format!("`{param}`: {why}"))
}

/// Runs a job on a thread of its own with much stack. The place is free when the job ends, whether or not anyone waits.
async fn on_a_thread<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GatewayError> {
    let (told, result) = oneshot::channel();
    let failed = |why: String| GatewayError::Internal { why: format!("compiling a grammar failed: {why}") };
    std::thread::Builder::new()
        .name("grammar".into())
        .stack_size(STACK)
        .spawn(move || {
            drop(told.send(job()));
            drop(place);
        })
        .map_err(|error| failed(error.to_string()))?;
    result.await.map_err(|_| failed("its thread ended".into()))
}
