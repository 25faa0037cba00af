//! A suite's file as a whole.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::cases::{FILE, file_text, read_cases, read_common};
use super::{Suite, SuitePrompt, SuiteProvider};
use crate::config::error::{ConfigError, ConfigErrors};
use crate::config::raw::{self, Node, Value};
use crate::config::read_checks::json;
use crate::config::reader::{Problem, Reader, count, text};

/// What is read.
const READ: &[&str] =
    &["description", "prompts", "providers", "targets", "defaultTest", "tests", "evaluateOptions"];
/// What decides no verdict.
const UNREAD: &[&str] =
    &["$schema", "metadata", "outputPath", "sharing", "tags", "writeLatestResults", "commandLineOptions"];
/// What would change verdicts.
const REFUSED: &[(&str, &str)] = &[
    ("scenarios", "write each as cases of its own"),
    ("nunjucksFilters", "templates are Jinja's, without filters of your own"),
    ("extensions", "no programs are run"),
    ("redteam", "run it by promptfoo"),
    ("env", "set the environment before the program starts"),
    ("derivedMetrics", "compute them from the report"),
];
const EVALUATE: &[&str] = &[
    "maxConcurrency",
    "showProgressBar",
    "cache",
    "delay",
    "timeoutMs",
    "maxEvalTimeMs",
    "generateSuggestions",
];

/// Parameters of promptfoo's own in a provider's `config`: where the server is, and what it costs.
const NOT_SENT: &[&str] = &[
    "apiBaseUrl",
    "apiHost",
    "apiKey",
    "apiKeyEnvar",
    "apiKeyRequired",
    "organization",
    "cost",
    "inputCost",
    "outputCost",
    "headers",
    "maxRetries",
    "showThinking",
    "passthrough",
    "basePath",
];

/// Reads a suite, or tells all that is wrong with it.
pub fn read_suite(file: &Path) -> Result<Suite, ConfigErrors> {
    let failed = |error: ConfigError| ConfigErrors::new(file.to_owned(), vec![error]);
    let text = std::fs::read_to_string(file).map_err(|e| {
        let found = format!("cannot read the file: {e}");
        failed(ConfigError { line: 0, path: String::new(), found, fix: "name a suite in YAML".to_owned() })
    })?;
    parse_suite(&text, file)
}

/// Reads a suite's text. `file` names it in errors, and its folder is the base of relative paths.
pub fn parse_suite(text: &str, file: &Path) -> Result<Suite, ConfigErrors> {
    let root = raw::tree(text).map_err(|e| ConfigErrors::new(file.to_owned(), vec![e]))?;
    let mut r = Reader::default();
    let suite = suite(&mut r, &root, file);
    if r.errors.is_empty() { Ok(suite) } else { Err(ConfigErrors::new(file.to_owned(), r.errors)) }
}

fn suite(r: &mut Reader, root: &Node, file: &Path) -> Suite {
    let base = file.parent().unwrap_or(Path::new(""));
    // keys that only hold what YAML's aliases refer to
    let anchors = match &root.value {
        Value::Map(entries) => entries.as_slice(),
        _ => &[],
    };
    let anchors = anchors
        .iter()
        .map(|(key, _)| key.name.as_str())
        .filter(|key| key.starts_with(['.']) || key.starts_with("x-"));
    let known: Vec<&str> = READ
        .iter()
        .chain(UNREAD)
        .copied()
        .chain(REFUSED.iter().map(|(key, _)| *key))
        .chain(anchors)
        .collect();
    let top = r.section(root, String::new(), &known);
    for (key, fix) in REFUSED {
        if !top.lacks(key) {
            let problem = Problem::new("it would change verdicts and is not done here", *fix);
            r.push(top.line_of(key), *key, problem);
        }
    }
    let options = r.section(
        top.get("evaluateOptions").unwrap_or(&raw::NOTHING),
        "evaluateOptions".to_owned(),
        EVALUATE,
    );
    let common = read_common(r, top.get("defaultTest").unwrap_or(&raw::NOTHING), base);
    let cases = read_cases(r, top.get("tests").unwrap_or(&raw::NOTHING), base, &common);
    if cases.is_empty() && r.errors.is_empty() {
        let problem = Problem::new("the suite has no case", "add `tests:` with `vars` and `assert`");
        r.push(top.line_of("tests"), "tests", problem);
    }
    let prompts = read_prompts(r, top.get("prompts").unwrap_or(&raw::NOTHING), base);
    if prompts.is_empty() && r.errors.is_empty() {
        let problem = Problem::new("the suite has no prompt", "add `prompts: [\"{{message}}\"]`");
        r.push(top.line_of("prompts"), "prompts", problem);
    }
    let providers: Vec<SuiteProvider> = ["providers", "targets"]
        .iter()
        .filter_map(|key| top.get(key).map(|node| (key, node)))
        .flat_map(|(key, node)| read_providers(r, node, key))
        .collect();
    let of_prompts = prompts.iter().map(|prompt| prompt.label.as_str()).collect();
    let of_providers = providers.iter().map(|provider| provider.label.as_str()).collect();
    for (key, labels) in [("prompts", of_prompts), ("providers", of_providers)] {
        let labels: Vec<&str> = labels;
        if let Some(label) =
            labels.iter().enumerate().find_map(|(i, label)| labels[..i].contains(label).then_some(label))
        {
            let problem =
                Problem::new(format!("two have the label {label:?}"), "give each a `label` of its own");
            r.push(top.line_of(key), key, problem);
        }
    }
    let labels: Vec<&str> =
        providers.iter().flat_map(|provider| [provider.label.as_str(), provider.id.as_str()]).collect();
    for case in &cases {
        for name in case.providers.iter().filter(|name| !labels.contains(&name.as_str())) {
            let fix = match labels.as_slice() {
                [] => "the suite has none: remove this".to_owned(),
                labels => format!("name one of {}", labels.join(", ")),
            };
            r.push(case.line, "tests", Problem::new(format!("there is no provider {name:?}"), fix));
        }
    }
    let description = r.field(&top, "description", |value| text(value).map(str::to_owned));
    let concurrency = r.field(&options, "maxConcurrency", count(1024));
    Suite { file: file.to_owned(), description, prompts, providers, cases, concurrency }
}

