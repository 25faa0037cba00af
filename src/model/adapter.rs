//! LoRA adapters (Hu et al., 2021) in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! In: such a folder, and the model that it was trained on. Out: an [`Adapter`], which a model takes into one of its slots.
//! What would change more than the projections of its layers is refused, as leaving it out would compute something else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::Value;

use super::config::{Config, Mlp, Projections, read_json};
use super::error::ModelError;
use super::pool::WeightPool;
use super::tensors::{Stored, Tensors};
use crate::tensor::{ElementType, HIGHEST_RANK, LowRank, Weight};

/// How the folder of an adapter is told from that of a model.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A projection of a layer that adapters add to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

/// An adapter in the host's memory. Cloning it clones pointers.
#[derive(Clone)]
pub struct Adapter {
    layers: Vec<Parts>,
    info: AdapterInfo,
}

/// What it adds to a layer's projections.
pub(super) type Parts = BTreeMap<Target, LowRank>;

/// What was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The highest rank of its matrices.
    pub rank: usize,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Of those, bytes that other versions had loaded before.
    pub shared_bytes: u64,
}

/// What we read of `adapter_config.json`. Of the fields that change what is computed, those that we do not compute are
/// refused by [`Raw::check`].
#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    bias: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Fields that have to be absent, null, false or empty.
const OF_OTHER_KINDS: [&str; 10] = [
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "target_parameters",
];

/// Ways to begin a training that take from the base's weights what the adapter begins with.
const CHANGE_THE_BASE: [&str; 4] = ["pissa", "olora", "corda", "loftq"];

/// What helps with every adapter that is more than we add.
const MERGE: &str = "merge it into its base (merge_and_unload) and serve that as an image";

impl Raw {
    fn check(&self) -> Result<(), String> {
        if self.peft_type != "LORA" {
            return Err(format!("peft_type: {:?} is not supported: only \"LORA\"", self.peft_type));
        }
        if self.r == 0 || self.r > HIGHEST_RANK {
            return Err(format!("r: {} is out of range: make it 1 to {HIGHEST_RANK}", self.r));
        }
        usable("rank_pattern", &self.rank_pattern)?;
        usable("alpha_pattern", &self.alpha_pattern)?;
        if let Some((name, rank)) =
            self.rank_pattern.iter().find(|(_, rank)| !(1..=HIGHEST_RANK).contains(*rank))
        {
            return Err(format!(
                "rank_pattern: {rank} of {name:?} is out of range: make it 1 to {HIGHEST_RANK}"
            ));
        }
        if let Some(bias) = self.bias.as_deref().filter(|bias| *bias != "none") {
            return Err(format!("bias: {bias:?} is not supported: {MERGE}"));
        }
        if let Some(init) = self.rest.get("init_lora_weights").and_then(Value::as_str)
            && CHANGE_THE_BASE.iter().any(|kind| init.starts_with(kind))
        {
            return Err(format!(
                "init_lora_weights: {init:?} changed the base's weights, and the adapter has nothing of that: convert it \
                 with PEFT's path_initial_model_for_weight_conversion, or {MERGE}"
            ));
        }
        let is_unset = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
        };
        let set = |field: &&&str| self.rest.get(**field).is_some_and(|value| !is_unset(value));
        match OF_OTHER_KINDS.iter().find(set) {
            Some(field) => Err(format!(
                "{field}: {} is not supported: adapters add to the linear projections of layers, and to nothing else; {MERGE}",
                self.rest[*field]
            )),
            None => Ok(()),
        }
    }

    /// What multiplies the addition to `module`.
    fn scale(&self, module: &str, rank: usize) -> f32 {
        let alpha = pattern(&self.alpha_pattern, module).copied().unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        (alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }

    fn rank(&self, module: &str) -> usize {
        pattern(&self.rank_pattern, module).copied().unwrap_or(self.r)
    }
}

/// The value for a module of those that name modules by the end of their names. PEFT takes the first in the file's order that
/// fits; [`usable`] sees to it that all say the same.
fn pattern<'p, T>(patterns: &'p BTreeMap<String, T>, module: &str) -> Option<&'p T> {
    patterns.iter().find(|(name, _)| fits(name, module)).map(|(_, value)| value)
}

fn fits(name: &str, module: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

/// Refuses regular expressions, and patterns of which one ends as another does and says something else.
fn usable<T: PartialEq>(field: &str, patterns: &BTreeMap<String, T>) -> Result<(), String> {
    for (name, value) in patterns {
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_')) {
            return Err(format!("{field}: {name:?} is a regular expression: only names of modules are read"));
        }
        if let Some((other, _)) =
            patterns.iter().find(|(other, theirs)| fits(name, other) && *theirs != value)
        {
            return Err(format!(
                "{field}: {name:?} and {other:?} name the same modules and differ: leave only one of them"
            ));
        }
    }
    Ok(())
}

