//! `switchback bench routing`: what a request pays for versions, from the flags and the route to the queue of the checks.
//!
//! Several threads resolve different users at once, while another keeps changing the weights; each request's own time
//! is taken, with the answer that goes to the checks. The checks run meanwhile, as they do when serving: what they
//! cannot keep up with is dropped and counted, which is part of the promise.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Harness, hundredths, quantile, rate};
use crate::cli::error::CliError;
use crate::config::{Cohort, Flag, FlagOf, UserPrefix};
use crate::gateway::{Address, Change, Gateway, GatewayError, Rehearsal, StickyKey, Target, Traits, Who};
use crate::ids::{ModelName, VersionName, Weight};

/// An answer of the demo.
const ANSWER: &str = r#"{"intent": "order_status", "product": "desk lamp", "order_id": "A-12345", "priority": "low", "reply": "Your order is on its way."}"#;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration; its model needs two hot versions
    #[arg(long, default_value = "switchback.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Requests of each thread
    #[arg(long, default_value_t = 200_000)]
    requests: usize,
    /// Threads that ask at once
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Requests a second of each thread; as fast as it can if absent
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Print one JSON document instead of a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let harness = Harness::start(&args.config, |config| {
        // A flag over the model and one over each version, of which each has to look at who asks.
        for model in config.models.values_mut() {
            model.flag = Some(for_users(FlagOf::Model));
            model.versions.values_mut().for_each(|version| version.flag = Some(for_users(FlagOf::Version)));
        }
    })
    .await?;
    let (model, hot) = harness.two_hot_versions().await?;
    let gateway = harness.app.gateway.clone();
    let stop = AtomicBool::new(false);
    let (times, changes) = std::thread::scope(|scope| {
        let changing = scope.spawn(|| change_weights(&gateway, &model, &hot, &stop));
        let (gateway, model, args) = (&gateway, &model, &args);
        let ask = |thread| scope.spawn(move || ask(gateway, model, thread, args));
        let asking: Vec<_> = (0..args.threads).map(ask).collect();
        let times: Result<Vec<f64>, CliError> =
            asking.into_iter().map(joined).collect::<Result<Vec<_>, _>>().map(|all| all.concat());
        stop.store(true, Ordering::Release);
        (times, joined(changing))
    });
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    let report = json!({
        "requests": times.len(),
        "threads": args.threads,
        "weight_changes": changes?,
        "us_p50": hundredths(quantile(&times, 0.5)),
        "us_p99": hundredths(quantile(&times, 0.99)),
        "us_p999": hundredths(quantile(&times, 0.999)),
        "checks_dropped": harness.metric("switchback_checks_dropped_total", &[]).await?,
        "checked": harness.metric("switchback_responses_checked_total", &[]).await?,
    });
    harness.stop().await?;
    print(&report, args.json);
    Ok(())
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T, CliError>>) -> Result<T, CliError> {
    thread.join().unwrap_or_else(|_| Err(CliError::Bench("a thread of the benchmark panicked".to_owned())))
}

/// Microseconds of each request.
fn ask(gateway: &Gateway, model: &ModelName, thread: usize, args: &Args) -> Result<Vec<f64>, CliError> {
    let gap = args.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
    let mut times = Vec::with_capacity(args.requests);
    let began = Instant::now();
    for i in 0..args.requests {
        if let Some(gap) = gap {
            let due = gap.mul_f64(i as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        let request = request(model, &format!("user-{thread}-{i}"));
        let start = Instant::now();
        let version = gateway.rehearse(request);
        times.push(start.elapsed().as_secs_f64() * 1e6);
        // Whom the model's flag keeps out costs as much.
        match version {
            Ok(_) | Err(GatewayError::NotEnabled { .. }) => {}
            Err(error) => return Err(CliError::Bench(error.to_string())),
        }
    }
    Ok(times)
}

/// A flag for all of the benchmark's users but one in a hundred.
fn for_users(of: FlagOf) -> Flag {
    let users = UserPrefix { user_prefix: "user-".to_owned() };
    let percentage = Weight::from_percent(99.0).unwrap_or(Weight::FULL);
    Flag { cohorts: vec![Cohort::UserPrefix(users)], percentage, ..Flag::open(of) }
}

fn request(model: &ModelName, user: &str) -> Rehearsal {
    let address = Address {
        target: Target::Routed(model.clone()),
        sticky: StickyKey::from_user(user),
        traits: Traits { who: Who::Named, headers: Vec::new() },
    };
    Rehearsal::new(address, ANSWER)
}

/// Swings weight to and fro until told to stop. How often.
fn change_weights(
    gateway: &Gateway,
    model: &ModelName,
    [from, to]: &[VersionName; 2],
    stop: &AtomicBool,
) -> Result<usize, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| CliError::Bench(format!("no runtime: {e}")))?;
    let mut changes = 0;
    while !stop.load(Ordering::Acquire) {
        let percent = [5.0, 25.0][changes % 2];
        let weight = |percent: f64| Weight::from_percent(percent).unwrap_or(Weight::ZERO);
        let weights = [(from.clone(), weight(100.0 - percent)), (to.clone(), weight(percent))].into();
        let change = Change { actor: "bench".to_owned(), reason: "bench routing".to_owned() };
        runtime
            .block_on(gateway.set_weights(model, weights, change))
            .map_err(|e| CliError::Bench(e.to_string()))?;
        changes += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(changes)
}

fn print(report: &Value, as_json: bool) {
    if as_json {
        println!("{report:#}");
        return;
    }
    println!(
        "{} requests on {} threads, {} changes of weights: {} us (p50), {} us (p99), {} us (p99.9); {} answers checked, {} dropped",
        report["requests"],
        report["threads"],
        report["weight_changes"],
        report["us_p50"],
        report["us_p99"],
        report["us_p999"],
        report["checked"],
        report["checks_dropped"],
    );
}
