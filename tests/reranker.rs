//! The cross-encoder against Hugging Face `transformers`, on tiny models that `reference/make_rerankers.py` writes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use switchback::model::{CrossEncoder, Encoder, WeightPool};

const MODELS: [&str; 2] = ["bert", "xlm_roberta"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reranker").join(name)
}

fn pairs() -> Vec<(String, String)> {
    serde_json::from_slice(&fs::read(fixture("pairs.json")).unwrap()).unwrap()
}

#[test]
fn scores_are_those_of_transformers() {
    for name in MODELS {
        let bytes = fs::read(fixture(name).join("golden.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
        let model = CrossEncoder::load(&fixture(name)).unwrap();
        assert_eq!(pairs().len(), words("scores").len());
        for (((query, document), score), tokens) in pairs().iter().zip(words("scores")).zip(words("tokens")) {
            let pair = model.cut_tokens(query, document).unwrap();
            assert_eq!(pair.ids.len(), u32::from_le_bytes(tokens) as usize, "{name}, {document:?}");
            let (found, wanted) = (model.score(&pair).unwrap(), f32::from_le_bytes(score));
            assert!((found - wanted).abs() < 1e-5, "{name}, {document:?}: {found} against {wanted}");
        }
    }
}

#[test]
fn a_pair_that_is_too_long_is_cut_or_refused() {
    for name in MODELS {
        let model = CrossEncoder::load(&fixture(name)).unwrap();
        let long = "where is my order? ".repeat(20);
        let whole = model.tokens("refund", &long).unwrap();
        assert!(whole.ids.len() > model.max_tokens());
        assert!(model.score(&whole).is_err());
        let cut = model.cut_tokens("refund", &long).unwrap();
        assert_eq!(cut.ids.len(), model.max_tokens());
        assert_eq!(model.cut_tokens("refund", &format!("{long} tokyo")).unwrap(), cut);
    }
}

#[test]
fn it_is_no_sentence_encoder_and_a_sentence_encoder_is_none_of_it() {
    for name in MODELS {
        assert!(CrossEncoder::is_in(&fixture(name)));
        assert!(Encoder::load(&fixture(name)).is_err());
    }
    let sentences = fixture("../encoder/mean");
    assert!(!CrossEncoder::is_in(&sentences));
    let error = CrossEncoder::load(&sentences).unwrap_err().to_string();
    assert!(error.contains("architecture BertModel is not supported"), "{error}");
}

#[test]
fn two_that_are_equal_share_their_weights() {
    let pool = WeightPool::new();
    let load = || CrossEncoder::load_in(&fixture("bert"), &pool, &|_, _| ()).unwrap();
    let (first, second) = (load(), load());
    assert_eq!((first.shared_bytes(), second.shared_bytes()), (0, second.weight_bytes()));
}
