//! `switchback bench scheduler`: what an engine's bookkeeping costs a step, by the number of its sequences.
//!
//! The model computes nothing, so a step is all that is not the model's: planning, blocks, the choice among a handful of
//! logits, text, and the way to the clients, who read as fast as they can. Measured while all sequences decode.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::throughput::{positive, rate, request, times};
use crate::cli::error::CliError;
use crate::cli::images::show;
use crate::cli::table::Table;
use crate::engine::{Engine, EngineConfig, Generation, PrefixCache, Turns};
use crate::model::{
    Batch, CausalLm, Device, ElementType, KvCache, KvPool, KvShape, Logits, ModelError, Tokenizer,
};

/// Tokens that there are to choose from.
const VOCAB: usize = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A folder with a tokenizer, which turns tokens to text
    #[arg(long, value_name = "DIR", default_value = "models/v1")]
    model: PathBuf,
    /// Sequences at once; several, with commas between them
    #[arg(long, default_value = "1,16,64,256", value_delimiter = ',', value_parser = positive)]
    sequences: Vec<usize>,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 1024, value_parser = positive)]
    prompt: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 2048, value_parser = positive)]
    output: usize,
    /// Runs of each number; the median counts
    #[arg(long, default_value_t = 5, value_parser = positive)]
    runs: usize,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// A model that computes nothing.
struct Idle {
    cache: Option<KvCache>,
}

impl CausalLm for Idle {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_positions(&self) -> usize {
        1 << 20
    }

    fn kv_shape(&self) -> KvShape {
        KvShape { layers: 1, kv_heads: 1, head_dim: 1 }
    }

    fn kv_element(&self) -> ElementType {
        ElementType::F32
    }

    fn join(&mut self, pool: &KvPool) -> Result<(), ModelError> {
        self.cache = Some(pool.cache(&Device::CPU));
        Ok(())
    }

    fn cache(&mut self) -> Option<&mut KvCache> {
        self.cache.as_mut()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        Ok(Logits::new(vec![0.0; batch.logit_rows.len() * VOCAB], VOCAB))
    }
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let tokenizer = Tokenizer::from_file(&args.model.join("tokenizer.json"))
        .map_err(|error| CliError::Bench(error.to_string()))?;
    let mut figures = Map::new();
    for sequences in &args.sequences {
        let mut steps = Vec::with_capacity(args.runs);
        for _ in 0..args.runs {
            steps.push(one_run(&args, &tokenizer, *sequences).await?);
        }
        steps.sort_by(f64::total_cmp);
        let step = steps[steps.len() / 2] * 1e6;
        figures.insert(
            sequences.to_string(),
            json!({ "us_per_step": step, "us_per_token": step / *sequences as f64 }),
        );
    }
    let document = json!({ "prompt": args.prompt, "output": args.output, "sequences": figures });
    if args.json {
        show(&document);
    } else {
        print(&document);
    }
    Ok(())
}

/// Seconds of a step while so many sequences decode.
async fn one_run(args: &Args, tokenizer: &Tokenizer, sequences: usize) -> Result<f64, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Bench(error.to_string());
    let block_size = EngineConfig::default().block_size;
    let config = EngineConfig {
        kv_tokens: sequences * (args.prompt + args.output).next_multiple_of(block_size)
            + sequences * block_size,
        max_running: sequences,
        max_step_tokens: 8192.max(sequences),
        queue: sequences,
        prefix_cache: PrefixCache::On,
        ..EngineConfig::default()
    };
    let lm = Box::new(Idle { cache: None });
    let engine = Engine::start("bench".into(), lm, tokenizer.clone(), config, Turns::default());
    let engine = engine.map_err(|error| failed(&error))?;
    let generations: Result<Vec<Generation>, _> =
        (0..sequences).map(|number| engine.submit(request(prompt(args, number), args.output))).collect();
    let generations = generations.map_err(|error| failed(&error))?;
    // each client reads by himself, as connections do
    let clients = generations.into_iter().map(|generation| tokio::spawn(times(generation)));
    let clients = futures::future::try_join_all(clients).await.map_err(|error| failed(&error))?;
    let times = clients.into_iter().collect::<Result<Vec<_>, _>>()?;
    engine.drain(Duration::from_secs(5)).await;
    let too_short = || CliError::Bench("too short to be measured: give a longer --output".to_owned());
    Ok(sequences as f64 / rate(&times).ok_or_else(too_short)?)
}

/// No two begin alike.
fn prompt(args: &Args, number: usize) -> Vec<u32> {
    (0..args.prompt).map(|i| ((number * 31 + i * (number + 7)) % VOCAB) as u32).collect()
}

fn print(document: &Value) {
    let mut table = Table::new(&["sequences", "us a step", "us a token"]);
    for (sequences, figures) in document["sequences"].as_object().into_iter().flatten() {
        let number = |key: &str| figures[key].as_f64().map_or("-".to_owned(), |n| format!("{n:.2}"));
        table.row([sequences.clone(), number("us_per_step"), number("us_per_token")]);
    }
    print!("{table}");
}
