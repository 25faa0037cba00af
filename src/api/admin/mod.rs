//! The operators' listener: versions, routes, rollback, and who changed what.

mod guard;
mod handlers;
mod types;

pub(super) use handlers::{
    __path_audit, __path_get_route, __path_list_models, __path_load, __path_put_route, __path_rollback,
    __path_unload,
};

pub use handlers::admin_router;
pub use types::{
    AuditAnswer, AuditLine, ChangeBody, ModelAnswer, ModelsAnswer, ResidencyAnswer, RollbackTarget,
    RouteAnswer, RouteBody, UnloadAnswer, VersionAnswer,
};
