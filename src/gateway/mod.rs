//! The life of one request, from the name a client gives to the last token: and of the versions that answer.
//!
//! In: commands from `api` ([`ChatCommand`], [`CompletionCommand`]) and from operators (load, unload, set a route).
//! Out: an [`Answer`], which names the version that gives it and streams its deltas; views for operators.
//! May import: `release`, `engine`, `prompt`, `dialect`, `quality`, `notify`, `image`, `model`, `config`, `store` to open it. Knows no
//! HTTP.
//!
//! Invariants: a request takes no lock between its arrival and its engine's queue, but for the look-up of a compiled grammar
//! where it asks for a shape; it ends on the version that it
//! started on; a version is published as hot only once it can serve, and withdrawn before it stops; a failed load
//! touches no other version; dropping an [`AnswerStream`] cancels all of its generations.

mod admin;
mod answer;
mod backend;
mod body;
mod canned;
mod checked;
mod command;
mod device;
mod draft;
mod embed;
mod embedding;
mod encode;
mod encoders;
mod error;
mod experiments;
mod feedback;
mod first_loads;
mod flags;
mod generate;
mod identity;
mod interleave;
mod kept;
mod kv;
mod mirror;
mod rehearsal;
mod reload;
mod replicas;
mod requests;
mod rerank;
mod residency;
mod resolve;
mod rollouts;
mod settings;
mod shutdown;
mod speech;
mod start;
mod state;
mod structured;
mod tokens;
mod watching;
mod webhooks;
mod wishes;
mod work;

#[cfg(test)]
mod testing;

pub use admin::{AdapterStatus, AdminError, ModelStatus, PromptStatus, Unloaded, VersionStatus};
pub use answer::{Answer, AnswerStream, Delta, Ending, PromptEcho, Totals, VersionStream};
pub use backend::{Backend, Prepared, Warm};
pub use canned::AnsweredBy;
pub use command::{
    Address, ChatCommand, CompletionCommand, Conversation, Decoding, Echo, EndOfText, MostCalls, PromptInput,
    StopText, Target, ToolChoice, ToolUse,
};
pub use device::choose;
pub use embed::{EmbedCommand, EmbedInput, Embeddings, LongText};
pub use error::GatewayError;
pub use flags::{FlagKey, FlagValue};
pub use kept::{KeptAnswer, KeptChoice};
pub use rehearsal::Rehearsal;
pub use reload::{ConfigPlan, ReloadError};
pub use replicas::ReplicaStatus;
pub use rerank::{RerankCommand, Reranked};
pub use residency::{LoadTo, Residency, UnloadTo};
pub use settings::{ConfigStatus, RefusedConfig};
pub use start::{Gateway, Pace, StartError, random_u64};
pub use state::{Progress, ResidencyError, State};
pub use structured::{Shape, Structure, depth as schema_depth};
pub use tokens::TokenizeInput;
pub use wishes::{Wish, WishState};

pub use crate::engine::{TokenLogprob, Usage};
pub use crate::model::{SpecialText, SpecialTokens};
pub use crate::notify::ReceiverStatus;
pub use crate::prompt::{GenerationPrompt, VariableFault};
pub use crate::quality::Tool;
pub use crate::release::analysis::{ArmMeasure, Bounds, Difference, Unit};
pub use crate::release::experiment::{Experiment, ExperimentReport, NewExperiment};
pub use crate::release::rollout::{Command as RolloutCommand, Rollout, WaitsFor};
pub use crate::release::{
    AuditEntry, Change, DecidedBy, Evaluation, FeedbackError, FlagChange, FlagsView, OnConflict, Rated,
    ReleaseError, RolloutLine, RouteView, StickyKey, Traits, Who,
};
pub use crate::store::{DeliveryRow, Reach, StoreError};
