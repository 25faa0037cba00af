//! Assertions that a model judges. It is asked for JSON of a schema, greedily and with one seed, so that the same version
//! judges the same answer alike; a judge is therefore named with its version.

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::assertion::Finding;
use super::door::{Asked, Door};
use crate::config::suite::AssertionSpec;
use crate::quality::response::Response;

/// Who helps to judge.
pub(super) struct Panel<'d> {
    pub(super) door: &'d dyn Door,
    /// The judge where an assertion names none.
    pub(super) judge: Option<&'d str>,
    /// The model that embeds.
    pub(super) embeddings: Option<&'d str>,
}

const RUBRIC: &str = "You grade an answer by a rubric. Judge only what the rubric asks for. Reply with JSON: \
                      `reason`, one sentence; `score`, from 0 (not met at all) to 1 (met in full); `pass`, whether the rubric is met.";

const FACTS: &str = "You compare a submitted answer with an expert's. Leave style and punctuation aside and look at facts \
                     alone. Reply with JSON: `reason`, one sentence; `category`, one of A (the submission says less, and nothing \
                     else), B (it says more, and nothing against the expert), C (both say the same), D (they contradict each \
                     other), E (they differ, in nothing that matters to the facts).";

#[derive(Deserialize)]
struct Grade {
    reason: String,
    score: f64,
    pass: bool,
}

#[derive(Deserialize)]
struct Comparison {
    reason: String,
    category: char,
}

/// Whether an answer meets a rubric. With a threshold, the score must reach it, too.
pub(super) async fn rubric(
    rubric: &str,
    spec: &AssertionSpec,
    response: &Response,
    panel: &Panel<'_>,
) -> Result<Finding, String> {
    let asked = format!("Rubric:\n{rubric}\n\nAnswer:\n{}", response.text);
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["reason", "score", "pass"],
        "properties": {
            "reason": {"type": "string"},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "pass": {"type": "boolean"},
        },
    });
    let Grade { reason, score, pass } = ask(RUBRIC, &asked, schema, spec, panel).await?;
    let holds = pass && spec.threshold.is_none_or(|threshold| score >= threshold);
    Ok(Finding { holds, score, reason })
}

/// Whether an answer says what is true.
pub(super) async fn factuality(
    fact: &str,
    spec: &AssertionSpec,
    (asked, response): (&Asked, &Response),
    panel: &Panel<'_>,
) -> Result<Finding, String> {
    let question = asked.messages.last().map(|message| &message["content"]);
    let question = question.and_then(Json::as_str).unwrap_or_default();
    let text = format!("Question:\n{question}\n\nExpert:\n{fact}\n\nSubmission:\n{}", response.text);
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["reason", "category"],
        "properties": {"reason": {"type": "string"}, "category": {"enum": ["A", "B", "C", "D", "E"]}},
    });
    let Comparison { reason, category } = ask(FACTS, &text, schema, spec, panel).await?;
    Ok(Finding::of(category != 'D', format!("({category}) {reason}")))
}

async fn ask<T: for<'de> Deserialize<'de>>(
    instructions: &str,
    text: &str,
    schema: Json,
    spec: &AssertionSpec,
    panel: &Panel<'_>,
) -> Result<T, String> {
    let model = judge_of(spec, panel.judge)?;
    let parameters = json!({
        "temperature": 0, "seed": 0, "max_tokens": 400,
        "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": true, "schema": schema}},
    });
    let parameters: Map<String, Json> = parameters.as_object().cloned().unwrap_or_default();
    let messages =
        vec![json!({"role": "system", "content": instructions}), json!({"role": "user", "content": text})];
    let asked = Asked { model: model.to_owned(), messages, parameters };
    let answer = asked.answer(panel.door).await.map_err(|e| format!("the judge {model}: {e}"))?;
    serde_json::from_str(&answer.response.text)
        .map_err(|e| format!("the judge {model} gave no verdict ({e}): {}", answer.response.text))
}

/// Who judges: whom the assertion names, else the usual one.
pub(super) fn judge_of<'s>(spec: &'s AssertionSpec, usual: Option<&'s str>) -> Result<&'s str, String> {
    let model = match (&spec.provider, usual) {
        (Some(id), _) => model_of(id)?,
        (None, Some(judge)) => judge,
        (None, None) => {
            let judge = "--judge of `switchback eval`, or `judge` of a model's `suite`";
            return Err(format!("it needs a judge, as `model@version`: {judge}"));
        }
    };
    pinned(model)?;
    Ok(model)
}

/// The model that a provider's id names.
pub(super) fn model_of(id: &str) -> Result<&str, String> {
    let model = id.strip_prefix("openai:").map(|rest| rest.strip_prefix("chat:").unwrap_or(rest));
    match model {
        Some(model) if !model.contains(':') && !model.is_empty() => Ok(model),
        None if !id.contains(':') => Ok(id),
        _ => Err(format!("{id:?} is not asked here: write `openai:chat:<model>`")),
    }
}

/// Refuses a judge that may be another one tomorrow.
fn pinned(model: &str) -> Result<(), String> {
    if model.contains('@') {
        return Ok(());
    }
    Err(format!("the judge {model:?} is whatever its route says: name its version, such as `{model}@v1`"))
}
