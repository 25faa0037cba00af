//! From a prompt file's text to a [`PromptSpec`]: YAML front matter between lines of `---`, then the template.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Value as Json;

use super::error::{ConfigError, ConfigErrors};
use super::prompt::{Example, PromptSampling, PromptSpec, Variable, VariableKind};
use super::raw::{self, Node, Value};
use super::read_checks::json;
use super::read_version::{Pin, check_pin};
use super::reader::{Problem, Reader, Section, boolean, count, text};
use super::sampling::{
    MAX_STOP_BYTES, MAX_STOPS, MIN_P, PENALTY, REPETITION_PENALTY, TEMPERATURE, TOP_K, TOP_P, TopK,
};
use super::valid::{Mode, PromptRef};
use super::values::{digest, folder, number, word};

const MARK: &str = "---";
const MOST_VARIABLES: usize = 64;
const MOST_EXAMPLES: usize = 64;
const LONGEST_NAME: usize = 64;

const KNOWN: &[&str] = &[
    "description",
    "variables",
    "examples",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "stop",
];

/// Keys that people bring from elsewhere: what is wrong with each, and what would do.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("response_format", "a prompt asks for no response_format: clients do", SAY_THE_SHAPE),
    ("output", "a prompt does not set the shape of answers", SAY_THE_SHAPE),
    ("tools", "a prompt offers no tools: clients do", "remove them"),
    ("tool_choice", "a prompt offers no tools: clients do", "remove it"),
    ("functions", "a prompt offers no functions: clients offer tools", "remove them"),
    ("model", "a prompt file chooses no model", "name the image beside the prompt, in the configuration"),
    ("name", "a prompt file has no name of its own", "name the version in the configuration"),
    ("version", "a prompt file has no version of its own", "name the version in the configuration"),
    ("messages", "messages are not listed here", IN_THE_BODY),
    ("system", "the system text does not stand here", IN_THE_BODY),
    ("template", "the template does not stand here", IN_THE_BODY),
    ("config", "parameters stand at the top level", "write them there: `temperature: 0`"),
    ("sampling", "parameters stand at the top level", "write them there: `temperature: 0`"),
    ("input", "inputs are declared as variables", "write `variables: { shop: { type: string } }`"),
    ("max_completion_tokens", "this limit has another name here", "write `max_tokens`"),
    ("stop_sequences", "stop texts have another name here", "write `stop`"),
    ("seed", "a seed is a request's own", "remove it, and let clients send `seed`"),
    ("n", "how many answers is a request's own", "remove it, and let clients send `n`"),
    ("stream", "how answers are sent is a request's own", "remove it"),
    ("logit_bias", "logit_bias is a request's own", "remove it, and let clients send it"),
];
const SAY_THE_SHAPE: &str = "remove it, describe the shape in the text and judge it by a `json-schema` check";
const IN_THE_BODY: &str = "write the system text below the front matter, and turns under `examples:`";

/// Names that mean something else in a template.
const JINJA_WORDS: &[&str] = &[
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "elif",
    "else",
    "for",
    "set",
    "true",
    "false",
    "none",
    "True",
    "False",
    "None",
    "loop",
    "self",
    "super",
    "caller",
    "varargs",
    "kwargs",
    "range",
    "dict",
    "debug",
    "namespace",
    "raise_exception",
    "strftime_now",
];

/// `prompt` and `prompt_digest` of a version: which file, and what it must be.
pub(super) fn read_prompt_ref(
    r: &mut Reader,
    version: &Section<'_>,
    line: u64,
    base: &Path,
    mode: Mode,
) -> Option<PromptRef> {
    let file = r.field(version, "prompt", folder);
    let pinned = r.field(version, "prompt_digest", |v| digest(v, "switchback prompt show"));
    let add = "add the digest that `switchback prompt show` prints, or set server.mode to dev";
    check_pin(r, version, line, mode, Pin { thing: "prompt", digest: "prompt_digest", add });
    Some(PromptRef { file: base.join(file?), digest: pinned })
}

/// Reads a prompt file's text; `file` names it in errors. What the template itself does wrong is `prompt`'s to say.
pub fn parse_prompt(text: &str, file: &Path) -> Result<PromptSpec, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let refused = |errors| ConfigErrors::new(file.to_owned(), errors);
    let (front, body, body_line) = split(&text).map_err(|e| refused(vec![e]))?;
    let root = raw::tree(&front).map_err(|e| refused(vec![e]))?;
    let mut reader = Reader::default();
    let spec = read(&mut reader, &root, body, body_line);
    if reader.errors.is_empty() { Ok(spec) } else { Err(refused(reader.errors)) }
}

