//! The operators' listener: versions, routes, rollback, and who changed what.

mod config;
mod experiments;
mod flags;
mod guard;
mod handlers;
mod replicas;
mod responses;
mod rollouts;
mod types;
mod webhooks;

pub(super) use config::{__path_get_config, __path_plan_config};
pub(super) use experiments::{
    __path_begin_experiment, __path_experiment_history, __path_get_experiment, __path_stop_experiment,
};
pub(super) use flags::{
    __path_get_flags, __path_patch_model_flag, __path_patch_version_flag, __path_put_model_flag,
    __path_put_version_flag,
};
pub(super) use handlers::{
    __path_audit, __path_get_route, __path_list_models, __path_load, __path_put_route, __path_rollback,
    __path_unload,
};

pub(super) use responses::__path_get_response;

pub(super) use rollouts::{
    __path_begin_rollout, __path_command_rollout, __path_get_rollout, __path_rollout_history,
};

pub(super) use replicas::__path_get_replica;

pub(super) use webhooks::__path_get_webhooks;

pub use config::{ConfigAnswer, PlanAnswer, PlanBody, RefusedAnswer, WishAnswer};
pub use experiments::{
    CurrentExperiment, ExperimentAnswer, ExperimentArm, ExperimentBody, ExperimentDifference,
    ExperimentHistory, ExperimentResult,
};
pub use flags::{FlagAnswer, FlagBody, FlagsAnswer};
pub use handlers::admin_router;
pub use replicas::{LeaderAnswer, ReplicaAnswer};
pub use responses::{KeptCall, KeptChoiceAnswer, KeptResponse};
pub use rollouts::{Conflict, CurrentRollout, RolloutAnswer, RolloutBody, RolloutHistory, RolloutTransition};
pub use types::{
    AuditAnswer, AuditLine, ChangeBody, LoadBody, LoadTarget, ModelAnswer, ModelsAnswer, ResidencyAnswer,
    RollbackTarget, RouteAnswer, RouteBody, UnloadAnswer, UnloadBody, UnloadTarget, VersionAnswer,
};
pub use webhooks::{DeliveryAnswer, WebhookAnswer, WebhooksAnswer};
