//! GGUF files say the same as the folders that they were made of: to the bit, where encodings are the same.

#![allow(clippy::unwrap_used)]

#[path = "common/gguf.rs"]
mod gguf;

use std::fs;
use std::path::{Path, PathBuf};

use gguf::{File, Value, converted};
use serde_json::{Value as Json, json};
use switchback::ids::Quantize;
use switchback::model::{
    Batch, Footprint, KvGeometry, LoadedModel, ModelError, Span, SpecialText, SpecialTokens, WeightPool, load,
};
use switchback::tensor::BlockFormat;
use tempfile::TempDir;

type Change = fn(&mut Json);

/// Golden models, and what a GGUF file cannot say of them.
const MODELS: [(&str, Change); 11] = [
    ("gqa", |_| ()),
    ("tied", |_| ()),
    ("llama3", |_| ()),
    ("mistral", |_| ()),
    ("qwen2", |c| c["use_sliding_window"] = json!(false)),
    ("qwen3", |_| ()),
    ("qwen3_moe", |_| ()),
    // the scale follows from the size of the model
    ("gemma2", |c| c["query_pre_attn_scalar"] = c["head_dim"].clone()),
    ("gemma3", |c| c["query_pre_attn_scalar"] = c["head_dim"].clone()),
    ("phi3", |_| ()),
    // each fourth layer has no rope
    ("smollm3", |c| c["no_rope_layer_interval"] = json!(4)),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a golden model, changed.
fn folder(name: &str, change: Change) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("golden").join(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
    dir
}

/// A folder with one GGUF file.
fn written(file: &File) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    file.write(&dir.path().join("model.gguf"));
    dir
}

fn as_stored(_: &str) -> Option<BlockFormat> {
    None
}

fn read(path: &Path, quantize: Quantize) -> Result<LoadedModel, ModelError> {
    load(path, quantize, &WeightPool::new(), &|_, _| ())
}

fn plain(path: &Path) -> LoadedModel {
    read(path, Quantize::AsStored).unwrap()
}

/// Of the first tokens of the vocabulary, turned over, the logits at each.
fn logits(model: &LoadedModel) -> Vec<f32> {
    const ROWS: usize = 24;
    let mut lm = model.lm().unwrap();
    lm.allocate_kv(KvGeometry { blocks: 2, block_size: 16 }).unwrap();
    let batch = Batch {
        tokens: (0..ROWS as u32).map(|i| i * 37 % 251).collect(),
        positions: (0..ROWS as u32).collect(),
        slots: (0..ROWS as u32).collect(),
        spans: vec![Span { rows: 0..ROWS, context_len: ROWS, block_table: vec![0, 1], adapter: None }],
        logit_rows: (0..ROWS as u32).collect(),
    };
    let logits = lm.forward(&batch).unwrap();
    (0..ROWS).flat_map(|row| logits.row(row).unwrap().to_vec()).collect()
}

fn assert_same_bits(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let differ = found.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(differ, 0, "{name}: of {} logits, so many differ", found.len());
    assert!(found.iter().any(|x| *x != 0.0), "{name}");
}

#[test]
fn each_family_computes_the_same_as_its_folder() {
    for (name, change) in MODELS {
        let folder = folder(name, change);
        let file = written(&converted(folder.path(), as_stored));
        let (one, other) = (plain(file.path()), plain(folder.path()));
        let (found, expected) = (logits(&one), logits(&other));
        if name == "llama3" {
            // its file has the stretched frequencies worked out, and dividing by those rounds otherwise
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{worst}");
        } else {
            assert_same_bits(name, &found, &expected);
        }
        assert_eq!(one.info.architecture, other.info.architecture, "{name}");
        assert_eq!(one.info.parameters, other.info.parameters, "{name}");
        assert_eq!(one.info.max_positions, other.info.max_positions, "{name}");
        assert_eq!((one.bos, &one.eos), (other.bos, &other.eos), "{name}");
        assert_eq!(one.chat_templates, other.chat_templates, "{name}");
        assert_eq!(one.special.bos, other.special.bos, "{name}");
        assert_eq!(one.special.eos, other.special.eos, "{name}");
        let footprint = Footprint::of(file.path(), Quantize::AsStored).unwrap();
        assert_eq!(footprint.weight_bytes, one.info.weight_bytes, "{name}");
        assert_eq!(footprint.kv_shape, other.info.kv_shape, "{name}");
    }
}

