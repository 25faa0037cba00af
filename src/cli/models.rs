//! `switchback models`: what is served, where each version is, and its share of traffic.

use serde_json::Value;

use super::admin_client::{Target, print_json};
use super::error::CliError;
use super::table::{Table, bytes};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let answer = args.target.get("/admin/models").await?;
    if args.target.json {
        print_json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["version", "residency", "weight", "bytes", "shared", "digest"]);
    for model in answer["models"].as_array().into_iter().flatten() {
        for version in model["versions"].as_array().into_iter().flatten() {
            table.row(cells(model, version));
        }
    }
    print!("{table}");
    Ok(())
}

fn cells(model: &Value, version: &Value) -> [String; 6] {
    let name = version["version"].as_str().unwrap_or("?");
    let weight = version["weight"].as_f64().unwrap_or(0.0);
    let size = |key: &str| version[key].as_u64().map(bytes).unwrap_or_default();
    let digest = version["digest"].as_str().unwrap_or("").trim_start_matches("sha256:");
    [
        format!("{}@{name}", model["model"].as_str().unwrap_or("?")),
        version["residency"]["state"].as_str().unwrap_or("?").to_owned(),
        format!("{weight} %"),
        size("weight_bytes"),
        size("shared_bytes"),
        digest.chars().take(12).collect(),
    ]
}
