//! The description of the HTTP surface, made from the types that serve it.

use utoipa::openapi::schema::{AllOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{OpenApi, PartialSchema, ToSchema};

use super::openai::{self, ChatBody, CompletionBody, DecodingBody, StructuredBody, ToolsBody};
use super::{admin, anthropic, feedback, ofrep, ops, responses};

/// The public listener.
#[derive(OpenApi)]
#[openapi(
    info(title = "Switchback", description = "OpenAI-compatible inference with versions side by side."),
    paths(
        openai::chat_completions,
        openai::completions,
        openai::embeddings,
        openai::rerank,
        responses::responses,
        anthropic::messages,
        anthropic::count_tokens,
        openai::list_models,
        openai::retrieve_model,
        openai::tokenize,
        openai::detokenize,
        feedback::feedback,
        ofrep::evaluate,
        ofrep::evaluate_all,
        ops::health,
        ops::ready,
        ops::metrics,
        ops::openapi,
    )
)]
pub(super) struct PublicApi;

/// The admin listener.
#[derive(OpenApi)]
#[openapi(
    info(title = "Switchback admin", description = "Versions, routes and their history."),
    paths(
        admin::list_models,
        admin::get_route,
        admin::put_route,
        admin::rollback,
        admin::get_flags,
        admin::put_model_flag,
        admin::patch_model_flag,
        admin::put_version_flag,
        admin::patch_version_flag,
        admin::load,
        admin::unload,
        admin::get_rollout,
        admin::begin_rollout,
        admin::command_rollout,
        admin::rollout_history,
        admin::get_experiment,
        admin::begin_experiment,
        admin::stop_experiment,
        admin::experiment_history,
        admin::get_config,
        admin::plan_config,
        admin::audit,
        admin::get_response,
        admin::get_replica,
        admin::get_webhooks,
    )
)]
pub(super) struct AdminApi;

macro_rules! together {
    ($(#[$doc:meta])* $name:ident, $title:literal, $($part:ty),+) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                AllOfBuilder::new()$(.item(Ref::from_schema_name(<$part>::name())))+.into()
            }
        }

        impl ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $title.into()
            }
            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                $(
                    schemas.push((<$part>::name().into(), <$part>::schema()));
                    <$part>::schemas(schemas);
                )+
            }
        }
    };
}

together!(
    /// The body of a chat request: its own parameters, those of tools and the shared ones, in one object.
    ChatRequestSchema, "ChatRequest", DecodingBody, StructuredBody, ChatBody, ToolsBody
);
together!(
    /// The body of a completion request: its own parameters and the shared ones, in one object.
    CompletionRequestSchema, "CompletionRequest", DecodingBody, StructuredBody, CompletionBody
);
