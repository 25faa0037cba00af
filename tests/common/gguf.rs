//! Writes GGUF files: any keys and tensors, or a model in Hugging Face layout as `llama.cpp` converts it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;
use switchback::tensor::{BlockFormat, ElementType, Encoding, Weight};

/// What a key holds.
#[derive(Debug, Clone)]
pub enum Value {
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
}

/// A tensor; its shape is outermost first.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    /// By its number in GGML.
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// A file that is being written.
#[derive(Debug, Clone)]
pub struct File {
    pub version: u32,
    pub keys: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

const ALIGNMENT: usize = 32;

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn list<T>(out: &mut Vec<u8>, kind: u32, all: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
    out.extend(9_u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((all.len() as u64).to_le_bytes());
    for one in all {
        each(out, one);
    }
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let mut scalar = |kind: u32, bytes: &[u8]| {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Self::U32(x) => scalar(4, &x.to_le_bytes()),
            Self::I32(x) => scalar(5, &x.to_le_bytes()),
            Self::F32(x) => scalar(6, &x.to_le_bytes()),
            Self::Bool(x) => scalar(7, &[u8::from(*x)]),
            Self::U64(x) => scalar(10, &x.to_le_bytes()),
            Self::F64(x) => scalar(12, &x.to_le_bytes()),
            Self::Text(x) => {
                scalar(8, &[]);
                text(out, x);
            }
            Self::Texts(all) => list(out, 8, all, |out, x| text(out, x)),
            Self::Ints(all) => list(out, 5, all, |out, x| out.extend(x.to_le_bytes())),
            Self::Floats(all) => list(out, 6, all, |out, x| out.extend(x.to_le_bytes())),
            Self::Bools(all) => list(out, 7, all, |out, x| out.push(u8::from(*x))),
        }
    }
}

impl File {
    pub fn set(&mut self, key: &str, value: Value) {
        self.remove(key);
        self.keys.push((key.to_owned(), value));
    }

    pub fn remove(&mut self, key: &str) {
        self.keys.retain(|(name, _)| name != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.bytes.len()).next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(&tensor.bytes);
        }
        out
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

const fn kind(encoding: Encoding) -> u32 {
    match encoding {
        Encoding::Plain(ElementType::F32) => 0,
        Encoding::Plain(ElementType::F16) => 1,
        Encoding::Plain(ElementType::Bf16) => 30,
        Encoding::Blocks(BlockFormat::Q5_0) => 6,
        Encoding::Blocks(BlockFormat::Q8_0) => 8,
        Encoding::Blocks(BlockFormat::Q4K) => 12,
        Encoding::Blocks(BlockFormat::Q6K) => 14,
        Encoding::Blocks(_) => panic!("nobody writes it"),
    }
}

/// The model in a folder, converted: its tensors as they are, but matrices for which `format` names one.
pub fn converted(folder: &Path, format: impl Fn(&str) -> Option<BlockFormat>) -> File {
    let json =
        |name: &str| -> Json { serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap() };
    let config = json("config.json");
    let family = config["architectures"][0].as_str().unwrap();
    let architecture = match family {
        "LlamaForCausalLM" | "MistralForCausalLM" => "llama",
        "Qwen2ForCausalLM" => "qwen2",
        "Qwen3ForCausalLM" => "qwen3",
        "Qwen3MoeForCausalLM" => "qwen3moe",
        "Gemma2ForCausalLM" => "gemma2",
        "Gemma3ForCausalLM" => "gemma3",
        "Phi3ForCausalLM" => "phi3",
        "SmolLM3ForCausalLM" => "smollm3",
        other => panic!("{other}"),
    };
    let mut file = File { version: 3, keys: Vec::new(), tensors: Vec::new() };
    file.set("general.architecture", Value::Text(architecture.to_owned()));
    keys(&mut file, architecture, &config);
    tokenizer(&mut file, &json("tokenizer.json"), &json("tokenizer_config.json"));
    let mut tensors = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let bytes = std::fs::read(&entry).unwrap();
            for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                tensors.insert(name, stored(tensor.dtype(), tensor.shape(), tensor.data()));
            }
        }
    }
    let tensors = tensors.into_iter().map(|(name, weight)| {
        let wide = weight.rows() > 1;
        let weight = format(&name).filter(|_| wide).and_then(|f| weight.quantised(f)).unwrap_or(weight);
        (name, weight)
    });
    place(&mut file, architecture, &config, tensors.collect());
    file
}

