//! `switchback bench load`: what the clients of a running server see. For any server that speaks OpenAI's API with vLLM's
//! `ignore_eos` and `min_tokens`, without which answers have no fixed length; who does not know them may leave them unread.
//!
//! Streamed completions of a fixed length, either so many at once, or so many a second: then they come at random
//! moments, as those of independent clients do, and none waits for another, so a server that is too slow shows it. Times
//! are the client's: to the first text (TTFT), and from there, for each further token (TPOT).

use std::time::{Duration, Instant};

use futures::{StreamExt, stream as futures_stream};
use indicatif::ProgressBar;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::harness::{hundredths, quantile, rate};
use super::stream;
use super::throughput::positive;
use crate::cli::bar::bar;
use crate::cli::error::CliError;
use crate::cli::images::show;
use crate::cli::table::Table;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the server listens
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// The model's name, as a request gives it
    #[arg(long)]
    model: String,
    /// The key that the server asks for
    #[arg(long, env = "SWITCHBACK_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Requests in all
    #[arg(long, default_value_t = 64, value_parser = positive)]
    requests: usize,
    /// Requests in flight
    #[arg(long, default_value_t = 16, value_parser = positive)]
    concurrency: usize,
    /// Requests a second, at random moments, instead of so many in flight
    #[arg(long, value_parser = rate, conflicts_with = "concurrency")]
    rate: Option<f64>,
    /// Tokens of a prompt, roughly: a made-up word is taken for two
    #[arg(long, default_value_t = 64, value_parser = positive)]
    prompt: usize,
    /// Of these, how many begin all prompts alike
    #[arg(long, default_value_t = 0)]
    shared_prefix: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 64, value_parser = positive)]
    output: usize,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// The longest that one answer may take.
const LONGEST: Duration = Duration::from_mins(10);

/// What a client saw of one answer.
struct Answer {
    first: Duration,
    /// From the first text to the last, for each token but the first.
    each: Option<Duration>,
    total: Duration,
    prompt_tokens: u64,
    tokens: u64,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    // a connection a request: some servers close one after a stream without saying so
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(LONGEST).build();
    let client = client.map_err(|error| CliError::Bench(format!("no HTTP client: {error}")))?;
    if args.shared_prefix > args.prompt {
        return Err(CliError::Usage("--shared-prefix cannot be longer than --prompt".to_owned()));
    }
    // whoever is first finds nothing warm; and if nobody listens, one error is enough
    answer(&client, &args, "warm up").await.map_err(CliError::Bench)?;
    let bar = bar(args.requests, "requests");
    let begun = Instant::now();
    let answers = match args.rate {
        None => at_once(&client, &args, &bar).await,
        Some(rate) => a_second(&client, &args, rate, &bar).await,
    };
    let wall = begun.elapsed();
    bar.finish_and_clear();
    let report = report(&args, answers, wall);
    if args.json {
        show(&report);
    } else {
        print(&report);
    }
    match &report["first_error"] {
        Value::String(why) => {
            Err(CliError::Bench(format!("{} requests failed; the first: {why}", report["failed"])))
        }
        _ => Ok(()),
    }
}

async fn at_once(client: &reqwest::Client, args: &Args, bar: &ProgressBar) -> Vec<Result<Answer, String>> {
    let asked = (0..args.requests).map(|number| counted(client, args, number, bar));
    futures_stream::iter(asked).buffer_unordered(args.concurrency).collect().await
}

/// A Poisson process: the gaps between its requests are exponential.
async fn a_second(
    client: &reqwest::Client,
    args: &Args,
    rate: f64,
    bar: &ProgressBar,
) -> Vec<Result<Answer, String>> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let begun = tokio::time::Instant::now();
    let due = (0..args.requests).scan(0.0, |at, _| {
        let uniform = (f64::from(rng.next_u32()) + 1.0) / (f64::from(u32::MAX) + 1.0);
        let this = *at;
        *at -= uniform.ln() / rate;
        Some(this)
    });
    let asked = due.enumerate().map(|(number, at)| async move {
        tokio::time::sleep_until(begun + Duration::from_secs_f64(at)).await;
        counted(client, args, number, bar).await
    });
    futures::future::join_all(asked).await
}

/// Asks as client `number`, and notes on the bar that it was answered.
async fn counted(
    client: &reqwest::Client,
    args: &Args,
    number: usize,
    bar: &ProgressBar,
) -> Result<Answer, String> {
    let answer = answer(client, args, &prompt(args, number)).await;
    bar.inc(1);
    answer
}

