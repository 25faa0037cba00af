//! `switchback doctor`: what this machine has, what the program can use of it, and what of the configuration fits.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::CliError;
use super::images::show;
use super::table::{Table, bytes};
use crate::config::{self, Config, DraftRef, ImageRef, KvTokens, Residency, VersionConfig};
use crate::model::{Device, ElementType, Footprint, GpuInfo};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration whose models are to fit; left out: `switchback.yaml`, if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what the compiler says of each GPU kernel, and nothing else
    #[arg(long)]
    kernels: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A version of the configuration, as far as its size is known.
struct Sized {
    version: String,
    residency: Residency,
    /// What it shares its key-value memory with.
    model: String,
    kv_tokens: KvTokens,
    /// Of that memory, on the device that is used; none where it gets what is free.
    kv_bytes: Option<u64>,
    /// How the device keeps it.
    kv_element: Option<ElementType>,
    footprint: Result<Footprint, String>,
    /// Of its draft's weights, and of keys and values of its own.
    draft_bytes: u64,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    if args.kernels {
        return match Device::kernel_resources() {
            "" => Err(CliError::Doctor("this program is built without CUDA".to_owned())),
            report => {
                print!("{report}");
                Ok(())
            }
        };
    }
    let default = Path::new("switchback.yaml");
    let file = args.config.as_deref().or_else(|| default.exists().then_some(default));
    let config = file.map(config::load).transpose()?;
    let gpus = Device::gpus();
    let choice = config.as_ref().map(|config| config.device).unwrap_or_default();
    let device = crate::gateway::choose(choice).map_err(|error| error.to_string());
    let used = device.as_ref().unwrap_or(&Device::CPU);
    let sized = config.as_ref().map(|config| sizes(config, used)).unwrap_or_default();
    if args.json {
        show(&document(&gpus, device.as_ref(), &sized));
        return Ok(());
    }
    println!("processor: {} cores, {}", cores(), Device::instruction_set());
    if let Some(memory) = memory() {
        println!("memory: {} of {} free", bytes(memory.free), bytes(memory.total));
    }
    match &gpus {
        Ok(gpus) if gpus.is_empty() => println!("gpus: none that CUDA sees"),
        Ok(gpus) => print!("gpus:\n{}", table_of(gpus)),
        Err(why) => println!("gpus: none. {why}"),
    }
    match &device {
        Ok(device) => println!("engines compute on: {device}"),
        Err(why) => println!("engines compute on: nothing. {why}"),
    }
    if let Some(file) = file {
        print!("\n{}:\n{}", file.display(), table_of_versions(&sized));
        println!("{}", verdict(&gpus.unwrap_or_default(), device.as_ref(), &sized));
    }
    Ok(())
}

fn sizes(config: &Config, device: &Device) -> Vec<Sized> {
    let mut sized = Vec::new();
    for (model, settings) in &config.models {
        for (version, of) in &settings.versions {
            let footprint = footprint(of);
            let kv_tokens = match settings.engine.kv_tokens {
                KvTokens::Auto if device.is_host() => KvTokens::Tokens(KvTokens::ON_THE_HOST),
                kv_tokens => kv_tokens,
            };
            let kv_bytes = match (kv_tokens, &footprint) {
                (KvTokens::Tokens(tokens), Ok(footprint)) => Some(footprint.kv_bytes(device, tokens)),
                (KvTokens::Auto, _) | (_, Err(_)) => None,
            };
            let (version, residency) = (format!("{model}@{version}"), of.residency);
            let model = model.to_string();
            let kv_element = footprint.as_ref().ok().map(|footprint| footprint.kv_element(device));
            let draft_bytes = draft_bytes(config, of, kv_tokens, device);
            sized.push(Sized {
                version,
                residency,
                model,
                kv_tokens,
                kv_bytes,
                kv_element,
                footprint,
                draft_bytes,
            });
        }
    }
    sized
}

fn footprint(version: &VersionConfig) -> Result<Footprint, String> {
    match &version.image {
        ImageRef::Local(path) => Footprint::of(path, version.quantize).map_err(|error| error.to_string()),
        image @ ImageRef::Hub(_) => Err(format!("{image} tells its size once it is pulled and loaded")),
    }
}

/// What a version's draft takes beside it, as far as its size is known; nothing on a device that guesses nothing.
fn draft_bytes(config: &Config, version: &VersionConfig, kv_tokens: KvTokens, device: &Device) -> u64 {
    let Some(DraftRef { version: draft, .. }) = version.draft.as_ref().filter(|_| device.is_host()) else {
        return 0;
    };
    let draft = config.models.get(&draft.model).and_then(|model| model.versions.get(&draft.version));
    match (draft.map(footprint), kv_tokens) {
        (Some(Ok(draft)), KvTokens::Tokens(tokens)) => draft.weight_bytes + draft.kv_bytes(device, tokens),
        _ => 0,
    }
}