impl Adapter {
    /// Whether the files in `dir` are those of an adapter.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(CONFIG).exists()
    }

    /// Reads the adapter in `dir`, for a model with this description. `pool` finds the weights that are there already.
    pub(super) fn load(dir: &Path, config: &Config, pool: &WeightPool) -> Result<Self, ModelError> {
        let path = dir.join(CONFIG);
        let raw: Raw = read_json(&path)?;
        raw.check().map_err(|what| ModelError::Config { path, what })?;
        let mut matrices = Matrices::open(&dir.join(WEIGHTS), pool)?;
        let layers = (0..config.layers.len())
            .map(|i| Layer { config, i }.parts(&raw, &mut matrices))
            .collect::<Result<Vec<Parts>, ModelError>>()?;
        matrices.finish(config)?;
        let rank = layers.iter().flat_map(BTreeMap::values).map(LowRank::rank).max().unwrap_or(0);
        let Matrices { weight_bytes, shared_bytes, .. } = matrices;
        Ok(Self { layers, info: AdapterInfo { rank, weight_bytes, shared_bytes } })
    }

    /// An adapter of noise over all projections: it costs what a trained one of its rank does.
    pub(super) fn noise(config: &Config, rank: usize, seed: u64) -> Result<Self, ModelError> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut matrix = |rows: usize, cols: usize| {
            let numbers = (0..rows * cols).map(|_| random.next_u32() as f32 / u32::MAX as f32 - 0.5);
            let bytes = numbers.flat_map(|x| half::bf16::from_f32(0.01 * x).to_le_bytes()).collect();
            Weight::owned(bytes, ElementType::Bf16, &[rows, cols])
                .expect("there are as many as the shape says")
        };
        let mut weight_bytes = 0;
        let mut layers = Vec::with_capacity(config.layers.len());
        for i in 0..config.layers.len() {
            let layer = Layer { config, i };
            let mut parts = Parts::new();
            for (target, outs) in layer.modules().into_iter().flat_map(|(_, targets)| targets) {
                let (down, up) = (matrix(rank, layer.width(target)), matrix(outs, rank));
                weight_bytes += (down.bytes().len() + up.bytes().len()) as u64;
                parts.insert(target, LowRank::new(down, up, 1.0)?);
            }
            layers.push(parts);
        }
        Ok(Self { layers, info: AdapterInfo { rank, weight_bytes, shared_bytes: 0 } })
    }

    /// What was loaded.
    pub const fn info(&self) -> AdapterInfo {
        self.info
    }

    /// What it adds to each layer.
    pub(super) fn layers(&self) -> &[Parts] {
        &self.layers
    }
}

/// One layer of the model.
struct Layer<'c> {
    config: &'c Config,
    i: usize,
}

impl Layer<'_> {
    fn parts(&self, raw: &Raw, matrices: &mut Matrices<'_>) -> Result<Parts, ModelError> {
        let mut parts = Parts::new();
        for (module, targets) in self.modules() {
            let outs: Vec<usize> = targets.iter().map(|(_, outs)| *outs).collect();
            let width = self.width(targets[0].0);
            let rank = raw.rank(&module);
            let Some((down, ups)) = matrices.take(&module, [rank, width], &outs)? else { continue };
            let scale = raw.scale(&module, rank);
            for ((target, _), up) in targets.into_iter().zip(ups) {
                parts.insert(target, LowRank::new(down.clone(), up, scale)?);
            }
        }
        Ok(parts)
    }

    /// The linear modules of the layer as `transformers` names them, and which projections each holds, one below the
    /// other, with their outputs.
    fn modules(&self) -> Vec<(String, Vec<(Target, usize)>)> {
        let &Config { hidden, intermediate, head_dim, .. } = self.config;
        let (queries, keys) = (self.config.heads * head_dim, self.config.kv_heads * head_dim);
        let name = |part: &str| self.config.tensor(&format!("layers.{}.{part}", self.i));
        let q_k_v = [(Target::Q, queries), (Target::K, keys), (Target::V, keys)];
        let gate_up = [(Target::Gate, intermediate), (Target::Up, intermediate)];
        let mut modules = match self.config.projections {
            Projections::Fused => vec![(name("self_attn.qkv_proj"), q_k_v.to_vec())],
            Projections::Separate => ["q_proj", "k_proj", "v_proj"]
                .into_iter()
                .zip(q_k_v)
                .map(|(part, target)| (name(&format!("self_attn.{part}")), vec![target]))
                .collect(),
        };
        modules.push((name("self_attn.o_proj"), vec![(Target::O, hidden)]));
        // what adapters would add to the router or to experts has no place yet, and is refused as such
        if self.config.layers[self.i].mlp == Mlp::Dense {
            match self.config.projections {
                Projections::Fused => modules.push((name("mlp.gate_up_proj"), gate_up.to_vec())),
                Projections::Separate => {
                    modules.push((name("mlp.gate_proj"), vec![gate_up[0]]));
                    modules.push((name("mlp.up_proj"), vec![gate_up[1]]));
                }
            }
            modules.push((name("mlp.down_proj"), vec![(Target::Down, hidden)]));
        }
        modules
    }

    /// What goes into a projection.
    fn width(&self, target: Target) -> usize {
        let Config { hidden, intermediate, heads, head_dim, .. } = *self.config;
        match target {
            Target::Q | Target::K | Target::V | Target::Gate | Target::Up => hidden,
            Target::O => heads * head_dim,
            Target::Down => intermediate,
        }
    }
}

