//! GGUF files as they should not be: each is an error that names the file and the place, and none is a crash.

#![allow(clippy::unwrap_used)]

#[path = "common/gguf.rs"]
mod gguf;

use std::path::{Path, PathBuf};

use gguf::{File, Tensor, Value, converted};
use proptest::prelude::*;
use switchback::ids::Quantize;
use switchback::model::{Footprint, WeightPool, load};
use switchback::tensor::BlockFormat;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

fn sound(name: &str) -> File {
    converted(&golden(name), |_| None)
}

fn read(bytes: &[u8]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    std::fs::write(&path, bytes).unwrap();
    let loaded = load(&path, Quantize::AsStored, &WeightPool::new(), &|_, _| ());
    // what the headers tell is told or refused without a panic, too
    let footprint = Footprint::of(&path, Quantize::AsStored);
    assert!(loaded.is_err() || footprint.is_ok());
    loaded.map(drop).map_err(|e| e.to_string())
}

/// What is said of a file that was changed.
fn refusal(name: &str, change: impl FnOnce(&mut File)) -> String {
    let mut file = sound(name);
    change(&mut file);
    let error = read(&file.bytes()).unwrap_err();
    assert!(error.contains("a.gguf: "), "{error}");
    error
}

type Spoil = Box<dyn FnOnce(&mut File)>;

