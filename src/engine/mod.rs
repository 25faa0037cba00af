//! The engine: continuous batching over one model.
//!
//! For: answering many requests at once with one copy of the weights, fairly, and with the same text that each would
//! get alone. In: a [`GenerateRequest`] of tokens. Out: a [`Generation`], a stream of [`Event`]s that ends with
//! exactly one [`Event::Finished`] or [`Event::Failed`]. May import: `model`.
//!
//! Invariants:
//! - One thread owns the model, the blocks and the sequences; others send it messages and read counters.
//! - A request's text depends on the request alone: not on the batch, the chunks, the prefix cache or preemption.
//! - [`Engine::submit`] never blocks, and a slow client holds nobody up.
//! - Engines that share a [`KvMemory`] hold of it what they need; the oldest sequence of all can always have all of it.
//! - Tenants of an engine are computed together, and each leaves without the others noticing.
//! - A generation that is dropped frees its blocks before the next step.
//! - Work in the background never holds up work in the foreground for longer than one short step, on all engines of a
//!   [`Turns`].
//! - A request with a [`Constraint`] gets an answer of its grammar, cut short at most by its own limits.
//! - A model that fails or panics fails its requests and ends the engine; [`Engine::is_alive`] says so first.
//!
//! Knows no versions, routes or HTTP.

mod block_pool;
mod config;
mod constraint;
mod detokenizer;
mod draft;
mod error;
mod generation;
mod guided;
mod handle;
mod job;
mod kv_memory;
mod logprobs;
mod outcomes;
mod penalties;
mod plan;
mod request;
mod sampler;
mod scheduler;
mod sequence;
mod shared;
mod speculation;
mod turns;
mod worker;

#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod speculation_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use config::{EngineConfig, PrefixCache, SchedulingPolicy};
pub use constraint::{Constraint, ConstraintError, Grammar, GrammarCompiler};
pub use error::{EngineError, SubmitError};
pub use generation::{Event, Failure, FinishReason, Generation, TokenEvent, TokenLogprob, Usage};
pub use handle::{DrainOutcome, Engine, EngineLimits, Models, NewTenant};
pub use kv_memory::{KvMemory, WeakKvMemory};
pub use request::{EosPolicy, GenerateRequest, SamplingParams, StopInclusion, StopParams};
pub use shared::EngineStats;
pub use turns::{Interleave, Priority, Turns};
