//! `switchback route MODEL [VERSION=WEIGHT ...]`: shows a model's route, or sets its weights.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::admin_client::{Change, Patience, Target, print_json};
use super::error::CliError;
use super::table::Table;
use crate::ids::{ModelName, VersionName, Weight};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model whose route is meant
    model: ModelName,
    /// New weights in percent, such as `v1=95 v2=5`; they sum to 100. Without any, the route is shown
    #[arg(value_name = "VERSION=WEIGHT", value_parser = parse_share)]
    weights: Vec<(VersionName, Weight)>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: Target,
}

fn parse_share(text: &str) -> Result<(VersionName, Weight), String> {
    let (version, weight) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not VERSION=WEIGHT, such as v2=5"))?;
    Ok((
        version.parse().map_err(|e: crate::ids::IdError| e.to_string())?,
        weight.parse().map_err(|e: crate::ids::IdError| e.to_string())?,
    ))
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let path = format!("/admin/models/{}/route", args.model);
    let answer = if args.weights.is_empty() {
        args.target.get(&path).await?
    } else {
        let mut weights = Map::new();
        for (version, weight) in &args.weights {
            if weights.insert(version.to_string(), json!(weight)).is_some() {
                return Err(CliError::Usage(format!(
                    "{version} is named twice; give each version one weight"
                )));
            }
        }
        let body = json!({ "weights": weights });
        args.target.change(Method::PUT, &path, body, &args.change, Patience::Short).await?
    };
    print_route(&answer, &args.target);
    Ok(())
}

/// Prints a route as the admin API gives it.
pub(super) fn print_route(route: &Value, target: &Target) {
    if target.json {
        print_json(route);
        return;
    }
    let mut table = Table::new(&["version", "weight"]);
    for (version, weight) in route["weights"].as_object().into_iter().flatten() {
        table.row([version.clone(), format!("{weight} %")]);
    }
    print!("{table}");
    let back = match route["rollback_target"]["version"].as_str() {
        Some(version) => format!("rolls back to {version}"),
        None => "no rollback target".to_owned(),
    };
    println!("revision {}, stable {}, {back}", route["revision"], route["stable"].as_str().unwrap_or("?"));
}
