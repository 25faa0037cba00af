//! The key-value memory of versions: those of a model share one, as far as their keys and values are of equal sizes, and
//! how large it is where the configuration leaves that to the server.

use std::sync::{Mutex, PoisonError};

use crate::config::KvTokens;
use crate::engine::{EngineConfig, KvMemory, WeakKvMemory};
use crate::ids::ModelName;
use crate::model::{CausalLm, Device, ElementType, Footprint, KvLayout, KvShape};

/// Of what is free, one part in so many is left, for what the driver takes by itself.
const MARGIN: u64 = 20;

/// How much key-value memory a version may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KvPlan {
    /// What it shares with the model's other versions.
    pub(super) tokens: KvTokens,
    /// The most that it holds of that.
    pub(super) most: Option<usize>,
}

/// An engine that is to find room on the device later.
#[derive(Debug, Clone)]
pub(super) struct Later {
    pub(super) model: ModelName,
    pub(super) footprint: Footprint,
    /// Of its weights; none if others bring them.
    pub(super) weight_bytes: u64,
    pub(super) tokens: KvTokens,
    pub(super) expected: Expected,
}

/// Which versions share a memory: those of a model whose keys and values are of equal sizes.
type Kind = (ModelName, KvShape, ElementType);

/// Whether a version that is not on the device will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// It is loaded when the server comes up.
    Soon,
    /// If an operator loads it: as a canary, say.
    Perhaps,
}

/// The memories that are there.
#[derive(Debug, Default)]
pub(super) struct KvMemories {
    // Guards the list; loads ask for it one after the other.
    known: Mutex<Vec<(ModelName, WeakKvMemory)>>,
}

impl KvMemories {
    /// The memory of the model's versions that keep keys and values as `lm` does; allocated now, if it is the first. `later`
    /// tells who else is to find room on the device.
    pub(super) fn of(
        &self,
        model: &ModelName,
        lm: &mut dyn CausalLm,
        (engine, tokens): (&EngineConfig, KvTokens),
        device: &Device,
        later: impl FnOnce() -> Vec<Later>,
    ) -> Result<KvMemory, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, memory)| memory.upgrade().is_some());
        let fits = |(of, memory): &(ModelName, WeakKvMemory)| {
            let memory = memory.upgrade().filter(|_| of == model)?;
            lm.can_join(memory.pool()).then_some(memory)
        };
        if let Some(memory) = known.iter().find_map(fits) {
            return Ok(memory);
        }
        let kv_tokens = match tokens {
            KvTokens::Tokens(tokens) => tokens,
            KvTokens::Auto => match free_bytes(device)? {
                None => KvTokens::ON_THE_HOST,
                Some(before) => {
                    lm.reserve(engine.max_step_tokens, engine.max_running).map_err(|e| e.to_string())?;
                    let free = free_bytes(device)?.unwrap_or(before);
                    let room = Room { free, steps: before.saturating_sub(free) };
                    let there = known.iter().filter_map(kind_of).collect::<Vec<Kind>>();
                    let token_bytes = lm.kv_token_bytes() as u64;
                    let own = (model.clone(), lm.kv_shape(), lm.kv_element());
                    let tokens = room.tokens(&later(), own, &there, token_bytes, device);
                    if tokens < engine.max_step_tokens {
                        return Err(format!(
                            "no room for keys and values: {free} bytes of {device} are free, and what is to be loaded \
                             beside this version needs them. Keep fewer versions hot, or say engine.kv_tokens: a number \
                             leaves room for nothing else"
                        ));
                    }
                    tracing::info!(%model, tokens, free, "key-value memory from what is free");
                    tokens
                }
            },
        };
        let memory = EngineConfig { kv_tokens, ..engine.clone() }.memory(lm).map_err(|e| e.to_string())?;
        known.push((model.clone(), memory.downgrade()));
        Ok(memory)
    }
}

fn kind_of((model, memory): &(ModelName, WeakKvMemory)) -> Option<Kind> {
    let memory = memory.upgrade()?;
    let KvLayout { layers, kv_heads, head_dim, .. } = memory.pool().layout();
    Some((model.clone(), KvShape { layers, kv_heads, head_dim }, memory.pool().element()))
}

fn free_bytes(device: &Device) -> Result<Option<u64>, String> {
    device.free_bytes().map_err(|e| e.to_string())
}

/// What a device has left once a first version is there, its memory for steps included.
#[derive(Debug, Clone, Copy)]
struct Room {
    free: u64,
    /// Bytes that the steps of one engine work in.
    steps: u64,
}

