//! A model that says what a test wants: each token has one that follows it, whatever came before. A script's pieces are
//! tokens of their own, and the first follows the colon or the line's end with which the template ends.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Server, serve};

const HIDDEN: usize = 512;
const BYTES: usize = 256;
const END: usize = 256;

/// A template of the kind that Qwen's is: it writes tools, calls and results.
pub const HERMES: &str = "{% if tools %}tools:{{ tools | tojson }}{{ '\\n' }}{% endif %}\
    {% for m in messages %}{{ m.role }}:{{ m.content }}\
    {% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{{ '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";

/// A server with one model, `bot`, whose answers are the script. `version` are further settings of its one version.
pub async fn start(template: &str, script: &[&str], special: &[&str], version: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("bot"), template, script, special);
    serve_bot(folder, version).await
}

async fn serve_bot(folder: TempDir, version: &str) -> Server {
    let path = folder.path().join("switchback.yaml");
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         engine: {{ kv_tokens: 8192 }}\n\
         models:\n  bot:\n    checks:\n      - type: tool-call-valid\n      - type: refusal\n    versions:\n      v1: {{ image: bot{version} }}\n"
    );
    std::fs::write(&path, text).unwrap();
    serve(folder, &path).await
}

fn write(dir: &Path, template: &str, script: &[&str], special: &[&str]) {
    // a byte is a token already
    assert!(script.iter().all(|piece| piece.len() > 1), "{script:?}");
    std::fs::create_dir_all(dir).unwrap();
    let save = |file: &str, value: &Value| std::fs::write(dir.join(file), value.to_string()).unwrap();
    let vocab = END + 1 + script.len();
    save(
        "config.json",
        &json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": HIDDEN, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 8,
            "num_key_value_heads": 1, "vocab_size": vocab, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "float32", "eos_token_id": END
        }),
    );
    save("tokenizer_config.json", &json!({"eos_token": "<|eos|>", "chat_template": template}));
    save("tokenizer.json", &tokenizer(script, special));
    weights(&dir.join("model.safetensors"), vocab);
}

fn tokenizer(script: &[&str], special: &[&str]) -> Value {
    let mut tokenizer = super::model::tokenizer();
    let added = |id: usize, text: &str, special: bool| {
        json!({"id": id, "content": text, "special": special, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    let pieces = script.iter().enumerate();
    let pieces = pieces.map(|(i, piece)| added(END + 1 + i, piece, special.contains(piece)));
    tokenizer["added_tokens"] = std::iter::once(added(END, "<|eos|>", true)).chain(pieces).collect();
    tokenizer["post_processor"] = Value::Null;
    tokenizer
}

/// Embeddings that are all at right angles, layers that add nothing, and a head that knows what follows what.
fn weights(path: &Path, vocab: usize) {
    let next = |token: usize| match token {
        t if t == usize::from(b':') || t == usize::from(b'\n') => END + 1,
        t if t > END && t + 1 < vocab => t + 1,
        _ => END,
    };
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let mut embedding = vec![0.0; vocab * HIDDEN];
    let mut head = vec![0.0; vocab * HIDDEN];
    for token in 0..vocab {
        embedding[token * HIDDEN + token] = 1.0;
        head[next(token) * HIDDEN + token] = 10.0;
    }
    tensors.insert("model.embed_tokens.weight".into(), (vec![vocab, HIDDEN], embedding));
    tensors.insert("lm_head.weight".into(), (vec![vocab, HIDDEN], head));
    tensors.insert("model.norm.weight".into(), (vec![HIDDEN], vec![1.0; HIDDEN]));
    let head_dim = HIDDEN / 8;
    for (part, shape) in [
        ("input_layernorm", vec![HIDDEN]),
        ("post_attention_layernorm", vec![HIDDEN]),
        ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
        ("self_attn.k_proj", vec![head_dim, HIDDEN]),
        ("self_attn.v_proj", vec![head_dim, HIDDEN]),
        ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
        ("mlp.gate_proj", vec![8, HIDDEN]),
        ("mlp.up_proj", vec![8, HIDDEN]),
        ("mlp.down_proj", vec![HIDDEN, 8]),
    ] {
        let values = vec![0.0; shape.iter().product()];
        tensors.insert(format!("model.layers.0.{part}.weight"), (shape, values));
    }
    let bytes: BTreeMap<_, _> = tensors
        .into_iter()
        .map(|(name, (shape, values))| {
            (name, (shape, values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, path).unwrap();
    assert!(vocab <= HIDDEN && BYTES <= END);
}
