//! `models.<name>.checks`: from the tree to check specs.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde_json::{Map, Number, Value as Json};

use super::checks::{
    Case, CheckKind, CheckSpec, Clock, Cosine, EqualTo, Expect, FinishReason, Judges, LengthUnit, Needed,
    PhraseList, TextRule,
};
use super::raw::{Node, Value};
use super::reader::{Problem, Reader, Section, count, nearest, text};
use super::validate::name;
use super::values::{duration, number, percentage, word};
use crate::ids::{CheckName, Score, Weight};

/// Each check of each version has time series of its own.
const MOST_CHECKS: usize = 64;
const MOST_LENGTH: usize = 1 << 30;
const LARGEST_SCHEMA: u64 = 1 << 20;

/// The kinds of checks and the keys that each takes beside `type` and `name`.
const KINDS: &[(&str, &[&str])] = &[
    // `value` is read only to say where a schema goes.
    ("is-json", &["value"]),
    ("json-schema", &["schema", "schema_file"]),
    ("regex", &["value"]),
    ("not-regex", &["value"]),
    ("contains", &["value"]),
    ("not-contains", &["value"]),
    ("icontains", &["value"]),
    ("not-icontains", &["value"]),
    ("contains-any", &["value"]),
    ("not-contains-any", &["value"]),
    ("icontains-any", &["value"]),
    ("not-icontains-any", &["value"]),
    ("contains-all", &["value"]),
    ("not-contains-all", &["value"]),
    ("icontains-all", &["value"]),
    ("not-icontains-all", &["value"]),
    ("equals", &["value"]),
    ("not-equals", &["value"]),
    ("starts-with", &["value"]),
    ("not-starts-with", &["value"]),
    ("similar", &["value", "threshold"]),
    ("not-similar", &["value", "threshold"]),
    ("length", &["unit", "min", "max"]),
    ("refusal", &["phrases", "list"]),
    ("language", &["value"]),
    ("latency", &["max", "of"]),
    ("finish-reason", &["value"]),
    ("tool-call-valid", &[]),
    ("feedback", &["threshold"]),
];

/// What rollouts and experiments measure beside the checks, under these names.
const RESERVED: &[&str] = &[
    "overall",
    "finished",
    "output_tokens",
    "latency_seconds",
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
];

/// Words that people bring from elsewhere, and what to write here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("is-refusal", "write `refusal`, which passes when the answer does not refuse"),
    ("not-is-refusal", "write `refusal`, which passes when the answer does not refuse"),
    ("word-count", "write `{ type: length, unit: words, min: .., max: .. }`"),
    ("is-valid-openai-tools-call", "write `tool-call-valid`"),
    ("is-valid-function-call", "write `tool-call-valid`"),
    ("similarity", "write `similar`, as promptfoo does: `{ type: similar, value: .., threshold: 0.75 }`"),
    ("similar:cosine", "write `similar`, which is the cosine"),
    ("contains-json", "write `is-json` or `json-schema`: they judge the whole answer"),
];

fn score(value: &Value) -> Result<Score, Problem> {
    number(value).and_then(|score| Score::new(score).ok()).ok_or_else(|| {
        let found = format!("{} is not a score", value.describe());
        Problem::new(found, "give a number from 0 (bad) to 1 (good), such as 0.5")
    })
}

pub(super) fn read_check_sample(r: &mut Reader, model: &Section<'_>) -> Weight {
    let sample = r.field(model, "check_sample", percentage);
    let no_checks = |node: &Node| match &node.value {
        Value::Null => true,
        Value::List(items) => items.is_empty(),
        _ => false,
    };
    if sample.is_some() && model.get("checks").is_none_or(no_checks) {
        let problem = Problem::new("the model has no checks", "add `checks:` or remove this");
        r.push(model.line_of("check_sample"), model.path_of("check_sample"), problem);
    }
    sample.unwrap_or(Weight::FULL)
}

