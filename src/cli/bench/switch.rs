//! `switchback bench switch`: weights shift a thousand times under 200 streaming clients.
//!
//! The load is real (HTTP, SSE, the configuration's model); every stream is read to its end and must
//! name one version throughout. For each shift a probe resolves one key without pause, as a request
//! would, and notes when it first meets the new version: `visible_us` counts from just before the admin
//! call is sent, so it holds the HTTP call, the write to the store and the swap.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Harness, quantile};
use super::stream::{self, Outcome};
use crate::cli::bar::bar;
use crate::cli::error::CliError;
use crate::ids::{ModelName, VersionName};
use crate::release::{Routes, StickyKey, Traits};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration; its model needs two hot versions
    #[arg(long, default_value = "switchback.yaml", value_name = "FILE")]
    config: PathBuf,
    /// How many times the weights shift
    #[arg(long, default_value_t = 1000)]
    switches: usize,
    /// Streaming requests in flight
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Print one JSON document instead of a line
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Load {
    streams: AtomicUsize,
    failed: AtomicUsize,
    mixed: AtomicUsize,
    stop: AtomicBool,
    first_failure: std::sync::OnceLock<String>,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let harness = Arc::new(
        Harness::start(&args.config, |config| {
            for model in config.models.values_mut() {
                model.engine.queue = model.engine.queue.max(2 * args.clients);
            }
        })
        .await?,
    );
    let (name, [from, to]) = harness.two_hot_versions().await?;
    let load = Arc::new(Load::default());
    let clients: Vec<_> = (0..args.clients)
        .map(|i| tokio::spawn(client(Arc::clone(&harness), Arc::clone(&load), name.clone(), i)))
        .collect();
    let shifted = shift(&harness, &name, [&from, &to], args.switches).await;
    load.stop.store(true, Ordering::Release);
    for client in clients {
        client.await.map_err(|e| CliError::Bench(format!("a client task failed: {e}")))?;
    }
    let mut visible = shifted?;
    visible.sort_by(f64::total_cmp);
    let lookup_ns = lookup(&harness.app.gateway.routes(), &name);
    let failure = load.first_failure.get().cloned();
    let report = json!({
        "switches": visible.len(),
        "failed": load.failed.load(Ordering::Acquire),
        "mixed": load.mixed.load(Ordering::Acquire),
        "visible_us_p50": quantile(&visible, 0.5).round(),
        "visible_us_p99": quantile(&visible, 0.99).round(),
        "lookup_ns": (lookup_ns * 10.0).round() / 10.0,
        "streams": load.streams.load(Ordering::Acquire),
        "clients": args.clients,
    });
    let harness = Arc::into_inner(harness)
        .ok_or_else(|| CliError::Bench("a client still holds the server".to_owned()))?;
    harness.stop().await?;
    print(&report, args.json);
    failure.map_or(Ok(()), |why| Err(CliError::Bench(format!("the first failed stream: {why}"))))
}

async fn client(harness: Arc<Harness>, load: Arc<Load>, model: ModelName, number: usize) {
    let url = harness.public("/v1/chat/completions");
    for turn in 0.. {
        if load.stop.load(Ordering::Acquire) {
            return;
        }
        let body = json!({
            "model": model, "stream": true, "max_tokens": 24, "temperature": 0, "ignore_eos": true,
            "user": format!("client-{number}-{turn}"),
            "messages": [{ "role": "user", "content": format!("Where is my order A-{:05}?", number * 97 + turn) }],
        });
        match stream::read(&harness.client, &url, &body).await {
            Outcome::Whole => {}
            Outcome::Mixed(seen) => {
                load.mixed.fetch_add(1, Ordering::AcqRel);
                let _ = load.first_failure.set(format!("one stream named {seen:?}"));
            }
            Outcome::Failed(why) => {
                load.failed.fetch_add(1, Ordering::AcqRel);
                let _ = load.first_failure.set(why);
            }
        }
        load.streams.fetch_add(1, Ordering::AcqRel);
    }
}

/// Swings all traffic to and fro; gives microseconds from each call to the first resolve that sees it.
async fn shift(
    harness: &Harness,
    model: &ModelName,
    [from, to]: [&VersionName; 2],
    switches: usize,
) -> Result<Vec<f64>, CliError> {
    let url = harness.admin(&format!("/admin/models/{model}/route"));
    let bar = bar(switches, "shifting weights");
    let mut visible = Vec::with_capacity(switches);
    for turn in 0..switches {
        let target = if turn % 2 == 0 { to } else { from };
        let start = Instant::now();
        let probe = probe(harness.app.gateway.routes(), model.clone(), target.clone(), start);
        let body = json!({ "weights": { target.as_str(): 100 }, "reason": "bench switch" });
        let answer = harness.client.put(&url).json(&body).send().await;
        let answer = answer.map_err(|e| CliError::Bench(e.to_string()))?;
        if !answer.status().is_success() {
            return Err(CliError::Bench(answer.text().await.unwrap_or_default()));
        }
        let seen = probe.await.map_err(|e| CliError::Bench(e.to_string()))?;
        let seen =
            seen.ok_or_else(|| CliError::Bench(format!("{target} was not seen within 10 s of the change")))?;
        visible.push(seen.as_secs_f64() * 1e6);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(visible)
}

/// Resolves one key until it meets `target`; gives up after ten seconds.
fn probe(
    routes: Routes,
    model: ModelName,
    target: VersionName,
    start: Instant,
) -> tokio::task::JoinHandle<Option<Duration>> {
    tokio::task::spawn_blocking(move || {
        let (key, traits) = (StickyKey::from_user("probe"), Traits::default());
        loop {
            let elapsed = start.elapsed();
            if routes.resolve(&model, &key, &traits).is_some_and(|found| found.version() == Some(&target)) {
                return Some(elapsed);
            }
            if elapsed > Duration::from_secs(10) {
                return None;
            }
            // one core is plenty to watch with: leave the rest to the server
            std::thread::sleep(Duration::from_micros(20));
        }
    })
}

/// Mean nanoseconds of one resolve over a million different keys.
fn lookup(routes: &Routes, model: &ModelName) -> f64 {
    let keys: Vec<_> = (0..1000).map(|i| StickyKey::from_user(&format!("user-{i}"))).collect();
    let (traits, rounds) = (Traits::default(), 1000);
    let start = Instant::now();
    for _ in 0..rounds {
        for key in &keys {
            std::hint::black_box(routes.resolve(model, key, &traits));
        }
    }
    start.elapsed().as_nanos() as f64 / (rounds * keys.len()) as f64
}

fn print(report: &Value, as_json: bool) {
    if as_json {
        println!("{report:#}");
        return;
    }
    println!(
        "{} switches under {} streams: {} failed, {} mixed; visible after {} us (p50), {} us (p99); look-up {} ns",
        report["switches"],
        report["streams"],
        report["failed"],
        report["mixed"],
        report["visible_us_p50"],
        report["visible_us_p99"],
        report["lookup_ns"],
    );
}