/// Asks, and reads to the end.
async fn answer(client: &reqwest::Client, args: &Args, prompt: &str) -> Result<Answer, String> {
    let body = json!({
        "model": args.model, "prompt": prompt, "max_tokens": args.output, "min_tokens": args.output,
        "ignore_eos": true, "temperature": 0, "stream": true, "stream_options": {"include_usage": true},
    });
    let request = client.post(format!("{}/v1/completions", args.url.trim_end_matches('/'))).json(&body);
    let request = match &args.api_key {
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    let asked = Instant::now();
    let mut chunks = std::pin::pin!(stream::chunks(stream::ask(request).await?));
    let (mut first, mut last, mut texts, mut usage) = (None, asked, 0, Value::Null);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if chunk["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
            last = Instant::now();
            first.get_or_insert(last);
            texts += 1;
        }
        if chunk["usage"].is_object() {
            usage = chunk["usage"].clone();
        }
    }
    let first = first.ok_or("an answer without any text")?;
    // where the server does not say how many there were, each text is taken for a token
    let tokens = usage["completion_tokens"].as_u64().unwrap_or(texts);
    let further = u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX);
    Ok(Answer {
        first: first - asked,
        each: (further > 0).then(|| (last - first) / further),
        total: asked.elapsed(),
        prompt_tokens: usage["prompt_tokens"].as_u64().unwrap_or(0),
        tokens,
    })
}

/// Made-up words: those of the shared prefix, then the client's own.
fn prompt(args: &Args, number: usize) -> String {
    let words = |seed: u64, tokens: usize, letter: char| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..tokens.div_ceil(2)).map(move |_| format!("{letter}{}", rng.next_u32() % 1000))
    };
    let own = words(number as u64, args.prompt - args.shared_prefix, 'x');
    words(u64::MAX, args.shared_prefix, 'w').chain(own).collect::<Vec<_>>().join(" ")
}

fn report(args: &Args, answers: Vec<Result<Answer, String>>, wall: Duration) -> Value {
    let first_error = answers.iter().find_map(|answer| answer.as_ref().err()).cloned();
    let asked = answers.len();
    let answers: Vec<Answer> = answers.into_iter().flatten().collect();
    let tokens: u64 = answers.iter().map(|answer| answer.tokens).sum();
    let prompt_tokens: u64 = answers.iter().map(|answer| answer.prompt_tokens).sum();
    let a_second = |n: u64| hundredths(n as f64 / wall.as_secs_f64());
    json!({
        "url": args.url, "model": args.model,
        "concurrency": args.rate.is_none().then_some(args.concurrency), "rate": args.rate,
        "requests": asked, "failed": asked - answers.len(), "first_error": first_error,
        "prompt_tokens": prompt_tokens, "output_tokens": tokens, "wall_s": hundredths(wall.as_secs_f64()),
        "requests_s": hundredths(answers.len() as f64 / wall.as_secs_f64()),
        "prompt_tok_s": a_second(prompt_tokens), "output_tok_s": a_second(tokens),
        "ttft_ms": spread(answers.iter().map(|answer| answer.first)),
        "tpot_ms": spread(answers.iter().filter_map(|answer| answer.each)),
        "total_ms": spread(answers.iter().map(|answer| answer.total)),
    })
}

/// Milliseconds: mean and percentiles.
fn spread(times: impl Iterator<Item = Duration>) -> Value {
    let mut ms: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let mean = ms.iter().sum::<f64>() / ms.len().max(1) as f64;
    let q = |q: f64| hundredths(quantile(&ms, q));
    json!({"mean": hundredths(mean), "p50": q(0.5), "p90": q(0.9), "p95": q(0.95), "p99": q(0.99)})
}

fn print(report: &Value) {
    println!(
        "{} requests in {} s, {} failed: {} requests, {} prompt and {} output tokens a second",
        report["requests"],
        report["wall_s"],
        report["failed"],
        report["requests_s"],
        report["prompt_tok_s"],
        report["output_tok_s"],
    );
    let mut table = Table::new(&["milliseconds", "mean", "p50", "p90", "p95", "p99"]);
    let rows =
        [("to the first text", "ttft_ms"), ("a further token", "tpot_ms"), ("whole answer", "total_ms")];
    for (name, key) in rows {
        let cells = ["mean", "p50", "p90", "p95", "p99"].map(|column| report[key][column].to_string());
        table.row(std::iter::once(name.to_owned()).chain(cells));
    }
    print!("{table}");
}
