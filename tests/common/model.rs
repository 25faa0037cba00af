//! Writes a tiny Llama of random weights: 2 layers, 260 tokens, 256 positions.

use std::collections::BTreeMap;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Map, json};

const HIDDEN: usize = 32;
const INNER: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const VOCAB: usize = 260;

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'developer' %}\
    {{ raise_exception('no developer here') }}{% endif %}{{ m.role }}:{{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";

/// Writes the model's files; `name` decides its weights.
pub fn write(dir: &Path, name: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let save = |file: &str, value: &serde_json::Value| {
        std::fs::write(dir.join(file), serde_json::to_vec_pretty(value).unwrap()).unwrap();
    };
    save(
        "config.json",
        &json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "torch_dtype": "float32", "bos_token_id": 256, "eos_token_id": 257
        }),
    );
    save(
        "tokenizer_config.json",
        &json!({"bos_token": "<|bos|>", "eos_token": "<|eos|>", "chat_template": TEMPLATE}),
    );
    save("tokenizer.json", &tokenizer());
    weights(&dir.join("model.safetensors"), name);
}

/// GPT-2's map of bytes to printable characters: each byte is one token, with its own value for id.
fn byte_characters() -> Vec<char> {
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut spare = (256..).filter_map(char::from_u32);
    (0..=255_u8)
        .filter_map(|byte| if printable(byte.into()) { Some(char::from(byte)) } else { spare.next() })
        .collect()
}

pub(super) fn tokenizer() -> serde_json::Value {
    let characters = byte_characters().into_iter().enumerate();
    let vocab: Map<_, _> = characters.map(|(id, c)| (c.to_string(), json!(id))).collect();
    let special = |id: usize, text: &str| {
        json!({"id": id, "content": text, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(256, "<|bos|>"), special(257, "<|eos|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [256], "tokens": ["<|bos|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    })
}

fn weights(path: &Path, name: &str) {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(seed);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        let value = |rng: &mut ChaCha8Rng| match shape {
            [_] => 1.0_f32,
            _ => (f64::from(rng.next_u32()) / f64::from(u32::MAX) - 0.5) as f32 * 0.6,
        };
        let bytes = (0..count).flat_map(|_| value(&mut rng).to_le_bytes()).collect();
        tensors.insert(name, (shape.to_vec(), bytes));
    };
    let head = HIDDEN / HEADS;
    add("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]);
    add("model.norm.weight".into(), &[HIDDEN]);
    add("lm_head.weight".into(), &[VOCAB, HIDDEN]);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        add(name("input_layernorm"), &[HIDDEN]);
        add(name("post_attention_layernorm"), &[HIDDEN]);
        add(name("self_attn.q_proj"), &[HIDDEN, HIDDEN]);
        add(name("self_attn.k_proj"), &[KV_HEADS * head, HIDDEN]);
        add(name("self_attn.v_proj"), &[KV_HEADS * head, HIDDEN]);
        add(name("self_attn.o_proj"), &[HIDDEN, HIDDEN]);
        add(name("mlp.gate_proj"), &[INNER, HIDDEN]);
        add(name("mlp.up_proj"), &[INNER, HIDDEN]);
        add(name("mlp.down_proj"), &[HIDDEN, INNER]);
    }
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}