pub(super) fn read_checks(r: &mut Reader, model: &Section<'_>, base: &Path) -> Vec<CheckSpec> {
    let path = model.path_of("checks");
    let Some(node) = model.get("checks") else { return Vec::new() };
    let items = match &node.value {
        Value::Null => return Vec::new(),
        Value::List(items) => items,
        other => {
            let fix = "write a list: `- is-json`, or `- { type: length, max: 400 }`";
            r.push(node.line, path, Problem::new(format!("found {}", other.describe()), fix));
            return Vec::new();
        }
    };
    if items.len() > MOST_CHECKS {
        let found = format!("{} checks", items.len());
        r.push(node.line, path.clone(), Problem::new(found, format!("keep to {MOST_CHECKS}")));
    }
    let mut specs: Vec<CheckSpec> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(spec) = read_check(r, item, &path, base) else { continue };
        if let Some(first) = specs.iter().find(|s| s.name == spec.name) {
            let found = format!("the check on line {} is named `{}`, too", first.line, spec.name);
            r.push(spec.line, path, Problem::new(found, "give one of them another `name:`"));
        }
        let is_feedback = |spec: &CheckSpec| spec.kind.judges() == Judges::Reception;
        if let Some(first) = specs.iter().find(|first| is_feedback(first) && is_feedback(&spec)) {
            let found = format!("the check on line {} takes the model's feedback already", first.line);
            r.push(
                spec.line,
                format!("{}[{i}]", model.path_of("checks")),
                Problem::new(found, "keep one of them"),
            );
        }
        specs.push(spec);
    }
    specs
}

/// One entry of the list: a bare kind, or a mapping with its options.
fn read_check(r: &mut Reader, node: &Node, path: &str, base: &Path) -> Option<CheckSpec> {
    let bare = Section { path: path.to_owned(), line: node.line, entries: Vec::new() };
    let (written, line, place) = match &node.value {
        Value::Text(kind) => (kind.as_str(), node.line, path.to_owned()),
        Value::Map(entries) => match entries.iter().find(|(key, _)| key.name == "type") {
            Some((_, Node { value: Value::Text(kind), line })) => {
                (kind.as_str(), *line, format!("{path}.type"))
            }
            Some((key, _)) => {
                let problem = Problem::new("not a text", format!("write one of: {}", kind_names()));
                r.push(key.line, format!("{path}.type"), problem);
                return None;
            }
            None => {
                let problem = Problem::new("the check has no `type`", "add one, such as `type: regex`");
                r.push(node.line, path, problem);
                return None;
            }
        },
        other => {
            let fix = "write a kind such as `is-json`, or a mapping with `type:`";
            r.push(node.line, path, Problem::new(format!("found {}", other.describe()), fix));
            return None;
        }
    };
    let Some((kind, options)) = KINDS.iter().find(|(kind, _)| *kind == written) else {
        r.push(line, place, unknown_kind(written));
        return None;
    };
    let known: Vec<&str> = ["type", "name"].iter().chain(*options).copied().collect();
    let section =
        if matches!(node.value, Value::Map(_)) { r.section(node, path.to_owned(), &known) } else { bare };
    // Both are read, so that a wrong name does not hide a wrong option.
    let spec = read_kind(r, &section, kind, base);
    let given = r.field(&section, "name", |v| text(v).map(str::to_owned));
    let name = name::<CheckName>(
        r,
        given.as_deref().unwrap_or(kind),
        section.line_of("name"),
        &section.path_of("name"),
    );
    let name = name.filter(|name| {
        let free = !RESERVED.contains(&name.as_str());
        if !free {
            let problem = Problem::new(
                format!("`{name}` is the name of a measure that is always there"),
                "give the check another `name:`",
            );
            r.push(section.line_of("name"), section.path_of("name"), problem);
        }
        free
    });
    Some(CheckSpec { name: name?, line: node.line, kind: spec? })
}

fn kind_names() -> String {
    KINDS.iter().map(|(kind, _)| *kind).collect::<Vec<_>>().join(", ")
}

fn unknown_kind(written: &str) -> Problem {
    let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
    let elsewhere = ELSEWHERE.iter().find(|(word, _)| *word == written).map(|(_, fix)| (*fix).to_owned());
    let fix = elsewhere
        .or_else(|| nearest(written, &known).map(|near| format!("did you mean `{near}`?")))
        .unwrap_or_else(|| format!("known here: {}", kind_names()));
    Problem::new(format!("{written:?} is no kind of check"), fix)
}

fn read_kind(r: &mut Reader, s: &Section<'_>, kind: &str, base: &Path) -> Option<CheckKind> {
    Some(match kind {
        "is-json" => read_is_json(r, s)?,
        "tool-call-valid" => CheckKind::ToolCallValid,
        "feedback" => {
            CheckKind::Feedback { threshold: r.field(s, "threshold", score).unwrap_or(Score::HALF) }
        }
        "json-schema" => CheckKind::JsonSchema { schema: read_schema(r, s, base)? },
        "similar" => read_similar(r, s, Expect::Match)?,
        "not-similar" => read_similar(r, s, Expect::NoMatch)?,
        "length" => read_length(r, s)?,
        "refusal" => read_refusal(r, s)?,
        "language" => {
            CheckKind::Language { codes: r.needed(s, "value", "name a language: `value: en`", languages)? }
        }
        "latency" => CheckKind::Latency {
            of: r
                .field(s, "of", |v| word(v, &[("total", Clock::Total), ("first-token", Clock::FirstToken)]))
                .unwrap_or(Clock::Total),
            max: r.needed(s, "max", "say how long at most: `max: 2s`", duration)?,
        },
        "finish-reason" => CheckKind::FinishReason {
            allowed: r.needed(s, "value", "name what passes: `value: stop`", finish_reasons)?,
        },
        text_kind => read_text_rule(r, s, text_kind)?,
    })
}

