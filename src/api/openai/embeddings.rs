//! POST /v1/embeddings.

use std::fmt;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::decoding::{too_many, whole};
use super::stream::with_headers;
use crate::api::body::typed;
use crate::api::caller::Caller;
use crate::api::error::{ApiError, ErrorBody, shown};
use crate::api::extract::Object;
use crate::api::fields::EMBEDDINGS;
use crate::api::public::PublicState;
use crate::gateway::{EmbedCommand, EmbedInput, LongText};

/// The most texts of a request.
const MAX_INPUTS: usize = 2048;

/// The body of POST /v1/embeddings.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct EmbeddingsBody {
    /// The model, or one of its versions as `model@version`; its image must be an encoder.
    pub model: String,
    /// One text or several, as text or tokens; 2048 at most.
    pub input: EmbeddingInput,
    /// `float` (if absent), or `base64` for little-endian 32-bit floats in Base64.
    pub encoding_format: Option<String>,
    /// Take so many numbers of each vector, and make it of length 1 again.
    pub dimensions: Option<i64>,
    /// -1 cuts texts that are too long to their beginning; without it they are refused.
    pub truncate_prompt_tokens: Option<i64>,
    /// The end user; keeps them on one version.
    pub user: Option<String>,
}

/// Texts, as text or tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingInput {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// The tokens of one text.
    Tokens(Vec<u32>),
    /// The tokens of several.
    TokenLists(Vec<Vec<u32>>),
}

/// An entry of a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

const KINDS: &str = "a string, an array of strings, an array of tokens or an array of token arrays";

impl<'de> Deserialize<'de> for EmbeddingInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = EmbeddingInput;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(KINDS)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<EmbeddingInput, E> {
                Ok(EmbeddingInput::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<EmbeddingInput, A::Error> {
                let wrong = |_| de::Error::custom(format!("invalid type: an entry is none of {KINDS}"));
                let mixed = || de::Error::custom("invalid type: the entries must be all of one kind");
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element::<Value>()? {
                    entries.push(serde_json::from_value::<Entry>(entry).map_err(wrong)?);
                }
                let (mut texts, mut tokens, mut lists) = (Vec::new(), Vec::new(), Vec::new());
                let count = entries.len();
                for entry in entries {
                    match entry {
                        Entry::Text(text) => texts.push(text),
                        Entry::Token(token) => tokens.push(token),
                        Entry::Tokens(list) => lists.push(list),
                    }
                }
                match (texts.len(), tokens.len(), lists.len()) {
                    (n, ..) if n == count => Ok(EmbeddingInput::Texts(texts)),
                    (_, n, _) if n == count => Ok(EmbeddingInput::Tokens(tokens)),
                    (.., n) if n == count => Ok(EmbeddingInput::TokenLists(lists)),
                    _ => Err(mixed()),
                }
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

impl EmbeddingInput {
    /// The texts, and whether they came as a list.
    fn inputs(self) -> Result<(Vec<EmbedInput>, bool), ApiError> {
        let (inputs, listed): (Vec<EmbedInput>, bool) = match self {
            Self::Text(text) => (vec![EmbedInput::Text(text)], false),
            Self::Texts(texts) => (texts.into_iter().map(EmbedInput::Text).collect(), true),
            Self::Tokens(tokens) => (vec![EmbedInput::Tokens(tokens)], false),
            Self::TokenLists(lists) => (lists.into_iter().map(EmbedInput::Tokens).collect(), true),
        };
        if inputs.is_empty() {
            let message = "`input` must not be an empty array";
            return Err(ApiError::parameter("empty_array", "input", message));
        }
        too_many("input", inputs.len(), MAX_INPUTS)?;
        Ok((inputs, listed))
    }
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Float,
    Base64,
}

impl Encoding {
    fn parse(word: Option<&str>) -> Result<Self, ApiError> {
        match word {
            None | Some("float") => Ok(Self::Float),
            Some("base64") => Ok(Self::Base64),
            Some(other) => Err(ApiError::parameter(
                "invalid_value",
                "encoding_format",
                format!("`encoding_format` is `float` or `base64`; found {}", shown(other)),
            )),
        }
    }

    fn write(self, vector: Vec<f32>) -> Vector {
        match self {
            Self::Float => Vector::Float(vector),
            Self::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(&bytes))
            }
        }
    }
}

/// The vectors of texts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingList {
    /// `list`.
    pub object: String,
    /// One for each text, in their order.
    pub data: Vec<EmbeddingItem>,
    /// The model as the client named it.
    pub model: String,
    /// Tokens.
    pub usage: EmbeddingUsage,
    /// Names the version by its digest.
    pub system_fingerprint: String,
}

/// The vector of one text.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingItem {
    /// `embedding`.
    pub object: String,
    /// Which text.
    pub index: usize,
    /// Of length 1.
    pub embedding: Vector,
}

/// A vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    /// Its numbers.
    Float(Vec<f32>),
    /// Their bytes, little-endian, in Base64.
    Base64(String),
}

/// Tokens of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Of all texts, those included that the tokenizer adds.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

/// Turns texts into vectors.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingsBody, responses(
    (status = 200, description = "The vectors", body = EmbeddingList),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is", body = ErrorBody),
))]
pub(in crate::api) async fn embeddings(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(map): Object,
) -> Result<Response, ApiError> {
    let (body, encoding, long) = parse(&map)?;
    let dimensions = whole("dimensions", body.dimensions, 1, i64::from(u32::MAX))?;
    let user = body.user.as_deref().filter(|user| !user.is_empty());
    let (inputs, listed) = body.input.inputs()?;
    let address = caller.address(&state.gateway, &body.model, user)?;
    let dimensions = dimensions.map(|n| n as usize);
    let command = EmbedCommand { address, inputs, listed, long, dimensions };
    let embeddings = state.gateway.embed(command).await?;
    let item = |(index, vector)| EmbeddingItem {
        object: "embedding".into(),
        index,
        embedding: encoding.write(vector),
    };
    let tokens = embeddings.prompt_tokens;
    let list = EmbeddingList {
        object: "list".into(),
        data: embeddings.vectors.into_iter().enumerate().map(item).collect(),
        model: body.model,
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        system_fingerprint: embeddings.fingerprint,
    };
    Ok(with_headers(Json(list).into_response(), &embeddings.version, &caller))
}

fn parse(map: &Map<String, Value>) -> Result<(EmbeddingsBody, Encoding, LongText), ApiError> {
    EMBEDDINGS.check(map)?;
    let body: EmbeddingsBody = typed(map)?;
    let encoding = Encoding::parse(body.encoding_format.as_deref())?;
    let long = cut_or_refused(body.truncate_prompt_tokens)?;
    Ok((body, encoding, long))
}

/// What becomes of texts that are too long, as `truncate_prompt_tokens` says.
pub(super) fn cut_or_refused(truncate_prompt_tokens: Option<i64>) -> Result<LongText, ApiError> {
    match truncate_prompt_tokens {
        None => Ok(LongText::Refuse),
        Some(-1) => Ok(LongText::Cut),
        Some(other) => {
            let message = format!(
                "`truncate_prompt_tokens` is -1, for as many tokens as the model reads; found {other}"
            );
            Err(ApiError::parameter("invalid_value", "truncate_prompt_tokens", message))
        }
    }
}
