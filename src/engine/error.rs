//! Why an engine does not start, and why it refuses a request.

use std::time::Duration;

use crate::model::ModelError;

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A setting of zero.
    #[error("engine.{setting} is 0: give at least 1")]
    Zero {
        /// Which.
        setting: &'static str,
    },
    /// Key-value storage that holds no block, or more than can be counted.
    #[error("engine.kv_tokens is {kv_tokens}: give from {block_size} (engine.block_size) to 4294967295")]
    KvTokens {
        /// What was given.
        kv_tokens: usize,
        /// The size of a block.
        block_size: usize,
    },
    /// The model could not allocate its key-value storage.
    #[error("key-value storage for {kv_tokens} tokens: {source}")]
    Allocate {
        /// How much was asked for.
        kv_tokens: usize,
        /// What the model said.
        source: ModelError,
    },
    /// The key-value memory is not of the model's sizes.
    #[error("key-value memory: {source}")]
    Join {
        /// What the model said.
        source: ModelError,
    },
    /// The draft model has no memory for its keys and values.
    #[error("draft: {source}; lower engine.kv_tokens, or leave the draft out")]
    Draft {
        /// What the model said.
        source: ModelError,
    },
    /// The first tenant's adapter could not be brought to where the model computes.
    #[error("adapter: {source}")]
    Adapter {
        /// What the model said.
        source: ModelError,
    },
    /// A tenant with an adapter, of a model that takes none.
    #[error("the model takes no adapters")]
    NoAdapters,
    /// The model could not take the memory that its steps work in.
    #[error(
        "memory for steps of {max_step_tokens} tokens: {source}; lower engine.max_step_tokens or engine.kv_tokens"
    )]
    Reserve {
        /// The most tokens of a step.
        max_step_tokens: usize,
        /// What the model said.
        source: ModelError,
    },
    /// The thread could not be started.
    #[error("engine thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a request was refused at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests wait as may.
    #[error("the queue is full; try again in {} s", retry_after.as_secs())]
    QueueFull {
        /// When a place may be free, by the pace of late.
        retry_after: Duration,
    },
    /// The prompt and its answer can never fit.
    #[error("prompt and max_tokens together are {tokens} tokens; the limit is {limit}")]
    TooLong {
        /// Prompt and answer together.
        tokens: usize,
        /// The most that fits.
        limit: usize,
    },
    /// The engine is draining or has ended.
    #[error("the engine takes no more requests")]
    Closed,
}
