//! Any bytes as one file of an image: the first byte chooses which, the others stay whole. What loads after all
//! computes one token and compiles its template.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::ids::Quantize;
use switchback::model::{self, Batch, KvGeometry, LoadedModel, Span, WeightPool};
use switchback::prompt::ChatTemplate;

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

fn compute(model: LoadedModel) {
    let mut lm = model.lm().expect("the host has room for what it mapped");
    lm.allocate_kv(KvGeometry { blocks: 1, block_size: 4 }).expect("four tokens fit into any memory");
    let batch = Batch {
        tokens: vec![0],
        positions: vec![0],
        slots: vec![0],
        spans: vec![Span { rows: 0..1, context_len: 1, block_table: vec![0], adapter: None }],
        logit_rows: vec![0],
    };
    let logits = lm.forward(&batch).expect("a model that loads computes");
    assert_eq!(logits.row(0).unwrap().len(), model.info.vocab_size);
    if let Some(sources) = model.chat_templates {
        let _ = ChatTemplate::compile_all(&sources, &model.special);
    }
}

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
        compute(model);
    }
});
