//! A model for tests whose every logit depends on the whole context, read back from its own storage through the block
//! table. A wrong table, a shared block that was written to or a stale one gives another text.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::model::{
    Batch, CausalLm, Device, ElementType, KvCache, KvGeometry, KvPool, KvShape, Logits, ModelError, Tokenizer,
};

/// The token that ends a text; below it, each token is a byte.
pub(super) const EOS: u32 = 256;
const VOCAB: usize = 257;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Nothing,
    /// The n-th forward pass, from 1, gives an error.
    ErrorAt(usize),
    /// The n-th forward pass, from 1, panics.
    PanicAt(usize),
    /// Rows of this token give logits that are not numbers.
    NanFor(u32),
}

/// See the module.
#[derive(Debug)]
pub(super) struct FakeLm {
    /// What is in each slot of its pool.
    slots: Slots,
    cache: Option<KvCache>,
    forwards: usize,
    fault: Fault,
    max_positions: usize,
    apart: bool,
    echo: bool,
    gate: Option<(Sender<()>, Receiver<()>)>,
}

type Slots = Arc<Mutex<HashMap<u32, u64>>>;

/// Stops a model before each forward pass.
pub(super) struct Gate {
    entered: Receiver<()>,
    pass: Sender<()>,
}

impl Gate {
    /// Waits until the model is at the gate.
    pub(super) fn wait(&self) {
        self.entered.recv_timeout(std::time::Duration::from_mins(1)).unwrap();
    }

    /// Lets one forward pass happen. A gate that is dropped stays open.
    pub(super) fn pass(&self) {
        self.pass.send(()).unwrap();
    }
}

impl FakeLm {
    pub(super) fn new(fault: Fault) -> Self {
        let (slots, cache) = (Slots::default(), None);
        Self {
            slots,
            cache,
            forwards: 0,
            fault,
            max_positions: 1 << 20,
            apart: false,
            echo: false,
            gate: None,
        }
    }

    /// Another that is to keep its contexts in the same pool.
    pub(super) fn sibling(&self) -> Self {
        Self { slots: Arc::clone(&self.slots), ..Self::new(Fault::Nothing) }
    }

    pub(super) fn with_positions(mut self, max_positions: usize) -> Self {
        self.max_positions = max_positions;
        self
    }

    /// One that says that it computes while others do something else.
    pub(super) fn apart(self) -> Self {
        Self { apart: true, ..self }
    }

    /// One that is inclined to say what it heard [`ECHO`] tokens ago.
    pub(super) fn echoing(self) -> Self {
        Self { echo: true, ..self }
    }

    pub(super) fn gated(mut self) -> (Self, Gate) {
        let ((entering, entered), (pass, passing)) = (channel(), channel());
        self.gate = Some((entering, passing));
        (self, Gate { entered, pass })
    }
}

