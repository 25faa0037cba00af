//! `switchback suite add`: a bad answer becomes a case of a suite.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::admin_client::{Target, Who, print_json};
use super::error::CliError;
use crate::config::suite::{NewCase, Suite, with_case};
use crate::quality::suite::{check_case, has_case_of, vars_for};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Add a case that asks what a user has asked, and that the answer to it does not pass
    Add(AddArgs),
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The `id` of the answer, of a model with `keep_answers`
    #[arg(long, value_name = "ID")]
    from_response: String,
    /// The suite, in promptfoo's format
    #[arg(long, value_name = "FILE")]
    suite: PathBuf,
    /// What a good answer holds, whatever the capitals
    #[arg(long, value_name = "TEXT")]
    expect: Vec<String>,
    /// What must hold of a good answer, such as `is-json` or `regex=^Yes`; the value is JSON, or else a text
    #[arg(long = "assert", value_name = "TYPE[=VALUE]", value_parser = parse_assertion)]
    assertions: Vec<Value>,
    /// What the case is about
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// A further variable of the suite's prompts and assertions; the value is JSON, or else a text
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_var)]
    vars: Vec<(String, Value)>,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    target: Target,
}

/// What is sent of a request whatever a suite's providers say, so that it is no loss if they do not send it.
const SAID_ANYWAY: [&str; 1] = ["seed"];

/// JSON where it is any, else a text.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

fn parse_var(text: &str) -> Result<(String, Value), String> {
    let (name, written) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value(written)))
}

fn parse_assertion(text: &str) -> Result<Value, String> {
    let (kind, written) = text.split_once('=').map_or((text, None), |(kind, value)| (kind, Some(value)));
    if kind.is_empty() {
        return Err(format!("{text:?} names no assertion; write one such as contains=TEXT"));
    }
    let mut assertion = Map::from_iter([("type".to_owned(), json!(kind))]);
    if let Some(written) = written {
        // what measures is told by how much
        let key = if kind.trim_start_matches("not-") == "latency" { "threshold" } else { "value" };
        assertion.insert(key.to_owned(), value(written));
    }
    Ok(assertion.into())
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let Action::Add(args) = args.action;
    let path = format!("/admin/responses/{}", segment(&args.from_response)?);
    let answer = args.target.read(&path, &args.who).await?;
    let text = std::fs::read_to_string(&args.suite).map_err(|e| failed(&args.suite, &e))?;
    let case = case(&args, &text, &answer)?;
    let (appended, suite) = with_case(&text, &args.suite, &case).map_err(|e| failed(&args.suite, &e))?;
    let Some(last) = suite.cases.last() else { return Err(failed(&args.suite, &"it has no case")) };
    check_case(last).map_err(|e| {
        failed(&args.suite, &format!("the case could not be judged: {e}; give what is missing with --var"))
    })?;
    replace(&args.suite, &text, &appended).map_err(|e| failed(&args.suite, &e))?;
    for note in notes(&answer, &suite) {
        eprintln!("note: {note}");
    }
    if args.target.json {
        print_json(&json!({
            "suite": args.suite, "line": last.line, "description": case.description, "vars": case.vars,
            "assert": case.assertions,
        }));
    } else {
        println!("{}:{}: {}", args.suite.display(), last.line, case.description);
    }
    Ok(())
}

fn failed(suite: &Path, why: &dyn std::fmt::Display) -> CliError {
    CliError::Eval(format!("{}: {why}", suite.display()))
}

/// An id as a part of a path; one that is none is the server's to refuse.
fn segment(id: &str) -> Result<&str, CliError> {
    let fine = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let message = || format!("--from-response {id:?} is not the id of an answer, such as chatcmpl-0123…");
    if fine { Ok(id) } else { Err(CliError::Usage(message())) }
}

/// The case that an answer becomes.
fn case(args: &AddArgs, text: &str, answer: &Value) -> Result<NewCase, CliError> {
    let id = &args.from_response;
    let day = answer["at"].as_str().unwrap_or_default().split('T').next().unwrap_or_default();
    let version = answer["version"].as_str().unwrap_or_default();
    let (assertions, mut vars) = assertions(args, answer)?;
    vars.extend(args.vars.iter().cloned());
    let description = format!("{id} of {version}, {day}");
    let mut case = NewCase { description, tags: args.tag.clone(), vars, assertions };
    // with the case's place taken, the suite tells its prompts and what all its cases have in common
    let (_, suite) = with_case(text, &args.suite, &case).map_err(|e| failed(&args.suite, &e))?;
    let (Some(last), others) = (suite.cases.last(), suite.cases.len().saturating_sub(1)) else {
        return Err(failed(&args.suite, &"it has no case"));
    };
    let before = Suite { cases: suite.cases[..others].to_vec(), ..suite.clone() };
    if has_case_of(&before, id) {
        return Err(failed(&args.suite, &format!("it has a case of {id} already")));
    }
    let asked = answer["messages"].as_array().cloned().unwrap_or_default();
    let found = vars_for(&suite.prompts, &asked, last.vars.clone()).map_err(|e| failed(&args.suite, &e))?;
    // what all cases have is not said again
    case.vars.extend(found.into_iter().filter(|(name, value)| last.vars.get(name) != Some(value)));
    Ok(case)
}

