//! Quantised models on an emulated GPU, against the same models on the host.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::gpu_tests::{BLOCK, batch, both, distance, repository};
use super::{KvGeometry, WeightPool, load};
use crate::ids::Quantize;
use crate::tensor::watched_device;

/// What logits may differ by, as a share of the largest.
///
/// The host rounds what it multiplies to 8 bits in groups of 32 or 256, whose largest is about three times a typical number:
/// an error of 3 / 127 / sqrt(12), 0.7 % of one, in each product. A GPU rounds results to the type of the activations: at
/// most 0.4 % in bf16. Errors of a few layers with seven products each add up as squares do, to about 0.8 % times
/// sqrt(7 * 4), 4 %; and the largest of some hundred logits is not a typical one, nor is the largest of their errors: twice
/// that.
const TOLERANCE: f32 = 0.08;

/// A prompt beside a context that grows, more rows than the blocks themselves are multiplied with, and decode steps.
fn logits_are_those_of_the_host(dir: &Path, quantize: Quantize, vocab: u32) {
    let [mut host, mut gpu] = both(dir, quantize, 40);
    let tokens: Vec<u32> = (0..90).map(|i| (i * 37 + 11) % vocab).collect();
    for contexts in [
        [(&tokens[..67], 0, 67), (&tokens[3..4], 20, 1)],
        [(&tokens[..76], 0, 9), (&tokens[3..5], 20, 1)],
        [(&tokens[..77], 0, 1), (&tokens[3..6], 20, 1)],
    ] {
        let batch = batch(&contexts);
        let (a, b) = (host.forward(&batch).unwrap(), gpu.forward(&batch).unwrap());
        let distance = distance(&a, &b);
        let what = format!("{}, {quantize}: {distance} of {} rows", dir.display(), batch.tokens.len());
        assert!(distance < TOLERANCE, "{what}");
    }
}

/// In bf16 and in f16; tied and not; with biases; and experts in f32, part of whose matrices no block fits.
#[test]
fn quantised_models_give_the_logits_of_the_host() {
    for quantize in [Quantize::Q8_0, Quantize::Q4KM] {
        logits_are_those_of_the_host(&repository("models/v1"), quantize, 1000);
        for fixture in ["mistral", "qwen2", "qwen3", "qwen3_moe"] {
            logits_are_those_of_the_host(&repository("tests/fixtures/golden").join(fixture), quantize, 290);
        }
    }
}

/// Rows of whole large blocks, which no model that ships is wide enough for: 4 bits and 6.
#[test]
fn blocks_of_256_give_the_logits_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    make_wide(dir.path());
    for quantize in [Quantize::Q8_0, Quantize::Q4KM] {
        logits_are_those_of_the_host(dir.path(), quantize, 290);
    }
}

/// A model of Llama's kind with rows of 256 and 512, and the tokenizer of a fixture.
fn make_wide(dir: &Path) {
    const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": 320, "max_position_embeddings": 128, "rms_norm_eps": 1e-05, "hidden_act": "silu",
        "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 2, "rope_theta": 10000.0}"#;
    std::fs::write(dir.join("config.json"), CONFIG).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(repository("tests/fixtures/golden/llama3").join(file), dir.join(file)).unwrap();
    }
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![320, 256]),
        ("lm_head.weight".to_owned(), vec![320, 256]),
        ("model.norm.weight".to_owned(), vec![256]),
    ];
    for layer in 0..2 {
        let parts: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[256]),
            ("self_attn.q_proj", &[256, 256]),
            ("self_attn.k_proj", &[128, 256]),
            ("self_attn.v_proj", &[128, 256]),
            ("self_attn.o_proj", &[256, 256]),
            ("post_attention_layernorm", &[256]),
            ("mlp.gate_proj", &[512, 256]),
            ("mlp.up_proj", &[512, 256]),
            ("mlp.down_proj", &[256, 512]),
        ];
        shapes.extend(
            parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape.to_vec())),
        );
    }
    // of norms about 1, of matrices such that a row keeps its length
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let bytes: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, shape)| {
            let n = shape.iter().product();
            let scale = (3.0 / *shape.last().unwrap() as f32).sqrt();
            let value = |noise: f32| if shape.len() == 1 { 1.0 + 0.1 * noise } else { scale * noise };
            (0..n).flat_map(|_| half::bf16::from_f32(value(noise())).to_le_bytes()).collect()
        })
        .collect();
    let views = shapes.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

/// Once a pass over as many rows as ever come was rehearsed, no pass asks the device for memory: what weights are widened in
/// is part of it.
#[test]
fn passes_over_quantised_weights_find_their_memory_where_the_rehearsal_left_it() {
    let (device, used) = watched_device(1 << 30);
    let model = load(&repository("models/v1"), Quantize::Q4KM, &WeightPool::of(device), &|_, _| ()).unwrap();
    let mut lm = model.lm().unwrap();
    assert!(
        (used.device() as u64) < model.info.weight_bytes * 11 / 10,
        "weights are placed as they are quantised"
    );
    lm.allocate_kv(KvGeometry { blocks: 64, block_size: BLOCK }).unwrap();
    lm.reserve(96, 2).unwrap();
    let reserved = used.device();
    let tokens: Vec<u32> = (0..96).map(|i| i * 7 % 1000).collect();
    for rows in [96, 1, 37, 2, 64, 65, 9, 3, 95] {
        lm.forward(&batch(&[(&tokens[..rows], 0, rows)])).unwrap();
        assert_eq!(used.device(), reserved, "{rows} rows");
    }
}

/// From pinned memory a quantised weight comes back as it was placed, and is pinned as it is placed.
#[test]
fn staged_quantised_weights_leave_the_device_and_come_back() {
    let (device, used) = watched_device(1 << 30);
    let pool = WeightPool::of(device);
    let model = load(&repository("models/v1"), Quantize::Q8_0, &pool, &|_, _| ()).unwrap();
    let answer = || {
        let mut lm = model.lm().unwrap();
        lm.allocate_kv(KvGeometry { blocks: 4, block_size: BLOCK }).unwrap();
        let logits = lm.forward(&batch(&[(&[5, 6, 7, 8, 9], 0, 5)])).unwrap();
        logits.row(0).unwrap().into_owned()
    };
    let cold = answer();
    assert_eq!(used.device(), 0);
    // from the host's own, and read back from a device that has them
    let first = model.stage().unwrap();
    assert_eq!(answer(), cold);
    drop(first);
    let serving = model.lm().unwrap();
    let second = model.stage().unwrap();
    drop(serving);
    assert_eq!((used.device(), answer()), (0, cold));
    drop(second);
    assert_eq!(used.pinned(), 0);
}
