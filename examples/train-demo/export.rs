//! Writes a network in Hugging Face layout, weights in bf16.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Error, Result, Tensor};
use serde_json::{Value, json};

use crate::network::{NORM_EPS, Network, ROPE_THETA};
use crate::text::{CHAT_TEMPLATE, TURN_END, Text};

pub(crate) fn write(dir: &Path, network: &Network, text: &Text) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let s = &network.shape;
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": s.hidden,
        "intermediate_size": s.ffn,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "vocab_size": s.vocab,
        "max_position_embeddings": s.positions,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "rope_scaling": null,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "bos_token_id": null,
        "eos_token_id": text.end,
    });
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": null,
        "eos_token": TURN_END,
        "pad_token": "<|endoftext|>",
        "model_max_length": s.positions,
        "chat_template": CHAT_TEMPLATE,
    });
    let generation = json!({ "eos_token_id": text.end, "do_sample": false });
    save(dir, "config.json", &config)?;
    save(dir, "tokenizer_config.json", &tokenizer_config)?;
    save(dir, "generation_config.json", &generation)?;
    let failed = |e: tokenizers::Error| Error::Msg(format!("tokenizer.json: {e}"));
    text.tokenizer.save(dir.join("tokenizer.json"), true).map_err(failed)?;
    let narrow = |t: &Tensor| t.to_dtype(DType::BF16);
    let weights: HashMap<String, Tensor> = network
        .weights
        .iter()
        .map(|(n, v)| Ok((n.clone(), narrow(v.as_tensor())?)))
        .collect::<Result<_>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(&weights, Some(metadata), &dir.join("model.safetensors"))?;
    Ok(())
}

fn save(dir: &Path, name: &str, value: &Value) -> Result<()> {
    Ok(std::fs::write(dir.join(name), format!("{value:#}\n"))?)
}