/// What must hold: what was given, else that none of these answers comes again; and the variables that it takes to say so.
fn assertions(args: &AddArgs, answer: &Value) -> Result<(Vec<Value>, Map<String, Value>), CliError> {
    let choices = answer["choices"].as_array().cloned().unwrap_or_default();
    let texts = choices.iter().filter_map(|choice| choice["content"].as_str());
    for (expected, text) in
        args.expect.iter().flat_map(|expected| texts.clone().map(move |text| (expected, text)))
    {
        if text.to_lowercase().contains(&expected.to_lowercase()) {
            let message =
                format!("the answer holds {expected:?}: a case that it passes would not find it again");
            return Err(CliError::Usage(message));
        }
    }
    let mut all: Vec<Value> =
        args.expect.iter().map(|text| json!({"type": "icontains", "value": text})).collect();
    all.extend(args.assertions.iter().cloned());
    if !all.is_empty() {
        return Ok((all, Map::new()));
    }
    let is_whole = |choice: &Value| !choice["finish_reason"].is_null() && choice["content"] != "";
    if !choices.iter().all(is_whole) {
        let message =
            "the answer was cut off, or has no text: say what a good one is by --expect or --assert";
        return Err(CliError::Usage(message.to_owned()));
    }
    let mut said: Vec<&str> = Vec::new();
    for text in texts {
        if !said.contains(&text) {
            said.push(text);
        }
    }
    let mut vars = Map::new();
    let not_equals = |(i, text): (usize, &str)| {
        // an assertion's value is a template, and a variable is none
        let is_template = ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark));
        // nor is it a file's name there, which here would be that file's text
        let is_file = text.trim_start().starts_with("file://");
        let value = if is_template || is_file {
            let name = format!("answer_{i}");
            vars.insert(name.clone(), json!(text));
            format!("{{{{ {name} }}}}")
        } else {
            text.to_owned()
        };
        json!({"type": "not-equals", "value": value})
    };
    let all = said.into_iter().enumerate().map(not_equals).collect();
    Ok((all, vars))
}

/// What the request said and the suite does not say.
fn notes(answer: &Value, suite: &Suite) -> Vec<String> {
    let said = answer["parameters"].as_object().into_iter().flatten();
    let mut unsaid: Vec<String> = said
        .filter(|(name, value)| {
            let is_sent =
                suite.providers.iter().all(|provider| provider.parameters.get(*name) == Some(value));
            !SAID_ANYWAY.contains(&name.as_str()) && (suite.providers.is_empty() || !is_sent)
        })
        .map(|(name, value)| format!("{name} {}", shown(value)))
        .collect();
    if answer["prompt_variables"].as_object().is_some_and(|variables| !variables.is_empty()) {
        unsaid.push(format!("prompt_variables {}", shown(&answer["prompt_variables"])));
    }
    let told =
        |what: String| format!("the user's request had {what}; the suite's providers send something else");
    unsaid.into_iter().map(told).collect()
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { format!("{}…", text.chars().take(60).collect::<String>()) } else { text }
}

/// Puts a text into the place of a file's, whole or not at all, if that is still what it was `before`.
fn replace(file: &Path, before: &str, text: &str) -> std::io::Result<()> {
    // the file itself, should its name be that of a link
    let file = file.canonicalize()?;
    let folder = file.parent().unwrap_or(Path::new("."));
    // nobody else may read it until it is there
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().set_permissions(file.metadata()?.permissions())?;
    beside.as_file().sync_all()?;
    if std::fs::read_to_string(&file)? != before {
        return Err(std::io::Error::other("somebody else has changed it meanwhile; nothing was written"));
    }
    beside.persist(&file).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_is_a_type_with_a_value_or_without() {
        let parsed = |text: &str| parse_assertion(text).unwrap();
        assert_eq!(parsed("is-json"), json!({"type": "is-json"}));
        assert_eq!(parsed("contains=a=b"), json!({"type": "contains", "value": "a=b"}));
        assert_eq!(
            parsed("contains-any=[\"a\", \"b\"]"),
            json!({"type": "contains-any", "value": ["a", "b"]})
        );
        assert_eq!(parsed("latency=200"), json!({"type": "latency", "threshold": 200}));
        assert!(parse_assertion("=a").is_err());
        assert_eq!(parse_var("order_id=null").unwrap(), ("order_id".to_owned(), Value::Null));
        assert!(parse_var("order").is_err());
    }

    #[test]
    fn an_id_is_no_path() {
        assert!(segment("chatcmpl-00ff").is_ok());
        for bad in ["", "../audit", "a/b", "a?b", "%2e"] {
            assert!(segment(bad).is_err(), "{bad}");
        }
    }
}
