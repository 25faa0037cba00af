//! `switchback experiment`: compares two versions side by side, and promotes neither.

use reqwest::Method;
use serde_json::{Value, json};

use super::admin_client::{Change, Patience, Target, print_json, text};
use super::error::CliError;
use super::table::Table;
use crate::ids::{ModelName, VersionName, Weight};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Give a version a fixed share of the users, and compare it with the one that has all traffic
    Start(Start),
    /// Show what is known
    Status(Show),
    /// End it: control gets all traffic back
    Stop(Stop),
    /// List the experiments of a model, the newest first
    History(History),
}

#[derive(Debug, clap::Args)]
struct Start {
    /// The model
    model: ModelName,
    /// The version that has all traffic
    #[arg(long, value_name = "VERSION")]
    control: VersionName,
    /// The version that is tried
    #[arg(long, value_name = "VERSION")]
    treatment: VersionName,
    /// The treatment's share of the users
    #[arg(long, default_value = "50", value_name = "PERCENT")]
    percentage: Weight,
    /// How long, such as 24h; until it is stopped if absent
    #[arg(long, value_name = "TIME")]
    duration: Option<String>,
    /// What to call it
    #[arg(long)]
    name: Option<String>,
    /// Of each interval, at all looks together
    #[arg(long, default_value_t = 0.95, value_name = "CHANCE")]
    confidence: f64,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The model
    model: ModelName,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Stop {
    /// The model whose experiment is meant
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
    /// At most this many
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    match args.what {
        What::Start(start) => begin(&start).await,
        What::Status(show) => status(&show).await,
        What::Stop(order) => stop(&order).await,
        What::History(history) => list(&history).await,
    }
}

async fn begin(start: &Start) -> Result<(), CliError> {
    let Start { model, control, treatment, percentage, duration, name, confidence, change, target } = start;
    let body = json!({
        "control": control, "treatment": treatment, "percentage": percentage, "duration": duration, "name": name,
        "confidence": confidence,
    });
    let path = format!("/admin/models/{model}/experiment");
    print(&target.change(Method::POST, &path, body, change, Patience::Short).await?, target);
    Ok(())
}

async fn status(show: &Show) -> Result<(), CliError> {
    let mut answer = show.target.get(&format!("/admin/models/{}/experiment", show.model)).await?;
    let experiment = answer["experiment"].take();
    if experiment.is_null() && !show.target.json {
        println!("{} has had no experiment", show.model);
    } else {
        print(&experiment, &show.target);
    }
    Ok(())
}

async fn stop(order: &Stop) -> Result<(), CliError> {
    let path = format!("/admin/models/{}/experiment/stop", order.model);
    let mut answer =
        order.target.change(Method::POST, &path, json!({}), &order.change, Patience::Short).await?;
    print(&answer["experiment"].take(), &order.target);
    Ok(())
}

async fn list(history: &History) -> Result<(), CliError> {
    let path = format!("/admin/models/{}/experiment/history?limit={}", history.model, history.limit);
    let answer = history.target.get(&path).await?;
    if history.target.json {
        print_json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["experiment", "started", "arms", "ended", "why", "differ"]);
    for experiment in answer["experiments"].as_array().into_iter().flatten() {
        let results = experiment["results"].as_array().into_iter().flatten();
        let differ = results.filter(|result| result["difference"]["differs"] == true);
        let differ: Vec<String> = differ.map(|result| text(&result["measure"])).collect();
        table.row([
            called(experiment),
            text(&experiment["started_at"]),
            format!(
                "{} at {} % against {}",
                text(&experiment["treatment"]),
                experiment["percentage"],
                text(&experiment["control"])
            ),
            text(&experiment["ended_at"]),
            text(&experiment["ending"]),
            differ.join(", "),
        ]);
    }
    print!("{table}");
    Ok(())
}

/// `3 (short prompt)`.
fn called(experiment: &Value) -> String {
    experiment["name"]
        .as_str()
        .map_or_else(|| experiment["id"].to_string(), |name| format!("{} ({name})", experiment["id"]))
}

fn print(experiment: &Value, target: &Target) {
    if target.json {
        print_json(experiment);
        return;
    }
    println!(
        "experiment {} of {}: {} at {} % against {}, {}",
        called(experiment),
        text(&experiment["model"]),
        text(&experiment["treatment"]),
        experiment["percentage"],
        text(&experiment["control"]),
        text(&experiment["phase"]),
    );
    for result in experiment["results"].as_array().into_iter().flatten() {
        println!("  {}", text(&result["sentence"]));
    }
    if let Some(why) = experiment["ending"].as_str() {
        println!("  {why}");
    } else if let Some(until) = experiment["ends_at"].as_str() {
        println!("  until {until}");
    } else {
        println!("  until it is stopped");
    }
}