#[test]
fn files_that_the_gguf_package_wrote_compute_the_same_as_their_folders() {
    for name in ["qwen3", "tied"] {
        let file = fixture("gguf").join(format!("{name}.gguf"));
        let folder = fixture("golden").join(name);
        assert_same_bits(name, &logits(&plain(&file)), &logits(&plain(&folder)));
        assert_same_tokens(name, &plain(&file), &plain(&folder));
    }
}

const TEXTS: [&str; 16] = [
    "",
    " ",
    "   leading and  double  spaces ",
    "Where is my order? I was charged twice.",
    "order order  order",
    "naïve Größe, ÇA VA, dž",
    "東京 🚲👩‍👩‍👧 é e\u{301}",
    "12345 1,234.50 0x1F",
    "tabs\tand\nnew lines\r\n\r\n and so on",
    "don't DON'T I'll we'VE",
    "{\"category\": \"billing\", \"amount\": 12.50}",
    "<|start|>user\nhello<|end|>\n<|begin|>",
    "<s>hello</s> <unk> <s> x",
    "<|start|><|start|>",
    "a▁b ▁▁ ▁",
    "\u{0}\u{7f}\u{fffd}",
];

fn assert_same_tokens(name: &str, found: &LoadedModel, expected: &LoadedModel) {
    let (found, expected) = (&found.tokenizer, &expected.tokenizer);
    for text in TEXTS {
        for special in [SpecialTokens::Add, SpecialTokens::Parse] {
            let tokens = expected.encode(text, special).unwrap();
            assert_eq!(found.encode(text, special).unwrap(), tokens, "{name}: {text:?}");
            for special in [SpecialText::Keep, SpecialText::Skip] {
                let text = expected.decode(&tokens, special).unwrap();
                assert_eq!(found.decode(&tokens, special).unwrap(), text, "{name}");
            }
        }
    }
    assert_eq!(found.vocab_size(), expected.vocab_size(), "{name}");
    assert_eq!(found.spelling(), expected.spelling(), "{name}");
    for id in 0..found.vocab_size() as u32 {
        assert_eq!(found.token_bytes(id), expected.token_bytes(id), "{name}: {id}");
        assert_eq!(found.is_special(id), expected.is_special(id), "{name}: {id}");
    }
}

#[test]
fn tokenizers_are_those_of_the_folder() {
    for name in ["gqa", "tied"] {
        let folder = folder(name, |_| ());
        let file = written(&converted(folder.path(), as_stored));
        assert_same_tokens(name, &plain(file.path()), &plain(folder.path()));
    }
}

#[test]
fn no_prefix_and_no_beginning_where_the_file_says_so() {
    let folder = fixture("golden/tied");
    let mut file = converted(&folder, as_stored);
    file.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    file.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    let model = plain(written(&file).path());
    let text = "my order";
    let tokens = model.tokenizer.encode(text, SpecialTokens::Add).unwrap();
    let texts: Vec<_> = tokens.iter().map(|t| model.tokenizer.token_bytes(*t).unwrap()).collect();
    assert_eq!(texts, [&b"m"[..], b"y", b" order", b"</s>"]);
    assert_eq!(model.tokenizer.decode(&tokens, SpecialText::Skip).unwrap(), text);
}

#[test]
fn quantised_files_compute_the_same_as_a_folder_that_is_quantised_when_it_is_loaded() {
    let eight = |name: &str| {
        let router = name.ends_with(".mlp.gate.weight");
        (!router).then_some(BlockFormat::Q8_0)
    };
    for (name, change) in MODELS {
        if name == "llama3" {
            continue;
        }
        let folder = folder(name, change);
        let file = written(&converted(folder.path(), eight));
        let expected = read(folder.path(), Quantize::Q8_0).unwrap();
        let found = plain(file.path());
        assert_same_bits(name, &logits(&found), &logits(&expected));
        let footprint = Footprint::of(file.path(), Quantize::AsStored).unwrap();
        assert_eq!(footprint.weight_bytes, found.info.weight_bytes, "{name}");
    }
}

