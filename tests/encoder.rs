//! The sentence encoder against Hugging Face `transformers`, on tiny models that `reference/make_encoders.py` writes; and,
//! where one is at hand, a real model.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use switchback::model::Encoder;
use tempfile::TempDir;

const MODELS: [&str; 2] = ["mean", "cls"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder").join(name)
}

fn texts() -> Vec<String> {
    serde_json::from_slice(&fs::read(fixture("texts.json")).unwrap()).unwrap()
}

/// What `transformers` gives for each text, computed in one padded batch.
fn golden(name: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(fixture(name).join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("embeddings").unwrap();
    let floats: Vec<f32> = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    floats.chunks_exact(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn embeddings_are_those_of_transformers() {
    for name in MODELS {
        let encoder = Encoder::load(&fixture(name)).unwrap();
        let golden = golden(name);
        assert_eq!(golden.len(), texts().len());
        for (text, wanted) in texts().iter().zip(&golden) {
            let found = encoder.embed(text).unwrap();
            let worst = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == wanted.len() && worst < 1e-4, "{name}, {text:?}: {worst}");
            assert!((cosine(&found, &found) - 1.0).abs() < 1e-5, "{name}, {text:?}");
        }
    }
}

#[test]
fn only_the_beginning_of_a_long_text_counts() {
    for name in MODELS {
        let encoder = Encoder::load(&fixture(name)).unwrap();
        assert_eq!(encoder.max_tokens(), 24);
        let short = "where is my order? ".repeat(20);
        let whole = encoder.embed(&short).unwrap();
        assert_eq!(encoder.embed(&format!("{short} tokyo")).unwrap(), whole);
        assert_ne!(encoder.embed("where is my order? where is my").unwrap(), whole);
        let endless = "tokyo ".repeat(200_000);
        assert!(encoder.embed(&endless).unwrap().iter().all(|x| x.is_finite()));
    }
}

#[test]
fn a_text_has_the_same_bits_whatever_the_threads() {
    let encoder = Encoder::load(&fixture("mean")).unwrap();
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for text in texts() {
        let alone = alone.install(|| encoder.embed(&text).unwrap());
        assert_eq!(encoder.embed(&text).unwrap(), alone);
    }
}

/// A copy of a tiny model, to spoil.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    for folder in ["", "1_Pooling"] {
        for entry in fs::read_dir(fixture(name).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, dir.path().join(folder).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    dir
}

fn change(dir: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
}

fn refusal(dir: &Path) -> String {
    Encoder::load(dir).unwrap_err().to_string()
}

#[test]
fn a_folder_that_is_no_encoder_is_refused_with_its_file() {
    let llama = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/v1");
    let error = refusal(&llama);
    assert!(error.contains("config.json: architecture llama is not supported: only bert"), "{error}");

    for file in ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"] {
        let dir = copy("mean");
        fs::remove_file(dir.path().join(file)).unwrap();
        assert!(refusal(dir.path()).contains(file));
        fs::write(dir.path().join(file), "{").unwrap();
        assert!(refusal(dir.path()).contains(file));
    }
    // what only makes a folder an encoder of sentences may be missing
    for file in ["modules.json", "sentence_bert_config.json", "tokenizer_config.json"] {
        let dir = copy("mean");
        fs::remove_file(dir.path().join(file)).unwrap();
        Encoder::load(dir.path()).unwrap();
        fs::write(dir.path().join(file), "{").unwrap();
        if file != "tokenizer_config.json" {
            assert!(refusal(dir.path()).contains(file));
        }
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 6] = [
        ("config.json", |c| c["vocab_size"] = json!(50), "vocabulary of 50"),
        (
            "config.json",
            |c| c["vocab_size"] = json!(90),
            "tensor embeddings.word_embeddings.weight has shape [84, 24]",
        ),
        ("config.json", |c| c["num_hidden_layers"] = json!(1), "tensor encoder.layer.1."),
        (
            "config.json",
            |c| c["num_hidden_layers"] = json!(3),
            "encoder.layer.2.attention.output.LayerNorm.weight",
        ),
        ("config.json", |c| c["hidden_size"] = json!(48), "a dimension of 24"),
        ("sentence_bert_config.json", |c| c["max_seq_length"] = json!(2), "adds 2 tokens"),
    ];
    for (file, spoil, wanted) in cases {
        let dir = copy("mean");
        change(dir.path(), file, spoil);
        let error = refusal(dir.path());
        assert!(error.contains(wanted), "{error}\nhas no {wanted}");
    }
}

#[test]
fn damaged_weights_give_an_error_instead_of_a_vector() {
    let dir = copy("mean");
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    for x in bytes[8 + header..].as_chunks_mut::<4>().0 {
        *x = f32::NAN.to_le_bytes();
    }
    fs::write(&path, bytes).unwrap();
    let error = Encoder::load(dir.path()).unwrap().embed("refund").unwrap_err();
    assert!(error.to_string().contains("weights are damaged"), "{error}");
}

/// The folder of `all-MiniLM-L6-v2`, which is too large to ship; docs/checks.md says where it can be had.
fn real() -> Encoder {
    let folder =
        std::env::var("SWITCHBACK_MINILM").expect("SWITCHBACK_MINILM: the folder of all-MiniLM-L6-v2");
    Encoder::load(Path::new(&folder)).unwrap()
}

const ANSWER: &str = "We are sorry that your parcel has not arrived yet. We have asked the carrier where it is, and they \
    told us that it left the warehouse on Monday and was held at the sorting centre because of the weather. It should \
    reach you by Thursday evening at the latest. If it does not, please write to us again, and we will send you a \
    replacement at once or pay back the whole amount, whichever you prefer. You do not need to do anything until \
    then. Thank you for your patience, and we apologise for the trouble.";

/// The cosines are those of sentence-transformers 6.2 (`util.cos_sim`) for the same folder.
#[test]
#[ignore = "needs the files of all-MiniLM-L6-v2"]
fn the_real_model_tells_what_is_alike_and_agrees_with_sentence_transformers() {
    let encoder = real();
    assert_eq!(encoder.max_tokens(), 256);
    let embed = |text: &str| encoder.embed(text).unwrap();
    let parcel = embed("the parcel has not arrived");
    let (package, capital) = (embed("my package is missing"), embed("what is the capital of France"));
    let [alike, different] = [&package, &capital].map(|other| cosine(&parcel, other));
    assert!(alike > 0.4 && different < 0.1, "{alike} and {different}");
    for (text, wanted) in REAL {
        let found = cosine(&parcel, &embed(text));
        println!("{found:.4}  {text:.60}");
        assert!((found - wanted).abs() < 1e-3, "{text}: {found}, not {wanted}");
    }
}

const REAL: [(&str, f32); 5] = [
    ("my package is missing", 0.5024),
    ("what is the capital of France", -0.0057),
    ("das Paket ist nicht angekommen 📦, 東京", 0.0487),
    ("", 0.0607),
    (ANSWER, 0.6626),
];

/// Prints what one `similar` check costs: the embedding of an answer of about 100 tokens, on one thread, as the server
/// computes it.
#[test]
#[ignore = "needs the files of all-MiniLM-L6-v2, and measures"]
fn what_a_similar_check_costs() {
    let encoder = real();
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut times: Vec<f64> = (0..40)
        .map(|_| {
            let started = Instant::now();
            alone.install(|| encoder.embed(ANSWER).unwrap());
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{:.1} ms for an answer, median of {}; fastest {:.1} ms", times[20], times.len(), times[0]);
}
