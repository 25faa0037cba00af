//! `switchback bench mirror`: stable under a steady load, with and without copies for a canary, in turns.
//!
//! Requests leave at a fixed rate, whatever becomes of those before them. Short stretches with and without copies
//! alternate and ask the same questions, so that answers can be compared word for word. Times are compared in pairs of
//! neighbours, as a machine is more like itself a moment ago than a minute ago: the median of the pairs' ratios, with the
//! interval that holds it in 95 of 100 runs. The same between neighbours without copies says what is chance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Harness, quantile, rate};
use crate::cli::bar::bar;
use crate::cli::error::CliError;
use crate::cli::table::Table;
use crate::config::{Pause, Policy, Step};
use crate::demo::{Case, held_out};
use crate::ids::{ModelName, VersionName, Weight};

/// Before each stretch: the copies of the one before it end, and all stretches begin on a rested machine.
const PAUSE: Duration = Duration::from_millis(300);

/// The policy that gives a canary copies and nothing else.
const COPIES: &str = "copies";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration; its model needs two hot versions
    #[arg(long, default_value = "switchback.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Seconds with copies; as many go by without
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds of one stretch
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    stretch: u64,
    /// Requests a second
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    rate: f64,
    /// The most tokens of an answer
    #[arg(long, default_value_t = 96)]
    max_tokens: usize,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// An answer, and how long it took.
struct Asked {
    case: usize,
    status: u16,
    version: String,
    text: String,
    ms: f64,
}