fn stored(dtype: Dtype, shape: &[usize], data: &[u8]) -> Weight {
    let element = match dtype {
        Dtype::F32 => ElementType::F32,
        Dtype::F16 => ElementType::F16,
        Dtype::BF16 => ElementType::Bf16,
        other => panic!("{other:?}"),
    };
    Weight::owned(data.to_vec(), element, shape).unwrap()
}

fn keys(file: &mut File, architecture: &str, config: &Json) {
    let number = |key: &str| config[key].as_u64().map(|n| n as u32);
    let (hidden, heads) = (number("hidden_size").unwrap(), number("num_attention_heads").unwrap());
    let head_dim = number("head_dim").unwrap_or(hidden / heads);
    let mut set = |name: &str, value: Value| file.set(&format!("{architecture}.{name}"), value);
    for (name, value) in [
        ("embedding_length", hidden),
        ("feed_forward_length", number("intermediate_size").unwrap()),
        ("block_count", number("num_hidden_layers").unwrap()),
        ("context_length", number("max_position_embeddings").unwrap()),
        ("attention.head_count", heads),
        ("attention.head_count_kv", number("num_key_value_heads").unwrap()),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
    ] {
        set(name, Value::U32(value));
    }
    set("attention.layer_norm_rms_epsilon", Value::F32(config["rms_norm_eps"].as_f64().unwrap() as f32));
    if let Some(window) = number("sliding_window").filter(|_| !architecture.starts_with("qwen")) {
        set("attention.sliding_window", Value::U32(window));
    }
    if let Some(kinds) = config["layer_types"].as_array().filter(|_| architecture == "gemma3") {
        let slides = kinds.iter().map(|kind| kind == "sliding_attention").collect();
        set("attention.sliding_window_pattern", Value::Bools(slides));
    }
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(value) = config[cap].as_f64() {
            set(cap, Value::F32(value as f32));
        }
    }
    if let Some(count) = number("num_local_experts") {
        set("expert_count", Value::U32(count));
        set("expert_used_count", Value::U32(number("num_experts_per_tok").unwrap()));
        set("expert_feed_forward_length", Value::U32(number("moe_intermediate_size").unwrap()));
    }
    rope(file, architecture, config, head_dim);
}

fn rope(file: &mut File, architecture: &str, config: &Json, head_dim: u32) {
    let parameters = [&config["rope_parameters"], &config["rope_scaling"]];
    let all = parameters.into_iter().find(|all| all.is_object()).cloned().unwrap_or_default();
    let own = if all["full_attention"].is_object() { all["full_attention"].clone() } else { all.clone() };
    let float = |key: &str| own[key].as_f64().map(|x| x as f32);
    let theta = float("rope_theta").or(config["rope_theta"].as_f64().map(|x| x as f32)).unwrap();
    let mut set = |name: &str, value: Value| file.set(&format!("{architecture}.{name}"), value);
    set("rope.freq_base", Value::F32(theta));
    if let Some(theta) = all["sliding_attention"]["rope_theta"].as_f64() {
        set("rope.freq_base_swa", Value::F32(theta as f32));
    }
    let part = config["partial_rotary_factor"].as_f64().unwrap_or(1.0);
    set("rope.dimension_count", Value::U32((f64::from(head_dim) * part) as u32));
    let kind = own["rope_type"].as_str().or(own["type"].as_str()).unwrap_or("default");
    if let Some(original) = float("original_max_position_embeddings").filter(|_| kind != "llama3") {
        set("rope.scaling.original_context_length", Value::U32(original as u32));
    }
    match kind {
        "default" => {}
        "linear" | "yarn" => {
            set("rope.scaling.type", Value::Text(kind.to_owned()));
            set("rope.scaling.factor", Value::F32(float("factor").unwrap()));
        }
        "llama3" => {
            let factors = llama3(theta, head_dim as usize, &own);
            push_factors(file, "rope_freqs.weight", &factors);
        }
        "longrope" => {
            let (most, original) = (config["max_position_embeddings"].as_f64().unwrap(), 16.0_f32);
            let stretch = most as f32 / original;
            let attention = (1.0 + stretch.ln() / original.ln()).sqrt();
            set("rope.scaling.attn_factor", Value::F32(attention));
            for length in ["short", "long"] {
                let factors = own[format!("{length}_factor")].as_array().unwrap();
                let factors: Vec<f32> = factors.iter().map(|f| f.as_f64().unwrap() as f32).collect();
                push_factors(file, &format!("rope_factors_{length}.weight"), &factors);
            }
        }
        other => panic!("{other}"),
    }
}

