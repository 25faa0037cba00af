//! Any bytes as a GGUF file, or as what replaces a piece of a sound one. What loads after all computes one token and compiles
//! its template.
#![no_main]

mod loaded;

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::ids::Quantize;
use switchback::model::{self, Footprint, SpecialTokens, WeightPool};

const SOUND: [&str; 2] = ["tests/fixtures/gguf/qwen3.gguf", "tests/fixtures/gguf/tied.gguf"];

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
        let _ = model.tokenizer.encode("the parcel has not arrived", SpecialTokens::Add);
        loaded::compute(model);
    }
});
