//! What a file says of its model, in the keys of `config.json`: the readers of families take it from there.

use serde_json::{Map, Value as Json, json};

use super::header::{Header, TensorInfo};
use super::value::{Metadata, Value};
use super::words;
use crate::tensor::{ElementType, Encoding};

/// Pairs of a head that there may be.
const MOST_FACTORS: usize = 4096;

/// The architectures that are read, and what `transformers` calls them.
const ARCHITECTURES: [(&str, &str); 8] = [
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("qwen3moe", "Qwen3MoeForCausalLM"),
    ("gemma2", "Gemma2ForCausalLM"),
    ("gemma3", "Gemma3ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
    ("smollm3", "SmolLM3ForCausalLM"),
];

/// Keys of an architecture by which something else would be computed, unless they hold nothing.
const UNSUPPORTED: [&str; 14] = [
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "embedding_scale",
    "expert_group_count",
    "expert_shared_count",
    "expert_weights_scale",
    "leading_dense_block_count",
    "logit_scale",
    "nextn_predict_layers",
    "pooling_type",
    "residual_scale",
    "rope.scaling.yarn_log_multiplier",
    "use_parallel_residual",
];

/// The most experts of a layer that is read; each becomes tensors of its own.
const MOST_EXPERTS: u32 = 4096;

/// The keys of one architecture.
#[derive(Clone, Copy)]
struct Keys<'h, 'a> {
    header: &'h Header<'a>,
    /// All bytes of the file.
    file: &'a [u8],
    architecture: &'a str,
}

/// The text of a `config.json` that says what the file's keys say. Whatever the file leaves out is what `llama.cpp` takes it
/// to be, and written out where `transformers` takes it to be something else.
pub(super) fn translated<'a>(header: &Header<'a>, file: &'a [u8]) -> Result<String, String> {
    let metadata = &header.metadata;
    refuse_parts(metadata)?;
    let keys = Keys { header, file, architecture: architecture(metadata)? };
    // the architecture first: another one may well lack the keys of ours
    let family = keys.family()?;
    keys.refuse_unsupported()?;
    let mut out = Map::new();
    keys.sizes(&mut out)?;
    keys.attention(&mut out)?;
    keys.rope(&mut out)?;
    keys.experts(&mut out)?;
    // Mistral is a Llama here, with a window in each layer
    let windowed = keys.architecture == "llama" && out.contains_key("sliding_window");
    out.insert("architectures".to_owned(), json!([if windowed { "MistralForCausalLM" } else { family }]));
    let (begins, ends) = words::marks(metadata)?;
    out.insert("bos_token_id".to_owned(), json!(begins));
    out.insert("eos_token_id".to_owned(), json!(ends));
    Ok(Json::Object(out).to_string())
}

/// What `general.architecture` names.
pub(super) fn architecture<'a>(metadata: &Metadata<'a>) -> Result<&'a str, String> {
    metadata.text("general.architecture")?.ok_or_else(|| "general.architecture: missing".to_owned())
}

/// Whether the rows of its queries and keys are in another order than in files of `transformers`.
pub(super) fn alternates(architecture: &str) -> bool {
    matches!(architecture, "llama" | "smollm3")
}

/// One file of several, and files that hold no model of their own.
fn refuse_parts(metadata: &Metadata<'_>) -> Result<(), String> {
    if let Some(parts @ 2..) = metadata.size("split.count")? {
        return Err(format!(
            "split.count: this is one of {parts} files, and a model is read from one: merge them with \
             `llama-gguf-split --merge`"
        ));
    }
    match metadata.text("general.type")? {
        None | Some("model") => Ok(()),
        Some(other) => Err(format!("general.type: {other:?}, where only a \"model\" can be a version")),
    }
}

