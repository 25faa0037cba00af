//! The commands and how each is dispatched.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::error::CliError;
use super::{
    bench, check, diff, doctor, eval, experiment, flag, images, models, plan, prompt, pull, residency,
    rollback, rollout, route, serve, simulate, suite,
};

/// An LLM inference server with versions, weights and instant rollback built in.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the models of a configuration: clients on one listener, operators on another
    Serve(serve::Args),
    /// List models, versions, where each is and what share of traffic it has
    Models(models::Args),
    /// Show a model's route, or set its weights
    Route(route::Args),
    /// Show whom a model and its versions are open to, and change it
    Flag(flag::Args),
    /// Put a model back on its last stable route, at once
    Rollback(rollback::Args),
    /// Load a version, so that it can take traffic
    Load(residency::LoadArgs),
    /// Unload a version that has no traffic, and free its memory
    Unload(residency::UnloadArgs),
    /// Let a version take over step by step, judged on the quality of its answers
    Rollout(rollout::Args),
    /// Put a regression suite to a version, and compare it with another case by case
    Eval(eval::Args),
    /// Make a bad answer into a case of a regression suite
    Suite(suite::Args),
    /// Compare two versions side by side at a fixed share, and promote neither
    Experiment(experiment::Args),
    /// List, verify and dedupe images
    Images(images::Args),
    /// Check a prompt file, print its digest and show what it makes of a message
    Prompt(prompt::Args),
    /// Bring an image from the Hugging Face Hub, pinned to a commit
    Pull(pull::Args),
    /// Show what a rollout policy would do, over thousands of simulated canaries
    Simulate(simulate::Args),
    /// Check a configuration, its prompts and its suites without a server
    Check(check::Args),
    /// Show what a change of the configuration would do to a server that runs
    Plan(plan::Args),
    /// Show what tells two versions of a configuration apart
    Diff(diff::Args),
    /// Show what this machine has, what of it is used, and whether the configuration fits
    Doctor(doctor::Args),
    /// Measure what the documentation claims
    Bench(bench::Args),
}

/// How long blocking work that nobody waits for may hold up the end of the process.
const LEFTOVERS: Duration = Duration::from_millis(500);

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the async runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(cli.command));
    // A load that was under way reads on in a thread of its own; nobody wants its end.
    runtime.shutdown_timeout(LEFTOVERS);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Check(args) => check::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Plan(args) => plan::run(args).await,
        Command::Models(args) => models::run(args).await,
        Command::Route(args) => route::run(args).await,
        Command::Flag(args) => flag::run(args).await,
        Command::Rollback(args) => rollback::run(args).await,
        Command::Load(args) => residency::load(args).await,
        Command::Unload(args) => residency::unload(args).await,
        Command::Rollout(args) => rollout::run(args).await,
        Command::Eval(args) => eval::run(args).await,
        Command::Suite(args) => suite::run(args).await,
        Command::Experiment(args) => experiment::run(args).await,
        Command::Images(args) => Ok(images::run(args)?),
        Command::Prompt(args) => prompt::run(&args),
        Command::Pull(args) => Ok(pull::run(args).await?),
        Command::Simulate(args) => simulate::run(&args),
        Command::Bench(args) => bench::run(args).await,
    }
}
