//! `switchback bench speculation`: what guessing tokens brings.
//!
//! Clients without a pause ask for greedy answers to held-out cases of the demo, of servers that guess nothing and of ones
//! that guess; the two take turns in each run, and are compared within it. Their answers have to be the same.

use std::path::PathBuf;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::harness::{Harness, median};
use super::throughput::positive;
use crate::cli::bar::bar;
use crate::cli::error::CliError;
use crate::cli::images::show;
use crate::demo::{SYSTEM_PROMPT, held_out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration, with one model
    #[arg(long, default_value = "switchback.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Tokens that are guessed of a request at once
    #[arg(long, default_value_t = 4, value_parser = positive)]
    tokens: usize,
    /// Clients at once
    #[arg(long, default_value_t = 1, value_parser = positive)]
    clients: usize,
    /// Requests in a run
    #[arg(long, default_value_t = 32, value_parser = positive)]
    requests: usize,
    /// Runs; the median counts
    #[arg(long, default_value_t = 3, value_parser = positive)]
    runs: usize,
    /// Print one JSON document instead of a sentence
    #[arg(long)]
    json: bool,
}

/// How a server fared.
struct Run {
    answers: Vec<String>,
    tokens_a_second: f64,
    steps_a_token: f64,
    /// Of the tokens that were guessed, the right ones.
    accepted: f64,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let bar = bar(2 * args.runs, "runs");
    let (mut speedups, mut steps, mut accepted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.runs {
        let plain = one(&args, 0).await?;
        bar.inc(1);
        let guessing = one(&args, args.tokens).await?;
        bar.inc(1);
        if let Some(i) = (0..args.requests).find(|i| plain.answers[*i] != guessing.answers[*i]) {
            let (plain, guessing) = (&plain.answers[i], &guessing.answers[i]);
            return Err(CliError::Bench(format!("answers differ: {plain:?} and {guessing:?}")));
        }
        speedups.push(guessing.tokens_a_second / plain.tokens_a_second);
        steps.push(guessing.steps_a_token / plain.steps_a_token);
        accepted.push(guessing.accepted);
    }
    bar.finish_and_clear();
    let of = |values: Vec<f64>| median(values.into_iter());
    let document = json!({
        "tokens": args.tokens, "clients": args.clients, "requests": args.requests, "runs": args.runs,
        "speedup": of(speedups), "steps": of(steps), "accepted": of(accepted),
    });
    if args.json {
        show(&document);
    } else {
        let number = |key: &str| document[key].as_f64().unwrap_or(0.0);
        println!(
            "answers are the same; {:.2} times the tokens a second, {:.2} of the steps, {:.0} % of the guesses were right",
            number("speedup"),
            number("steps"),
            100.0 * number("accepted"),
        );
    }
    Ok(())
}

async fn one(args: &Args, tokens: usize) -> Result<Run, CliError> {
    let harness = Harness::start(&args.config, |config| {
        for model in config.models.values_mut() {
            model.engine.speculative_tokens = tokens;
        }
    })
    .await?;
    let model = harness.only_model().await?;
    let model = model["model"].as_str().unwrap_or_default();
    let ask = |message: String| {
        let body = json!({
            "model": model, "temperature": 0, "max_tokens": 200,
            "messages": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": message}],
        });
        let harness = &harness;
        async move {
            let (_, answer) = harness.chat(&body).await?;
            let text = answer["choices"][0]["message"]["content"].as_str().map(str::to_owned);
            let text = text.ok_or_else(|| CliError::Bench(format!("no answer: {answer}")))?;
            Ok::<_, CliError>((text, answer["usage"]["completion_tokens"].as_u64().unwrap_or(0)))
        }
    };
    let messages = |seed: u64| held_out(seed, args.requests).into_iter().map(|case| case.message);
    // the first requests find nothing warm
    stream::iter(messages(2).take(4)).then(ask).try_collect::<Vec<_>>().await?;
    let before = counters(&harness).await?;
    let begun = Instant::now();
    let asked = stream::iter(messages(1)).map(ask).buffered(args.clients);
    let answers: Vec<(String, u64)> = asked.try_collect().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = counters(&harness).await?;
    harness.stop().await?;
    let generated: u64 = answers.iter().map(|(_, tokens)| tokens).sum();
    let [steps, guessed, right] = [0, 1, 2].map(|i| after[i] - before[i]);
    Ok(Run {
        answers: answers.into_iter().map(|(text, _)| text).collect(),
        tokens_a_second: generated as f64 / seconds,
        steps_a_token: steps / generated as f64,
        accepted: if guessed > 0.0 { right / guessed } else { 0.0 },
    })
}

/// Steps, tokens that were guessed, and the right ones, of all versions.
async fn counters(harness: &Harness) -> Result<[f64; 3], CliError> {
    let failed = |error: reqwest::Error| CliError::Bench(error.to_string());
    let scrape = harness.client.get(harness.public("/metrics")).send().await.map_err(failed)?;
    let scrape = scrape.error_for_status().map_err(failed)?.text().await.map_err(failed)?;
    Ok(["steps", "speculated_tokens", "accepted_tokens"].map(|name| {
        let name = format!("switchback_engine_{name}_total{{");
        let values = scrape.lines().filter(|line| line.starts_with(&name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }))
}
