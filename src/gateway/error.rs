//! Why a request has no answer.

use std::time::Duration;

use crate::engine::Failure;
use crate::ids::{ModelName, VersionRef};
use crate::prompt::VariableFault;
use crate::telemetry::Outcome;

/// Why a request has no answer, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// No such model is configured.
    #[error("the model `{name}` does not exist; GET /v1/models lists those that do")]
    UnknownModel {
        /// What the client wrote, cut to a length fit for a message.
        name: String,
    },
    /// The model has no such version.
    #[error("the version `{version}` does not exist; GET /v1/models lists those that do")]
    UnknownVersion {
        /// What the client asked for.
        version: VersionRef,
    },
    /// A flag keeps this user out.
    #[error("`{what}` is not enabled for this request; its operators decide for whom it is")]
    NotEnabled {
        /// The model or version.
        what: String,
    },
    /// A value that this version cannot take, such as a token outside its vocabulary.
    #[error("{message}")]
    Invalid {
        /// The parameter at fault.
        param: String,
        /// What is wrong with it.
        message: String,
    },
    /// A version that does another kind of work.
    #[error("`{version}` is {is}: it answers {answers}")]
    WrongKind {
        /// The version.
        version: VersionRef,
        /// What it is.
        is: &'static str,
        /// The endpoints that it serves.
        answers: &'static str,
    },
    /// A variable of the version's prompt that is missing, unknown or of another kind.
    #[error("`prompt_variables.{name}`: {fault} (`{version}`)")]
    Variable {
        /// Whose prompt it is.
        version: VersionRef,
        /// The variable.
        name: String,
        /// What is wrong.
        fault: VariableFault,
    },
    /// The prompt, or prompt and answer together, pass the context.
    #[error(
        "this model's context is {limit} tokens; the prompt has {prompt} and {asked} more are asked for: shorten one"
    )]
    TooLong {
        /// The parameter at fault.
        param: &'static str,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate.
        asked: usize,
        /// The most tokens of both.
        limit: usize,
    },
    /// The engine's queue is full.
    #[error("the model's queue is full; try again in {} s", retry_after.as_secs().max(1))]
    QueueFull {
        /// When to try again.
        retry_after: Duration,
    },
    /// Too much is being rendered; the version is not to blame.
    #[error("too many conversations are being rendered; try again in {} s", retry_after.as_secs().max(1))]
    Crowded {
        /// When to try again.
        retry_after: Duration,
    },
    /// No version that could answer is hot.
    #[error("no version of `{what}` is ready to answer; GET /ready tells when one is")]
    NotReady {
        /// The model or version.
        what: String,
    },
    /// The server is being stopped.
    #[error("the server is shutting down and takes no new requests")]
    ShuttingDown,
    /// The request ran past its deadline.
    #[error("the request was not finished within {} s (`server.request_timeout`)", after.as_secs_f64())]
    Deadline {
        /// How long it had.
        after: Duration,
    },
    /// The version was unloaded, or the server stopped, before the answer was finished.
    #[error(
        "the answer was cut off: its version was being stopped, and the drain deadline passed; ask again"
    )]
    CutOff,
    /// The answer could not be finished within the shape that was asked for.
    #[error("the answer was given up: {why}; simplify the schema, pattern or grammar")]
    Grammar {
        /// What the grammar's reader says.
        why: String,
    },
    /// The engine failed under the request.
    #[error("the engine failed: {0}")]
    Engine(Failure),
    /// A defect of ours.
    #[error("{why}")]
    Internal {
        /// What happened.
        why: String,
    },
}

impl From<Failure> for GatewayError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Constraint(why) => Self::Grammar { why },
            failure => Self::Engine(failure),
        }
    }
}

impl GatewayError {
    /// An unknown model by the name that the client wrote.
    pub fn unknown_model(name: &str) -> Self {
        Self::UnknownModel { name: name.chars().filter(|c| !c.is_control()).take(100).collect() }
    }

    /// How a request that ends so is counted.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::QueueFull { .. } => Outcome::QueueFull,
            Self::NotReady { .. } | Self::ShuttingDown | Self::CutOff | Self::Crowded { .. } => {
                Outcome::Unavailable
            }
            Self::Deadline { .. } => Outcome::Timeout,
            Self::Engine(_) | Self::Internal { .. } => Outcome::Failed,
            Self::UnknownModel { .. }
            | Self::UnknownVersion { .. }
            | Self::NotEnabled { .. }
            | Self::Invalid { .. }
            | Self::WrongKind { .. }
            | Self::Variable { .. }
            | Self::Grammar { .. }
            | Self::TooLong { .. } => Outcome::Invalid,
        }
    }

    pub(super) fn no_version(model: &ModelName) -> Self {
        Self::NotReady { what: model.to_string() }
    }

    pub(super) fn crowded() -> Self {
        Self::Crowded { retry_after: Duration::from_secs(1) }
    }

    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { param: param.into(), message: message.into() }
    }
}
