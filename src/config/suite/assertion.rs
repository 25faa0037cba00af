//! `assert`: one assertion of a case.

use std::path::Path;

use serde_json::Value as Json;

use super::cases::json_or_file;
use super::{AssertionKind, AssertionSpec};
use crate::config::checks::Expect;
use crate::config::raw::{Node, Value};
use crate::config::read_checks::json;
use crate::config::reader::{Problem, Reader, Section, nearest, text};
use crate::config::values::number;

const ASSERTION: &[&str] =
    &["type", "value", "threshold", "weight", "metric", "provider", "assert", "min", "max"];

/// What would change an assertion's verdict and is not done here.
const CHANGES: &[(&str, &str)] = &[
    ("transform", "an answer is judged as it is: compare with `is-json`, `contains-json` or `regex`"),
    ("contextTransform", "no assertion here reads a context"),
    ("rubricPrompt", "the judge's words are the server's own: put all into `value`"),
    ("config", "an assertion has no configuration of its own here: put the parameter at its top level"),
];

/// Kinds that promptfoo computes with a program, a further model or a measure that is not here.
const FOREIGN: &[&str] = &[
    "javascript",
    "python",
    "ruby",
    "webhook",
    "cost",
    "perplexity",
    "perplexity-score",
    "rouge-n",
    "bleu",
    "gleu",
    "meteor",
    "is-sql",
    "contains-sql",
    "is-xml",
    "contains-xml",
    "is-html",
    "contains-html",
    "g-eval",
    "model-graded-closedqa",
    "model-graded-factuality",
    "answer-relevance",
    "context-faithfulness",
    "context-recall",
    "context-relevance",
    "conversation-relevance",
    "classifier",
    "moderation",
    "pi",
    "guardrails",
    "select-best",
    "max-score",
    "human",
    "is-valid-function-call",
    "is-valid-openai-function-call",
    "tool-call-f1",
    "trajectory",
    "trace-span-count",
    "trace-span-duration",
    "trace-error-spans",
    "search-rubric",
    "ends-with",
];

/// The assertions of a list.
pub(super) fn read_assertions(r: &mut Reader, node: &Node, path: &str, base: &Path) -> Vec<AssertionSpec> {
    let Value::List(items) = &node.value else {
        if !matches!(node.value, Value::Null) {
            let found = format!("found {}", node.value.describe());
            r.push(node.line, path, Problem::new(found, "write a list: `- { type: contains, value: .. }`"));
        }
        return Vec::new();
    };
    let read = |(i, item): (usize, &Node)| read_assertion(r, item, format!("{path}[{i}]"), base);
    items.iter().enumerate().filter_map(read).collect()
}

fn read_assertion(r: &mut Reader, node: &Node, path: String, base: &Path) -> Option<AssertionSpec> {
    let known: Vec<&str> = ASSERTION.iter().copied().chain(CHANGES.iter().map(|(key, _)| *key)).collect();
    let s = r.section(node, path, &known);
    for (key, fix) in CHANGES {
        if !s.lacks(key) {
            let problem = Problem::new("it would change the verdict and is not done here", *fix);
            r.push(s.line_of(key), s.path_of(key), problem);
        }
    }
    let written = r.needed(&s, "type", "write what is to hold, such as `type: contains`", |value| {
        text(value).map(str::to_owned)
    })?;
    let (kind, expect) = match kind(&written) {
        Ok(found) => found,
        Err(problem) => {
            r.push(s.line_of("type"), s.path_of("type"), problem);
            return None;
        }
    };
    let value = value(r, &s, &kind, base);
    let threshold = r.field(&s, "threshold", a_number);
    let weight = r.field(&s, "weight", not_negative).unwrap_or(1.0);
    let metric = r.field(&s, "metric", |value| text(value).map(str::to_owned));
    let provider = r.field(&s, "provider", |value| text(value).map(str::to_owned));
    let set = match s.get("assert") {
        Some(node) => read_assertions(r, node, &s.path_of("assert"), base),
        None => Vec::new(),
    };
    if (kind == AssertionKind::Set) == set.is_empty() {
        let problem = match kind {
            AssertionKind::Set => Problem::new("a set of nothing", "list its assertions under `assert`"),
            _ => Problem::new("only an `assert-set` has assertions of its own", "remove `assert`"),
        };
        if kind == AssertionKind::Set || s.get("assert").is_some() {
            r.push(s.line_of("assert"), s.path_of("assert"), problem);
        }
    }
    Some(AssertionSpec {
        line: s.line,
        written,
        kind,
        expect,
        value,
        threshold,
        weight,
        metric,
        provider,
        set,
    })
}

/// What a name means, and whether that is to hold.
fn kind(written: &str) -> Result<(AssertionKind, Expect), Problem> {
    let find = |name: &str| {
        let known = AssertionKind::KNOWN.into_iter().find(|(known, _)| *known == name);
        let foreign = FOREIGN.contains(&name).then_some(AssertionKind::Foreign);
        known.map(|(_, kind)| kind).or(foreign)
    };
    if let Some(kind) = find(written) {
        return Ok((kind, Expect::Match));
    }
    match written.strip_prefix("not-").and_then(find) {
        Some(AssertionKind::Set) => {
            Err(Problem::new("a set has no opposite", "negate its assertions one by one"))
        }
        Some(kind) => Ok((kind, Expect::NoMatch)),
        None => {
            let names = AssertionKind::KNOWN.map(|(name, _)| name);
            let fix = match nearest(written.strip_prefix("not-").unwrap_or(written), &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known: {}, and each with `not-` before it", names.join(", ")),
            };
            Err(Problem::new(format!("there is no assertion {written:?}"), fix))
        }
    }
}

/// `value`; of a `word-count`, `min` and `max` may stand beside it, too.
fn value(r: &mut Reader, s: &Section<'_>, kind: &AssertionKind, base: &Path) -> Json {
    let value = r.field(s, "value", |value| json_or_file(value, base)).unwrap_or(Json::Null);
    let bounds = ["min", "max"].map(|key| Some((key, r.field(s, key, json)?)));
    if bounds.iter().all(Option::is_none) {
        return value;
    }
    if *kind != AssertionKind::WordCount || value != Json::Null {
        let line = s.line_of("min").min(s.line_of("max"));
        let problem = Problem::new(
            "`min` and `max` are of a `word-count` without a `value`",
            "write `{ type: word-count, min: .., max: .. }`",
        );
        r.push(line, s.path.clone(), problem);
        return value;
    }
    Json::Object(bounds.into_iter().flatten().map(|(key, bound)| (key.to_owned(), bound)).collect())
}

fn a_number(value: &Value) -> Result<f64, Problem> {
    number(value).ok_or_else(|| Problem::new(format!("found {}", value.describe()), "give a number"))
}

pub(super) fn not_negative(value: &Value) -> Result<f64, Problem> {
    a_number(value).and_then(|number| {
        if number >= 0.0 {
            Ok(number)
        } else {
            Err(Problem::new(format!("{number} is below 0"), "give 0 or more"))
        }
    })
}