fn table_of(gpus: &[GpuInfo]) -> Table {
    let mut table = Table::new(&["device", "name", "compute", "memory", "free", "cuda", ""]);
    for gpu in gpus {
        let ((major, minor), (cuda, minor_cuda)) = (gpu.compute_capability, gpu.cuda_version);
        table.row([
            format!("cuda:{}", gpu.ordinal),
            gpu.name.clone(),
            format!("{major}.{minor}"),
            bytes(gpu.total_bytes),
            bytes(gpu.free_bytes),
            format!("{cuda}.{minor_cuda}"),
            gpu.unusable().unwrap_or_default(),
        ]);
    }
    table
}

fn table_of_versions(sized: &[Sized]) -> Table {
    let mut table = Table::new(&["version", "residency", "weights", "kv memory of the model", ""]);
    for version in sized {
        match &version.footprint {
            Ok(footprint) => table.row([
                version.version.clone(),
                version.residency.as_str().to_owned(),
                bytes(footprint.weight_bytes),
                match (version.kv_tokens, version.kv_bytes) {
                    (KvTokens::Tokens(tokens), Some(kv)) => format!("{} for {tokens} tokens", bytes(kv)),
                    (KvTokens::Auto, _) | (_, None) => "auto: of what is free".to_owned(),
                },
                String::new(),
            ]),
            Err(why) => table.row([version.version.as_str(), version.residency.as_str(), "", "", why]),
        }
    }
    table
}

/// Bytes that the hot versions take together, none of them sharing a weight; those of a model share its key-value memory,
/// as far as their keys and values are of equal sizes.
fn wanted(sized: &[Sized]) -> u64 {
    let (mut memories, mut wanted) = (Vec::new(), 0);
    for version in sized.iter().filter(|version| version.residency == Residency::Hot) {
        let Ok(footprint) = &version.footprint else { continue };
        wanted += footprint.weight_bytes + version.draft_bytes;
        let memory = (&version.model, footprint.kv_shape, version.kv_element);
        if !memories.contains(&memory) {
            memories.push(memory);
            wanted += version.kv_bytes.unwrap_or(0);
        }
    }
    wanted
}

/// Bytes that the device has free.
fn free(gpus: &[GpuInfo], device: Result<&Device, &String>) -> Option<u64> {
    let name = device.ok()?.to_string();
    let gpu = gpus.iter().find(|gpu| name == format!("cuda:{}", gpu.ordinal));
    gpu.map(|gpu| gpu.free_bytes).or_else(|| memory().map(|memory| memory.free))
}

fn verdict(gpus: &[GpuInfo], device: Result<&Device, &String>, sized: &[Sized]) -> String {
    let wanted = wanted(sized);
    let hot = || sized.iter().filter(|version| version.residency == Residency::Hot);
    let rest = if hot().any(|version| version.kv_tokens == KvTokens::Auto) {
        ", and keys and values, which get what is left"
    } else {
        ""
    };
    match free(gpus, device) {
        Some(free) if wanted <= free => {
            format!(
                "those that are hot take at most {} together{rest}: they fit into {} free, which steps work in, too",
                bytes(wanted),
                bytes(free)
            )
        }
        Some(free) => format!(
            "those that are hot take up to {} together{rest}, more than {} free: lower engine.kv_tokens, or keep versions \
             `residency: warm` or `cold`. Weights that versions share count once, which this does not know",
            bytes(wanted),
            bytes(free)
        ),
        None => format!("those that are hot take at most {} together{rest}", bytes(wanted)),
    }
}

fn document(
    gpus: &Result<Vec<GpuInfo>, impl ToString>,
    device: Result<&Device, &String>,
    sized: &[Sized],
) -> Value {
    let gpu = |gpu: &GpuInfo| {
        json!({
            "device": format!("cuda:{}", gpu.ordinal),
            "name": gpu.name,
            "compute_capability": format!("{}.{}", gpu.compute_capability.0, gpu.compute_capability.1),
            "total_bytes": gpu.total_bytes,
            "free_bytes": gpu.free_bytes,
            "cuda_version": format!("{}.{}", gpu.cuda_version.0, gpu.cuda_version.1),
            "unusable": gpu.unusable(),
        })
    };
    let version = |version: &Sized| {
        let footprint = version.footprint.as_ref();
        json!({
            "version": version.version,
            "residency": version.residency.as_str(),
            "weight_bytes": footprint.ok().map(|footprint| footprint.weight_bytes),
            "kv_bytes": version.kv_bytes,
            "error": footprint.err(),
        })
    };
    json!({
        "cores": cores(),
        "instruction_set": Device::instruction_set(),
        "memory_bytes": memory().map(|memory| memory.total),
        "memory_free_bytes": memory().map(|memory| memory.free),
        "gpus": gpus.as_ref().map(|gpus| gpus.iter().map(gpu).collect::<Vec<_>>()).unwrap_or_default(),
        "gpu_error": gpus.as_ref().err().map(ToString::to_string),
        "device": device.ok().map(ToString::to_string),
        "device_error": device.err(),
        "versions": sized.iter().map(version).collect::<Vec<_>>(),
        "wanted_bytes": wanted(sized),
        "free_bytes": free(gpus.as_deref().unwrap_or_default(), device),
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

struct Memory {
    total: u64,
    free: u64,
}

/// As Linux tells it: what programs could get without swapping.
fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some(Memory { total: of("MemTotal:")?, free: of("MemAvailable:")? })
}