fn set(key: &'static str, value: Value) -> impl FnOnce(&mut File) {
    move |file| file.set(key, value)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_refused() {
    let whole = sound("qwen3").bytes();
    assert_eq!(read(&whole), Ok(()));
    for length in (0..whole.len()).step_by(97).chain([1, 3, 4, 8, 23, 24, whole.len() - 1]) {
        let error = read(&whole[..length]).unwrap_err();
        assert!(error.contains("cut short") || error.contains("empty"), "{length} bytes: {error}");
    }
}

#[test]
fn an_older_version_is_read_and_the_oldest_is_not() {
    let mut file = sound("qwen3");
    file.version = 2;
    assert_eq!(read(&file.bytes()), Ok(()));
    for (version, says) in [(1, "convert the model anew"), (4, "2 and 3"), (3_u32.swap_bytes(), "big-endian")]
    {
        file.version = version;
        let error = read(&file.bytes()).unwrap_err();
        assert!(error.contains("at byte 4: version") && error.contains(says), "{error}");
    }
    assert!(read(b"GGMLnothing of the kind").unwrap_err().contains("no GGUF file"));
}

#[test]
fn a_length_beyond_the_file_is_refused_before_anything_is_allocated() {
    let sound = sound("qwen3").bytes();
    // the length of the first key
    for length in [u64::MAX, 1 << 62, sound.len() as u64] {
        let mut bytes = sound.clone();
        bytes[24..32].copy_from_slice(&length.to_le_bytes());
        let error = read(&bytes).unwrap_err();
        assert!(error.contains("at byte 32: ") && error.contains("cut short"), "{error}");
    }
    // the counts of tensors and of keys
    for at in [8, 16] {
        let mut bytes = sound.clone();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(read(&bytes).is_err());
    }
    for kind in [0_u32, 5, 8, 12] {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend([0_u64.to_le_bytes(), 1_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat());
        bytes.extend(b"k");
        bytes.extend([9_u32.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend((u64::MAX / 2).to_le_bytes());
        let error = read(&bytes).unwrap_err();
        assert!(error.contains("k: at byte 49"), "{error}");
    }
}

#[test]
fn what_is_there_twice_is_refused() {
    let error = refusal("qwen3", |file| file.keys.push(("qwen3.block_count".into(), Value::U32(2))));
    assert!(error.contains("qwen3.block_count is there twice") && error.contains("at byte "), "{error}");
    let error = refusal("qwen3", |file| file.tensors.push(file.tensors[1].clone()));
    assert!(error.contains("is there twice"), "{error}");
    let error = refusal("qwen3", |file| {
        let same = file.tensor("output_norm.weight").clone();
        file.tensors.push(Tensor { name: "model.norm.weight".into(), ..same });
    });
    assert!(error.contains("model.norm.weight is there under two names"), "{error}");
}

#[test]
fn an_error_names_the_key_what_was_found_and_what_would_do() {
    let cases: Vec<(&str, Spoil, &[&str])> = vec![
        ("qwen3", Box::new(set("general.architecture", text("mamba"))), &["\"mamba\"", "llama, qwen2"]),
        ("qwen3", Box::new(|file| file.remove("general.architecture")), &["general.architecture: missing"]),
        ("qwen3", Box::new(set("general.type", text("mmproj"))), &["general.type: \"mmproj\""]),
        ("qwen3", Box::new(set("split.count", Value::U32(3))), &["split.count", "one of 3 files", "--merge"]),
        ("qwen3", Box::new(set("general.alignment", Value::U32(24))), &["general.alignment: 24"]),
        ("qwen3", Box::new(|file| file.remove("qwen3.block_count")), &["qwen3.block_count: missing"]),
        ("qwen3", Box::new(set("qwen3.block_count", text("two"))), &["qwen3.block_count: found \"two\""]),
        ("qwen3", Box::new(set("qwen3.block_count", Value::I32(-1))), &["qwen3.block_count: found -1"]),
        (
            "qwen3",
            Box::new(set("qwen3.block_count", Value::U32(u32::MAX))),
            &["qwen3.block_count: 4294967295"],
        ),
        ("qwen3", Box::new(set("qwen3.attention.head_count", Value::U32(0))), &["head_count: 0"]),
        ("qwen3", Box::new(set("qwen3.attention.head_count_kv", Value::U32(3))), &["num_key_value_heads, 3"]),
        ("qwen3", Box::new(set("qwen3.attention.value_length", Value::U32(16))), &["value_length: 16", "12"]),
        ("qwen3", Box::new(set("qwen3.attention.causal", Value::Bool(false))), &["attention.causal: false"]),
        ("qwen3", Box::new(set("qwen3.attention.sliding_window", Value::U32(9))), &["sliding_window: 9"]),
        ("qwen3", Box::new(set("qwen3.pooling_type", Value::U32(3))), &["pooling_type: 3"]),
        ("qwen3", Box::new(set("qwen3.expert_count", Value::U32(8))), &["expert_count: 8", "qwen3"]),
        (
            "qwen3",
            Box::new(set("qwen3.rope.freq_base", Value::F32(f32::NAN))),
            &["rope.freq_base: found NaN"],
        ),
        (
            "qwen3",
            Box::new(set("qwen3.rope.scaling.type", text("xpos"))),
            &["rope.scaling.type: \"xpos\"", "yarn"],
        ),
        (
            "qwen3",
            Box::new(set("qwen3.rope.dimension_count", Value::U32(6))),
            &["partial_rotary_factor: 0.5"],
        ),
        (
            "phi3",
            Box::new(|file| file.tensors.retain(|t| t.name != "rope_factors_long.weight")),
            &["long_factor: missing"],
        ),
        ("qwen3_moe", Box::new(set("qwen3moe.expert_count", Value::U32(5))), &["is not that of 5 experts"]),
        (
            "qwen3_moe",
            Box::new(set("qwen3moe.expert_count", Value::U32(1 << 20))),
            &["expert_count: 1048576"],
        ),
        (
            "qwen3",
            Box::new(set("tokenizer.ggml.model", text("bert"))),
            &["tokenizer.ggml.model: \"bert\"", "gpt2"],
        ),
        (
            "qwen3",
            Box::new(set("tokenizer.ggml.pre", text("exaone"))),
            &["ggml.pre: \"exaone\"", "llama-bpe"],
        ),
        ("qwen3", Box::new(|file| file.remove("tokenizer.ggml.pre")), &["tokenizer.ggml.pre: missing"]),
        ("qwen3", Box::new(|file| file.remove("tokenizer.ggml.merges")), &["tokenizer.ggml.merges: missing"]),
        (
            "qwen3",
            Box::new(set("tokenizer.ggml.merges", Value::Texts(vec!["xyz".into()]))),
            &["merge 0: \"xyz\""],
        ),
        (
            "qwen3",
            Box::new(set("tokenizer.ggml.merges", Value::Texts(vec!["a nothing".into()]))),
            &["merge 0: \"nothing\" is not a token"],
        ),
        ("qwen3", Box::new(set("tokenizer.ggml.bos_token_id", Value::U32(999))), &["bos_token_id: 999"]),
        (
            "qwen3",
            Box::new(set("tokenizer.ggml.token_type", Value::Ints(vec![1]))),
            &["token_type: 1 of them"],
        ),
        ("tied", Box::new(|file| file.remove("tokenizer.ggml.scores")), &["tokenizer.ggml.scores: missing"]),
        ("tied", Box::new(set("tokenizer.ggml.scores", Value::Floats(vec![0.0]))), &["scores: 1 of them"]),
    ];
    for (name, change, says) in cases {
        let error = refusal(name, change);
        assert!(says.iter().all(|part| error.contains(part)), "{says:?}: {error}");
    }
}

#[test]
fn a_token_that_is_there_twice_is_refused_and_so_are_more_tokens_than_rows() {
    let change = |change: fn(&mut Vec<String>)| {
        move |file: &mut File| {
            let tokens = file.keys.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens").unwrap();
            let Value::Texts(texts) = &mut tokens.1 else { panic!("no texts") };
            change(texts);
            let count = texts.len();
            file.set("tokenizer.ggml.token_type", Value::Ints(vec![1; count]));
        }
    };
    let error = refusal("qwen3", change(|texts| texts[4] = texts[3].clone()));
    assert!(error.contains("tokenizer.ggml.tokens: 3 and 4 are both"), "{error}");
    let error = refusal("qwen3", change(|texts| texts.push("one more".into())));
    assert!(error.contains("321 tokens") && error.contains("320"), "{error}");
}

#[test]
fn places_that_only_fill_the_vocabulary_are_no_tokens() {
    let mut file = sound("qwen3");
    for (key, value) in &mut file.keys {
        match (key.as_str(), value) {
            ("tokenizer.ggml.tokens", Value::Texts(texts)) => texts[319] = "[PAD319]".into(),
            ("tokenizer.ggml.merges", Value::Texts(texts)) => drop(texts.pop()),
            ("tokenizer.ggml.token_type", Value::Ints(kinds)) => kinds[319] = 5,
            _ => {}
        }
    }
    let dir = tempfile::tempdir().unwrap();
    file.write(&dir.path().join("a.gguf"));
    let model = load(dir.path(), Quantize::AsStored, &WeightPool::new(), &|_, _| ()).unwrap();
    assert_eq!((model.tokenizer.vocab_size(), model.info.vocab_size), (319, 320));
    assert_eq!(model.tokenizer.token_bytes(319), None);
}

#[test]
fn an_error_about_a_tensor_names_it() {
    let q = "blk.1.attn_q.weight";
    let error = refusal("qwen3", |file| file.tensor(q).kind = 23);
    assert!(error.contains(q) && error.contains("iq4_xs") && error.contains("q2_k to q6_k"), "{error}");
    let error = refusal("qwen3", |file| file.tensor(q).kind = 99);
    assert!(error.contains(q) && error.contains("type 99"), "{error}");
    let error = refusal("qwen3", |file| file.tensor(q).kind = 12);
    assert!(error.contains(q) && error.contains("rows of 32") && error.contains("q4_k"), "{error}");
    let error = refusal("qwen3", |file| file.tensor(q).shape = vec![32, 48]);
    assert!(error.contains("layers.1.self_attn.q_proj") && error.contains("[32, 48]"), "{error}");
    let error = refusal("qwen3", |file| file.tensor(q).shape = vec![]);
    assert!(error.contains(q) && error.contains("0 dimensions"), "{error}");
    let error = refusal("qwen3", |file| file.tensor(q).shape = vec![0, 32]);
    assert!(error.contains(q) && error.contains("a dimension of 0"), "{error}");
    for shape in [vec![u64::MAX, 2], vec![1 << 40, 1 << 40], vec![1 << 32; 4]] {
        let error = refusal("qwen3", |file| file.tensor(q).shape = shape);
        assert!(error.contains(q) && error.contains("past the file's"), "{error}");
    }
    let error = refusal("qwen3", |file| file.tensors.retain(|tensor| tensor.name != q));
    assert!(error.contains("layers.1.self_attn.q_proj.weight") && error.contains("missing"), "{error}");
    let error = refusal("qwen3", |file| file.tensor(q).name = "blk.1.attn_qq.weight".into());
    assert!(error.contains("q_proj.weight") && error.contains("missing"), "{error}");
    let error = refusal("qwen3", |file| {
        let more = file.tensor(q).clone();
        file.tensors.push(Tensor { name: "blk.7.attn_q.weight".into(), ..more });
    });
    assert!(error.contains("model.layers.7.self_attn.q_proj.weight has no place"), "{error}");
    let error = refusal("qwen3", |file| file.tensors.retain(|tensor| tensor.name != "token_embd.weight"));
    assert!(error.contains("token_embd.weight is missing"), "{error}");
    // a quantised bias has no rows to put in order
    let error = refusal("tied", |file| {
        let bias = file.tensor("blk.0.attn_q.bias");
        (bias.kind, bias.bytes) = (8, vec![0; 34]);
        bias.shape = vec![32];
    });
    assert!(error.contains("q_proj.bias"), "{error}");
}

#[test]
fn a_bias_that_is_quantised_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = converted(&golden("mistral"), |_| Some(BlockFormat::Q8_0));
    let norm = file.tensor("blk.0.attn_norm.weight");
    (norm.kind, norm.bytes) = (8, vec![0; 34]);
    let path = dir.path().join("a.gguf");
    file.write(&path);
    let error = load(&path, Quantize::AsStored, &WeightPool::new(), &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("is stored as q8_0"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), sound in any::<bool>()) {
        let start: &[u8] = if sound { b"GGUF\x03\0\0\0" } else { b"" };
        prop_assert!(read(&[start, &bytes].concat()).is_err());
    }

    #[test]
    fn a_file_with_other_bytes_somewhere_is_read_or_refused(
        changes in prop::collection::vec((0_usize..20_000, any::<u8>()), 1..6),
        name in prop::sample::select(vec!["qwen3", "tied"]),
    ) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/gguf/{name}.gguf"));
        let mut bytes = std::fs::read(path).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        // either is right: that it ends is what counts
        let _ = read(&bytes);
    }

    #[test]
    fn keys_that_nobody_asks_for_are_passed_over(
        whole in any::<u64>(), float in any::<f64>(), flag in any::<bool>(), text in ".*",
        texts in prop::collection::vec(".{0,9}", 0..9), ints in prop::collection::vec(any::<i32>(), 0..9),
    ) {
        let mut file = sound("qwen3");
        let values = [
            Value::U64(whole), Value::F64(float), Value::Bool(flag), Value::Text(text), Value::Texts(texts), Value::Ints(ints),
        ];
        for (i, value) in values.into_iter().enumerate() {
            file.keys.insert(i, (format!("general.own_{i}"), value));
        }
        prop_assert_eq!(read(&file.bytes()), Ok(()));
    }
}