/// The items of a list; what is none is the only one.
fn items_of(node: &Node) -> Vec<&Node> {
    match &node.value {
        Value::Null => Vec::new(),
        Value::List(items) => items.iter().collect(),
        _ => vec![node],
    }
}

/// `prompts`: texts, `file://` names, or mappings with `label` and `raw` or `id`.
fn read_prompts(r: &mut Reader, node: &Node, base: &Path) -> Vec<SuitePrompt> {
    let mut prompts = Vec::new();
    for (i, item) in items_of(node).into_iter().enumerate() {
        let path = format!("prompts[{i}]");
        let (label, template) = match &item.value {
            Value::Map(_) => {
                let s = r.section(item, path.clone(), &["label", "id", "raw"]);
                let label = r.field(&s, "label", |value| text(value).map(str::to_owned));
                let fix = "write the text as `raw`, or `file://` and a path as `id`";
                let key = if s.lacks("raw") { "id" } else { "raw" };
                (label, r.needed(&s, key, fix, |value| text(value).map(str::to_owned)))
            }
            _ => match text(&item.value) {
                Ok(template) => (None, Some(template.to_owned())),
                Err(problem) => {
                    r.push(item.line, path.clone(), problem);
                    continue;
                }
            },
        };
        let Some(template) = template else { continue };
        let label = label.unwrap_or_else(|| template.clone());
        if !template.starts_with(FILE) {
            let file = base.join(&template);
            if !template.contains(['\n', '{']) && (file.is_file() || template.contains('*')) {
                let problem =
                    Problem::new(format!("{template:?} names a file"), format!("write {FILE}{template}"));
                r.push(item.line, path, problem);
                continue;
            }
            prompts.push(SuitePrompt { label, template });
            continue;
        }
        match file_text(&template, base) {
            Ok(template) => prompts.push(SuitePrompt { label, template }),
            Err(problem) => r.push(item.line, path, problem),
        }
    }
    prompts
}

/// `providers`: ids, or mappings with `id`, `label` and `config`.
fn read_providers(r: &mut Reader, node: &Node, path: &str) -> Vec<SuiteProvider> {
    let mut providers = Vec::new();
    for (i, item) in items_of(node).into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        if let Value::Text(id) = &item.value {
            providers.push(SuiteProvider { id: id.clone(), label: id.clone(), parameters: Map::new() });
            continue;
        }
        let s = r.section(
            item,
            path,
            &["id", "label", "config", "transform", "prompts", "env", "delay", "inputs"],
        );
        for key in ["transform", "prompts", "env"] {
            if !s.lacks(key) {
                let problem = Problem::new("it would change verdicts and is not done here", "remove it");
                r.push(s.line_of(key), s.path_of(key), problem);
            }
        }
        let fix = "write `id: openai:chat:<model>`";
        let id = r.needed(&s, "id", fix, |value| text(value).map(str::to_owned));
        let label = r.field(&s, "label", |value| text(value).map(str::to_owned));
        let parameters = r.field(&s, "config", json).map(sent).unwrap_or_default();
        if let Some(id) = id {
            providers.push(SuiteProvider { label: label.unwrap_or_else(|| id.clone()), id, parameters });
        }
    }
    providers
}

/// Of a provider's `config`, what is sent with a request.
fn sent(config: Json) -> Map<String, Json> {
    let Json::Object(config) = config else { return Map::new() };
    let passed = config.get("passthrough").and_then(Json::as_object).cloned().unwrap_or_default();
    let own = config.into_iter().filter(|(name, _)| !NOT_SENT.contains(&name.as_str()));
    own.chain(passed).collect()
}