fn push_factors(file: &mut File, name: &str, factors: &[f32]) {
    let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    file.tensors.push(Tensor { name: name.to_owned(), shape: vec![factors.len() as u64], kind: 0, bytes });
}

/// By how much each pair is stretched, as the converter works it out.
fn llama3(theta: f32, head_dim: usize, rope: &Json) -> Vec<f32> {
    let float = |key: &str| rope[key].as_f64().unwrap() as f32;
    let (factor, original) = (float("factor"), float("original_max_position_embeddings"));
    let (low, high) = (float("low_freq_factor"), float("high_freq_factor"));
    let pairs = (0..head_dim).step_by(2).map(|i| theta.powf(-(i as f32) / head_dim as f32));
    let stretch = |frequency: f32| {
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    pairs.map(stretch).collect()
}

fn tokenizer(file: &mut File, tokenizer: &Json, words: &Json) {
    let model = &tokenizer["model"];
    let vocabulary = model["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocabulary.len()];
    vocabulary.iter().for_each(|(text, id)| tokens[id.as_u64().unwrap() as usize].clone_from(text));
    let mut kinds = vec![1; tokens.len()];
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        let (id, text) = (added["id"].as_u64().unwrap() as usize, added["content"].as_str().unwrap());
        tokens.resize(tokens.len().max(id + 1), String::new());
        kinds.resize(tokens.len(), 1);
        text.clone_into(&mut tokens[id]);
        kinds[id] = match (text, added["special"].as_bool().unwrap()) {
            ("<unk>", _) => 2,
            (_, true) => 3,
            (_, false) => 4,
        };
    }
    let pair = |merge: &Json| [0, 1].map(|i| merge[i].as_str().unwrap().to_owned());
    let merges: Vec<[String; 2]> = model["merges"].as_array().unwrap().iter().map(pair).collect();
    let id = |text: &Json| {
        let text = text.as_str().or(text["content"].as_str())?;
        tokens.iter().position(|token| token == text).map(|id| Value::U32(id as u32))
    };
    for (key, word) in [("bos_token_id", "bos_token"), ("eos_token_id", "eos_token")] {
        if let Some(id) = id(&words[word]) {
            file.set(&format!("tokenizer.ggml.{key}"), id);
        }
    }
    if let Some(template) = words["chat_template"].as_str() {
        file.set("tokenizer.chat_template", Value::Text(template.to_owned()));
    }
    let begins = tokenizer["post_processor"]["type"] == "TemplateProcessing";
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(begins));
    if model["byte_fallback"] == true {
        // what is merged first has the highest score
        let made: Vec<String> = merges.iter().map(|pair| pair.concat()).collect();
        let score = |token: &String| made.iter().position(|made| made == token).map_or(-1e3, |i| -(i as f32));
        file.set("tokenizer.ggml.model", Value::Text("llama".to_owned()));
        file.set("tokenizer.ggml.pre", Value::Text("default".to_owned()));
        file.set("tokenizer.ggml.scores", Value::Floats(tokens.iter().map(score).collect()));
        let bytes = tokens.iter().zip(&mut kinds).filter(|(token, _)| token.starts_with("<0x"));
        bytes.for_each(|(_, kind)| *kind = 6);
    } else {
        file.set("tokenizer.ggml.model", Value::Text("gpt2".to_owned()));
        let digits = tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"] == "Digits";
        file.set("tokenizer.ggml.pre", Value::Text(if digits { "smollm" } else { "gpt-2" }.to_owned()));
        let merges = merges.iter().map(|pair| pair.join(" ")).collect();
        file.set("tokenizer.ggml.merges", Value::Texts(merges));
    }
    file.set("tokenizer.ggml.tokens", Value::Texts(tokens));
    file.set("tokenizer.ggml.token_type", Value::Ints(kinds));
}

