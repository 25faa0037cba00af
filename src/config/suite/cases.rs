//! `tests` and `defaultTest`: cases, with what all have in common put into each.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::assertion::{not_negative, read_assertions};
use super::{AssertionSpec, CaseSpec};
use crate::config::raw::{self, Node, Value};
use crate::config::read_checks::json;
use crate::config::reader::{Problem, Reader, Section, boolean, text};

const CASE: &[&str] = &[
    "description",
    "vars",
    "assert",
    "threshold",
    "metadata",
    "options",
    "provider",
    "providers",
    "prompts",
    "assertScoringFunction",
];
const OPTIONS: &[&str] = &[
    "storeOutputAs",
    "disableVarExpansion",
    "provider",
    "transform",
    "postprocess",
    "prefix",
    "suffix",
    "rubricPrompt",
];

/// The most cases of a suite.
const MOST_CASES: usize = 10_000;
/// The largest file that cases or variables are read from.
const LARGEST_FILE: u64 = 4 << 20;

/// What all cases have in common.
#[derive(Default)]
pub(super) struct Common {
    vars: Map<String, Json>,
    assertions: Vec<AssertionSpec>,
    threshold: Option<f64>,
    tags: Vec<String>,
    /// Who judges, where an assertion does not say.
    judge: Option<String>,
}

/// `defaultTest`.
pub(super) fn read_common(r: &mut Reader, node: &Node, base: &Path) -> Common {
    let Some(case) = read_case(r, node, "defaultTest".to_owned(), base, &Common::default()) else {
        return Common::default();
    };
    for (what, given) in [
        ("options.storeOutputAs", case.case.store_as.is_some()),
        ("metadata.conversationId", case.case.conversation.is_some()),
    ] {
        if given {
            let problem =
                Problem::new("it would be the same for all cases", "set it in the cases that it is of");
            r.push(node.line, format!("defaultTest.{what}"), problem);
        }
    }
    let CaseSpec { vars, assertions, threshold, tags, .. } = case.case;
    Common { vars, assertions, threshold, tags, judge: case.judge }
}

/// `tests`: a list, in which texts name files of further ones, or one such text.
pub(super) fn read_cases(r: &mut Reader, node: &Node, base: &Path, common: &Common) -> Vec<CaseSpec> {
    let mut cases = Vec::new();
    collect(r, node, "tests", (base, Files::MayBeNamed), common, &mut cases);
    if cases.len() > MOST_CASES {
        let found = format!("{} cases", cases.len());
        r.push(node.line, "tests", Problem::new(found, format!("keep to {MOST_CASES}")));
    }
    cases
}

/// Whether a list of cases may name files of further ones: one in such a file may not, or it might name itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    MayBeNamed,
    MayNotBeNamed,
}

fn collect(
    r: &mut Reader,
    node: &Node,
    path: &str,
    (base, files): (&Path, Files),
    common: &Common,
    cases: &mut Vec<CaseSpec>,
) {
    match &node.value {
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                let path = format!("{path}[{i}]");
                match &item.value {
                    Value::Text(_) => collect(r, item, &path, (base, files), common, cases),
                    _ => {
                        if let Some(case) = read_case(r, item, path, base, common) {
                            expand(case, cases);
                        }
                    }
                }
            }
        }
        Value::Text(name) if files == Files::MayNotBeNamed => {
            let found = format!("{name:?} in a file of cases");
            r.push(node.line, path, Problem::new(found, "name all files in the suite itself"));
        }
        Value::Text(name) => match file_text(name, base).and_then(|text| {
            raw::tree(&text).map_err(|e| Problem::new(format!("{name}, line {}: {}", e.line, e.found), e.fix))
        }) {
            // lines of the other file would be taken for this one's: its mistakes are told by their paths
            Ok(Node { value: Value::Text(_), .. }) => {
                r.push(node.line, path, Problem::new(format!("{name} holds no list of cases"), "write one"));
            }
            Ok(tree) => {
                let before = r.errors.len();
                collect(r, &tree, &format!("{path} ({name})"), (base, Files::MayNotBeNamed), common, cases);
                for error in &mut r.errors[before..] {
                    error.path = format!("{}, line {}", error.path, error.line);
                    error.line = node.line;
                }
            }
            Err(problem) => r.push(node.line, path, problem),
        },
        Value::Null => {}
        other => {
            let found = format!("found {}", other.describe());
            r.push(node.line, path, Problem::new(found, "write a list of cases, or `file://cases.yaml`"));
        }
    }
}

/// A case as it is written: a list among its variables stands for one case each.
struct Written {
    case: CaseSpec,
    expands: bool,
    judge: Option<String>,
}

