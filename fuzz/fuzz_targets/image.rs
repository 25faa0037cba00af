//! Any bytes as one file of an image: the first byte chooses which, the others stay whole. What loads after all
//! computes one token and compiles its template.
#![no_main]

mod loaded;

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::ids::Quantize;
use switchback::model::{self, WeightPool};

const DEMO: &str = "models/v1";
/// Its weights are spread over two files.
const SHARDED: &str = "tests/fixtures/golden/llama3";

/// A folder, and the file in it that the bytes replace or that they add.
const FILES: [(&str, &str); 8] = [
    (DEMO, "model.safetensors"),
    (DEMO, "config.json"),
    (DEMO, "tokenizer.json"),
    (DEMO, "generation_config.json"),
    (DEMO, "tokenizer_config.json"),
    (DEMO, "chat_template.jinja"),
    (SHARDED, "model.safetensors.index.json"),
    (SHARDED, "model-00001-of-00002.safetensors"),
];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, content)) = bytes.split_first() else { return };
    let (whole, chosen) = FILES[usize::from(*choice) % FILES.len()];
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(whole);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(whole).expect("the model is there") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
    }
    std::fs::write(folder.path().join(chosen), content).expect("a file");
    if let Ok(model) = model::load(folder.path(), Quantize::AsStored, &WeightPool::default(), &|_, _| {}) {
        loaded::compute(model);
    }
});
