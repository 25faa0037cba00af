//! One assertion of a case: from what is written, with the case's variables in it, to a finding about an answer.

use std::time::Duration;

use futures::future::BoxFuture;
use jsonschema::Validator;
use serde_json::{Map, Value as Json};

use super::door::{Asked, embeddings};
use super::edits::distance;
use super::found::json_in;
use super::judge::{self, Panel};
use super::render::render_all;
use super::report::AssertionResult;
use crate::config::suite::{AssertionKind, AssertionSpec, Suite};
use crate::config::{
    Case, CheckKind, Clock, EqualTo, Expect, FinishReason, LengthUnit, Needed, PhraseList, TextRule,
};
use crate::quality::checks::Check;
use crate::quality::compile::working;
use crate::quality::embedding::Embedding;
use crate::quality::json::{misfit, validator};
use crate::quality::response::{Response, Subject};
use crate::quality::verdict::{Verdict, shown};

/// The most edits from a text that pass, unless something is said, as in promptfoo.
const EDITS: f64 = 5.0;
/// Texts are compared letter by letter up to so many.
const LONGEST_COMPARED: usize = 20_000;
/// The least cosine of texts that mean the same, unless something is said, as in promptfoo.
const COSINE: f64 = 0.75;

/// An assertion that is not computed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// Its line.
    pub line: u64,
    /// As it is written.
    pub written: String,
}

/// The assertions of a suite that are not computed here.
pub fn unsupported(suite: &Suite) -> Vec<Unsupported> {
    fn add(specs: &[AssertionSpec], found: &mut Vec<Unsupported>) {
        for spec in specs {
            if spec.kind == AssertionKind::Foreign {
                found.push(Unsupported { line: spec.line, written: spec.written.clone() });
            }
            add(&spec.set, found);
        }
    }
    let mut found = Vec::new();
    for case in &suite.cases {
        add(&case.assertions, &mut found);
    }
    // those of `defaultTest` are in each case
    found.sort_by_key(|unsupported| unsupported.line);
    found.dedup();
    found
}

/// A suite without what is not computed here, and how many assertions that was, case by case. A case that has nothing left to
/// hold is left out, too.
pub(super) fn without_foreign(suite: &Suite) -> (Suite, usize) {
    fn known(specs: Vec<AssertionSpec>, left_out: &mut usize) -> Vec<AssertionSpec> {
        let mut kept = Vec::with_capacity(specs.len());
        for mut spec in specs {
            if spec.kind == AssertionKind::Foreign {
                *left_out += 1;
                continue;
            }
            spec.set = known(spec.set, left_out);
            if spec.kind != AssertionKind::Set || !spec.set.is_empty() {
                kept.push(spec);
            }
        }
        kept
    }
    let (mut suite, mut left_out) = (suite.clone(), 0);
    suite.cases.retain_mut(|case| {
        let asserts = !case.assertions.is_empty();
        case.assertions = known(std::mem::take(&mut case.assertions), &mut left_out);
        !asserts || !case.assertions.is_empty()
    });
    (suite, left_out)
}

/// What an assertion finds, before it is known whether that is to hold.
pub(super) struct Finding {
    pub(super) holds: bool,
    /// From 0 to 1.
    pub(super) score: f64,
    pub(super) reason: String,
}

impl Finding {
    pub(super) fn of(holds: bool, reason: impl Into<String>) -> Self {
        Self { holds, score: f64::from(u8::from(holds)), reason: reason.into() }
    }
}

/// An assertion that is ready to look.
enum Ready {
    Check(Box<dyn Check>),
    /// The opposite of a check.
    Not(Box<dyn Check>),
    ContainsJson(Option<Validator>),
    ToolCalls(Box<dyn Check>),
    Levenshtein {
        text: String,
        most: f64,
    },
    Similar {
        references: Vec<String>,
        threshold: f64,
    },
    Rubric(String),
    Factuality(String),
}

/// Judges an answer by an assertion. An error is one of the suite or of who judges, and says nothing of the answer.
pub(super) fn judge<'a>(
    spec: &'a AssertionSpec,
    vars: &'a Map<String, Json>,
    (asked, response): (&'a Asked, &'a Response),
    panel: &'a Panel<'a>,
) -> BoxFuture<'a, Result<AssertionResult, String>> {
    Box::pin(async move {
        let finding = match spec.kind {
            AssertionKind::Set => {
                let mut results = Vec::with_capacity(spec.set.len());
                for inner in &spec.set {
                    results.push(judge(inner, vars, (asked, response), panel).await?);
                }
                of_set(&results, spec.threshold)
            }
            _ => look(&ready(spec, vars)?, spec, (asked, response), panel).await?,
        };
        let (passed, score) = match spec.expect {
            Expect::Match => (finding.holds, finding.score),
            Expect::NoMatch => (!finding.holds, 1.0 - finding.score),
        };
        Ok(AssertionResult {
            assertion: spec.written.clone(),
            line: spec.line,
            passed,
            score,
            weight: spec.weight,
            metric: spec.metric.clone(),
            reason: finding.reason,
        })
    })
}

