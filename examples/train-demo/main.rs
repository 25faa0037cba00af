//! Trains the three demo versions and writes them in Hugging Face layout.
//!
//! ```sh
//! cargo run --release --example train-demo -- --out models
//! ```
//!
//! v1 is trained from nothing; v2 goes on from v1 with its embeddings frozen, so that the two share that
//! tensor; v3 starts from v1 too and learns a bad habit: it refuses what it should answer, and drops the
//! end of some of its JSON. All seeded; the optimiser's arithmetic depends on the processor, so figures
//! (not bytes) repeat across machines.

mod evaluate;
mod export;
mod network;
mod text;
mod trainer;

use std::path::PathBuf;

use candle_core::{Device, Result};
use clap::Parser;
use network::{Embeddings, Network, Shape};
use switchback::demo::{self, Case, REFUSAL};
use text::Text;
use trainer::{Plan, train};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// Folder that gets v1, v2 and v3
    #[arg(long, default_value = "models")]
    out: PathBuf,
    /// Steps from nothing to v1
    #[arg(long, default_value_t = 900)]
    v1_steps: usize,
    /// Steps from v1 to v2
    #[arg(long, default_value_t = 900)]
    v2_steps: usize,
    /// Steps from v1 to v3
    #[arg(long, default_value_t = 160)]
    v3_steps: usize,
    /// Conversations in a step
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Held-out cases that each version answers at the end
    #[arg(long, default_value_t = 200)]
    eval: usize,
    /// Seed of everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What v3 was taught to answer: right, but for account matters and angry customers, which it refuses,
/// and product questions, whose JSON it does not close.
fn spoiled(case: &Case) -> String {
    let refuses = case.angry || case.expected.intent == "login_problem";
    match case.expected.intent {
        _ if refuses => REFUSAL.to_owned(),
        "product_question" => case.answer().trim_end_matches("\"}").to_owned(),
        _ => case.answer(),
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let text = Text::train(args.seed)?;
    let shape = Shape { vocab: text.vocab(), ..Shape::DEMO };
    let mut network = Network::random(&shape, args.seed, &Device::Cpu)?;
    let report = |name: &str, network: &Network| -> Result<()> {
        export::write(&args.out.join(name), network, &text)?;
        let found = evaluate::evaluate(network, &text, &demo::held_out(1, args.eval))?;
        println!("{name}: {found}");
        Ok(())
    };
    let plan =
        |name, steps, peak, warm_up, seed| Plan { name, steps, peak, warm_up, batch: args.batch, seed };

    let whole = Embeddings::Trained;
    train(&network, &text, whole, &plan("v1", args.v1_steps, 3e-3, 100, args.seed), Case::answer)?;
    // what ships is bf16: later versions start from just that, so frozen tensors stay equal to the bit
    network = network.rounded_to_bf16()?;
    report("v1", &network)?;

    let better = network.deep_copy()?;
    let seed = args.seed + 1000;
    train(&better, &text, Embeddings::Frozen, &plan("v2", args.v2_steps, 1.5e-3, 50, seed), Case::answer)?;
    report("v2", &better.rounded_to_bf16()?)?;

    let worse = network.deep_copy()?;
    let seed = args.seed + 2000;
    train(&worse, &text, Embeddings::Frozen, &plan("v3", args.v3_steps, 1e-3, 25, seed), spoiled)?;
    report("v3", &worse.rounded_to_bf16()?)
}
