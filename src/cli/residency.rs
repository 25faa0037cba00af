//! `switchback load MODEL@VERSION` and `switchback unload MODEL@VERSION`: into memory, and out of it.

use reqwest::Method;
use serde_json::json;

use super::admin_client::{Change, Patience, Target, print_json};
use super::error::CliError;
use super::models::version_table;
use crate::ids::{IdError, VersionRef};

#[derive(Debug, clap::Args)]
pub(super) struct LoadArgs {
    /// To the device, where it serves, or into the host's memory, ready for it
    #[arg(long, value_parser = ["hot", "warm"], default_value = "hot")]
    to: String,
    #[command(flatten)]
    args: Args,
}

#[derive(Debug, clap::Args)]
pub(super) struct UnloadArgs {
    /// Out of memory, or off the device and still in the host's memory
    #[arg(long, value_parser = ["cold", "warm"], default_value = "cold")]
    to: String,
    #[command(flatten)]
    args: Args,
}

#[derive(Debug, clap::Args)]
struct Args {
    /// The version, such as `support-assistant@v2`
    #[arg(value_name = "MODEL@VERSION", value_parser = parse_version)]
    // not `version`: clap has an argument of that name, for `--version`
    wanted: VersionRef,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: Target,
}

pub(super) fn parse_version(text: &str) -> Result<VersionRef, String> {
    let (model, version) = text
        .split_once('@')
        .ok_or_else(|| format!("{text:?} is not MODEL@VERSION, such as support-assistant@v2"))?;
    let wrong = |e: IdError| e.to_string();
    Ok(VersionRef { model: model.parse().map_err(wrong)?, version: version.parse().map_err(wrong)? })
}

/// Answers when the version is there, or says why it is not.
pub(super) async fn load(LoadArgs { to, args }: LoadArgs) -> Result<(), CliError> {
    post(&args, "load", json!({ "to": to })).await
}

/// Answers when the version has finished what it had.
pub(super) async fn unload(UnloadArgs { to, args }: UnloadArgs) -> Result<(), CliError> {
    post(&args, "unload", json!({ "to": to })).await
}

async fn post(args: &Args, action: &str, body: serde_json::Value) -> Result<(), CliError> {
    let VersionRef { model, version } = &args.wanted;
    let path = format!("/admin/models/{model}/versions/{version}/{action}");
    let answer = args.target.change(Method::POST, &path, body, &args.change, Patience::Unlimited).await?;
    if let Some(warning) = answer["warning"].as_str() {
        eprintln!("warning: {warning}");
    }
    if args.target.json {
        print_json(&answer);
    } else {
        print!("{}", version_table([(model.as_str(), &answer)]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_with_its_model() {
        assert_eq!(parse_version("desk@v1.2").unwrap().to_string(), "desk@v1.2");
        assert!(parse_version("desk").unwrap_err().contains("support-assistant@v2"));
        assert!(parse_version("desk@").unwrap_err().contains("version name"));
        assert!(parse_version("@v1").unwrap_err().contains("model name"));
    }
}
