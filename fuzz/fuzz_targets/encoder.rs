//! Any bytes as one file of a sentence encoder or of a cross-encoder: the first byte chooses which, the others stay whole.
//! What loads after all embeds a text, or scores a pair.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::model::{CrossEncoder, Encoder};

const SENTENCES: &str = "encoder/mean";
const PAIRS: &str = "reranker/bert";

/// A folder, and the file in it that the bytes replace or that they add.
const FILES: [(&str, &str); 10] = [
    (SENTENCES, "model.safetensors"),
    (SENTENCES, "config.json"),
    (SENTENCES, "tokenizer.json"),
    (SENTENCES, "modules.json"),
    (SENTENCES, "sentence_bert_config.json"),
    (SENTENCES, "config_sentence_transformers.json"),
    (SENTENCES, "1_Pooling/config.json"),
    (PAIRS, "model.safetensors"),
    (PAIRS, "config.json"),
    (PAIRS, "tokenizer.json"),
];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, content)) = bytes.split_first() else { return };
    let (chosen, replaced) = FILES[usize::from(*choice) % FILES.len()];
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(chosen);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("1_Pooling")).expect("a folder");
    for (_, file) in FILES.iter().filter(|(of, file)| *of == chosen && whole.join(file).exists()) {
        std::fs::copy(whole.join(file), folder.path().join(file)).expect("a copy");
    }
    std::fs::write(folder.path().join(replaced), content).expect("a file");
    // Damaged weights may give no vector and no score, and a strange tokenizer no tokens.
    if chosen == SENTENCES {
        if let Ok(encoder) = Encoder::load(folder.path()) {
            let _ = encoder.embed("the parcel has not arrived");
        }
    } else if let Ok(encoder) = CrossEncoder::load(folder.path()) {
        let pair = encoder.cut_tokens("where is my parcel", "it has not arrived");
        let _ = pair.and_then(|pair| encoder.score(&pair));
    }
});
