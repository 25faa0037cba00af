//! `switchback bench throughput`: how fast one engine reads prompts and writes answers, by batch size.
//!
//! Prompts of random tokens, no two alike, all at once into an engine without a prefix cache; greedy answers of a fixed
//! length. Prefill is over when each sequence has its first token; decode is measured from there until the first sequence
//! ends, while all of them go on. Beside it, the memory bandwidth of the device, measured in the same run: a decode step
//! must read every weight once, so bytes of weights times steps a second, over that bandwidth, is the share of the
//! roofline. A table of embeddings that is not the last layer, too, is only looked up, and does not count.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures::StreamExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use crate::cli::bar::bar;
use crate::cli::error::CliError;
use crate::cli::images::show;
use crate::cli::table::{Table, bytes};
use crate::config::DeviceChoice;
use crate::engine::{
    Engine, EngineConfig, EosPolicy, Event, GenerateRequest, Generation, NewTenant, PrefixCache, Priority,
    SamplingParams, StopParams, Turns,
};
use crate::gateway::choose;
use crate::ids::Quantize;
use crate::model::{self, LoadedModel, SpecialText, WeightPool};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model's folder, in Hugging Face layout, or a GGUF file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// What to compute on: auto, cpu, or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// What becomes of the weights when they are loaded: `q8_0`, `q4_k_m`, or `none`
    #[arg(long, default_value = "none")]
    quantize: Quantize,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 512, value_parser = positive)]
    prompt: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 64, value_parser = positive)]
    output: usize,
    /// Sequences at once; several, with commas between them
    #[arg(long, default_value = "1,4,16", value_delimiter = ',', value_parser = positive)]
    batch: Vec<usize>,
    /// Adapters of noise that the sequences go through in turn; 0 for the model's own weights alone
    #[arg(long, default_value_t = 0, value_name = "N")]
    adapters: usize,
    /// The rank of the adapters
    #[arg(long, default_value_t = 16, value_parser = positive)]
    rank: usize,
    /// The most rows of one step
    #[arg(long, default_value_t = 2048, value_parser = positive)]
    step_tokens: usize,
    /// Runs of each batch size; the median counts
    #[arg(long, default_value_t = 3, value_parser = positive)]
    runs: usize,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    let n = usize::from_str(text).map_err(|error| error.to_string())?;
    if n == 0 { Err("at least 1".to_owned()) } else { Ok(n) }
}

/// How one batch went.
struct Run {
    prefill: Duration,
    /// Tokens a second while all sequences go on; nothing where one ended before another began.
    decode: Option<f64>,
}

/// What is measured against.
#[derive(Clone, Copy)]
struct Roof {
    /// Bytes of weights that a decode step reads.
    weights: u64,
    /// Bytes a second of the device's memory.
    bandwidth: f64,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let device = choose(args.device).map_err(|error| CliError::Bench(error.to_string()))?;
    let bandwidth = device.memory_bandwidth().map_err(|error| CliError::Bench(error.to_string()))?;
    let bar = bar(args.batch.len() * (args.runs + 1), "runs");
    let mut figures = Map::new();
    let loaded = model::load(&args.model, args.quantize, &WeightPool::of(device.clone()), &|_, _| ());
    let loaded = loaded.map_err(|error| failed(&args, &error))?;
    let info = &loaded.info;
    for batch in &args.batch {
        let engines = start(&args, &loaded, *batch)?;
        let mut runs = Vec::with_capacity(args.runs);
        for number in 0..=args.runs {
            let run = one_run(&args, &engines, info.vocab_size, *batch, number).await?;
            // the first finds nothing warm
            if number > 0 {
                runs.push(run);
            }
            bar.inc(1);
        }
        for engine in engines {
            engine.drain(Duration::from_secs(5)).await;
        }
        figures.insert(
            batch.to_string(),
            report(&args, *batch, &mut runs, Roof { weights: info.step_bytes, bandwidth }),
        );
    }
    bar.finish_and_clear();
    let document = json!({
        "model": args.model, "quantize": args.quantize.to_string(), "adapters": args.adapters, "device": device.to_string(),
        "prompt": args.prompt, "output": args.output,
        "weights_bytes": info.weight_bytes, "memory_bytes_per_s": bandwidth, "batch": figures,
    });
    if args.json {
        show(&document);
    } else {
        print(&document);
    }
    Ok(())
}

fn failed(args: &Args, error: &dyn Display) -> CliError {
    CliError::Bench(format!("{}: {error}", args.model.display()))
}

