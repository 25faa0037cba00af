//! The decoder against Hugging Face `transformers`, on tiny models that `reference/make_fixtures.py` writes.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use safetensors::SafeTensors;
use switchback::ids::Quantize;
use switchback::model::{
    Batch, CausalLm, KvGeometry, LoadedModel, ModelError, Span, SpecialText, SpecialTokens, WeightPool, load,
};

const MODELS: [&str; 11] = [
    "gqa",
    "tied",
    "llama3",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma2",
    "gemma3",
    "phi3",
    "smollm3",
];
const BLOCK: usize = 4;
const BLOCKS: usize = 64;

struct Golden {
    model: LoadedModel,
    lm: Box<dyn CausalLm>,
    prompt: Vec<u32>,
    /// Logits at each position of the prompt.
    logits: Vec<Vec<f32>>,
    greedy: Vec<u32>,
}

fn golden(name: &str) -> Golden {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name);
    let bytes = std::fs::read(dir.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| {
        let data = file.tensor(name).unwrap().data();
        data.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    let model = load(&dir, Quantize::AsStored, &WeightPool::new(), &|_, _| ()).unwrap();
    let mut lm = model.lm().unwrap();
    lm.allocate_kv(KvGeometry { blocks: BLOCKS, block_size: BLOCK }).unwrap();
    let logits = words("logits").chunks_exact(model.info.vocab_size).map(floats).collect();
    Golden { model, lm, prompt: words("prompt"), logits, greedy: words("greedy") }
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|b| f32::from_bits(*b)).collect()
}

/// Tokens of a context from position `start` on; the context lies in every `stride`-th block from `first`.
struct Piece<'a> {
    tokens: &'a [u32],
    start: usize,
    first: u32,
    stride: u32,
}

impl<'a> Piece<'a> {
    const fn new(tokens: &'a [u32], start: usize) -> Self {
        Self { tokens, start, first: 0, stride: 1 }
    }
}