/// What several together come to: their weighted mean, which must reach a threshold; without one, each must pass.
pub(super) fn together(results: &[AssertionResult], threshold: Option<f64>) -> (bool, f64) {
    let weights: f64 = results.iter().map(|result| result.weight).sum();
    let score = if weights > 0.0 {
        results.iter().map(|result| result.score * result.weight).sum::<f64>() / weights
    } else {
        // as promptfoo has it: nothing asserted holds, and what counts nothing scores nothing
        f64::from(u8::from(results.is_empty()))
    };
    let passed = match threshold {
        Some(threshold) => score >= threshold,
        None => results.iter().all(|result| result.passed || result.weight <= 0.0),
    };
    (passed, score)
}

fn of_set(results: &[AssertionResult], threshold: Option<f64>) -> Finding {
    let (holds, score) = together(results, threshold);
    let failed = results.iter().filter(|result| !result.passed);
    let reasons: Vec<String> =
        failed.map(|result| format!("{}: {}", result.assertion, result.reason)).collect();
    let reason = if reasons.is_empty() { "all of them hold".to_owned() } else { reasons.join("; ") };
    Finding { holds, score, reason }
}

async fn look(
    ready: &Ready,
    spec: &AssertionSpec,
    (asked, response): (&Asked, &Response),
    panel: &Panel<'_>,
) -> Result<Finding, String> {
    let by_check = |check: &dyn Check| {
        let judgement = check.judge(&Subject::new(response)).map_err(|broken| broken.to_string())?;
        Ok::<_, String>(Finding::of(judgement.verdict == Verdict::Pass, judgement.reason))
    };
    match ready {
        // promptfoo has it so: who says nothing refuses
        Ready::Not(_) if response.text.trim().is_empty() => Ok(Finding::of(true, "the answer is empty")),
        Ready::Not(check) => {
            let found = by_check(check.as_ref())?;
            Ok(Finding::of(!found.holds, found.reason))
        }
        Ready::ContainsJson(schema) => Ok(contains_json(&response.text, schema.as_ref())),
        Ready::ToolCalls(_) if response.tool_calls.is_empty() => Ok(Finding::of(false, "no tool is called")),
        Ready::Check(check) | Ready::ToolCalls(check) => by_check(check.as_ref()),
        Ready::Levenshtein { text, most } => {
            let edits = distance(text, &response.text, LONGEST_COMPARED);
            let edits = edits.ok_or("the texts are too long to be compared letter by letter")?;
            let reason = format!("{edits} edits from {}, at most {most}", shown(text));
            Ok(Finding::of(edits as f64 <= *most, reason))
        }
        Ready::Similar { references, threshold } => {
            similar(&response.text, references, *threshold, panel).await
        }
        Ready::Rubric(rubric) => judge::rubric(rubric, spec, response, panel).await,
        Ready::Factuality(fact) => judge::factuality(fact, spec, (asked, response), panel).await,
    }
}

fn contains_json(text: &str, schema: Option<&Validator>) -> Finding {
    let found = json_in(text);
    let Some(schema) = schema else {
        return match found.first() {
            Some(_) => Finding::of(true, "some of it is JSON"),
            None => Finding::of(false, format!("nothing is JSON in {}", shown(text))),
        };
    };
    let misfits: Vec<Option<String>> = found.iter().map(|json| misfit(schema, json)).collect();
    match misfits.iter().flatten().next() {
        _ if misfits.iter().any(Option::is_none) => {
            Finding::of(true, "some of it is JSON that the schema allows")
        }
        Some(misfit) => Finding::of(false, misfit.as_str()),
        None => Finding::of(false, format!("nothing is JSON in {}", shown(text))),
    }
}

fn embedder_of(embeddings: Option<&str>) -> Result<&str, String> {
    embeddings.ok_or_else(|| {
        "it needs a model that embeds: --embeddings of `switchback eval`, or `embeddings` of a model's `suite`".to_owned()
    })
}

