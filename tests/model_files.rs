//! Model folders as they should not be: each is an error that names the file, and none is a crash.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::fs;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchback::ids::Quantize;
use switchback::model::{GenerationDefaults, KvGeometry, LoadedModel, ModelError, WeightPool, load};
use tempfile::TempDir;

/// A copy of a golden model, to spoil.
fn copy(name: &str) -> TempDir {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name);
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn read(dir: &Path) -> Result<LoadedModel, ModelError> {
    load(dir, Quantize::AsStored, &WeightPool::new(), &|_, _| ())
}

fn refusal(dir: &Path) -> String {
    read(dir).unwrap_err().to_string()
}

fn change(dir: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
}

type Change = fn(&mut Value);

/// Rewrites the header of a safetensors file; the data stay.
fn change_header(path: &Path, change: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut value = serde_json::from_slice(header).unwrap();
    change(&mut value);
    let header = value.to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], header.as_bytes(), data].concat()).unwrap();
}

#[test]
fn weights_that_are_cut_short_anywhere_are_refused() {
    let dir = copy("gqa");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, 7, 8, 9, 100, 2000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = refusal(dir.path());
        assert!(error.contains("model.safetensors: "), "{length} bytes: {error}");
        assert!(error.contains("cut short") || error.contains("empty"), "{length} bytes: {error}");
    }
    fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    assert!(refusal(dir.path()).contains("another length"));
}

#[test]
fn weights_with_a_corrupt_header_are_refused() {
    let dir = copy("gqa");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for (at, byte) in [(7, 0xff), (0, 0), (8, b'x'), (20, 0xff), (40, b'}')] {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        fs::write(&path, bytes).unwrap();
        assert!(refusal(dir.path()).contains("model.safetensors: "), "byte {at}");
    }
    let norm = "model.norm.weight";
    for offsets in
        [json!([0, 1]), json!([0, u64::MAX]), json!([192, 0]), json!([1_u64 << 40, (1_u64 << 40) + 192])]
    {
        fs::write(&path, &whole).unwrap();
        change_header(&path, |h| h[norm]["data_offsets"] = offsets.clone());
        assert!(refusal(dir.path()).contains("model.safetensors: "), "{offsets}");
    }
    fs::write(&path, &whole).unwrap();
    change_header(&path, |h| h[norm]["shape"] = json!([u64::MAX, u64::MAX]));
    assert!(refusal(dir.path()).contains("model.safetensors: "));
}

#[test]
fn an_error_about_a_tensor_names_it_with_what_was_expected_and_found() {
    let dir = copy("gqa");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let q = "model.layers.1.self_attn.q_proj.weight";

    change_header(&path, |h| h[q]["shape"] = json!([96, 24]));
    let error = refusal(dir.path());
    assert!(error.contains("model.safetensors") && error.contains(q), "{error}");
    assert!(error.contains("[96, 24]") && error.contains("[48, 48]"), "{error}");

    fs::write(&path, &whole).unwrap();
    change_header(&path, |h| {
        let tensor = h.as_object_mut().unwrap().remove(q).unwrap();
        h["model.layers.1.self_attn.q_projection.weight"] = tensor;
    });
    let error = refusal(dir.path());
    assert!(error.contains(q) && error.contains("missing") && error.contains("[48, 48]"), "{error}");

    fs::write(&path, &whole).unwrap();
    change_header(&path, |h| h[q]["dtype"] = json!("I32"));
    let error = refusal(dir.path());
    assert!(error.contains(q) && error.contains("I32") && error.contains("BF16"), "{error}");

    // one layer fewer would leave tensors without a place, and say something else than the whole model
    fs::write(&path, &whole).unwrap();
    change(dir.path(), "config.json", |c| c["num_hidden_layers"] = json!(1));
    let error = refusal(dir.path());
    assert!(error.contains("model.layers.1.") && error.contains("no place"), "{error}");
}

#[test]
fn an_index_that_does_not_fit_its_files_is_refused() {
    let index = "model.safetensors.index.json";
    let norm = "model.norm.weight";
    let cases: [(Change, &str); 5] = [
        (
            |i| i["weight_map"]["model.norm.weight"] = json!("../model.safetensors"),
            "not a file of this folder",
        ),
        (|i| i["weight_map"]["model.norm.weight"] = json!("/etc/passwd"), "not a file of this folder"),
        (
            |i| i["weight_map"]["model.norm.weight"] = json!("model-00003-of-00003.safetensors"),
            "00003-of-00003",
        ),
        (
            |i| i["weight_map"]["model.nrm.weight"] = json!("model-00001-of-00002.safetensors"),
            "model.nrm.weight",
        ),
        (|i| drop(i.as_object_mut().unwrap().remove("weight_map")), "weight_map"),
    ];
    for (spoil, names) in cases {
        let dir = copy("llama3");
        change(dir.path(), index, spoil);
        let error = refusal(dir.path());
        assert!(error.contains(names), "{error} does not name {names}");
    }
    let dir = copy("llama3");
    change(dir.path(), index, |i| {
        let other = "model-00001-of-00002.safetensors";
        let at = if i["weight_map"][norm] == other { "model-00002-of-00002.safetensors" } else { other };
        i["weight_map"][norm] = json!(at);
    });
    assert!(refusal(dir.path()).contains("should be in"));
    let dir = copy("llama3");
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(refusal(dir.path()).contains("model-00002-of-00002.safetensors"));
}

