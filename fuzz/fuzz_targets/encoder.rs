//! Any bytes as one file of a sentence encoder: the first byte chooses which, the others stay whole. What loads after all
//! embeds a text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::model::Encoder;

const FILES: [&str; 7] = [
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, content)) = bytes.split_first() else { return };
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoder/mean");
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("1_Pooling")).expect("a folder");
    for file in FILES.iter().filter(|file| whole.join(file).exists()) {
        std::fs::copy(whole.join(file), folder.path().join(file)).expect("a copy");
    }
    let chosen = FILES[usize::from(*choice) % FILES.len()];
    std::fs::write(folder.path().join(chosen), content).expect("a file");
    if let Ok(encoder) = Encoder::load(folder.path()) {
        // Damaged weights may give no vector, and a strange tokenizer no tokens.
        let _ = encoder.embed("the parcel has not arrived");
    }
});
