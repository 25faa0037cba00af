//! HTTP: requests parsed and checked, answers written; the public listener and the operators' listener.
//!
//! In: HTTP requests. Out: HTTP answers, OpenAI's error body for every one that fails.
//! May import: `gateway`, `config`, `telemetry`. Decides nothing about versions.
//!
//! Endpoints of other shapes (`responses`, `anthropic`) translate a body into chat's and its deltas back; they share its
//! handler from there on.
//!
//! Invariants: no request is answered with a 500 for what a client did; no parameter is ignored in silence; a client
//! that leaves cancels its generation; `/metrics`, `/health` and `/ready` need no key; every answer is counted.

mod access;
mod admin;
mod anthropic;
mod app;
mod body;
mod caller;
mod error;
mod extract;
mod feedback;
mod fields;
mod follow;
mod listener;
mod metadata;
mod ofrep;
mod openai;
mod openapi;
mod ops;
mod public;
mod responses;
mod suites;

#[cfg(test)]
mod dead_canary_tests;

pub use admin::{
    AuditAnswer, AuditLine, ChangeBody, ConfigAnswer, Conflict, CurrentExperiment, CurrentRollout,
    DeliveryAnswer, ExperimentAnswer, ExperimentArm, ExperimentBody, ExperimentDifference, ExperimentHistory,
    ExperimentResult, FlagAnswer, FlagBody, FlagsAnswer, KeptCall, KeptChoiceAnswer, KeptResponse,
    LeaderAnswer, LoadBody, LoadTarget, ModelAnswer, ModelsAnswer, PlanAnswer, PlanBody, RefusedAnswer,
    ReplicaAnswer, ResidencyAnswer, RollbackTarget, RolloutAnswer, RolloutBody, RolloutHistory,
    RolloutTransition, RouteAnswer, RouteBody, UnloadAnswer, UnloadBody, UnloadTarget, VersionAnswer,
    WebhookAnswer, WebhooksAnswer, WishAnswer, admin_router,
};
pub use anthropic::{AnthropicError, AnthropicErrorDetail, MessagesBody, TokenCount};
pub use app::{App, AppError, RunningApp};
pub use error::{ApiError, ErrorBody, ErrorDetail, KeyFault};
pub use feedback::{FeedbackAnswer, FeedbackBody};
pub use ofrep::{BulkAnswer, EvaluationAnswer, EvaluationFailure, EvaluationRequest};
pub use openai::*;
pub use ops::{HealthAnswer, ReadyAnswer};
pub use public::public_router;
pub use responses::ResponsesBody;
pub use suites::check_suites;
