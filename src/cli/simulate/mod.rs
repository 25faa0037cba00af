//! `switchback simulate`: what a policy would do to a canary, over synthetic traffic.

mod plot;

use std::path::PathBuf;

use super::bar::bar;
use super::error::CliError;
use super::table::Table;
use crate::config::{self, Chance, PercentagePoints, Policy};
use crate::release::analysis::Terms;
use crate::release::simulation::{
    Breaches, Decisions, Guarded, Measures, Report, Scenario, Schedule, Traffic, simulate,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A ready-made policy (customer-facing, internal-classifier, code-only, batch, experimental), or one of the configuration
    #[arg(long, default_value = "customer-facing", value_name = "NAME")]
    policy: String,
    /// The configuration whose `policies` may be named
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The drop that must be caught, in percentage points, instead of the policy's
    #[arg(long, value_name = "POINTS")]
    margin_pp: Option<PercentagePoints>,
    /// The most that the chance of a false abort may be, instead of the policy's
    #[arg(long, value_name = "CHANCE")]
    alpha: Option<Chance>,
    /// The chance to catch a drop of the margin, instead of the policy's
    #[arg(long, value_name = "CHANCE")]
    power: Option<Chance>,
    /// The canary's share of answers that stable passes
    #[arg(long, default_value_t = 0.92, value_name = "SHARE")]
    stable: f64,
    /// How much lower the canary's is
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", allow_negative_numbers = true)]
    drop: f64,
    /// How much both fall over the whole time, as on a bad day
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    drift: f64,
    /// Requests a minute, stable and canary together
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Requests of one user
    #[arg(long, default_value_t = 1, value_name = "REQUESTS")]
    users_requests: u32,
    /// How alike one user's answers are: the intra-class correlation, from 0 up to 1
    #[arg(long, default_value_t = 0.0, value_name = "CORRELATION")]
    icc: f64,
    /// Play the policy's guardrails too, with a canary that takes so many times as long; times are log-normal
    #[arg(long, value_name = "RATIO")]
    latency_ratio: Option<f64>,
    /// Play them too, with answers of the canary that are so many times as long
    #[arg(long, value_name = "RATIO")]
    length_ratio: Option<f64>,
    /// Minutes that a pause without an end is watched
    #[arg(long, default_value_t = 60, value_name = "MINUTES")]
    open_end: usize,
    /// How often the rollout is played
    #[arg(long, default_value_t = 10_000)]
    runs: u64,
    /// Decides all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw how many are decided by when, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Plays the rollouts on all cores, and prints what came of them.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let policy = policy(args)?;
    let usage = |why: String| CliError::Usage(why);
    let schedule =
        Schedule::of(&policy, args.open_end).map_err(|e| usage(format!("{}: {e}", args.policy)))?;
    let terms = Terms::from(&policy);
    let traffic = Traffic {
        rate: args.rate,
        stable: args.stable,
        drop: args.drop,
        drift: args.drift,
        requests_per_user: args.users_requests,
        icc: args.icc,
    };
    if args.runs == 0 {
        return Err(usage("--runs of 0 shows nothing: give at least 1".to_owned()));
    }
    let progress = bar(args.runs as usize, "simulating");
    let early_promote = policy.early_promote;
    let guarded = guarded(args, policy)?;
    let scenario = Scenario { schedule, terms, traffic, early_promote, guarded };
    let report = simulate(&scenario, args.runs, args.seed, &|| progress.inc(1)).map_err(usage)?;
    progress.finish_and_clear();
    if let Some(file) = &args.plot {
        plot::draw(&report, file).map_err(|why| usage(format!("cannot draw {}: {why}", file.display())))?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| usage(e.to_string()))?);
    } else {
        print!("{}", table(&report));
    }
    Ok(())
}

/// The guardrails, where something is said of what they watch.
fn guarded(args: &Args, policy: Policy) -> Result<Option<Guarded>, CliError> {
    if args.latency_ratio.or(args.length_ratio).is_none() {
        return Ok(None);
    }
    if policy.guardrails.count() == 0 {
        return Err(CliError::Usage(format!("{} has no guardrails that could be played", args.policy)));
    }
    let (latency_ratio, length_ratio) = (args.latency_ratio.unwrap_or(1.0), args.length_ratio.unwrap_or(1.0));
    Ok(Some(Guarded { policy, measures: Measures { latency_ratio, length_ratio } }))
}

/// The policy that is meant, with what the arguments put in the place of its numbers.
fn policy(args: &Args) -> Result<Policy, CliError> {
    let own = args.config.as_deref().map(config::load).transpose()?.map(|config| config.policies);
    let mut policy = Policy::named(&args.policy, &own.unwrap_or_default())
        .map_err(|unknown| CliError::Usage(unknown.to_string()))?;
    policy.margin = args.margin_pp.unwrap_or(policy.margin);
    policy.alpha = args.alpha.unwrap_or(policy.alpha);
    policy.power = args.power.unwrap_or(policy.power);
    if policy.alpha >= policy.power {
        let (alpha, power) = (policy.alpha.get(), policy.power.get());
        let why =
            format!("an alpha of {alpha} with a power of {power} decides nothing: give a smaller alpha");
        return Err(CliError::Usage(why));
    }
    Ok(policy)
}

fn table(report: &Report) -> Table {
    let Report { analysis, threshold_rule, guardrails, runs } = report;
    let header = format!("of {runs} canaries");
    let mut headers = vec![header.as_str(), "sequential test", "threshold rule"];
    headers.extend(guardrails.as_ref().map(|_| "guardrails"));
    let mut table = Table::new(&headers);
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let minutes = |median: Option<usize>| median.map_or("-".to_owned(), |m| format!("{m} min"));
    let mut row = |name: &str, cell: &dyn Fn(&Decisions) -> String, limits: &dyn Fn(&Breaches) -> String| {
        let mut cells = vec![name.to_owned(), cell(analysis), cell(threshold_rule)];
        cells.extend(guardrails.as_ref().map(limits));
        table.row(cells);
    };
    let never = |_: &Breaches| "-".to_owned();
    row("aborted", &|d| percent(d.abort), &|b| percent(b.abort));
    row("promoted", &|d| percent(d.promote), &never);
    row("inconclusive", &|d| percent(d.inconclusive), &never);
    row("median time to abort", &|d| minutes(d.median_minutes_to_abort), &|b| {
        minutes(b.median_minutes_to_abort)
    });
    row("median time to promote", &|d| minutes(d.median_minutes_to_promote), &never);
    row("median time to its evidence", &|d| minutes(d.median_minutes_to_evidence), &never);
    row("users exposed, mean", &|d| format!("{:.0}", d.users_exposed), &never);
    table
}
