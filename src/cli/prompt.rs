//! `switchback prompt`: checks a prompt file, prints the digest that pins it, and shows what it makes of a message.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::error::CliError;
use super::images::show;
use crate::config::{PromptSpec, VariableKind};
use crate::prompt::Prompt;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check a prompt file, print its digest, and render it
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The prompt file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A variable, as `name=value`; lists in JSON: `topics=["a", "b"]`
    #[arg(long = "var", value_name = "NAME=VALUE")]
    variables: Vec<String>,
    /// What the client says
    #[arg(long, default_value = "…", value_name = "TEXT")]
    message: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let Action::Show(args) = &args.action;
    let prompt = Prompt::read(&args.file, None)?;
    let given = variables(prompt.spec(), &args.variables)?;
    let client = [json!({"role": "user", "content": args.message})];
    let missing = missing(prompt.spec(), &given);
    let messages = if missing.is_empty() {
        let wrapped = prompt.wrap_blocking(&client, &given);
        Some(wrapped.map_err(|e| CliError::Prompt(format!("{}: {e}", args.file.display())))?)
    } else {
        None
    };
    if args.json {
        show(
            &json!({ "prompt": args.file, "prompt_digest": prompt.digest(), "missing": missing, "messages": messages }),
        );
        return Ok(());
    }
    println!("prompt: {:?}\nprompt_digest: \"{}\"", args.file.display().to_string(), prompt.digest());
    for message in messages.iter().flatten() {
        let text = |key: &str| message[key].as_str().unwrap_or_default();
        println!("\n[{}]\n{}", text("role"), text("content"));
    }
    if !missing.is_empty() {
        eprintln!("to see it rendered, give {}", missing.join(" "));
    }
    Ok(())
}

/// The arguments that are still needed, as they would be written.
fn missing(spec: &PromptSpec, given: &Map<String, Value>) -> Vec<String> {
    let needed = spec.variables.iter().filter(|(name, v)| v.default.is_none() && !given.contains_key(*name));
    needed.map(|(name, _)| format!("--var {name}=…")).collect()
}

/// The variables given as arguments. A string is taken as it stands, all else is JSON.
fn variables(spec: &PromptSpec, given: &[String]) -> Result<Map<String, Value>, CliError> {
    let mut variables = Map::new();
    for written in given {
        let (name, value) = written
            .split_once('=')
            .ok_or_else(|| CliError::Prompt(format!("--var {written}: write `--var name=value`")))?;
        let kind = spec.variables.get(name).map(|variable| variable.kind);
        let value = match kind {
            // What the prompt does not know, it refuses by its name.
            Some(VariableKind::String) | None => Value::from(value),
            Some(kind) => serde_json::from_str(value).map_err(|_| {
                CliError::Prompt(format!("--var {name}: found {value:?}; give {kind}, in JSON"))
            })?,
        };
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}
