//! LoRA adapters against PEFT, on those that `reference/make_adapters.py` writes, and beside each other in one batch.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use safetensors::SafeTensors;
use switchback::ids::Quantize;
use switchback::model::{AdapterSlot, Batch, CausalLm, KvGeometry, LoadedModel, Span, WeightPool, load};

const BLOCK: usize = 4;
const BLOCKS: usize = 64;

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn words(file: &str, tensor: &str) -> Vec<u32> {
    let bytes = std::fs::read(fixture(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensor(tensor).unwrap().data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

fn base(name: &str, pool: &WeightPool) -> (LoadedModel, Box<dyn CausalLm>, Vec<u32>) {
    let model = load(&fixture("golden").join(name), Quantize::AsStored, pool, &|_, _| ()).unwrap();
    let mut lm = model.lm().unwrap();
    lm.allocate_kv(KvGeometry { blocks: BLOCKS, block_size: BLOCK }).unwrap();
    (model, lm, words(&format!("golden/{name}/golden.safetensors"), "prompt"))
}

/// A prompt through each of these, side by side: the logits of all rows.
fn batch(prompt: &[u32], through: &[Option<AdapterSlot>]) -> Batch {
    let mut batch = Batch::default();
    for (i, adapter) in through.iter().enumerate() {
        let blocks = prompt.len().div_ceil(BLOCK) as u32;
        let block_table: Vec<u32> = (0..blocks).map(|b| i as u32 * blocks + b).collect();
        let start = batch.tokens.len();
        for (position, token) in prompt.iter().enumerate() {
            batch.tokens.push(*token);
            batch.positions.push(position as u32);
            batch.slots.push(block_table[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32);
        }
        let rows = start..batch.tokens.len();
        batch.spans.push(Span { rows, context_len: prompt.len(), block_table, adapter: *adapter });
    }
    batch.logit_rows = (0..batch.tokens.len() as u32).collect();
    batch
}

fn run(lm: &mut dyn CausalLm, prompt: &[u32], through: &[Option<AdapterSlot>]) -> Vec<Vec<f32>> {
    let logits = lm.forward(&batch(prompt, through)).unwrap();
    let all: Vec<f32> = (0..logits.rows()).flat_map(|i| logits.row(i).unwrap().to_vec()).collect();
    all.chunks(all.len() / through.len()).map(<[f32]>::to_vec).collect()
}

#[test]
fn logits_are_those_of_peft() {
    for (name, of) in
        [("gqa_all", "gqa"), ("gqa_qv", "gqa"), ("phi3_fused", "phi3"), ("gemma2_all", "gemma2")]
    {
        let pool = WeightPool::new();
        let (model, mut lm, prompt) = base(of, &pool);
        let adapter = model.adapter(&fixture("adapters").join(name), &pool).unwrap();
        let slot = lm.seat(&adapter).unwrap();
        assert!(slot.is_some());
        let exact = words(&format!("adapters/{name}/golden.safetensors"), "logits");
        let exact = exact.into_iter().map(f32::from_bits);
        let [plain, adapted] = <[_; 2]>::try_from(run(lm.as_mut(), &prompt, &[None, slot])).unwrap();
        let worst = adapted.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-4, "{name}: {worst}");
        let moved = adapted.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved > 0.1, "{name}: the adapter changes nothing");
    }
}

#[test]
fn a_row_does_not_depend_on_the_adapters_of_others() {
    let pool = WeightPool::new();
    let (model, mut lm, prompt) = base("gqa", &pool);
    let alone = run(lm.as_mut(), &prompt, &[None]).remove(0);
    let [all, some] = ["gqa_all", "gqa_qv"].map(|name| {
        let adapter = model.adapter(&fixture("adapters").join(name), &pool).unwrap();
        lm.seat(&adapter).unwrap()
    });
    let through_all = run(lm.as_mut(), &prompt, &[all]).remove(0);
    let through_some = run(lm.as_mut(), &prompt, &[some]).remove(0);
    let together = run(lm.as_mut(), &prompt, &[some, None, all, some]);
    let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (found, alone) in together.iter().zip([&through_some, &alone, &through_all, &through_some]) {
        assert_eq!(bits(found), bits(alone));
    }
    // a slot that is empty is nobody's, and the next adapter gets it
    lm.unseat(all.unwrap()).unwrap();
    let refused = lm.forward(&batch(&prompt, &[all])).unwrap_err().to_string();
    assert!(refused.contains("no adapter"), "{refused}");
    assert_eq!(bits(&run(lm.as_mut(), &prompt, &[some, None])[0]), bits(&through_some));
    let again = model.adapter(&fixture("adapters/gqa_qv"), &pool).unwrap();
    assert_eq!(lm.seat(&again).unwrap(), all);
    assert_eq!(bits(&run(lm.as_mut(), &prompt, &[all])[0]), bits(&through_some));
}

#[test]
fn equal_adapters_are_held_once() {
    let pool = WeightPool::new();
    let (model, _lm, _) = base("gqa", &pool);
    let load = || model.adapter(&fixture("adapters/gqa_all"), &pool).unwrap();
    let (first, second) = (load(), load());
    assert_eq!(first.info().shared_bytes, 0);
    assert_eq!(second.info().shared_bytes, first.info().weight_bytes);
    assert_eq!(first.info().rank, 6);
}
