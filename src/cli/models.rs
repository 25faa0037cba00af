//! `switchback models`: what is served, where each version is, and its share of traffic.

use std::path::Path;

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
    let models = answer["models"].as_array().into_iter().flatten();
    let versions = models.flat_map(|model| {
        let name = model["model"].as_str().unwrap_or("?");
        model["versions"].as_array().into_iter().flatten().map(move |version| (name, version))
    });
    print!("{}", version_table(versions));
    Ok(())
}

/// Versions as the admin API gives them, each with the name of its model.
pub(super) fn version_table<'a>(versions: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Table {
    let mut table =
        Table::new(&["version", "residency", "traffic", "bytes", "shared", "digest", "adapter", "prompt"]);
    for (model, version) in versions {
        table.row(cells(model, version));
    }
    table
}

fn cells(model: &str, version: &Value) -> [String; 8] {
    let name = version["version"].as_str().unwrap_or("?");
    let weight = version["weight"].as_f64().unwrap_or(0.0);
    let size = |key: &str| version[key].as_u64().map(bytes).unwrap_or_default();
    let digest = version["digest"].as_str().unwrap_or("").trim_start_matches("sha256:");
    [
        format!("{model}@{name}"),
        version["residency"]["state"].as_str().unwrap_or("?").to_owned(),
        format!("{weight} %"),
        size("weight_bytes"),
        size("shared_bytes"),
        digest.chars().take(12).collect(),
        named_cell(&version["adapter"], "image"),
        named_cell(&version["prompt"], "file"),
    ]
}

/// What comes beside an image, by where it lies, and the beginning of its digest; nothing where there is none.
fn named_cell(beside: &Value, place: &str) -> String {
    let Some(file) = beside[place].as_str() else { return String::new() };
    let digest = beside["digest"].as_str().unwrap_or("").trim_start_matches("sha256:");
    short_name(file.as_ref(), &digest.chars().take(12).collect::<String>())
}

/// A prompt or an adapter as tables show it: its file's name, and the beginning of its digest where that is known.
pub(super) fn short_name(file: &Path, digest: &str) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    format!("{name} {digest}").trim_end().to_owned()
}
