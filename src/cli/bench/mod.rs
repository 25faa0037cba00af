//! `switchback bench`: measures what the documentation claims, through the public door; `throughput` and
//! `scheduler` ask an engine itself, `load` a server that runs already.
//!
//! Each of the others starts the server of a configuration in this process, on free loopback ports and with
//! a throw-away store, and speaks HTTP to it as a client would. Figures go to standard output; they are
//! bounded in requests, so a benchmark stops by itself.

mod demo;
mod harness;
mod load;
mod mirror;
mod routing;
mod scheduler;
mod speculation;
mod stream;
mod structured;
mod switch;
mod throughput;

use clap::Subcommand;

use super::error::CliError;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Accuracy, valid-JSON rate and refusal rate of each demo version on held-out cases
    Demo(demo::Args),
    /// Weights shift under load: failed requests, mixed streams, time until a change is seen
    Switch(switch::Args),
    /// What a request pays for versions: route, sticky key, copies, the queue of the checks
    Routing(routing::Args),
    /// Whether copies of requests for a canary change stable's answers or their times
    Mirror(mirror::Args),
    /// What an engine's bookkeeping costs a step, with a model that computes nothing
    Scheduler(scheduler::Args),
    /// What clients of a running server see: throughput, time to the first token, time per token
    Load(load::Args),
    /// What guessing tokens brings
    Speculation(speculation::Args),
    /// What answers of a schema cost in throughput
    Structured(structured::Args),
    /// Prefill and decode tokens a second of one engine, by batch size, beside the memory roofline
    Throughput(throughput::Args),
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    match args.what {
        What::Demo(args) => demo::run(args).await,
        What::Switch(args) => switch::run(args).await,
        What::Routing(args) => routing::run(args).await,
        What::Mirror(args) => mirror::run(args).await,
        What::Scheduler(args) => scheduler::run(args).await,
        What::Load(args) => load::run(args).await,
        What::Speculation(args) => speculation::run(args).await,
        What::Structured(args) => structured::run(args).await,
        What::Throughput(args) => throughput::run(args).await,
    }
}