fn mix(a: u64, b: u64) -> u64 {
    // The finish of splitmix64.
    let mut x = a.rotate_left(23) ^ b.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn entry(token: u32, position: usize) -> u64 {
    mix(u64::from(token), position as u64)
}

/// After how many tokens an echo comes.
pub(super) const ECHO: usize = 9;

/// The token that an entry is of.
fn token_of(found: u64, position: usize) -> u32 {
    (0..VOCAB as u32).find(|token| entry(*token, position) == found).expect("it is an entry")
}

/// Lower-case letters are likelier, so that there is something to read; other bytes come up, broken characters too.
fn logits_of(context: u64) -> impl Iterator<Item = f32> {
    (0..VOCAB as u64).map(move |token| {
        let noise = (mix(context, token) >> 40) as f32 / (1u64 << 24) as f32;
        let letter = if (97..123).contains(&token) { 2.5 } else { 0.0 };
        6.0 * noise + letter
    })
}

/// The obvious twin of the whole engine: what greedy decoding gives, without blocks, batches or chunks.
pub(super) fn greedy(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut context = prompt.to_vec();
    for _ in 0..tokens {
        let hash = context.iter().enumerate().fold(0, |h, (i, token)| mix(h, entry(*token, i)));
        let logits: Vec<f32> = logits_of(hash).collect();
        let best = (1..VOCAB).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        context.push(best as u32);
    }
    context.split_off(prompt.len())
}

impl CausalLm for FakeLm {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn kv_shape(&self) -> KvShape {
        KvShape { layers: 1, kv_heads: 1, head_dim: 1 }
    }

    fn kv_element(&self) -> ElementType {
        ElementType::F32
    }

    fn join(&mut self, pool: &KvPool) -> Result<(), ModelError> {
        self.cache = Some(pool.cache(&Device::CPU));
        Ok(())
    }

    fn computes_apart(&self) -> bool {
        self.apart
    }

    fn cache(&mut self) -> Option<&mut KvCache> {
        self.cache.as_mut()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        self.forwards += 1;
        if let Some((entering, passing)) = &self.gate {
            let _ = entering.send(());
            let _ = passing.recv();
        }
        assert!(self.fault != Fault::PanicAt(self.forwards), "the test wants it");
        if self.fault == Fault::ErrorAt(self.forwards) {
            return Err(ModelError::Batch("the test wants it".into()));
        }
        let rows = batch.tokens.len();
        assert!(rows > 0 && batch.positions.len() == rows && batch.slots.len() == rows);
        assert_eq!(batch.slots.iter().collect::<HashSet<_>>().len(), rows, "one slot, two writers");
        let cache = self.cache.as_ref().expect("it has joined a pool");
        let block_size = cache.layout().block_size as u32;
        let mut slots = self.slots.lock().unwrap();
        for row in 0..rows {
            assert!(cache.holds(batch.slots[row] / block_size), "a slot of somebody else");
            slots.insert(batch.slots[row], entry(batch.tokens[row], batch.positions[row] as usize));
        }
        let mut values = Vec::new();
        let mut wanted = batch.logit_rows.iter().map(|row| *row as usize).peekable();
        let mut next_row = 0;
        for span in &batch.spans {
            assert_eq!(span.rows.start, next_row);
            next_row = span.rows.end;
            assert!(span.block_table.iter().all(|block| cache.holds(*block)), "a block of somebody else");
            let slot =
                |i: usize| span.block_table[i / block_size as usize] * block_size + i as u32 % block_size;
            let mut context = 0;
            for i in 0..span.context_len {
                context = mix(context, *slots.get(&slot(i)).expect("a slot that was never written"));
                let Some(row) = (i + span.rows.len()).checked_sub(span.context_len) else { continue };
                let row = span.rows.start + row;
                assert_eq!((batch.positions[row] as usize, batch.slots[row]), (i, slot(i)));
                if wanted.next_if_eq(&row).is_some() {
                    let nan = self.fault == Fault::NanFor(batch.tokens[row]);
                    let heard = (i + 1).checked_sub(ECHO).filter(|_| self.echo);
                    let heard = heard.map(|at| token_of(slots[&slot(at)], at));
                    values.extend((0..).zip(logits_of(context)).map(|(token, logit)| match heard {
                        _ if nan => f32::NAN,
                        Some(heard) if heard == token => logit + 4.0,
                        _ => logit,
                    }));
                }
            }
        }
        assert!(next_row == rows && wanted.next().is_none(), "rows that belong to no span");
        Ok(Logits::new(values, VOCAB))
    }
}

/// A pool for such models: of blocks that hold next to nothing.
pub(super) fn small_pool(geometry: KvGeometry) -> KvPool {
    FakeLm::new(Fault::Nothing).kv_pool(geometry).unwrap()
}

/// A byte-level tokenizer: each byte is a token, and [`EOS`] is special.
pub(super) fn tokenizer() -> Tokenizer {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut vocab = String::new();
    let mut stand_ins = 256u32..;
    for byte in 0..256 {
        let code = if printable(byte) { byte } else { stand_ins.next().unwrap() };
        let letter = serde_json::to_string(&char::from_u32(code).unwrap()).unwrap();
        write!(vocab, "{letter}: {byte},").unwrap();
    }
    let text = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{{"id": {EOS}, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}}],
        "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
        "decoder": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
        "model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {{{}}}, "merges": []}}}}"#,
        vocab.trim_end_matches(',')
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, text).unwrap();
    Tokenizer::from_file(&path).unwrap()
}