/// The tensors of an adapter's file.
struct Matrices<'p> {
    path: PathBuf,
    left: BTreeMap<String, Stored>,
    pool: &'p WeightPool,
    weight_bytes: u64,
    shared_bytes: u64,
}

/// What PEFT puts before the names of the model's modules.
const PREFIX: &str = "base_model.model.";

impl<'p> Matrices<'p> {
    fn open(path: &Path, pool: &'p WeightPool) -> Result<Self, ModelError> {
        let named = |(name, stored): (String, Stored)| {
            // an adapter that was saved by its name carries it
            (name.strip_prefix(PREFIX).unwrap_or(&name).replace(".default.", "."), stored)
        };
        let Tensors { source: path, all } = Tensors::of_file(path.to_owned())?;
        let left = all.into_iter().map(named).collect();
        Ok(Self { path, left, pool, weight_bytes: 0, shared_bytes: 0 })
    }

    /// The two matrices of a module, the second cut into those of its projections; nothing where the adapter leaves the
    /// module as it is.
    fn take(
        &mut self,
        module: &str,
        [rank, width]: [usize; 2],
        outs: &[usize],
    ) -> Result<Option<(Weight, Vec<Weight>)>, ModelError> {
        let [down_name, up_name] = ["A", "B"].map(|part| format!("{module}.lora_{part}.weight"));
        let (down, up) = match (self.left.remove(&down_name), self.left.remove(&up_name)) {
            (Some(down), Some(up)) => (down, up),
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(self.missing(up_name, vec![outs.iter().sum(), rank])),
            (None, Some(_)) => return Err(self.missing(down_name, vec![rank, width])),
        };
        let down = self.adopt(&down_name, down.of_shape(&down_name, &[rank, width])?)?;
        let up = up.of_shape(&up_name, &[outs.iter().sum(), rank])?;
        let ups = up.stacked(outs, rank).into_iter().map(|up| self.adopt(&up_name, up));
        Ok(Some((down, ups.collect::<Result<_, _>>()?)))
    }

    fn adopt(&mut self, name: &str, stored: Stored) -> Result<Weight, ModelError> {
        let own = stored.weight(name)?;
        let weight = self.pool.adopt(own.clone(), |_| ());
        let bytes = weight.bytes().len() as u64;
        self.weight_bytes += bytes;
        if !weight.is(&own) {
            self.shared_bytes += bytes;
        }
        Ok(weight)
    }

    fn missing(&self, tensor: String, expected: Vec<usize>) -> ModelError {
        ModelError::MissingTensor { path: self.path.clone(), tensor, expected }
    }

    /// Refuses an adapter of which something is left, or that is nothing.
    fn finish(&self, config: &Config) -> Result<(), ModelError> {
        let wrong = |what| ModelError::Weights { path: self.path.clone(), what };
        match self.left.keys().next() {
            Some(tensor) => Err(wrong(format!(
                "tensor {tensor} has no place: adapters add to the projections of attention and of dense MLPs in the {} \
                 layers of the model ({}), and to nothing else; {MERGE}",
                config.layers.len(),
                config.architecture
            ))),
            None if self.weight_bytes == 0 => Err(wrong("it has no tensors".to_owned())),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("info", &self.info).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "adapter_tests.rs"]
mod tests;
