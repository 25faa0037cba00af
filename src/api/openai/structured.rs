//! The parameters that ask for an answer of a certain shape, under OpenAI's and vLLM's names; the same for chat and
//! completions.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use crate::api::body::{must_be_object, typed_of};
use crate::api::error::{ApiError, shown};
use crate::api::fields::STRUCTURE;
use crate::gateway::{Shape, Structure};

/// What an answer's text is to look like; at most one of these may ask for something.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct StructuredBody {
    /// OpenAI's: `text`, `json_object`, or `json_schema` with the schema.
    pub response_format: Option<ResponseFormat>,
    /// vLLM's.
    pub structured_outputs: Option<StructuredOutputs>,
    /// vLLM's older name of `structured_outputs.json`.
    #[schema(value_type = Option<Object>)]
    pub guided_json: Option<Json>,
    /// vLLM's older name of `structured_outputs.regex`.
    pub guided_regex: Option<String>,
    /// vLLM's older name of `structured_outputs.choice`.
    pub guided_choice: Option<Vec<String>>,
    /// vLLM's older name of `structured_outputs.grammar`.
    pub guided_grammar: Option<String>,
    /// vLLM's older name of `structured_outputs.whitespace_pattern`.
    pub guided_whitespace_pattern: Option<String>,
}

/// OpenAI's way to ask for JSON.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of `json_schema`.
    pub json_schema: Option<NamedSchema>,
}

/// A schema with a name.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedSchema {
    /// Its name; it has no meaning here.
    pub name: String,
    /// What it is for; it has no meaning here.
    pub description: Option<String>,
    /// The schema.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Json>,
    /// The answer keeps to the schema either way.
    pub strict: Option<bool>,
}

/// vLLM's way to ask for a shape: exactly one of them.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// A JSON schema, or the text of one.
    #[schema(value_type = Option<Object>)]
    pub json: Option<Json>,
    /// A regular expression that the whole answer matches.
    pub regex: Option<String>,
    /// Texts, one of which the answer is.
    pub choice: Option<Vec<String>>,
    /// A grammar in Lark's syntax.
    pub grammar: Option<String>,
    /// Any JSON object.
    pub json_object: Option<bool>,
    /// A regular expression of what may stand between JSON's tokens.
    pub whitespace_pattern: Option<String>,
}

/// The shape that a request asks for, if any.
pub(super) fn structure(map: &Map<String, Json>) -> Result<Option<Arc<Structure>>, ApiError> {
    must_be_object(map.get("response_format"), "response_format")?;
    must_be_object(
        map.get("response_format").and_then(|f| f.get("json_schema")),
        "response_format.json_schema",
    )?;
    must_be_object(map.get("structured_outputs"), "structured_outputs")?;
    let body: StructuredBody = typed_of(map, STRUCTURE)?;
    let older_whitespace = body.guided_whitespace_pattern;
    let mut asked: Vec<(&str, Shape, Option<String>)> = Vec::new();
    if let Some(shape) = body.response_format.map(ResponseFormat::shape).transpose()?.flatten() {
        asked.push(("response_format", shape, None));
    }
    if let Some(outputs) = body.structured_outputs {
        let whitespace = outputs.whitespace_pattern.clone();
        asked.push(("structured_outputs", outputs.shape()?, whitespace));
    }
    let older = [
        ("guided_json", body.guided_json.map(|schema| written("guided_json", schema)).transpose()?),
        ("guided_regex", body.guided_regex.map(Shape::Regex)),
        ("guided_choice", body.guided_choice.map(Shape::Choice)),
        ("guided_grammar", body.guided_grammar.map(Shape::Lark)),
    ];
    asked.extend(
        older.into_iter().filter_map(|(param, shape)| Some((param, shape?, older_whitespace.clone()))),
    );
    if let [(first, ..), (second, ..), ..] = asked.as_slice() {
        let message =
            format!("`{first}` and `{second}` both say what the answer is to look like; give one of them");
        return Err(ApiError::parameter("invalid_value", *second, message));
    }
    let Some((param, shape, whitespace)) = asked.pop() else {
        return nothing_else(older_whitespace.is_some());
    };
    let structure = Structure::new(param, shape, whitespace);
    let structure =
        structure.map_err(|why| ApiError::parameter("invalid_value", param, format!("`{param}`: {why}")))?;
    Ok(Some(Arc::new(structure)))
}

/// Whitespace of nothing is a mistake.
fn nothing_else(whitespace: bool) -> Result<Option<Arc<Structure>>, ApiError> {
    if !whitespace {
        return Ok(None);
    }
    let message = "`guided_whitespace_pattern` needs `guided_json`";
    Err(ApiError::parameter("invalid_value", "guided_whitespace_pattern", message))
}

/// A schema as an object or as its text.
fn written(param: &str, schema: Json) -> Result<Shape, ApiError> {
    let Json::String(text) = schema else { return Ok(Shape::JsonSchema(schema)) };
    serde_json::from_str(&text).map(Shape::JsonSchema).map_err(|error| {
        ApiError::parameter(
            "invalid_value",
            param,
            format!("`{param}` is not the text of a JSON schema: {error}"),
        )
    })
}

impl ResponseFormat {
    fn shape(self) -> Result<Option<Shape>, ApiError> {
        let wrong = |code, param: &str, message: String| Err(ApiError::parameter(code, param, message));
        match (self.kind.as_str(), self.json_schema) {
            ("text", None) => Ok(None),
            ("json_object", None) => Ok(Some(Shape::JsonObject)),
            ("json_schema", Some(NamedSchema { schema: Some(schema), .. })) => {
                Ok(Some(Shape::JsonSchema(schema)))
            }
            ("json_schema", None) => wrong(
                "missing_required_parameter",
                "response_format.json_schema",
                "`response_format.json_schema` is required where `type` is `json_schema`".into(),
            ),
            ("json_schema", Some(_)) => wrong(
                "missing_required_parameter",
                "response_format.json_schema.schema",
                "`response_format.json_schema.schema` is required".into(),
            ),
            ("text" | "json_object", Some(_)) => wrong(
                "invalid_value",
                "response_format.json_schema",
                "`response_format.json_schema` needs `type` to be `json_schema`".into(),
            ),
            (other, _) => wrong(
                "invalid_value",
                "response_format.type",
                format!(
                    "`response_format.type` is `text`, `json_object` or `json_schema`; found {}",
                    shown(other)
                ),
            ),
        }
    }
}

impl StructuredOutputs {
    fn shape(self) -> Result<Shape, ApiError> {
        let object = match self.json_object {
            Some(true) => Some(Shape::JsonObject),
            Some(false) | None => None,
        };
        let json = self.json.map(|schema| written("structured_outputs.json", schema)).transpose()?;
        let shapes = [
            json,
            self.regex.map(Shape::Regex),
            self.choice.map(Shape::Choice),
            self.grammar.map(Shape::Lark),
            object,
        ];
        let mut shapes = shapes.into_iter().flatten();
        match (shapes.next(), shapes.next()) {
            (Some(shape), None) => Ok(shape),
            _ => Err(ApiError::parameter(
                "invalid_value",
                "structured_outputs",
                "`structured_outputs` takes exactly one of `json`, `regex`, `choice`, `grammar`, `json_object`",
            )),
        }
    }
}