fn read_is_json(r: &mut Reader, s: &Section<'_>) -> Option<CheckKind> {
    if s.get("value").is_some() {
        let problem = Problem::new("is-json takes no schema", "write `type: json-schema` with `schema:`");
        r.push(s.line_of("value"), s.path_of("value"), problem);
        return None;
    }
    Some(CheckKind::IsJson)
}

fn read_text_rule(r: &mut Reader, s: &Section<'_>, kind: &str) -> Option<CheckKind> {
    let (expect, kind) = match kind.strip_prefix("not-") {
        Some(kind) => (Expect::NoMatch, kind),
        None => (Expect::Match, kind),
    };
    let fix = "say what is looked for: `value: ...`";
    let (case, contains) = match kind.strip_prefix('i') {
        Some(kind) => (Case::Insensitive, kind),
        None => (Case::Sensitive, kind),
    };
    let one = |value: &Value| some_text(value).map(str::to_owned);
    let rule = match (kind, contains) {
        ("regex", _) => TextRule::Regex(r.needed(s, "value", fix, one)?),
        ("starts-with", _) => TextRule::StartsWith(r.needed(s, "value", fix, one)?),
        ("equals", _) => TextRule::Equals(r.needed(s, "value", fix, equal_to)?),
        (_, "contains-any") => {
            TextRule::Contains { needles: r.needed(s, "value", fix, texts)?, needed: Needed::Any, case }
        }
        (_, "contains-all") => {
            TextRule::Contains { needles: r.needed(s, "value", fix, texts)?, needed: Needed::All, case }
        }
        _ => {
            let needles = vec![r.needed(s, "value", fix, one)?];
            TextRule::Contains { needles, needed: Needed::All, case }
        }
    };
    Some(CheckKind::Text { rule, expect })
}

fn read_similar(r: &mut Reader, s: &Section<'_>, expect: Expect) -> Option<CheckKind> {
    let before = r.errors.len();
    let fix = "give the text, or a list of texts, that the answer is compared with: `value: ...`";
    let references = r.needed(s, "value", fix, texts);
    let threshold = r.field(s, "threshold", cosine).unwrap_or(Cosine::DEFAULT);
    let kind = CheckKind::Similar { references: references?, threshold, expect };
    (r.errors.len() == before).then_some(kind)
}

fn read_length(r: &mut Reader, s: &Section<'_>) -> Option<CheckKind> {
    let before = r.errors.len();
    let units = [("chars", LengthUnit::Chars), ("words", LengthUnit::Words), ("tokens", LengthUnit::Tokens)];
    let unit = r.field(s, "unit", |v| word(v, &units)).unwrap_or(LengthUnit::Chars);
    let min = r.field(s, "min", count(MOST_LENGTH)).map(NonZeroUsize::get);
    let max = r.field(s, "max", count(MOST_LENGTH)).map(NonZeroUsize::get);
    if r.errors.len() > before {
        return None;
    }
    let problem = match (min, max) {
        (None, None) => Problem::new("neither `min` nor `max` is given", "give one of them: `max: 400`"),
        (Some(min), Some(max)) if min > max => {
            Problem::new(format!("min {min} is above max {max}"), "no answer could pass; exchange them")
        }
        _ => return Some(CheckKind::Length { unit, min, max }),
    };
    r.push(s.line, s.path.clone(), problem);
    None
}

fn read_refusal(r: &mut Reader, s: &Section<'_>) -> Option<CheckKind> {
    let before = r.errors.len();
    let lists = [("extend", PhraseList::Extend), ("replace", PhraseList::Replace)];
    let list = r.field(s, "list", |v| word(v, &lists)).unwrap_or(PhraseList::Extend);
    let phrases = r.field(s, "phrases", texts);
    if list == PhraseList::Replace && phrases.is_none() && r.errors.len() == before {
        let fix = "give the phrases that take the place of the built-in ones";
        r.push(s.line, s.path_of("phrases"), Problem::new("missing", fix));
    }
    (r.errors.len() == before).then(|| CheckKind::Refusal { phrases: phrases.unwrap_or_default(), list })
}