/// The front matter, the body, and the body's first line. The front matter has an empty line in the place of its
/// mark, so that its lines are numbered as the file's.
fn split(text: &str) -> Result<(String, &str, u64), ConfigError> {
    let mut lines = text.split_inclusive('\n');
    let is_mark = |line: &str| line.trim_end() == MARK;
    let Some(first) = lines.next().filter(|line| is_mark(line)) else {
        return Ok((String::new(), text, 1));
    };
    let (mut at, mut line) = (first.len(), 2);
    for next in lines {
        let end = at + next.len();
        line += 1;
        if is_mark(next) {
            return Ok((format!("\n{}", &text[first.len()..at]), &text[end..], line));
        }
        at = end;
    }
    Err(ConfigError {
        line: 1,
        path: String::new(),
        found: "front matter opens here and nothing closes it".to_owned(),
        fix: "end it with a line of `---`; if none was meant, begin with another line".to_owned(),
    })
}

fn read(r: &mut Reader, root: &Node, body: &str, body_line: u64) -> PromptSpec {
    let known: Vec<&str> = KNOWN.iter().copied().chain(ELSEWHERE.iter().map(|(key, ..)| *key)).collect();
    let s = r.section(root, String::new(), &known);
    for (key, found, fix) in ELSEWHERE {
        if let Some((written, _)) = s.entries.iter().find(|(k, _)| k.name == *key) {
            r.push(written.line, *key, Problem::new(*found, *fix));
        }
    }
    let spec = PromptSpec {
        description: r.field(&s, "description", |v| text(v).map(str::to_owned)),
        variables: read_variables(r, &s),
        sampling: read_sampling(r, &s),
        examples: read_examples(r, &s),
        body: body.to_owned(),
        body_line,
    };
    let says_nothing =
        spec.body.trim().is_empty() && spec.examples.is_empty() && spec.sampling == PromptSampling::default();
    if says_nothing && r.errors.is_empty() {
        let problem = Problem::new("the prompt says nothing", "write the system text below the front matter");
        r.push(body_line, "", problem);
    }
    spec
}

fn read_sampling(r: &mut Reader, s: &Section<'_>) -> PromptSampling {
    PromptSampling {
        temperature: r.field(s, "temperature", number_in(TEMPERATURE)),
        top_p: r.field(s, "top_p", above_zero),
        top_k: r.field(s, "top_k", |value| match value {
            Value::Integer(k) if i64::try_from(*k).is_ok_and(|k| TOP_K.contains(&k)) => {
                Ok(TopK::written(*k as i64))
            }
            other => Err(Problem::new(
                format!("found {}", other.describe()),
                format!("give a whole number from 1 to {}; -1 or 0 mean all tokens", TOP_K.end()),
            )),
        }),
        min_p: r.field(s, "min_p", number_in(MIN_P)),
        repetition_penalty: r.field(s, "repetition_penalty", number_in(REPETITION_PENALTY)),
        presence_penalty: r.field(s, "presence_penalty", number_in(PENALTY)),
        frequency_penalty: r.field(s, "frequency_penalty", number_in(PENALTY)),
        max_tokens: r.field(s, "max_tokens", count(u32::MAX as usize)),
        stop: read_stop(r, s),
    }
}

fn number_in(range: RangeInclusive<f64>) -> impl Fn(&Value) -> Result<f32, Problem> {
    move |value| {
        number(value).filter(|x| range.contains(x)).map(|x| x as f32).ok_or_else(|| {
            Problem::new(
                format!("found {}", value.describe()),
                format!("give a number from {} to {}", range.start(), range.end()),
            )
        })
    }
}

/// Above zero, also after rounding to what the sampler works in.
fn above_zero(value: &Value) -> Result<f32, Problem> {
    number_in(TOP_P)(value).ok().filter(|p| *p > 0.0).ok_or_else(|| {
        Problem::new(format!("found {}", value.describe()), "give a number above 0 and at most 1")
    })
}

fn read_stop(r: &mut Reader, s: &Section<'_>) -> Option<Vec<String>> {
    let node = s.get("stop")?;
    let path = s.path_of("stop");
    let one = std::slice::from_ref(node);
    let (items, listed) = match &node.value {
        Value::Null => return None,
        Value::List(items) => (items.as_slice(), true),
        _ => (one, false),
    };
    if items.len() > MAX_STOPS {
        let found = format!("{} stop texts", items.len());
        r.push(node.line, path.clone(), Problem::new(found, format!("keep to {MAX_STOPS}")));
    }
    let mut stops = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let path = if listed { format!("{path}[{i}]") } else { path.clone() };
        let stop = text(&item.value).and_then(|stop| match stop.len() {
            1..=MAX_STOP_BYTES => Ok(stop.to_owned()),
            bytes => Err(Problem::new(
                format!("a stop text of {bytes} bytes"),
                format!("give one of 1 to {MAX_STOP_BYTES}"),
            )),
        });
        match stop {
            Ok(stop) => stops.push(stop),
            Err(problem) => r.push(item.line, path, problem),
        }
    }
    Some(stops)
}

