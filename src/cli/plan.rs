//! `switchback plan`: what a change of the configuration would do, to a server that runs or beside another file.

use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};

use super::admin_client::{Target, print_json};
use super::config_args::ConfigArgs;
use super::error::CliError;
use crate::config::{self, Config, Difference, EnvName, differences};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: ConfigArgs,
    /// Compare with this file, and ask no server
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let answer = if let Some(from) = &args.from {
        let config = args.source.load()?;
        let before = before(&config, from, args.source.env.as_ref())?;
        let differences = differences(&before, &config);
        let fixed = |difference: &&Difference| matches!(difference, Difference::Fixed { .. });
        let obstacles: Vec<String> = differences.iter().filter(fixed).map(ToString::to_string).collect();
        let changes: Vec<String> = differences.iter().map(ToString::to_string).collect();
        json!({"changes": changes, "obstacles": obstacles})
    } else {
        // the server reads them: here, the secrets that they name need not be set
        let overlay = args.source.env.as_ref().map(|env| config::overlay_of(&args.source.config, env));
        let overlay = overlay.as_deref().map(text_of).transpose()?;
        let body = json!({"config": text_of(&args.source.config)?, "overlay": overlay});
        args.target.ask(Method::POST, "/admin/config/plan", body).await?
    };
    tell(&args, &answer)
}

/// A file as if it stood where the other does, so that relative paths are the same; under the overlay beside it, or else
/// that of the other.
fn before(config: &Config, from: &Path, env: Option<&EnvName>) -> Result<Config, CliError> {
    let its_own = env.map(|env| config::overlay_of(from, env)).filter(|file| file.exists());
    let overlay = its_own.or_else(|| config.overlay.clone());
    let text = overlay.as_deref().map(text_of).transpose()?;
    let laid = text.as_deref().zip(overlay.as_deref());
    let parsed = config::parse_over(&text_of(from)?, &config.file, laid, &|name| std::env::var(name).ok());
    parsed.map_err(|errors| CliError::Check(format!("{} does not hold:\n{errors}", from.display())))
}

fn text_of(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file).map_err(|error| CliError::Usage(format!("{}: {error}", file.display())))
}

fn tell(args: &Args, answer: &Value) -> Result<(), CliError> {
    let lines = |key: &str| -> Vec<String> {
        let lines = answer[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        lines.map(str::to_owned).collect()
    };
    let (changes, obstacles) = (lines("changes"), lines("obstacles"));
    if args.target.json {
        print_json(answer);
    } else if changes.is_empty() && obstacles.is_empty() {
        println!("nothing would change");
    } else {
        for change in &changes {
            println!("{change}");
        }
    }
    if obstacles.is_empty() {
        return Ok(());
    }
    Err(CliError::Check(format!("nothing of it can be put in force now:\n  {}", obstacles.join("\n  "))))
}
