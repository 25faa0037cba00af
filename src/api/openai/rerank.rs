//! POST /v1/rerank, in the shape that Jina, Cohere and vLLM share.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::decoding::{too_many, whole};
use super::embeddings::{EmbeddingUsage, cut_or_refused};
use super::stream::with_headers;
use crate::api::body::typed;
use crate::api::caller::Caller;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::Object;
use crate::api::fields::RERANK;
use crate::api::public::PublicState;
use crate::gateway::RerankCommand;

/// The most documents of a request.
const MAX_DOCUMENTS: usize = 2048;

/// The body of POST /v1/rerank.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct RerankBody {
    /// The model, or one of its versions as `model@version`; its image must be a cross-encoder.
    pub model: String,
    /// What the documents are to answer.
    pub query: String,
    /// Texts; 2048 at most.
    pub documents: Vec<Document>,
    /// Only the so many best; all, if absent or 0.
    pub top_n: Option<i64>,
    /// Whether results hold their documents (if absent, they do).
    pub return_documents: Option<bool>,
    /// -1 cuts a query and a document that are too long together; without it they are refused.
    pub truncate_prompt_tokens: Option<i64>,
    /// The end user; keeps them on one version.
    pub user: Option<String>,
}

/// A document: its text, or an object that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "invalid type: a document is a string, or an object with a string as its `text`"
)]
pub enum Document {
    /// The text.
    Text(String),
    /// The text in an object.
    Object(DocumentText),
}

/// An object that holds a document's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentText {
    /// The text.
    pub text: String,
}

impl Document {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object(DocumentText { text }) => text,
        }
    }
}

/// Documents in the order of how well they answer the query.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RerankList {
    /// The model as the client named it.
    pub model: String,
    /// The best first.
    pub results: Vec<RerankResult>,
    /// Tokens of all queries and documents, those included that the tokenizer adds.
    pub usage: EmbeddingUsage,
    /// Names the version by its digest.
    pub system_fingerprint: String,
}

/// How well a document answers the query.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RerankResult {
    /// Its place in the request.
    pub index: usize,
    /// From 0 to 1: the sigmoid of what the model gives.
    pub relevance_score: f32,
    /// The document, unless it was not wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentText>,
}

/// Puts documents in the order of how well they answer a query.
#[utoipa::path(post, path = "/v1/rerank", tag = "openai", request_body = RerankBody, responses(
    (status = 200, description = "The documents in order", body = RerankList),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is", body = ErrorBody),
))]
pub(in crate::api) async fn rerank(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(map): Object,
) -> Result<Response, ApiError> {
    RERANK.check(&map)?;
    let body: RerankBody = typed(&map)?;
    let long = cut_or_refused(body.truncate_prompt_tokens)?;
    let most = whole("top_n", body.top_n, 0, i64::from(u32::MAX))?.filter(|most| *most > 0);
    if body.documents.is_empty() {
        return Err(ApiError::parameter(
            "empty_array",
            "documents",
            "`documents` must not be an empty array",
        ));
    }
    too_many("documents", body.documents.len(), MAX_DOCUMENTS)?;
    let user = body.user.as_deref().filter(|user| !user.is_empty());
    let address = caller.address(&state.gateway, &body.model, user)?;
    let documents: Vec<String> = body.documents.into_iter().map(Document::into_text).collect();
    let shown = body.return_documents.unwrap_or(true).then(|| documents.clone());
    let command = RerankCommand { address, query: body.query, documents, long };
    let reranked = state.gateway.rerank(command).await?;
    let result = |(index, relevance_score): (usize, f32)| RerankResult {
        index,
        relevance_score,
        document: shown.as_ref().map(|texts| DocumentText { text: texts[index].clone() }),
    };
    let most = most.map_or(usize::MAX, |most| most as usize);
    let tokens = reranked.prompt_tokens;
    let list = RerankList {
        model: body.model,
        results: reranked.ranking.into_iter().take(most).map(result).collect(),
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        system_fingerprint: reranked.fingerprint,
    };
    Ok(with_headers(Json(list).into_response(), &reranked.version, &caller))
}