/// A Llama of two layers whose rows are whole blocks of 256, with random weights.
fn wide() -> TempDir {
    let dir = folder("gqa", |c| {
        for (key, value) in [
            ("hidden_size", 256),
            ("intermediate_size", 512),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("head_dim", 32),
        ] {
            c[key] = json!(value);
        }
    });
    let mut state = 7_u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: Vec<usize>| {
        let count: usize = shape.iter().product();
        let scale = if shape.len() == 1 { 0.2 } else { 0.3 };
        let shift = if shape.len() == 1 { 1.0 } else { 0.0 };
        let bytes: Vec<u8> = (0..count).flat_map(|_| (shift + scale * number()).to_le_bytes()).collect();
        tensors.push((name, shape, bytes));
    };
    add("model.embed_tokens.weight".into(), vec![320, 256]);
    add("lm_head.weight".into(), vec![320, 256]);
    add("model.norm.weight".into(), vec![256]);
    for layer in 0..2 {
        for (part, shape) in [
            ("input_layernorm", vec![256]),
            ("post_attention_layernorm", vec![256]),
            ("self_attn.q_proj", vec![256, 256]),
            ("self_attn.k_proj", vec![128, 256]),
            ("self_attn.v_proj", vec![128, 256]),
            ("self_attn.o_proj", vec![256, 256]),
            ("mlp.gate_proj", vec![512, 256]),
            ("mlp.up_proj", vec![512, 256]),
            ("mlp.down_proj", vec![256, 512]),
        ] {
            add(format!("model.layers.{layer}.{part}.weight"), shape);
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn files_in_formats_of_large_blocks_compute_the_same_as_a_folder_that_is_quantised_when_it_is_loaded() {
    let folder = wide();
    let file = written(&converted(folder.path(), |name| {
        let sensitive = ["layers.1.self_attn.v_proj", "layers.1.mlp.down_proj", "lm_head", "embed_tokens"];
        let better = sensitive.iter().any(|part| name.contains(part));
        Some(if better { BlockFormat::Q6K } else { BlockFormat::Q4K })
    }));
    let expected = read(folder.path(), Quantize::Q4KM).unwrap();
    let found = plain(file.path());
    assert_eq!(found.info.weight_bytes, expected.info.weight_bytes);
    assert_same_bits("wide", &logits(&found), &logits(&expected));
}

#[test]
fn a_plain_file_is_quantised_when_it_is_loaded_and_a_quantised_one_is_not_a_second_time() {
    let folder = folder("mistral", |_| ());
    let file = written(&converted(folder.path(), as_stored));
    let (found, expected) =
        (read(file.path(), Quantize::Q8_0).unwrap(), read(folder.path(), Quantize::Q8_0).unwrap());
    assert_same_bits("mistral", &logits(&found), &logits(&expected));

    let file = written(&converted(folder.path(), |_| Some(BlockFormat::Q8_0)));
    let error = read(file.path(), Quantize::Q4KM).unwrap_err().to_string();
    assert!(
        error.contains("model.gguf") && error.contains("q8_0") && error.contains("`quantize` out"),
        "{error}"
    );
    assert!(Footprint::of(file.path(), Quantize::Q4KM).is_err());
}

#[test]
fn weights_are_shared_with_a_folder_that_has_the_same() {
    let folder = folder("gqa", |_| ());
    let file = written(&converted(folder.path(), as_stored));
    let pool = WeightPool::new();
    let load = |path: &Path| load(path, Quantize::AsStored, &pool, &|_, _| ()).unwrap();
    let first = load(folder.path());
    let second = load(file.path());
    assert_eq!(first.info.shared_bytes, 0);
    assert_eq!(second.info.shared_bytes, second.info.weight_bytes);
}

#[test]
fn a_folder_is_its_one_file_and_several_want_a_choice() {
    let folder = folder("qwen3", |_| ());
    let file = converted(folder.path(), as_stored);
    let dir = written(&file);
    // what comes along from the Hub and holds no weights does not count
    fs::write(dir.path().join("README.md"), "hello").unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let chat = dir.path().join("chat_template.jinja");
    fs::write(&chat, "of the folder").unwrap();
    fs::write(dir.path().join("generation_config.json"), "{\"temperature\": 0.25}").unwrap();
    let model = plain(dir.path());
    assert_eq!(model.chat_templates.unwrap().default, "of the folder");
    assert_eq!(model.generation.temperature, Some(0.25));
    // what lies beside a file that was named is not part of the image
    let alone = plain(&dir.path().join("model.gguf"));
    assert_ne!(alone.chat_templates.unwrap().default, "of the folder");
    assert_eq!(alone.generation.temperature, None);

    file.write(&dir.path().join("model-q4.gguf"));
    let error = read(dir.path(), Quantize::AsStored).unwrap_err().to_string();
    assert!(error.contains("model-q4.gguf, model.gguf"), "{error}");
    assert!(Footprint::of(dir.path(), Quantize::AsStored).is_err());
    assert!(read(&dir.path().join("model-q4.gguf"), Quantize::AsStored).is_ok());

    // a folder with weights of its own is what its config.json says
    let folder_too = folder;
    file.write(&folder_too.path().join("model.gguf"));
    plain(folder_too.path());
}
