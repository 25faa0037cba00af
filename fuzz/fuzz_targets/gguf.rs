//! Any bytes as a GGUF file, or as what replaces a piece of a sound one. What loads after all computes one token and compiles
//! its template.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::ids::Quantize;
use switchback::model::{self, Batch, Footprint, KvGeometry, LoadedModel, Span, SpecialTokens, WeightPool};
use switchback::prompt::ChatTemplate;

const SOUND: [&str; 2] = ["tests/fixtures/gguf/qwen3.gguf", "tests/fixtures/gguf/tied.gguf"];

fn compute(model: LoadedModel) {
    let _ = model.tokenizer.encode("the parcel has not arrived", SpecialTokens::Add);
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
    let Some(([choice, low, high], content)) = bytes.split_first_chunk::<3>() else { return };
    let file = match SOUND.get(usize::from(*choice) % (SOUND.len() + 1)) {
        None => content.to_vec(),
        Some(sound) => {
            let sound = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(sound);
            let mut file = std::fs::read(sound).expect("the fixture is there");
            let at = usize::from(u16::from_le_bytes([*low, *high]));
            let end = file.len().min(at + content.len());
            file[at..end].copy_from_slice(&content[..end - at]);
            file
        }
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file).expect("a file");
    let footprint = Footprint::of(&path, Quantize::AsStored);
    if let Ok(model) = model::load(&path, Quantize::AsStored, &WeightPool::default(), &|_, _| {}) {
        assert!(footprint.is_ok(), "what loads has a size");
        compute(model);
    }
});