fn read_variables(r: &mut Reader, s: &Section<'_>) -> BTreeMap<String, Variable> {
    let Some(node) = s.get("variables") else { return BTreeMap::new() };
    let listed = r.map(node, s.path_of("variables"));
    if listed.entries.len() > MOST_VARIABLES {
        let found = format!("{} variables", listed.entries.len());
        r.push(node.line, listed.path.clone(), Problem::new(found, format!("keep to {MOST_VARIABLES}")));
    }
    let mut variables = BTreeMap::new();
    for (key, node) in &listed.entries {
        let path = listed.path_of(&key.name);
        if let Err(problem) = usable_name(&key.name) {
            r.push(key.line, path.clone(), problem);
        }
        if let Some(variable) = read_variable(r, node, &path) {
            variables.insert(key.name.clone(), variable);
        }
    }
    variables
}

fn usable_name(name: &str) -> Result<(), Problem> {
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || !name.chars().all(letters) || name.len() > LONGEST_NAME {
        let fix = format!("use 1 to {LONGEST_NAME} of a-z, A-Z, 0-9 and '_', not starting with a digit");
        return Err(Problem::new(format!("{name:?} is not a usable name of a variable"), fix));
    }
    if JINJA_WORDS.contains(&name) {
        let found = format!("`{name}` is a word of the template language");
        return Err(Problem::new(found, "give the variable another name"));
    }
    Ok(())
}

/// `shop: string`, or `shop: { type: string, default: Acme }`.
fn read_variable(r: &mut Reader, node: &Node, path: &str) -> Option<Variable> {
    let kind = |value: &Value| word(value, &VariableKind::ALL);
    if let Value::Text(_) = node.value {
        return match kind(&node.value) {
            Ok(kind) => Some(Variable { kind, default: None, description: None }),
            Err(problem) => {
                r.push(node.line, path, problem);
                None
            }
        };
    }
    let before = r.errors.len();
    let s = r.section(node, path.to_owned(), &["type", "default", "required", "description"]);
    // What is no mapping, or has unknown keys, was reported already.
    if s.get("type").is_none() && r.errors.len() > before {
        return None;
    }
    let kind = r.needed(&s, "type", "write `type: string`, or number, boolean or list", kind)?;
    let default = r.field(&s, "default", |value| default_of(kind, value));
    let required = r.field(&s, "required", boolean);
    let given = s.get("default").is_some();
    let contradiction = match required {
        Some(true) if given => Some(("a required variable has no default", "remove one of the two")),
        Some(false) if !given => Some(("a variable that may be left out needs a default", "add `default:`")),
        _ => None,
    };
    if let Some((found, fix)) = contradiction {
        r.push(s.line_of("required"), s.path_of("required"), Problem::new(found, fix));
    }
    let description = r.field(&s, "description", |v| text(v).map(str::to_owned));
    if given && default.is_none() {
        if matches!(s.get("default").map(|n| &n.value), Some(Value::Null)) {
            let problem = Problem::new("found nothing", format!("write {kind}, or remove the key"));
            r.push(s.line_of("default"), s.path_of("default"), problem);
        }
        return None;
    }
    Some(Variable { kind, default, description })
}

fn default_of(kind: VariableKind, value: &Value) -> Result<Json, Problem> {
    let found = json(value)?;
    if kind.takes(&found) {
        return Ok(found);
    }
    let quotes = if kind == VariableKind::String { ", in quotes" } else { "" };
    Err(Problem::new(format!("found {}", value.describe()), format!("write {kind}{quotes}")))
}

fn read_examples(r: &mut Reader, s: &Section<'_>) -> Vec<Example> {
    let Some(node) = s.get("examples") else { return Vec::new() };
    let path = s.path_of("examples");
    let items = match &node.value {
        Value::Null => return Vec::new(),
        Value::List(items) => items,
        other => {
            let fix = "write a list: `- { user: \"Where is my tent?\", assistant: \"On its way.\" }`";
            r.push(node.line, path, Problem::new(format!("found {}", other.describe()), fix));
            return Vec::new();
        }
    };
    if items.len() > MOST_EXAMPLES {
        let found = format!("{} examples", items.len());
        r.push(node.line, path.clone(), Problem::new(found, format!("keep to {MOST_EXAMPLES}")));
    }
    let mut examples = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let s = r.section(item, format!("{path}[{i}]"), &["user", "assistant"]);
        // What is no mapping has been refused as such; it lacks nothing in particular.
        if !matches!(item.value, Value::Map(_)) {
            continue;
        }
        if let (Some(user), Some(assistant)) = (turn(r, &s, "user"), turn(r, &s, "assistant")) {
            examples.push(Example { user, assistant });
        }
    }
    examples
}

fn turn(r: &mut Reader, example: &Section<'_>, key: &str) -> Option<String> {
    if example.get(key).is_none_or(|node| matches!(node.value, Value::Null)) {
        let problem =
            Problem::new("missing", "an example is what a user says and what the assistant answers");
        r.push(example.line_of(key), example.path_of(key), problem);
    }
    r.field(example, key, |value| match text(value)? {
        "" => Err(Problem::new("an empty text", "write what is said")),
        said => Ok(said.to_owned()),
    })
}