async fn similar(
    text: &str,
    references: &[String],
    threshold: f64,
    panel: &Panel<'_>,
) -> Result<Finding, String> {
    let model = embedder_of(panel.embeddings)?;
    let texts: Vec<&str> = std::iter::once(text).chain(references.iter().map(String::as_str)).collect();
    let vectors = embeddings(panel.door, model, &texts).await.map_err(|e| e.to_string())?;
    let vectors: Vec<Embedding> = vectors
        .into_iter()
        .map(|vector| Embedding::unit(vector).ok_or("a vector without a direction"))
        .collect::<Result<_, _>>()?;
    let nearest = vectors[1..].iter().map(|vector| vectors[0].cosine(vector));
    let nearest = nearest.fold(-1.0, f64::max);
    let reason = format!("the nearest reference has a cosine of {nearest:.3}, at least {threshold}");
    Ok(Finding { holds: nearest >= threshold, score: nearest.clamp(0.0, 1.0), reason })
}

/// Refuses what can be found wrong before anybody is asked: all that no variable has a part in.
pub(super) fn check(
    spec: &AssertionSpec,
    judge: Option<&str>,
    embeddings: Option<&str>,
) -> Result<(), String> {
    for inner in &spec.set {
        check(inner, judge, embeddings)?;
    }
    let failed = |why: String| format!("line {}: {}: {why}", spec.line, spec.written);
    match spec.kind {
        AssertionKind::LlmRubric | AssertionKind::Factuality => {
            judge::judge_of(spec, judge).map_err(failed)?;
        }
        AssertionKind::Similar => {
            embedder_of(embeddings).map_err(failed)?;
        }
        _ => {}
    }
    if matches!(spec.kind, AssertionKind::Set | AssertionKind::Foreign)
        || spec.value.to_string().contains("{{")
    {
        return Ok(());
    }
    ready(spec, &Map::new()).map(drop).map_err(|why| format!("line {}: {}: {why}", spec.line, spec.written))
}

/// Refuses what cannot be judged with these variables.
pub(super) fn check_with(spec: &AssertionSpec, vars: &Map<String, Json>) -> Result<(), String> {
    let failed = |why: String| format!("`{}`: {why}", spec.written);
    match spec.kind {
        AssertionKind::Set => spec.set.iter().try_for_each(|inner| check_with(inner, vars)),
        AssertionKind::Foreign => Err(failed("it is not computed here".to_owned())),
        _ => ready(spec, vars).map(drop).map_err(failed),
    }
}

fn ready(spec: &AssertionSpec, vars: &Map<String, Json>) -> Result<Ready, String> {
    let value = render_all(&spec.value, vars)?;
    let contains = |needed: Needed, case: Case| {
        let needles = if needed == Needed::Any
            && matches!(spec.kind, AssertionKind::Contains | AssertionKind::IContains)
        {
            vec![some_text(&value)?]
        } else {
            texts(&value)?
        };
        check_of(CheckKind::Text {
            rule: TextRule::Contains { needles, needed, case },
            expect: Expect::Match,
        })
    };
    let by_rule = |rule| check_of(CheckKind::Text { rule, expect: Expect::Match });
    match spec.kind {
        AssertionKind::Equals => by_rule(TextRule::Equals(match &value {
            Json::Object(_) | Json::Array(_) => EqualTo::Json(value.clone()),
            _ => EqualTo::Text(text(&value)?),
        })),
        AssertionKind::Contains | AssertionKind::ContainsAny => contains(Needed::Any, Case::Sensitive),
        AssertionKind::IContains | AssertionKind::IContainsAny => contains(Needed::Any, Case::Insensitive),
        AssertionKind::ContainsAll => contains(Needed::All, Case::Sensitive),
        AssertionKind::IContainsAll => contains(Needed::All, Case::Insensitive),
        AssertionKind::StartsWith => by_rule(TextRule::StartsWith(some_text(&value)?)),
        AssertionKind::Regex => by_rule(TextRule::Regex(text(&value)?)),
        AssertionKind::IsJson => match schema(&value)? {
            None => check_of(CheckKind::IsJson),
            Some(schema) => check_of(CheckKind::JsonSchema { schema }),
        },
        AssertionKind::ContainsJson => {
            let schema = schema(&value)?.map(|schema| validator(&schema)).transpose()?;
            Ok(Ready::ContainsJson(schema))
        }
        AssertionKind::IsRefusal => {
            let refusal = CheckKind::Refusal { phrases: Vec::new(), list: PhraseList::Extend };
            Ok(Ready::Not(working_check(&refusal)?))
        }
        AssertionKind::WordCount => check_of(words(&value)?),
        AssertionKind::Levenshtein => {
            Ok(Ready::Levenshtein { text: text(&value)?, most: spec.threshold.unwrap_or(EDITS) })
        }
        AssertionKind::Latency => {
            let milliseconds = spec.threshold.ok_or("it has no `threshold`: give milliseconds")?;
            let max = Duration::try_from_secs_f64(milliseconds / 1000.0).map_err(|e| e.to_string())?;
            check_of(CheckKind::Latency { of: Clock::Total, max })
        }
        AssertionKind::FinishReason => check_of(CheckKind::FinishReason { allowed: reasons(&value)? }),
        AssertionKind::ToolCalls => Ok(Ready::ToolCalls(working_check(&CheckKind::ToolCallValid)?)),
        AssertionKind::Language => check_of(CheckKind::Language { codes: texts(&value)? }),
        AssertionKind::Similar => Ok(Ready::Similar {
            references: texts_as_they_are(&value)?,
            threshold: spec.threshold.unwrap_or(COSINE),
        }),
        AssertionKind::LlmRubric => Ok(Ready::Rubric(match value {
            Json::String(rubric) => rubric,
            other => other.to_string(),
        })),
        AssertionKind::Factuality => Ok(Ready::Factuality(text(&value)?)),
        AssertionKind::Set | AssertionKind::Foreign => {
            Err(format!("`{}` is not computed here", spec.written))
        }
    }
}

