//! `switchback bench structured`: what a schema costs in throughput.
//!
//! Clients without a pause ask over HTTP for answers of a fixed length, once free and once for each of two schemas that no
//! answer of that length can finish: `strings`, whose grammar leaves nearly every token to the model, so that each needs a
//! mask; and `records`, whose keys are forced and so taken without it. The kinds take turns in each run, and are compared
//! within it; the median of the runs counts.

use std::path::PathBuf;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};

use super::harness::{Harness, median};
use super::throughput::positive;
use crate::cli::bar::bar;
use crate::cli::error::CliError;
use crate::cli::images::show;
use crate::cli::table::Table;
use crate::demo::held_out;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration, with one model
    #[arg(long, default_value = "switchback.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Clients at once
    #[arg(long, default_value_t = 16, value_parser = positive)]
    clients: usize,
    /// Requests of each client in a run
    #[arg(long, default_value_t = 4, value_parser = positive)]
    requests: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 128, value_parser = positive)]
    output: usize,
    /// Runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = positive)]
    runs: usize,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// What answers are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Free,
    Strings,
    Records,
}

const KINDS: [Kind; 3] = [Kind::Free, Kind::Strings, Kind::Records];

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Strings => "strings",
            Self::Records => "records",
        }
    }

    fn schema(self) -> Option<Value> {
        let items = match self {
            Self::Free => return None,
            Self::Strings => json!({"type": "string", "minLength": 40, "maxLength": 80}),
            Self::Records => json!({
                "type": "object", "additionalProperties": false, "required": ["id", "name", "state"],
                "properties": {
                    "id": {"type": "integer", "minimum": 0, "maximum": 99_999},
                    "name": {"type": "string", "maxLength": 24},
                    "state": {"enum": ["new", "sent", "returned"]},
                },
            }),
        };
        Some(json!({"type": "array", "items": items, "minItems": 1000}))
    }
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let harness = Harness::start(&args.config, |_| ()).await?;
    let model = harness.only_model().await?;
    let model = model["model"].as_str().unwrap_or_default();
    let bar = bar((args.runs + 1) * KINDS.len(), "runs");
    let mut rates: [Vec<f64>; KINDS.len()] = Default::default();
    for run in 0..=args.runs {
        for (kind, rates) in KINDS.into_iter().zip(&mut rates) {
            let rate = rate(&harness, &args, model, kind, run).await?;
            // the first finds nothing warm
            if run > 0 {
                rates.push(rate);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    harness.stop().await?;
    let mut kinds = Map::new();
    for (kind, own) in KINDS.into_iter().zip(&rates) {
        let ratios = own.iter().zip(&rates[0]).map(|(own, free)| own / free);
        let figures = json!({ "tok_s": median(own.iter().copied()), "ratio": median(ratios) });
        kinds.insert(kind.name().to_owned(), figures);
    }
    let document =
        json!({ "clients": args.clients, "output": args.output, "runs": args.runs, "kinds": kinds });
    if args.json {
        show(&document);
    } else {
        print(&document);
    }
    Ok(())
}

/// Tokens a second over all clients.
async fn rate(harness: &Harness, args: &Args, model: &str, kind: Kind, run: usize) -> Result<f64, CliError> {
    let requests = args.clients * args.requests;
    let cases = held_out(run as u64 + 1, requests);
    let begun = Instant::now();
    let asked = stream::iter(cases.iter().enumerate()).map(|(seed, case)| {
        let body = json!({
            "model": model, "temperature": 1, "seed": seed, "max_tokens": args.output, "ignore_eos": true,
            "messages": [{ "role": "user", "content": case.message }],
            "guided_json": kind.schema(),
        });
        ask(harness, body)
    });
    let tokens: Vec<u64> = asked.buffer_unordered(args.clients).try_collect().await?;
    Ok(tokens.iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64())
}

async fn ask(harness: &Harness, body: Value) -> Result<u64, CliError> {
    let (_, answer) = harness.chat(&body).await?;
    let tokens = answer["usage"]["completion_tokens"].as_u64();
    tokens.ok_or_else(|| CliError::Bench(format!("no answer: {answer}")))
}

fn print(document: &Value) {
    let mut table = Table::new(&["answers", "tok/s", "of free ones"]);
    for (kind, figures) in document["kinds"].as_object().into_iter().flatten() {
        let number = |key: &str| figures[key].as_f64().unwrap_or(0.0);
        table.row([
            kind.clone(),
            format!("{:.0}", number("tok_s")),
            format!("{:.1} %", 100.0 * number("ratio")),
        ]);
    }
    print!("{table}");
}