/// The load, and whom it is for.
struct Load {
    harness: Harness,
    model: ModelName,
    stable: VersionName,
    canary: VersionName,
    cases: Vec<Case>,
    gap: Duration,
    max_tokens: usize,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let copies = Policy {
        steps: vec![Step::SetMirrorRoute(Weight::FULL), Step::Pause(Pause::UntilResumed)],
        ..Policy::default()
    };
    let harness = Harness::start(&args.config, |config| {
        config.policies.insert(COPIES.to_owned(), copies);
    })
    .await?;
    let (model, [stable, canary]) = harness.two_hot_versions().await?;
    let requests = (args.rate * args.stretch as f64).ceil() as usize;
    let load = Arc::new(Load {
        harness,
        model,
        stable,
        canary,
        cases: held_out(7, requests),
        gap: Duration::from_secs_f64(1.0 / args.rate),
        max_tokens: args.max_tokens,
    });
    load.admin(Method::PUT, "route", json!({ "weights": { load.stable.as_str(): 100 } })).await?;
    let rounds = args.seconds.div_ceil(args.stretch) as usize;
    let bar = bar(2 * rounds, "stretches");
    let (mut without, mut with) = (Vec::new(), Vec::new());
    load.stretch().await?;
    for round in 0..rounds {
        // Whoever goes first in a round goes second in the next: neither profits from a machine that gets slower.
        for copies in [round % 2 == 0, round % 2 == 1] {
            if copies {
                with.push(load.stretch_with_copies().await?);
            } else {
                without.push(load.stretch().await?);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let report = report(&load, &without, &with, &args).await?;
    let load = Arc::into_inner(load)
        .ok_or_else(|| CliError::Bench("a request still holds the server".to_owned()))?;
    load.harness.stop().await?;
    print(&report, args.json);
    Ok(())
}

impl Load {
    async fn admin(&self, method: Method, path: &str, body: Value) -> Result<(), CliError> {
        let url = self.harness.admin(&format!("/admin/models/{}/{path}", self.model));
        let answer = self.harness.client.request(method, url).json(&body).send().await;
        let answer = answer.map_err(|e| CliError::Bench(e.to_string()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(CliError::Bench(answer.text().await.unwrap_or_default()))
    }

    async fn stretch_with_copies(self: &Arc<Self>) -> Result<Vec<Asked>, CliError> {
        let body = json!({ "canary": self.canary, "policy": COPIES, "reason": "bench mirror" });
        self.admin(Method::POST, "rollout", body).await?;
        let asked = self.stretch().await;
        self.admin(Method::POST, "rollout/abort", json!({})).await?;
        asked
    }

    /// Asks every question once, at the rate, and waits for all answers.
    async fn stretch(self: &Arc<Self>) -> Result<Vec<Asked>, CliError> {
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        let mut asking = Vec::with_capacity(self.cases.len());
        for case in 0..self.cases.len() {
            tokio::time::sleep_until((began + self.gap * case as u32).into()).await;
            asking.push(tokio::spawn(Arc::clone(self).ask(case)));
        }
        let mut asked = Vec::with_capacity(asking.len());
        for asking in asking {
            asked.push(asking.await.map_err(|e| CliError::Bench(format!("a client task failed: {e}")))??);
        }
        Ok(asked)
    }

    async fn ask(self: Arc<Self>, case: usize) -> Result<Asked, CliError> {
        let body = json!({
            "model": self.model, "user": format!("customer-{case}"), "temperature": 0, "max_tokens": self.max_tokens,
            "messages": [{ "role": "user", "content": self.cases[case].message }],
        });
        let failed = |e: reqwest::Error| CliError::Bench(e.to_string());
        let start = Instant::now();
        let url = self.harness.public("/v1/chat/completions");
        let answer = self.harness.client.post(url).json(&body).send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        let version = answer.headers().get("x-switchback-version").and_then(|v| v.to_str().ok());
        let version = version.unwrap_or_default().to_owned();
        let answer: Value = answer.json().await.map_err(failed)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        Ok(Asked { case, status, version, text, ms })
    }

    async fn mirrored(&self) -> Result<BTreeMap<&'static str, f64>, CliError> {
        let mut counts = BTreeMap::new();
        for outcome in ["answered", "failed", "refused", "late", "dropped"] {
            let labels = [("outcome", outcome)];
            counts.insert(outcome, self.harness.metric("switchback_mirrored_total", &labels).await?);
        }
        Ok(counts)
    }
}

async fn report(
    load: &Load,
    without: &[Vec<Asked>],
    with: &[Vec<Asked>],
    args: &Args,
) -> Result<Value, CliError> {
    let answers: BTreeMap<usize, (u16, &str)> =
        without.iter().flatten().map(|asked| (asked.case, (asked.status, asked.text.as_str()))).collect();
    let other = |asked: &&Asked| answers[&asked.case] != (asked.status, asked.text.as_str());
    let stable = format!("{}@{}", load.model, load.stable);
    let all = || with.iter().chain(without).flatten();
    let pairs = || with.iter().zip(without);
    let neighbours = || without.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
    let (with_ms, without_ms) = (times(with.iter().flatten()), times(without.iter().flatten()));
    Ok(json!({
        "rate": args.rate,
        "seconds_with_copies": with.len() as u64 * args.stretch,
        "requests": all().count(),
        "failed": all().filter(|asked| asked.status != 200).count(),
        "other_answers": all().filter(other).count(),
        "not_by_stable": all().filter(|asked| asked.version != stable).count(),
        "ms_without": figures(&without_ms),
        "ms_with": figures(&with_ms),
        "ratio": ratios(pairs()),
        "ratio_by_chance": ratios(neighbours()),
        "copies": load.mirrored().await?,
        "background_seconds": rounded(load.harness.metric("switchback_background_seconds_total", &[]).await?),
    }))
}

fn times<'a>(asked: impl Iterator<Item = &'a Asked>) -> Vec<f64> {
    let mut ms: Vec<f64> = asked.map(|asked| asked.ms).collect();
    ms.sort_by(f64::total_cmp);
    ms
}

/// Mean, median and tail of sorted times.
fn measures(ms: &[f64]) -> [(&'static str, f64); 3] {
    let mean = ms.iter().sum::<f64>() / ms.len().max(1) as f64;
    [("mean", mean), ("p50", quantile(ms, 0.5)), ("p99", quantile(ms, 0.99))]
}

fn figures(ms: &[f64]) -> BTreeMap<&'static str, f64> {
    measures(ms).into_iter().map(|(name, value)| (name, rounded(value))).collect()
}

/// Of each measure the median of the pairs' ratios, and the interval of order statistics that holds it at 95 %.
fn ratios<'a>(
    pairs: impl Iterator<Item = (&'a Vec<Asked>, &'a Vec<Asked>)>,
) -> BTreeMap<&'static str, [f64; 3]> {
    let mut of: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (with, without) in pairs {
        let both = measures(&times(with.iter())).into_iter().zip(measures(&times(without.iter())));
        for ((name, with), (_, without)) in both {
            of.entry(name).or_default().push(with / without.max(f64::MIN_POSITIVE));
        }
    }
    of.into_iter().map(|(name, ratios)| (name, median(ratios))).collect()
}

/// The median, and where it may lie: between the ranks that a binomial count of n halves leaves in 5 of 100 cases.
fn median(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (n, last) = (values.len() as f64, values.len().saturating_sub(1));
    let reach = 0.98 * n.sqrt();
    let at = |rank: f64| rounded(values.get((rank.max(0.0) as usize).min(last)).copied().unwrap_or(0.0));
    [at((n - 1.0) / 2.0), at(n / 2.0 - reach), at(n / 2.0 + reach)]
}

fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

fn print(report: &Value, as_json: bool) {
    if as_json {
        println!("{report:#}");
        return;
    }
    let mut table = Table::new(&["milliseconds", "mean", "p50", "p99"]);
    for (name, key) in [
        ("without copies", "ms_without"),
        ("with copies", "ms_with"),
        ("ratio", "ratio"),
        ("ratio by chance", "ratio_by_chance"),
    ] {
        let of = |measure: &str| match report[key][measure].as_array() {
            Some(median) => format!("{} ({} to {})", median[0], median[1], median[2]),
            None => report[key][measure].to_string(),
        };
        table.row([name.to_owned(), of("mean"), of("p50"), of("p99")]);
    }
    print!("{table}");
    println!(
        "{} requests: {} failed, {} other answers, {} not by stable; copies: {}, {} s of computing",
        report["requests"],
        report["failed"],
        report["other_answers"],
        report["not_by_stable"],
        report["copies"],
        report["background_seconds"],
    );
}
