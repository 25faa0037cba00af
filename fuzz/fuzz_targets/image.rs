//! Any bytes as one file of an image: the first byte chooses which, the rest of the demo's v1 stays whole.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::model::{self, WeightPool};

const FILES: [&str; 5] =
    ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json"];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, content)) = bytes.split_first() else { return };
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/v1");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chosen = FILES[usize::from(*choice) % FILES.len()];
    for name in FILES.into_iter().filter(|name| *name != chosen) {
        std::fs::copy(whole.join(name), folder.path().join(name)).expect("the demo is there");
    }
    std::fs::write(folder.path().join(chosen), content).expect("a file");
    let _ = model::load(folder.path(), &WeightPool::default(), &|_, _| {});
});