fn place(file: &mut File, architecture: &str, config: &Json, tensors: BTreeMap<String, Weight>) {
    let gemma = architecture.starts_with("gemma");
    let heads = |key: &str| config[key].as_u64().unwrap() as usize;
    let mut experts: BTreeMap<String, BTreeMap<usize, Weight>> = BTreeMap::new();
    for (name, weight) in tensors {
        let parts: Vec<&str> = name.split('.').collect();
        if let ["model", "layers", layer, "mlp", "experts", expert, part, "weight"] = parts[..] {
            let part = part.strip_suffix("_proj").unwrap();
            let stack = experts.entry(format!("blk.{layer}.ffn_{part}_exps.weight")).or_default();
            stack.insert(expert.parse().unwrap(), weight);
            continue;
        }
        let gguf = renamed(&parts, gemma);
        let mut tensor = as_tensor(gguf.clone(), &weight);
        if weight.rows() == 1 {
            let add = if gemma { 1.0 } else { 0.0 };
            let mut row = vec![0.0; weight.cols()];
            weight.widen_row(0, &mut row);
            tensor.kind = 0;
            tensor.bytes = row.iter().flat_map(|x| (x + add).to_le_bytes()).collect();
        }
        if matches!(architecture, "llama" | "smollm3") {
            match gguf.split('.').nth(2) {
                Some("attn_q") => alternate(&mut tensor, heads("num_attention_heads")),
                Some("attn_k") => alternate(&mut tensor, heads("num_key_value_heads")),
                _ => {}
            }
        }
        file.tensors.push(tensor);
    }
    for (name, stack) in experts {
        let first = as_tensor(name, &stack[&0]);
        let shape = [&[stack.len() as u64][..], &first.shape].concat();
        let bytes = stack.values().flat_map(|weight| weight.bytes().to_vec()).collect();
        file.tensors.push(Tensor { shape, bytes, ..first });
    }
}

fn as_tensor(name: String, weight: &Weight) -> Tensor {
    let shape = match weight.rows() {
        1 => vec![weight.cols() as u64],
        rows => vec![rows as u64, weight.cols() as u64],
    };
    Tensor { name, shape, kind: kind(weight.encoding()), bytes: weight.bytes().to_vec() }
}

fn renamed(parts: &[&str], gemma: bool) -> String {
    let (layer, part, end) = match parts {
        ["model", "embed_tokens", end] => return format!("token_embd.{end}"),
        ["model", "norm", end] => return format!("output_norm.{end}"),
        ["lm_head", end] => return format!("output.{end}"),
        ["model", "layers", layer, part @ .., end] => (layer, part.join("."), end),
        other => panic!("{other:?}"),
    };
    let part = match part.as_str() {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if gemma => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate" => "ffn_gate_inp",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => panic!("{other}"),
    };
    format!("blk.{layer}.{part}.{end}")
}

/// Rows of a head's two halves by turns.
fn alternate(tensor: &mut Tensor, heads: usize) {
    let rows = tensor.shape[0] as usize;
    let (row, width) = (tensor.bytes.len() / rows, rows / heads);
    let from = |i: usize| i / width * width + i % width / 2 + i % 2 * (width / 2);
    tensor.bytes = (0..rows).flat_map(|i| tensor.bytes[from(i) * row..][..row].to_vec()).collect();
}
