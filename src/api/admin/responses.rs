//! GET /admin/responses/{id}: an answer that its model has kept, and what was asked.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::handlers::{Actor, AdminState};
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::PathParam;
use crate::gateway::{Ending, KeptAnswer, KeptChoice};
use crate::ids::{IdError, ResponseId};

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeptResponse {
    /// As it was asked for.
    pub id: String,
    /// Who answered, as `model@version`.
    pub version: String,
    /// The `system_fingerprint` of the answer.
    pub system_fingerprint: String,
    /// When it was asked, in RFC 3339.
    pub at: String,
    /// The messages of the request, in the shape of chat; without the version's prompt.
    #[schema(value_type = Vec<Object>)]
    pub messages: Vec<Value>,
    /// Variables of the version's prompt.
    #[schema(value_type = Object)]
    pub prompt_variables: Map<String, Value>,
    /// Further parameters of the request that decide an answer, such as `temperature` and `tools`.
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
    /// What came, by choices.
    pub choices: Vec<KeptChoiceAnswer>,
}

/// A choice of a kept answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptChoiceAnswer {
    /// Its text.
    pub content: String,
    /// What was thought before.
    pub reasoning_content: Option<String>,
    /// The tools that it called.
    pub tool_calls: Vec<KeptCall>,
    /// Why it ended; null where it was cut off.
    pub finish_reason: Option<String>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptCall {
    /// The tool.
    pub name: String,
    /// Its arguments, as they were written.
    pub arguments: String,
}

/// An answer that its model has kept. The audit log tells who has read it.
#[utoipa::path(get, path = "/admin/responses/{id}", tag = "admin",
    params(("id" = String, Path, description = "The `id` of the answer")), responses(
    (status = 200, description = "The answer, and what was asked", body = KeptResponse),
    (status = 400, description = "This is no id of an answer", body = ErrorBody),
    (status = 404, description = "No such answer is kept", body = ErrorBody),
))]
pub(in crate::api) async fn get_response(
    State(state): State<AdminState>,
    PathParam(text): PathParam<String>,
    actor: Actor,
) -> Result<Json<KeptResponse>, ApiError> {
    let id: ResponseId = text
        .parse()
        .map_err(|error: IdError| ApiError::parameter("invalid_value", "id", format!("`id`: {error}")))?;
    let answer = state.gateway.read_answer(id, actor.change(None)).await?;
    Ok(Json(written(text, &answer)))
}

fn written(id: String, answer: &KeptAnswer) -> KeptResponse {
    KeptResponse {
        id,
        version: answer.version.to_string(),
        system_fingerprint: answer.fingerprint.clone(),
        at: answer.at.to_string(),
        messages: answer.messages.clone(),
        prompt_variables: answer.variables.clone(),
        parameters: answer.parameters.clone(),
        choices: answer.choices.iter().map(choice).collect(),
    }
}

fn choice(choice: &KeptChoice) -> KeptChoiceAnswer {
    let call =
        |(name, arguments): &(String, String)| KeptCall { name: name.clone(), arguments: arguments.clone() };
    let reason = |ending: Ending| match ending {
        Ending::Stop => "stop",
        Ending::Length => "length",
        Ending::ToolCalls => "tool_calls",
    };
    KeptChoiceAnswer {
        content: choice.text.clone(),
        reasoning_content: Some(choice.reasoning.clone()).filter(|text| !text.is_empty()),
        tool_calls: choice.calls.iter().map(call).collect(),
        finish_reason: choice.ending.map(|ending| reason(ending).to_owned()),
    }
}