fn check_of(kind: CheckKind) -> Result<Ready, String> {
    working_check(&kind).map(Ready::Check)
}

fn working_check(kind: &CheckKind) -> Result<Box<dyn Check>, String> {
    let check = working(kind, None).map_err(|fault| format!("{}; {}", fault.found, fault.fix))?;
    check.ok_or_else(|| "it judges nothing of an answer".to_owned())
}

/// A text; a number or a truth value stands for how it is written.
fn text(value: &Json) -> Result<String, String> {
    match value {
        Json::String(text) => Ok(text.clone()),
        Json::Number(_) | Json::Bool(_) => Ok(value.to_string()),
        Json::Null => Err("it has no `value`".to_owned()),
        Json::Array(_) | Json::Object(_) => Err(format!("its `value` is {value}; give a text")),
    }
}

/// A text that not every answer has.
fn some_text(value: &Json) -> Result<String, String> {
    let text = text(value)?;
    if text.is_empty() { Err("its `value` is empty, which every answer has".to_owned()) } else { Ok(text) }
}

/// A list of texts, or one in which commas stand between them, as in promptfoo.
fn texts(value: &Json) -> Result<Vec<String>, String> {
    match value {
        Json::Array(items) if items.is_empty() => Err("its `value` is an empty list".to_owned()),
        Json::Array(items) => items.iter().map(some_text).collect(),
        one => {
            let parts = text(one)?;
            let parts = parts.split(',').map(str::trim).filter(|part| !part.is_empty());
            let parts: Vec<String> = parts.map(str::to_owned).collect();
            if parts.is_empty() { Err("its `value` is empty".to_owned()) } else { Ok(parts) }
        }
    }
}

fn texts_as_they_are(value: &Json) -> Result<Vec<String>, String> {
    match value {
        Json::Array(_) => texts(value),
        one => Ok(vec![text(one)?]),
    }
}

/// A schema, if one is given: as it is, or as JSON in a text.
fn schema(value: &Json) -> Result<Option<Json>, String> {
    match value {
        Json::Null => Ok(None),
        Json::String(text) => {
            serde_json::from_str(text).map(Some).map_err(|e| format!("its schema is no JSON: {e}"))
        }
        schema => Ok(Some(schema.clone())),
    }
}

fn words(value: &Json) -> Result<CheckKind, String> {
    let number = |value: &Json| {
        let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
        number.map(|number| number as usize).ok_or_else(|| format!("{value} is no count of words"))
    };
    let (min, max) = match value {
        Json::Object(bounds) => {
            let bound = |name: &str| bounds.get(name).map(number).transpose();
            (bound("min")?, bound("max")?)
        }
        Json::Null => (None, None),
        one => (Some(number(one)?), Some(number(one)?)),
    };
    if min.is_none() && max.is_none() {
        return Err("it has no count: give a `value`, or `min` and `max`".to_owned());
    }
    Ok(CheckKind::Length { unit: LengthUnit::Words, min, max })
}

fn reasons(value: &Json) -> Result<Vec<FinishReason>, String> {
    let known = FinishReason::ALL.map(|(name, _)| name).join(", ");
    let reason = |name: String| {
        let found = FinishReason::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, reason)| reason).ok_or_else(|| format!("{name:?} is no reason to end: {known}"))
    };
    texts(value)?.into_iter().map(reason).collect()
}