#[test]
fn files_that_are_missing_or_do_not_belong_together_are_refused() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let dir = copy("gqa");
        fs::remove_file(dir.path().join(file)).unwrap();
        assert!(refusal(dir.path()).contains(file));
        fs::write(dir.path().join(file), "{").unwrap();
        assert!(refusal(dir.path()).contains(file));
    }
    for file in ["generation_config.json", "tokenizer_config.json"] {
        let dir = copy("gqa");
        fs::write(dir.path().join(file), "{").unwrap();
        assert!(refusal(dir.path()).contains(file));
        fs::remove_file(dir.path().join(file)).unwrap();
        read(dir.path()).unwrap();
    }
    let dir = copy("gqa");
    change(dir.path(), "config.json", |c| c["vocab_size"] = json!(300));
    let error = refusal(dir.path());
    assert!(error.contains("tokenizer.json") && error.contains("320") && error.contains("300"), "{error}");
    let dir = copy("gqa");
    change(dir.path(), "config.json", |c| c["architectures"] = json!(["MambaForCausalLM"]));
    assert!(matches!(read(dir.path()), Err(ModelError::Architecture { .. })));
}

#[test]
fn a_token_that_the_vocabulary_lacks_is_refused_with_the_file_that_names_it() {
    let cases = [
        ("config.json", "bos_token_id", json!(320)),
        ("config.json", "eos_token_id", json!([2, 320])),
        ("config.json", "eos_token_id", json!(1_u64 << 40)),
        ("generation_config.json", "eos_token_id", json!(320)),
        ("generation_config.json", "eos_token_id", json!([2, -3])),
    ];
    for (file, field, value) in cases {
        let dir = copy("gqa");
        change(dir.path(), file, |c| c[field] = value.clone());
        let error = refusal(dir.path());
        let start = format!("{}: {field}: ", dir.path().join(file).display());
        assert!(error.starts_with(&start) && error.contains("320"), "{file}, {field} {value}: {error}");
    }
}

#[test]
fn sampling_defaults_that_no_request_could_use_are_refused_with_their_field_and_value() {
    let cases = [
        ("temperature", json!(-1), "0 to 2"),
        ("temperature", json!(1e300), "0 to 2"),
        ("top_p", json!(0), "above 0"),
        ("top_p", json!(1e-60), "above 0"),
        ("top_p", json!(1.5), "at most 1"),
        ("min_p", json!(-0.1), "0 to 1"),
        ("min_p", json!(1.1), "0 to 1"),
        ("top_k", json!(-2), "-1 for all"),
        ("top_k", json!(1_u64 << 32), "1 or more"),
        ("repetition_penalty", json!(0), "0.01 to 10"),
        ("repetition_penalty", json!(-1.5), "0.01 to 10"),
        ("repetition_penalty", json!(11), "0.01 to 10"),
        ("max_new_tokens", json!(0), "1 or more"),
        ("max_new_tokens", json!(-5), "1 or more"),
    ];
    for (field, value, wanted) in cases {
        let dir = copy("gqa");
        change(dir.path(), "generation_config.json", |c| c[field] = value.clone());
        let error = refusal(dir.path());
        assert!(error.contains(&format!("generation_config.json: {field}: ")), "{field} {value}: {error}");
        assert!(error.contains(wanted), "{field} {value}: {error}");
    }
    let dir = copy("gqa");
    change(dir.path(), "generation_config.json", |c| c["temperature"] = json!("warm"));
    assert!(refusal(dir.path()).contains("generation_config.json: temperature: "));
}

#[test]
fn the_small_files_say_how_a_version_talks() {
    let dir = copy("gqa");
    let model = read(dir.path()).unwrap();
    assert_eq!((model.bos, &model.eos[..]), (Some(0), &[2][..]));
    assert_eq!(model.special.eos.as_deref(), Some("<|end|>"));
    assert_eq!((model.generation.temperature, model.generation.top_k), (Some(0.7), None));
    assert!(model.chat_templates.unwrap().default.contains("<|start|>"));

    change(dir.path(), "generation_config.json", |c| {
        *c = json!({"eos_token_id": [5, 2], "do_sample": false});
    });
    change(dir.path(), "tokenizer_config.json", |c| {
        c["chat_template"] =
            json!([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]);
    });
    let model = read(dir.path()).unwrap();
    assert_eq!((&model.eos[..], model.generation), (&[2, 5][..], greedy()));
    assert_eq!(model.chat_templates.unwrap().default, "D");

    fs::write(dir.path().join("chat_template.jinja"), "J").unwrap();
    assert_eq!(read(dir.path()).unwrap().chat_templates.unwrap().default, "J");
}

fn greedy() -> GenerationDefaults {
    GenerationDefaults { temperature: Some(0.0), ..GenerationDefaults::default() }
}

