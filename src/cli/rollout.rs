//! `switchback rollout`: starts rollouts, shows them, and tells them what an operator wants.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::admin_client::{Change, Patience, Target, print_json, text};
use super::error::CliError;
use super::table::Table;
use crate::ids::{ModelName, VersionRef};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Start a rollout of a version, such as `support-assistant@v2`
    Start(Start),
    /// Show the rollout of a model
    Status(Status),
    /// Stop the clock of the step; weights stay
    Pause(Order),
    /// Go on
    Resume(Order),
    /// Give the canary all traffic, whatever the evidence
    Promote(Order),
    /// Give stable all traffic; the canary stays hot
    Abort(Order),
    /// End the step now
    Skip(Order),
    /// Let all traffic move, where the policy asks an operator
    Approve(Order),
    /// List what happened in the rollouts of a model, the newest first
    History(History),
}

#[derive(Debug, clap::Args)]
struct Start {
    /// The version that is to have all traffic
    #[arg(value_name = "MODEL@VERSION", value_parser = super::residency::parse_version)]
    canary: VersionRef,
    /// A ready-made policy (customer-facing, internal-classifier, code-only, batch, experimental), or one of the
    /// configuration; the model's own if absent, else customer-facing, or code-only where the digests are the same
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Take the place of a rollout of the model that runs
    #[arg(long)]
    supersede: bool,
    /// Draw how it goes until it has ended
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Status {
    /// The model
    model: ModelName,
    /// Draw how it goes until it has ended
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Order {
    /// The model whose rollout is meant
    model: ModelName,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct History {
    /// The model
    model: ModelName,
    /// At most this many transitions
    #[arg(long, default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    match args.what {
        What::Start(start) => begin(&start).await,
        What::Status(status) => show(&status).await,
        What::Pause(order) => command(&order, "pause").await,
        What::Resume(order) => command(&order, "resume").await,
        What::Promote(order) => command(&order, "promote").await,
        What::Abort(order) => command(&order, "abort").await,
        What::Skip(order) => command(&order, "skip").await,
        What::Approve(order) => command(&order, "approve").await,
        What::History(history) => list(&history).await,
    }
}

async fn begin(start: &Start) -> Result<(), CliError> {
    let VersionRef { model, version } = &start.canary;
    let conflict = if start.supersede { "supersede" } else { "refuse" };
    let body = json!({ "canary": version, "policy": start.policy, "on_conflict": conflict });
    let path = format!("/admin/models/{model}/rollout");
    let answer = start.target.change(Method::POST, &path, body, &start.change, Patience::Short).await?;
    print(&answer, &start.target);
    if start.watch { watch(model, &start.target).await } else { Ok(()) }
}

async fn show(status: &Status) -> Result<(), CliError> {
    if status.watch {
        return watch(&status.model, &status.target).await;
    }
    let rollout = current(&status.model, &status.target).await?;
    if rollout.is_null() && !status.target.json {
        println!("{} has had no rollout", status.model);
    } else {
        print(&rollout, &status.target);
    }
    Ok(())
}

async fn current(model: &ModelName, target: &Target) -> Result<Value, CliError> {
    Ok(target.get(&format!("/admin/models/{model}/rollout")).await?["rollout"].take())
}

async fn command(order: &Order, what: &str) -> Result<(), CliError> {
    let path = format!("/admin/models/{}/rollout/{what}", order.model);
    let answer = order.target.change(Method::POST, &path, json!({}), &order.change, Patience::Short).await?;
    print(&answer, &order.target);
    Ok(())
}

async fn list(history: &History) -> Result<(), CliError> {
    let path = format!("/admin/models/{}/rollout/history?limit={}", history.model, history.limit);
    let answer = history.target.get(&path).await?;
    if history.target.json {
        print_json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["at", "rollout", "to", "canary", "by", "why"]);
    for line in answer["transitions"].as_array().into_iter().flatten() {
        table.row([
            text(&line["at"]),
            line["rollout"].to_string(),
            text(&line["to"]),
            format!("{} %", line["weight"]),
            text(&line["actor"]),
            text(&line["reason"]),
        ]);
    }
    print!("{table}");
    Ok(())
}

/// Prints the rollout each time that something about it is new, until it has ended.
async fn watch(model: &ModelName, target: &Target) -> Result<(), CliError> {
    let mut last = Value::Null;
    loop {
        let rollout = current(model, target).await?;
        if rollout.is_null() {
            return Err(CliError::Refused(format!("{model} has had no rollout")));
        }
        if rollout != last {
            print(&rollout, target);
        }
        if rollout["waits_for"] == "nothing" {
            return Ok(());
        }
        last = rollout;
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

fn exposure(rollout: &Value) -> String {
    match rollout["mirror"].as_f64() {
        Some(share) if share > 0.0 => format!("canary gets copies of {share} % of the requests"),
        _ => format!("canary at {} %", rollout["weight"]),
    }
}

fn print(rollout: &Value, target: &Target) {
    if target.json {
        print_json(rollout);
        return;
    }
    let step = rollout["step"].as_u64().map(|step| format!(" {step} of {}", rollout["steps"]));
    println!(
        "rollout {} of {}: {} over {}, {}{}, {}",
        rollout["id"],
        text(&rollout["model"]),
        text(&rollout["canary"]),
        text(&rollout["stable"]),
        text(&rollout["phase"]).replace('_', " "),
        step.unwrap_or_default(),
        exposure(rollout),
    );
    if let Some(finding) = rollout["finding"].as_str() {
        println!("  {finding}");
    }
    let next = match (rollout["waits_for"].as_str(), rollout["until"].as_str()) {
        (Some("time"), Some(until)) => format!("until {until}, unless the analysis or an operator is faster"),
        (Some("nothing"), _) => return,
        (Some(what), _) => format!("waits for: {what}"),
        _ => return,
    };
    println!("  {next}");
}