fn read_case(r: &mut Reader, node: &Node, path: String, base: &Path, common: &Common) -> Option<Written> {
    let before = r.errors.len();
    let s = r.section(node, path, CASE);
    for (key, fix) in [
        ("assertScoringFunction", "weigh the assertions by `weight`, and set a `threshold`"),
        ("prompts", "put cases for other prompts into a suite of their own"),
    ] {
        refuse(r, &s, key, fix);
    }
    let options = r.section(s.get("options").unwrap_or(&raw::NOTHING), s.path_of("options"), OPTIONS);
    for key in ["transform", "postprocess", "rubricPrompt"] {
        refuse(r, &options, key, "answers are judged as they are: compare with `is-json` or `regex`");
    }
    for key in ["prefix", "suffix"] {
        refuse(r, &options, key, "write it into the prompt");
    }
    let mut vars = common.vars.clone();
    vars.extend(read_vars(r, &s, base));
    let own =
        s.get("assert").map(|node| read_assertions(r, node, &s.path_of("assert"), base)).unwrap_or_default();
    let judge = r
        .field(&options, "provider", |value| text(value).map(str::to_owned))
        .or_else(|| common.judge.clone());
    let mut assertions = common.assertions.clone();
    assertions.extend(own);
    name_judge(&mut assertions, judge.as_deref());
    let (mut tags, conversation) = read_metadata(r, &s);
    tags.extend(common.tags.iter().filter(|tag| !tags.contains(tag)).cloned().collect::<Vec<_>>());
    let case = CaseSpec {
        line: s.line,
        description: r.field(&s, "description", |value| text(value).map(str::to_owned)),
        vars,
        assertions,
        threshold: r.field(&s, "threshold", not_negative).or(common.threshold),
        tags,
        conversation,
        store_as: r.field(&options, "storeOutputAs", |value| text(value).map(str::to_owned)),
        providers: ["provider", "providers"]
            .iter()
            .filter_map(|key| r.field(&s, key, texts))
            .flatten()
            .collect(),
    };
    let expands = r.field(&options, "disableVarExpansion", boolean) != Some(true);
    (r.errors.len() == before).then_some(Written { case, expands, judge })
}

fn name_judge(assertions: &mut [AssertionSpec], judge: Option<&str>) {
    for assertion in assertions {
        if assertion.provider.is_none() {
            assertion.provider = judge.map(str::to_owned);
        }
        name_judge(&mut assertion.set, judge);
    }
}

fn refuse(r: &mut Reader, s: &Section<'_>, key: &str, fix: &str) {
    if !s.lacks(key) {
        let problem = Problem::new("it would change the verdict and is not done here", fix);
        r.push(s.line_of(key), s.path_of(key), problem);
    }
}

fn read_vars(r: &mut Reader, case: &Section<'_>, base: &Path) -> Map<String, Json> {
    let node = case.get("vars").unwrap_or(&raw::NOTHING);
    let s = r.map(node, case.path_of("vars"));
    let mut vars = Map::new();
    for (key, _) in s.entries.clone() {
        let value = r.field(&s, &key.name, |value| json_or_file(value, base));
        vars.insert(key.name.clone(), value.unwrap_or(Json::Null));
    }
    vars
}

fn read_metadata(r: &mut Reader, case: &Section<'_>) -> (Vec<String>, Option<String>) {
    let s = r.map(case.get("metadata").unwrap_or(&raw::NOTHING), case.path_of("metadata"));
    let tags = ["tags", "tag"].iter().filter_map(|key| r.field(&s, key, texts)).flatten().collect();
    (tags, r.field(&s, "conversationId", |value| text(value).map(str::to_owned)))
}

/// One text or a list of them.
pub(super) fn texts(value: &Value) -> Result<Vec<String>, Problem> {
    match value {
        Value::List(items) => items.iter().map(|item| text(&item.value).map(str::to_owned)).collect(),
        one => Ok(vec![text(one)?.to_owned()]),
    }
}

/// A case for each way to take one item of each list of texts among the variables, as promptfoo has it: lists that begin with
/// anything else are whole values.
fn expand(Written { case, expands, .. }: Written, cases: &mut Vec<CaseSpec>) {
    let is_list =
        |value: &Json| value.as_array().is_some_and(|items| items.first().is_some_and(Json::is_string));
    let lists = case.vars.iter().filter(|(_, value)| expands && is_list(value));
    let lists: Vec<(String, Vec<Json>)> =
        lists.filter_map(|(name, value)| Some((name.clone(), value.as_array()?.clone()))).collect();
    let mut all = vec![case];
    for (name, items) in lists {
        let with = |case: &CaseSpec, item: &Json| {
            let mut case = case.clone();
            case.vars.insert(name.clone(), item.clone());
            case
        };
        all = all
            .iter()
            .flat_map(|case| items.iter().map(|item| with(case, item)).collect::<Vec<_>>())
            .collect();
        // one more than may be is enough to be refused
        all.truncate(MOST_CASES + 1);
    }
    cases.extend(all);
}

/// How a value says that it stands in a file.
pub(super) const FILE: &str = "file://";

/// The text of a file beside the suite.
pub(super) fn file_text(name: &str, base: &Path) -> Result<String, Problem> {
    let Some(path) = name.strip_prefix(FILE) else {
        return Err(Problem::new(format!("{name:?} names no file"), "write `file://` and a path"));
    };
    let file = base.join(path);
    let unread =
        |why: String| Problem::new(format!("cannot read {}: {why}", file.display()), "name a text file");
    let size = file.metadata().map_err(|e| unread(e.to_string()))?.len();
    if size > LARGEST_FILE {
        return Err(unread(format!("{size} bytes, and {LARGEST_FILE} at most are read")));
    }
    std::fs::read_to_string(&file).map_err(|e| unread(e.to_string()))
}

/// A value as JSON, or that of the file that it names.
pub(super) fn json_or_file(value: &Value, base: &Path) -> Result<Json, Problem> {
    match value {
        Value::Text(name) if name.starts_with(FILE) => file_value(name, base),
        value => json(value),
    }
}

/// The value in a file: what JSON or YAML says, else its text.
fn file_value(name: &str, base: &Path) -> Result<Json, Problem> {
    let content = file_text(name, base)?;
    let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ending {
        "json" => serde_json::from_str(&content)
            .map_err(|e| Problem::new(format!("{name} holds no JSON: {e}"), "write one JSON value in it")),
        "yaml" | "yml" => {
            let tree =
                raw::tree(&content).map_err(|e| Problem::new(format!("{name}: {}", e.found), e.fix))?;
            json(&tree.value)
        }
        _ => Ok(Json::String(content.trim_end().to_owned())),
    }
}