/// One batch of pieces; the logits of all rows.
fn batch(pieces: &[Piece<'_>]) -> Batch {
    let mut batch = Batch::default();
    for piece in pieces {
        let context_len = piece.start + piece.tokens.len();
        let block_table: Vec<u32> = (0..context_len.div_ceil(BLOCK) as u32)
            .map(|i| (piece.first + i * piece.stride) % BLOCKS as u32)
            .collect();
        let start = batch.tokens.len();
        for (position, token) in (piece.start..).zip(piece.tokens) {
            batch.tokens.push(*token);
            batch.positions.push(position as u32);
            batch.slots.push(block_table[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32);
        }
        batch.spans.push(Span { rows: start..batch.tokens.len(), context_len, block_table, adapter: None });
    }
    batch.logit_rows = (0..batch.tokens.len() as u32).collect();
    batch
}

impl Golden {
    fn run(&mut self, pieces: &[Piece<'_>]) -> Vec<Vec<f32>> {
        let logits = self.lm.forward(&batch(pieces)).unwrap();
        (0..logits.rows()).map(|i| logits.row(i).unwrap().to_vec()).collect()
    }

    /// The whole prompt in one batch.
    fn prefill(&mut self) -> Vec<Vec<f32>> {
        let prompt = self.prompt.clone();
        self.run(&[Piece::new(&prompt, 0)])
    }
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32
}

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let mut golden = golden(name);
        let found = golden.prefill();
        let pairs = found.iter().flatten().zip(golden.logits.iter().flatten());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert_eq!(found.len(), golden.logits.len());
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn a_context_has_the_same_bits_however_it_is_cut() {
    for name in MODELS {
        let mut golden = golden(name);
        let whole = bits(&golden.prefill());
        let prompt = golden.prompt.clone();
        for chunks in [&[1; 24][..], &[7, 1, 10, 6], &[3, 21], &[23, 1]] {
            let mut start = 0;
            for length in chunks {
                let rows = start..start + length;
                // other blocks than before, so that nothing is left over from the run before
                let tokens = &prompt[rows.clone()];
                let piece = Piece { tokens, start, first: 20 + chunks.len() as u32, stride: 3 };
                assert_eq!(
                    bits(&golden.run(&[piece])),
                    whole[rows.clone()],
                    "{name}, {chunks:?}, rows {rows:?}"
                );
                start += length;
            }
        }
    }
}

#[test]
fn a_context_has_the_same_bits_whatever_else_is_in_the_batch() {
    for name in MODELS {
        let mut golden = golden(name);
        let whole = bits(&golden.prefill());
        let prompt = golden.prompt.clone();
        let other: Vec<u32> = prompt.iter().rev().copied().collect();
        // the context lies in the even blocks, its neighbours in the odd ones
        let even =
            |start: usize, end: usize| Piece { tokens: &prompt[start..end], start, first: 0, stride: 2 };
        let odd = |end: usize, first: u32| Piece { tokens: &other[..end], start: 0, first, stride: 2 };
        let rows = golden.run(&[odd(5, 1), even(0, 9), odd(24, 15)]);
        assert_eq!(bits(&rows[5..14]), whole[..9], "{name}");
        let rows = golden.run(&[even(9, 10), odd(24, 15), odd(1, 41)]);
        assert_eq!(bits(&rows[..1]), whole[9..10], "{name}");
        let rows = golden.run(&[odd(3, 31), even(10, 24)]);
        assert_eq!(bits(&rows[3..]), whole[10..], "{name}");
    }
}

#[test]
fn only_the_logits_that_were_asked_for_come_back_in_the_order_of_asking() {
    let mut golden = golden("gqa");
    let whole = golden.prefill();
    let mut asked = batch(&[Piece::new(&golden.prompt, 0)]);
    asked.logit_rows = vec![23, 0, 7];
    let logits = golden.lm.forward(&asked).unwrap();
    assert_eq!(logits.rows(), 3);
    let rows = [0, 1, 2].map(|i| logits.row(i).unwrap().to_vec());
    assert_eq!(rows, [23, 0, 7].map(|row| whole[row].clone()));
    asked.logit_rows.clear();
    assert_eq!(golden.lm.forward(&asked).unwrap().rows(), 0);
}

#[test]
fn greedy_decoding_says_what_transformers_says() {
    for name in MODELS {
        let mut golden = golden(name);
        let mut next = argmax(golden.prefill().last().unwrap());
        let mut said = vec![next];
        while said.len() < golden.greedy.len() {
            let start = golden.prompt.len() + said.len() - 1;
            next = argmax(&golden.run(&[Piece::new(&[next], start)])[0]);
            said.push(next);
        }
        assert_eq!(said, golden.greedy, "{name}");
    }
}

#[test]
fn tokenizers_encode_as_transformers_and_decode_what_they_encoded() {
    let text = "Where is my order? I was charged twice, please send naïve 🚲 it back.";
    for name in MODELS {
        let Golden { model, prompt, .. } = golden(name);
        let tokenizer = &model.tokenizer;
        let added = tokenizer.encode(text, SpecialTokens::Add).unwrap();
        let plain = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(added[..24], prompt, "{name}");
        assert_eq!((added[0], &added[1..]), (model.bos.unwrap(), &plain[..]), "{name}");
        assert_eq!(tokenizer.decode(&added, SpecialText::Skip).unwrap(), text, "{name}");
        let bos = model.special.bos.as_deref().unwrap();
        assert!(tokenizer.decode(&added, SpecialText::Keep).unwrap().starts_with(bos), "{name}");
        assert_eq!(tokenizer.encode(bos, SpecialTokens::Parse).unwrap(), [added[0]], "{name}");
        assert!(tokenizer.is_special(added[0]) && !tokenizer.is_special(added[1]), "{name}");

        // the bytes of the tokens are the bytes of the text, though a character may be spread over four
        let bytes: Vec<u8> = plain.iter().flat_map(|t| tokenizer.token_bytes(*t).unwrap()).collect();
        assert_eq!(String::from_utf8(bytes).unwrap().trim_start(), text, "{name}");
        assert_eq!(tokenizer.token_bytes(added[0]).unwrap(), bos.as_bytes(), "{name}");
        assert_eq!(tokenizer.token_bytes(tokenizer.vocab_size() as u32), None, "{name}");
    }
}

#[test]
fn a_forward_pass_that_cannot_be_is_an_error_and_the_model_lives_on() {
    let mut golden = golden("gqa");
    let before = golden.prefill();
    let mut bad = batch(&[Piece::new(&golden.prompt, 0)]);
    bad.tokens[3] = 320;
    assert!(matches!(golden.lm.forward(&bad), Err(ModelError::Batch(_))));
    let geometry = KvGeometry { blocks: usize::MAX, block_size: 16 };
    assert!(golden.lm.allocate_kv(geometry).is_err());
    golden.lm.allocate_kv(KvGeometry { blocks: BLOCKS, block_size: BLOCK }).unwrap();
    assert_eq!(golden.prefill(), before);
}
