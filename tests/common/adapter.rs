//! Writes LoRA adapters for the tiny model of [`super::model`], and that model with one of them merged into it.

use std::collections::BTreeMap;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;

const RANK: usize = 4;
const ALPHA: usize = 8;
/// Modules of each layer that it adds to.
const TARGETS: [&str; 3] = ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"];

type Matrices = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes an adapter for the model in `base`; `name` decides its weights.
pub fn write(dir: &Path, base: &Path, name: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS, "bias": "none"});
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(seed);
    let mut noise = |n: usize| -> Vec<f32> {
        (0..n).map(|_| (f64::from(rng.next_u32()) / f64::from(u32::MAX) - 0.5) as f32).collect()
    };
    let mut parts = Matrices::new();
    for (module, (shape, _)) in read(&base.join("model.safetensors")) {
        let module = module.trim_end_matches(".weight");
        if TARGETS.iter().any(|target| module.ends_with(target)) {
            let mut add = |part: &str, shape: [usize; 2]| {
                let values = noise(shape[0] * shape[1]);
                parts.insert(
                    format!("base_model.model.{module}.lora_{part}.weight"),
                    (shape.to_vec(), values),
                );
            };
            add("A", [RANK, shape[1]]);
            add("B", [shape[0], RANK]);
        }
    }
    save(&parts, &dir.join("adapter_model.safetensors"));
}

/// Writes the model in `base` with an adapter's products added to its weights.
pub fn merge(dir: &Path, base: &Path, adapter: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(base.join(file), dir.join(file)).unwrap();
    }
    let parts = read(&adapter.join("adapter_model.safetensors"));
    let mut weights = read(&base.join("model.safetensors"));
    for (name, (shape, values)) in &mut weights {
        let module = name.trim_end_matches(".weight");
        let part = |part: &str| parts.get(&format!("base_model.model.{module}.lora_{part}.weight"));
        let (Some((_, down)), Some((_, up))) = (part("A"), part("B")) else { continue };
        let (outs, width) = (shape[0], shape[1]);
        for (out, row) in (0..outs).zip(values.chunks_exact_mut(width)) {
            for (k, value) in row.iter_mut().enumerate() {
                let sum: f32 = (0..RANK).map(|r| up[out * RANK + r] * down[r * width + k]).sum();
                *value += ALPHA as f32 / RANK as f32 * sum;
            }
        }
    }
    save(&weights, &dir.join("model.safetensors"));
}

fn read(path: &Path) -> Matrices {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (name.to_owned(), (view.shape().to_vec(), values))
    });
    tensors.collect()
}

fn save(tensors: &Matrices, path: &Path) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}