#[test]
fn every_sampling_default_is_carried_and_the_edges_of_its_range_are_in() {
    let dir = copy("gqa");
    change(dir.path(), "generation_config.json", |c| {
        *c = json!({"temperature": 2, "top_k": 40, "top_p": 1, "min_p": 0.25, "repetition_penalty": 0.01,
            "max_new_tokens": 7});
    });
    let wanted = GenerationDefaults {
        temperature: Some(2.0),
        top_k: NonZeroU32::new(40),
        top_p: Some(1.0),
        min_p: Some(0.25),
        repetition_penalty: Some(0.01),
        max_new_tokens: NonZeroUsize::new(7),
    };
    assert_eq!(read(dir.path()).unwrap().generation, wanted);
    for all in [json!({"top_k": 0}), json!({"top_k": -1}), json!({"top_k": null, "max_new_tokens": null})] {
        change(dir.path(), "generation_config.json", |c| *c = all);
        assert_eq!(read(dir.path()).unwrap().generation, GenerationDefaults::default());
    }
}

/// Leaves a key out.
fn without(value: &mut Value, key: &str) {
    value.as_object_mut().unwrap().remove(key);
}

#[test]
fn what_ends_a_text_is_assumed_only_if_nobody_says_it() {
    let dir = copy("gqa");
    change(dir.path(), "config.json", |c| {
        without(c, "bos_token_id");
        without(c, "eos_token_id");
    });
    let said = |dir: &Path| read(dir).map(|model| (model.bos, model.eos)).unwrap();
    // generation_config.json says 2 and the tokenizer names 0 and 2
    assert_eq!(said(dir.path()), (Some(0), vec![2]));
    change(dir.path(), "generation_config.json", |c| c["eos_token_id"] = json!([9]));
    assert_eq!(said(dir.path()), (Some(0), vec![2, 9]));
    change(dir.path(), "tokenizer_config.json", |c| {
        without(c, "bos_token");
        without(c, "eos_token");
    });
    assert_eq!(said(dir.path()), (Some(1), vec![9]));
    change(dir.path(), "generation_config.json", |c| without(c, "eos_token_id"));
    assert_eq!(said(dir.path()), (Some(1), vec![2]));
    change(dir.path(), "config.json", |c| (c["bos_token_id"], c["eos_token_id"]) = (json!(null), json!(-1)));
    assert_eq!(said(dir.path()), (None, vec![]));
}

#[test]
fn versions_that_share_weights_hold_them_once() {
    let pool = WeightPool::new();
    let dir = copy("llama3");
    let first = load(dir.path(), Quantize::AsStored, &pool, &|_, _| ()).unwrap();
    assert_eq!(first.info.shared_bytes, 0);
    let weights = pool.len();

    // another prompt: all weights are there already
    let prompt = copy("llama3");
    change(prompt.path(), "tokenizer_config.json", |c| c["chat_template"] = json!("other"));
    let second = load(prompt.path(), Quantize::AsStored, &pool, &|_, _| ()).unwrap();
    assert_eq!((second.info.shared_bytes, pool.len()), (second.info.weight_bytes, weights));

    // a fine-tune of one tensor: the others are there
    let tuned = copy("llama3");
    let path = tuned.path().join("model-00001-of-00002.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let third = load(tuned.path(), Quantize::AsStored, &pool, &|_, _| ()).unwrap();
    assert_eq!(pool.len(), weights + 1);
    assert!(third.info.shared_bytes > 0 && third.info.shared_bytes < third.info.weight_bytes);

    // what is shared outlives the version that brought it, and its files
    drop((first, second, dir, prompt));
    third.lm().unwrap().allocate_kv(KvGeometry { blocks: 1, block_size: 1 }).unwrap();
    assert_eq!(pool.len(), weights);
    drop(third);
    assert!(pool.is_empty());
}

#[test]
fn progress_grows_to_the_whole() {
    let seen = RefCell::new(Vec::new());
    let dir = copy("tied");
    let model = load(dir.path(), Quantize::AsStored, &WeightPool::new(), &|done, total| {
        seen.borrow_mut().push((done, total));
    })
    .unwrap();
    let (seen, total) = (seen.into_inner(), model.info.weight_bytes);
    assert!(seen.iter().all(|(_, t)| *t == total) && seen.is_sorted());
    assert_eq!((seen[0], *seen.last().unwrap()), ((0, total), (total, total)));
}

#[test]
fn a_tokenizer_that_is_damaged_is_refused_with_its_file() {
    let whole = copy("gqa");
    let text = std::fs::read_to_string(whole.path().join("tokenizer.json")).unwrap();
    for (from, to) in
        [("\"decoder\":", "\"decoder\""), ("\"decoder\":", "\"decoder\": 7, \"x\":"), ("{", "[")]
    {
        let dir = copy("gqa");
        let damaged = text.replacen(from, to, 1);
        assert_ne!(damaged, text, "{from} is not in the file");
        std::fs::write(dir.path().join("tokenizer.json"), damaged).unwrap();
        assert!(refusal(dir.path()).contains("tokenizer.json"));
    }
}