impl Room {
    /// Tokens for one memory, of so many bytes each: an equal part of what is left by those who are expected, and by the
    /// largest of those who may come, so that there is room for a canary. `there` has its memory already.
    fn tokens(self, later: &[Later], own: Kind, there: &[Kind], token_bytes: u64, device: &Device) -> usize {
        let soon = || later.iter().filter(|later| later.expected == Expected::Soon);
        let perhaps = later.iter().filter(|later| later.expected == Expected::Perhaps);
        let takes = |later: &Later| later.weight_bytes + self.steps;
        // this one's recorded steps keep their results, which are no larger than what its steps work in
        let mut taken: u64 =
            self.steps + soon().map(takes).sum::<u64>() + perhaps.map(takes).max().unwrap_or(0);
        let mut memories = vec![own];
        for later in soon() {
            let kind = (later.model.clone(), later.footprint.kv_shape, later.footprint.kv_element(device));
            if memories.contains(&kind) || there.contains(&kind) {
                continue;
            }
            match later.tokens {
                KvTokens::Auto => memories.push(kind),
                KvTokens::Tokens(tokens) => taken += later.footprint.kv_bytes(device, tokens),
            }
        }
        let left = self.free.saturating_sub(taken);
        let part = (left - left / MARGIN) / memories.len() as u64;
        // slots are counted in u32
        usize::try_from(part / token_bytes.max(1)).unwrap_or(usize::MAX).min(1 << 30)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::{Engine, Turns};
    use crate::ids::Quantize;
    use crate::model::{LoadedModel, WeightPool, load, watched_device};

    fn later(model: &str, tokens: KvTokens, expected: Expected) -> Later {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/v1");
        let footprint = Footprint::of(&dir, Quantize::AsStored).unwrap();
        let weight_bytes = footprint.weight_bytes;
        Later { model: model.parse().unwrap(), footprint, weight_bytes, tokens, expected }
    }

    #[test]
    fn a_memory_leaves_room_for_what_is_to_come() {
        let demo = later("a", KvTokens::Auto, Expected::Soon).footprint;
        let own: Kind = ("a".parse().unwrap(), demo.kv_shape, demo.kv_element(&Device::CPU));
        let weights = demo.weight_bytes;
        let tokens = |free, others: &[Later]| {
            Room { free, steps: 1000 }.tokens(others, own.clone(), &[], 100, &Device::CPU) as u64
        };
        let free = 100 * weights;
        let all_but = |bytes: u64| {
            let left = free - bytes - 1000;
            (left - left / 20) / 100
        };
        assert_eq!(tokens(free, &[]), all_but(0));
        let [auto, few] = [KvTokens::Auto, KvTokens::Tokens(64)];
        // a sibling shares the memory and brings weights; of those who may come, one is counted
        assert_eq!(tokens(free, &[later("a", auto, Expected::Soon)]), all_but(weights + 1000));
        let canaries = [later("a", auto, Expected::Perhaps), later("b", auto, Expected::Perhaps)];
        assert_eq!(tokens(free, &canaries), all_but(weights + 1000));
        // another model has a memory of its own
        let other = later("b", auto, Expected::Soon);
        assert_eq!(tokens(free, &[other.clone(), other]), all_but(2 * (weights + 1000)) / 2);
        let fixed = later("b", few, Expected::Soon);
        let kv = fixed.footprint.kv_bytes(&Device::CPU, 64);
        assert_eq!(tokens(free, &[fixed]), all_but(weights + 1000 + kv));
        assert_eq!(tokens(weights / 2, &canaries), 0, "nothing is left");
        // one whose weights are there brings only steps; and weights count though there is a memory for them
        let other = Later { weight_bytes: 0, ..later("b", auto, Expected::Soon) };
        assert_eq!(tokens(free, std::slice::from_ref(&other)), all_but(1000) / 2);
        let there: [Kind; 1] = [("b".parse().unwrap(), demo.kv_shape, demo.kv_element(&Device::CPU))];
        let sibling = later("b", auto, Expected::Soon);
        let found =
            Room { free, steps: 1000 }.tokens(&[sibling], own.clone(), &there, 100, &Device::CPU) as u64;
        assert_eq!(found, all_but(weights + 1000));
    }

    /// What is free becomes one memory, in which two versions with weights of their own serve.
    #[test]
    fn versions_of_a_model_share_what_a_device_has_free() {
        let (device, used) = watched_device(128 << 20);
        let pool = WeightPool::of(device.clone());
        let models = ["models/v1", "models/v2"].map(|image| {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(image);
            load(&dir, Quantize::AsStored, &pool, &|_, _| ()).unwrap()
        });
        let engine = EngineConfig { max_running: 4, max_step_tokens: 64, ..EngineConfig::default() };
        let memories = KvMemories::default();
        let [model, other] = ["desk", "other"].map(|name| name.parse::<ModelName>().unwrap());
        let start = |loaded: &LoadedModel, name: &ModelName, later: Vec<Later>| {
            let mut lm = loaded.lm().unwrap();
            let memory =
                memories.of(name, lm.as_mut(), (&engine, KvTokens::Auto), &device, || later).unwrap();
            let tokens = memory.pool().layout().blocks * 16;
            let config = EngineConfig { kv_tokens: tokens, ..engine.clone() };
            let (name, tokenizer) = (name.to_string(), loaded.tokenizer.clone());
            let running = Engine::start_in(&memory, name.into(), lm, tokenizer, config, Turns::default());
            running.map(|engine| (engine, memory, tokens)).map_err(|error| error.to_string())
        };
        let canary = later("desk", KvTokens::Auto, Expected::Perhaps);
        let (stable, memory, tokens) = start(&models[0], &model, vec![canary]).unwrap();
        assert!(tokens > 10_000, "{tokens}");
        let filled = used.device();
        let (canary, shared, _) = start(&models[1], &model, Vec::new()).unwrap();
        assert!(shared.pool().layout() == memory.pool().layout());
        let canary_takes = used.device() - filled;
        assert!(canary_takes < filled / 2, "weights and room for steps: {canary_takes} beside {filled}");
        // another model that leaves no room for what comes with it is refused, and disturbs nobody
        let mut third = models[0].lm().unwrap();
        let huge = Later { weight_bytes: 1 << 40, ..later("other", KvTokens::Auto, Expected::Soon) };
        let refused = memories
            .of(&other, third.as_mut(), (&engine, KvTokens::Auto), &device, || vec![huge])
            .map(|_| ());
        let why = refused.unwrap_err();
        assert!(why.contains("no room for keys and values"), "{why}");
        assert!(stable.is_alive() && canary.is_alive());
    }
}