fn read_schema(r: &mut Reader, s: &Section<'_>, base: &Path) -> Option<Json> {
    match (s.get("schema"), s.get("schema_file")) {
        (Some(_), Some(file)) => {
            let problem = Problem::new("`schema` is given, too", "keep one of the two");
            r.push(file.line, s.path_of("schema_file"), problem);
            None
        }
        (Some(_), None) => r.needed(s, "schema", "give a schema as a mapping", |value| match value {
            Value::Map(_) => json(value),
            other => Err(Problem::new(
                format!("found {}", other.describe()),
                "write the schema as a mapping, or name its file in `schema_file`",
            )),
        }),
        (None, _) => {
            let fix = "give `schema:` or `schema_file:`";
            let file = r.needed(s, "schema_file", fix, |v| some_text(v).map(PathBuf::from))?;
            let schema = schema_in(&base.join(&file));
            schema.map_err(|p| r.push(s.line_of("schema_file"), s.path_of("schema_file"), p)).ok()
        }
    }
}

fn schema_in(file: &Path) -> Result<Json, Problem> {
    let unreadable = |e: std::io::Error| {
        let fix = "name a readable JSON file; a relative path starts at the folder of the config";
        Problem::new(format!("cannot read {}: {e}", file.display()), fix)
    };
    let about = std::fs::metadata(file).map_err(unreadable)?;
    // A device or a pipe might never end.
    if !about.is_file() || about.len() > LARGEST_SCHEMA {
        let found = format!("{} is no file, or larger than 1 MiB", file.display());
        return Err(Problem::new(found, "name a JSON file with one schema"));
    }
    let bytes = std::fs::read(file).map_err(unreadable)?;
    let schema: Json = serde_json::from_slice(&bytes).map_err(|e| {
        Problem::new(format!("{} is not JSON: {e}", file.display()), "write one JSON schema in it")
    })?;
    if schema.is_object() {
        Ok(schema)
    } else {
        Err(Problem::new(format!("{} holds no JSON object", file.display()), "write one JSON schema in it"))
    }
}

/// A YAML value as JSON.
pub(super) fn json(value: &Value) -> Result<Json, Problem> {
    let no_number =
        |shown: String| Problem::new(format!("{shown} is no JSON number"), "write one that JSON knows");
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Integer(i) => Json::Number(Number::from_i128(*i).ok_or_else(|| no_number(i.to_string()))?),
        Value::Float(x) => Json::Number(Number::from_f64(*x).ok_or_else(|| no_number(x.to_string()))?),
        Value::Text(t) => Json::String(t.clone()),
        Value::List(items) => {
            Json::Array(items.iter().map(|item| json(&item.value)).collect::<Result<_, _>>()?)
        }
        Value::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                if map.insert(key.name.clone(), json(&value.value)?).is_some() {
                    let found =
                        format!("the key `{}` is written twice, again on line {}", key.name, key.line);
                    return Err(Problem::new(found, "keep one of the two"));
                }
            }
            Json::Object(map)
        }
    })
}

fn some_text(value: &Value) -> Result<&str, Problem> {
    match text(value)? {
        "" => Err(Problem::new("an empty text, which every answer has", "write what is looked for")),
        text => Ok(text),
    }
}

/// One text or a list of them; none empty.
fn texts(value: &Value) -> Result<Vec<String>, Problem> {
    match value {
        Value::List(items) if items.is_empty() => {
            Err(Problem::new("an empty list", "write at least one text"))
        }
        Value::List(items) => items.iter().map(|item| some_text(&item.value).map(str::to_owned)).collect(),
        one => Ok(vec![some_text(one)?.to_owned()]),
    }
}

fn cosine(value: &Value) -> Result<Cosine, Problem> {
    number(value).and_then(Cosine::new).ok_or_else(|| {
        let found = format!("{} is not a threshold", value.describe());
        Problem::new(found, "give a cosine above 0 and at most 1, such as 0.75")
    })
}

fn equal_to(value: &Value) -> Result<EqualTo, Problem> {
    match value {
        Value::List(_) | Value::Map(_) => json(value).map(EqualTo::Json),
        value => text(value).map(|t| EqualTo::Text(t.to_owned())),
    }
}

fn languages(value: &Value) -> Result<Vec<String>, Problem> {
    let codes = texts(value)?;
    match codes.iter().find(|c| c.len() != 2 || !c.bytes().all(|b| b.is_ascii_lowercase())) {
        None => Ok(codes),
        Some(code) => Err(Problem::new(
            format!("{code:?} is no ISO 639-1 code"),
            "write two small letters, such as en, de, fr or es",
        )),
    }
}

fn finish_reasons(value: &Value) -> Result<Vec<FinishReason>, Problem> {
    texts(value)?.into_iter().map(|reason| word(&Value::Text(reason), &FinishReason::ALL)).collect()
}