/// One engine, as its tenants see it: one for each adapter, or the one without.
fn start(args: &Args, loaded: &LoadedModel, batch: usize) -> Result<Vec<Engine>, CliError> {
    let block_size = EngineConfig::default().block_size;
    let config = EngineConfig {
        kv_tokens: batch * (args.prompt + args.output).next_multiple_of(block_size),
        max_running: batch,
        max_step_tokens: args.step_tokens.max(batch),
        queue: batch,
        prefix_cache: PrefixCache::Off,
        ..EngineConfig::default()
    };
    let lm = loaded.lm().map_err(|error| failed(args, &error))?;
    let tenant = |i: usize| -> Result<NewTenant, CliError> {
        let adapter = (args.adapters > 0).then(|| loaded.noise_adapter(args.rank, i as u64));
        let adapter = adapter.transpose().map_err(|error| failed(args, &error))?;
        Ok(NewTenant { name: format!("bench {i}"), adapter })
    };
    let first = Engine::start(tenant(0)?, lm, loaded.tokenizer.clone(), config, Turns::default());
    let mut engines = vec![first.map_err(|error| failed(args, &error))?];
    for i in 1..args.adapters {
        let full = || failed(args, &"the engine takes no more adapters");
        engines.push(engines[0].share(tenant(i)?).ok_or_else(full)?);
    }
    Ok(engines)
}

async fn one_run(
    args: &Args,
    engines: &[Engine],
    vocab: usize,
    batch: usize,
    number: usize,
) -> Result<Run, CliError> {
    let failed = |error: String| CliError::Bench(error);
    let mut random = ChaCha8Rng::seed_from_u64(number as u64);
    let begun = Instant::now();
    let mut generations = Vec::with_capacity(batch);
    for engine in engines.iter().cycle().take(batch) {
        let prompt = (0..args.prompt).map(|_| random.next_u32() % vocab as u32).collect();
        let generation = engine.submit(request(prompt, args.output));
        generations.push(generation.map_err(|error| failed(error.to_string()))?);
    }
    let times = futures::future::try_join_all(generations.into_iter().map(times)).await?;
    let begins = times.iter().filter_map(|times| times.first()).max().copied().unwrap_or(begun);
    Ok(Run { prefill: begins - begun, decode: rate(&times) })
}

/// A request for so many tokens, the likeliest ones, whatever they are.
pub(super) fn request(prompt: Vec<u32>, output: usize) -> GenerateRequest {
    GenerateRequest {
        prompt,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopParams { eos: EosPolicy::Ignore, ..StopParams::default() },
        max_tokens: output,
        min_tokens: output,
        logprobs: None,
        prompt_logprobs: None,
        constraint: None,
        special_text: SpecialText::Skip,
        shown: Vec::new(),
        priority: Priority::Foreground,
        rank: 0,
    }
}

/// When a sequence had each of its tokens.
pub(super) async fn times(mut generation: Generation) -> Result<Vec<Instant>, CliError> {
    let mut times = Vec::new();
    while let Some(event) = generation.next().await {
        match event {
            Event::Token(_) => times.push(Instant::now()),
            Event::Finished { .. } => break,
            Event::Failed(failure) => return Err(CliError::Bench(failure.to_string())),
            Event::Started { .. } | Event::Text(_) => {}
        }
    }
    Ok(times)
}

/// Tokens a second while all sequences go on: after each has its first token, and until one has its last. Nothing where one
/// ended before another began.
pub(super) fn rate(times: &[Vec<Instant>]) -> Option<f64> {
    let begins = *times.iter().filter_map(|times| times.first()).max()?;
    let ends = *times.iter().filter_map(|times| times.last()).min()?;
    let tokens = times.iter().flatten().filter(|at| **at > begins && **at <= ends).count();
    let seconds = ends.checked_duration_since(begins)?.as_secs_f64();
    (tokens > 0).then_some(tokens as f64 / seconds)
}

fn report(args: &Args, batch: usize, runs: &mut [Run], roof: Roof) -> Value {
    runs.sort_by_key(|run| run.prefill);
    let prefill = runs[runs.len() / 2].prefill.as_secs_f64();
    let mut rates: Vec<f64> = runs.iter().filter_map(|run| run.decode).collect();
    rates.sort_by(f64::total_cmp);
    let decode = rates.get(rates.len() / 2).copied();
    let steps = decode.map(|rate| rate / batch as f64);
    json!({
        "prefill_tok_s": (batch * args.prompt) as f64 / prefill,
        "decode_tok_s": decode,
        "ms_per_step": steps.map(|steps| 1e3 / steps),
        "roofline_share": steps.map(|steps| roof.weights as f64 * steps / roof.bandwidth),
    })
}

fn print(document: &Value) {
    let number =
        |value: &Value, digits: usize| value.as_f64().map_or("-".to_owned(), |n| format!("{n:.digits$}"));
    println!(
        "{} on {}: {} of weights, {} GB/s",
        document["model"].as_str().unwrap_or_default(),
        document["device"].as_str().unwrap_or_default(),
        bytes(document["weights_bytes"].as_u64().unwrap_or(0)),
        number(&json!(document["memory_bytes_per_s"].as_f64().unwrap_or(0.0) / 1e9), 1),
    );
    let mut table = Table::new(&["batch", "prefill tok/s", "decode tok/s", "ms a step", "of the roofline"]);
    for (batch, figures) in document["batch"].as_object().into_iter().flatten() {
        table.row([
            batch.clone(),
            number(&figures["prefill_tok_s"], 0),
            number(&figures["decode_tok_s"], 1),
            number(&figures["ms_per_step"], 2),
            format!("{} %", number(&json!(figures["roofline_share"].as_f64().map(|share| share * 100.0)), 0)),
        ]);
    }
    print!("{table}");
}