impl<'a> Keys<'_, 'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str) -> Result<Option<u32>, String> {
        self.header.metadata.size(&self.key(name))
    }

    fn needed(&self, name: &str) -> Result<u32, String> {
        self.size(name)?.ok_or_else(|| format!("{}: missing", self.key(name)))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, String> {
        self.header.metadata.number(&self.key(name))
    }

    fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.header.metadata.get(&self.key(name))
    }

    fn refuse_unsupported(&self) -> Result<(), String> {
        let nothing = |value: &Value<'_>| match value {
            Value::Whole(0) | Value::Flag(false) => true,
            Value::Float(value) => *value == 0.0,
            _ => false,
        };
        for name in UNSUPPORTED {
            if let Some(value) = self.get(name).filter(|value| !nothing(value)) {
                return Err(format!("{}: {value} is not supported", self.key(name)));
            }
        }
        match self.header.metadata.flag(&self.key("attention.causal"))? {
            Some(false) => Err(format!(
                "{}: false is not supported: a decoder sees what came before",
                self.key("attention.causal")
            )),
            _ => Ok(()),
        }
    }

    /// The architecture as `config.json` names it.
    fn family(&self) -> Result<&'static str, String> {
        let found = ARCHITECTURES.iter().find(|(name, _)| *name == self.architecture);
        found.map(|(_, family)| *family).ok_or_else(|| {
            let names = ARCHITECTURES.map(|(name, _)| name).join(", ");
            format!("general.architecture: {:?} is not supported: only {names}", self.architecture)
        })
    }

    fn sizes(&self, out: &mut Map<String, Json>) -> Result<(), String> {
        let embedding = "token_embd.weight";
        let Some(table) = self.header.tensor(embedding) else {
            return Err(format!("tensor {embedding} is missing"));
        };
        let there = |tensor: &str| self.header.tensor(tensor).is_some();
        let (layers, tensors) = (self.needed("block_count")?, self.header.tensors.len());
        // each has several: a number beyond would only cost memory before the first is found missing
        if layers as usize > tensors {
            let key = self.key("block_count");
            return Err(format!("{key}: {layers} layers, and the file has {tensors} tensors in all"));
        }
        let eps = "attention.layer_norm_rms_epsilon";
        let eps = self.number(eps)?.ok_or_else(|| format!("{}: missing", self.key(eps)))?;
        for (key, value) in [
            ("hidden_size", json!(self.needed("embedding_length")?)),
            ("intermediate_size", json!(self.needed("feed_forward_length")?)),
            ("num_hidden_layers", json!(layers)),
            ("max_position_embeddings", json!(self.needed("context_length")?)),
            ("vocab_size", json!(table.shape[0])),
            ("rms_norm_eps", json!(eps)),
            ("tie_word_embeddings", json!(!there("output.weight"))),
            ("attention_bias", json!(there("blk.0.attn_q.bias"))),
            ("mlp_bias", json!(there("blk.0.ffn_gate.bias"))),
        ] {
            out.insert(key.to_owned(), value);
        }
        Ok(())
    }

    fn attention(&self, out: &mut Map<String, Json>) -> Result<(), String> {
        let mut set = |key: &str, value: Json| out.insert(key.to_owned(), value);
        let (heads, head_dim) = (self.heads()?, self.head_dim()?);
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(self.size("attention.head_count_kv")?.unwrap_or(heads)));
        set("head_dim", json!(head_dim));
        for (key, name) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            if let Some(cap) = self.number(name)? {
                // 0 says that there is none
                set(key, if cap == 0.0 { Json::Null } else { json!(cap) });
            }
        }
        // what llama.cpp tells from the number of layers: the largest models of both families scale by the mean width
        let layers = self.needed("block_count")?;
        match (self.architecture, layers) {
            ("gemma2", 46) | ("gemma3", 62) => {
                set("query_pre_attn_scalar", json!(self.needed("embedding_length")? / heads))
            }
            _ => set("query_pre_attn_scalar", json!(head_dim)),
        };
        self.windows(out, layers)
    }

    fn heads(&self) -> Result<u32, String> {
        match self.needed("attention.head_count")? {
            0 => Err(format!("{}: 0 is not a size", self.key("attention.head_count"))),
            heads => Ok(heads),
        }
    }

    fn head_dim(&self) -> Result<u32, String> {
        let heads = self.heads()?;
        let key = self.size("attention.key_length")?;
        let key = match key {
            Some(length) => length,
            None => self.needed("embedding_length")? / heads,
        };
        match self.size("attention.value_length")? {
            Some(value) if value != key => Err(format!(
                "{}: {value} is not supported: heads of values are as wide as those of keys, {key}",
                self.key("attention.value_length")
            )),
            _ => Ok(key),
        }
    }

    fn windows(&self, out: &mut Map<String, Json>, layers: u32) -> Result<(), String> {
        let name = "attention.sliding_window";
        let window = self.size(name)?.filter(|window| *window > 0);
        let slides = matches!(self.architecture, "llama" | "gemma2" | "gemma3" | "phi3");
        // of these two, a family of transformers has one where its file says nothing
        let needs_null = matches!(self.architecture, "gemma3" | "phi3");
        match window {
            Some(window) if slides => drop(out.insert("sliding_window".to_owned(), json!(window))),
            Some(window) => {
                return Err(format!(
                    "{}: {window} is not supported with {}",
                    self.key(name),
                    self.architecture
                ));
            }
            None if needs_null => drop(out.insert("sliding_window".to_owned(), Json::Null)),
            None => {}
        }
        let pattern = "attention.sliding_window_pattern";
        if self.get(pattern).is_none() {
            if self.architecture == "gemma3" && window.is_none() {
                out.insert("layer_types".to_owned(), json!(vec!["full_attention"; layers as usize]));
            }
            return Ok(());
        }
        if let Some(Value::Whole(_)) = self.get(pattern) {
            out.insert("sliding_window_pattern".to_owned(), json!(self.size(pattern)?));
            return Ok(());
        }
        let kind = |slides: &i128| if *slides == 0 { "full_attention" } else { "sliding_attention" };
        let slides = self.header.metadata.wholes(&self.key(pattern))?.unwrap_or_default();
        out.insert("layer_types".to_owned(), json!(slides.iter().map(kind).collect::<Vec<_>>()));
        Ok(())
    }

    fn rope(&self, out: &mut Map<String, Json>) -> Result<(), String> {
        let base = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        out.insert("rope_theta".to_owned(), json!(base));
        if let Some(base) = self.number("rope.freq_base_swa")? {
            out.insert("rope_local_base_freq".to_owned(), json!(base));
        }
        let head_dim = self.head_dim()?;
        if let Some(turned) = self.size("rope.dimension_count")?.filter(|turned| *turned != head_dim) {
            out.insert("partial_rotary_factor".to_owned(), json!(part(turned, head_dim)));
        }
        let original = self.size("rope.scaling.original_context_length")?;
        if let Some(original) = original {
            out.insert("original_max_position_embeddings".to_owned(), json!(original));
        }
        if let Some(scaling) = self.scaling()? {
            out.insert("rope_scaling".to_owned(), scaling);
        }
        Ok(())
    }

    /// How frequencies are stretched: by a key, or pair by pair by a tensor, as Llama 3 and Phi have it.
    fn scaling(&self) -> Result<Option<Json>, String> {
        if let Some(factors) = self.factors("rope_freqs.weight")? {
            // those of Llama 3.1, worked out: they hold for every context, and sharpen nothing
            return Ok(Some(json!({
                "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
            })));
        }
        let (short, long) =
            (self.factors("rope_factors_short.weight")?, self.factors("rope_factors_long.weight")?);
        if short.is_some() || long.is_some() {
            return Ok(Some(json!({
                "rope_type": "longrope", "short_factor": short, "long_factor": long,
                "attention_factor": self.number("rope.scaling.attn_factor")?,
            })));
        }
        // 0 and 1 say that there is none
        let factor = self.number("rope.scaling.factor")?.or(self.number("rope.scale_linear")?);
        let factor = factor.filter(|factor| ![0.0, 1.0].contains(factor));
        let key = self.key("rope.scaling.type");
        let kind = self.header.metadata.text(&key)?;
        Ok(match kind.unwrap_or("linear") {
            "none" => None,
            // also where no type is given, as llama.cpp has it
            "linear" => factor.map(|factor| json!({ "rope_type": "linear", "factor": factor })),
            "yarn" => Some(json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": self.size("rope.scaling.original_context_length")?,
                "attention_factor": self.number("rope.scaling.yarn_attn_factor")?,
                "beta_fast": self.number("rope.scaling.yarn_beta_fast")?,
                "beta_slow": self.number("rope.scaling.yarn_beta_slow")?,
            })),
            "longrope" => return Err(format!("{key}: longrope, and its rope_factors tensors are missing")),
            other => {
                return Err(format!("{key}: {other:?} is not supported: none, linear, yarn or longrope"));
            }
        })
    }

    /// The numbers of a tensor by which pairs are stretched.
    fn factors(&self, name: &str) -> Result<Option<Vec<f32>>, String> {
        let Some(TensorInfo { encoding, range, .. }) = self.header.tensor(name) else { return Ok(None) };
        if *encoding != Encoding::Plain(ElementType::F32) {
            return Err(format!("tensor {name}: it is stored as {encoding}, where f32 is read"));
        }
        if range.len() > MOST_FACTORS * size_of::<f32>() {
            return Err(format!("tensor {name}: {} factors, more than any head has pairs", range.len() / 4));
        }
        let factors: Vec<f32> =
            self.file[range.clone()].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if let Some(factor) = factors.iter().find(|factor| !factor.is_finite()) {
            return Err(format!("tensor {name}: {factor} is not usable"));
        }
        Ok(Some(factors))
    }

    fn experts(&self, out: &mut Map<String, Json>) -> Result<(), String> {
        let count = self.size("expert_count")?.unwrap_or(0);
        if self.architecture != "qwen3moe" {
            return match count {
                0 => Ok(()),
                count => Err(format!(
                    "{}: {count} experts are not supported with {}",
                    self.key("expert_count"),
                    self.architecture
                )),
            };
        }
        if count > MOST_EXPERTS {
            return Err(format!(
                "{}: {count}, where at most {MOST_EXPERTS} are read",
                self.key("expert_count")
            ));
        }
        let layers = self.needed("block_count")?;
        let dense = |i: &u32| self.header.tensor(&format!("blk.{i}.ffn_gate.weight")).is_some();
        for (key, value) in [
            ("num_experts", json!(count)),
            ("num_experts_per_tok", json!(self.needed("expert_used_count")?)),
            ("moe_intermediate_size", json!(self.needed("expert_feed_forward_length")?)),
            ("norm_topk_prob", json!(true)),
            ("mlp_only_layers", json!((0..layers).filter(dense).collect::<Vec<_>>())),
        ] {
            out.insert(key.to_owned(), value);
        }
        Ok(())
    }
}

/// The share of a head that turns, such that the reader of families gets back how many elements these are.
fn part(turned: u32, head_dim: u32) -> f32 {
    let part = turned as f32 / head_dim as f32;
    if (head_dim as f32 * part) as u32 == turned { part } else { part.next_up() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_head_that_turns_gives_back_how_many_elements_do() {
        for head_dim in (2..=512).step_by(2) {
            for turned in (2..=head_dim).step_by(2) {
                assert_eq!((head_dim as f32 * part(turned, head_dim)) as u32, turned, "of {head_dim}");
            }
        }
    }
}
