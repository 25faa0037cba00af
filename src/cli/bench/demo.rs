//! `switchback bench demo`: each version of the demo on the same held-out customers.

use std::path::PathBuf;

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::harness::Harness;
use crate::cli::bar::bar;
use crate::cli::error::CliError;
use crate::cli::table::Table;
use crate::config::Residency;
use crate::demo::{self, Case};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration whose versions are measured
    #[arg(long, default_value = "switchback.yaml", value_name = "FILE")]
    config: PathBuf,
    /// How many held-out cases each version answers
    #[arg(long, default_value_t = 500)]
    cases: usize,
    /// Seed of the held-out cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Requests in flight
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Tally {
    cases: usize,
    correct: usize,
    valid_json: usize,
    refused: usize,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let harness = Harness::start(&args.config, |config| {
        for model in config.models.values_mut() {
            model.versions.values_mut().for_each(|v| v.residency = Residency::Hot);
        }
    })
    .await?;
    let model = harness.only_model().await?;
    let name = model["model"].as_str().unwrap_or_default();
    let cases = demo::held_out(args.seed, args.cases);
    let mut report = serde_json::Map::new();
    for version in model["versions"].as_array().into_iter().flatten() {
        let version = version["version"].as_str().unwrap_or_default();
        let tally = measure(&harness, &format!("{name}@{version}"), &cases, args.concurrency).await?;
        let rate = |n: usize| n as f64 / tally.cases.max(1) as f64;
        report.insert(
            version.to_owned(),
            json!({
                "accuracy": rate(tally.correct),
                "valid_json": rate(tally.valid_json),
                "refusal": rate(tally.refused),
                "cases": tally.cases,
            }),
        );
    }
    harness.stop().await?;
    print(&report, args.json);
    Ok(())
}

async fn measure(harness: &Harness, model: &str, cases: &[Case], lanes: usize) -> Result<Tally, CliError> {
    let bar = bar(cases.len(), model);
    let mut answers = stream::iter(cases)
        .map(|case| async move { ask(harness, model, case).await.map(|answer| demo::score(&answer, case)) })
        .buffer_unordered(lanes.max(1));
    let mut tally = Tally::default();
    while let Some(score) = answers.next().await {
        let score = score?;
        tally.cases += 1;
        tally.correct += usize::from(score.correct);
        tally.valid_json += usize::from(score.valid_json);
        tally.refused += usize::from(score.refused);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(tally)
}

async fn ask(harness: &Harness, model: &str, case: &Case) -> Result<String, CliError> {
    let body = json!({
        "model": model,
        "temperature": 0,
        "max_tokens": 200,
        "messages": [
            { "role": "system", "content": demo::SYSTEM_PROMPT },
            { "role": "user", "content": case.message },
        ],
    });
    let (status, answer) = harness.chat(&body).await?;
    match answer["choices"][0]["message"]["content"].as_str() {
        Some(text) if status.is_success() => Ok(text.to_owned()),
        _ => Err(CliError::Bench(format!("{model} answered {status}: {answer}"))),
    }
}

fn print(report: &serde_json::Map<String, Value>, as_json: bool) {
    if as_json {
        println!("{:#}", Value::Object(report.clone()));
        return;
    }
    let mut table = Table::new(&["version", "accuracy", "valid_json", "refusal", "cases"]);
    for (version, figures) in report {
        let percent = |key: &str| format!("{:.1} %", 100.0 * figures[key].as_f64().unwrap_or(0.0));
        table.row([
            version.clone(),
            percent("accuracy"),
            percent("valid_json"),
            percent("refusal"),
            figures["cases"].to_string(),
        ]);
    }
    print!("{table}");
}
