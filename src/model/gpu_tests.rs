//! Whole models on an emulated GPU, against the same models on the host.

use std::path::{Path, PathBuf};

use super::{AdapterSlot, Batch, CausalLm, KvGeometry, LoadedModel, Logits, Span, WeightPool, load};
use crate::ids::Quantize;
use crate::tensor::{test_device, watched_device};

pub(super) const BLOCK: usize = 4;

pub(super) fn repository(path: &str) -> PathBuf {
    // kernels/gpu-check runs this program on another machine than the one that built it
    let here = std::env::var("SWITCHBACK_REPOSITORY");
    Path::new(here.as_deref().unwrap_or(env!("CARGO_MANIFEST_DIR"))).join(path)
}

pub(super) fn both(dir: &Path, quantize: Quantize, blocks: usize) -> [Box<dyn CausalLm>; 2] {
    both_with(dir, quantize, &[], blocks)
}

/// With these adapters in their first slots.
fn both_with(dir: &Path, quantize: Quantize, adapters: &[PathBuf], blocks: usize) -> [Box<dyn CausalLm>; 2] {
    [WeightPool::new(), WeightPool::of(test_device(1 << 30))].map(|pool| {
        let model = load(dir, quantize, &pool, &|_, _| ()).unwrap();
        let mut lm = model.lm().unwrap();
        lm.allocate_kv(KvGeometry { blocks, block_size: BLOCK }).unwrap();
        for (slot, adapter) in AdapterSlot::all().zip(adapters) {
            assert_eq!(lm.seat(&model.adapter(adapter, &pool).unwrap()).unwrap(), Some(slot));
        }
        lm
    })
}

/// Contexts that grow side by side: of each its tokens, the first of its blocks, and how many tokens come now.
pub(super) fn batch(contexts: &[(&[u32], u32, usize)]) -> Batch {
    let mut batch = Batch::default();
    for (tokens, first_block, new) in contexts {
        let block_table: Vec<u32> =
            (0..tokens.len().div_ceil(BLOCK) as u32).map(|b| first_block + b).collect();
        let start = batch.tokens.len();
        for position in tokens.len() - new..tokens.len() {
            batch.tokens.push(tokens[position]);
            batch.positions.push(position as u32);
            batch.slots.push(block_table[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32);
        }
        batch.logit_rows.push(batch.tokens.len() as u32 - 1);
        let rows = start..batch.tokens.len();
        batch.spans.push(Span { rows, context_len: tokens.len(), block_table, adapter: None });
    }
    batch
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
}

/// By how much logits differ, as a share of their spread.
pub(super) fn distance(a: &Logits, b: &Logits) -> f32 {
    let rows = |logits: &Logits| {
        (0..logits.rows()).flat_map(|r| logits.row(r).unwrap().to_vec()).collect::<Vec<f32>>()
    };
    let (a, b) = (rows(a), rows(b));
    let largest = a.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    a.iter().zip(&b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

/// Prompts in chunks beside contexts that grow by a token, as the engine's batches are.
#[test]
fn logits_are_those_of_the_host() {
    for (fixture, tolerance) in [
        ("gqa", 1e-4),
        ("llama3", 0.05),
        ("tied", 0.01),
        ("mistral", 0.05),
        ("qwen2", 0.05),
        ("qwen3", 0.01),
        ("qwen3_moe", 1e-4),
        ("gemma2", 1e-4),
        ("gemma3", 0.05),
        ("phi3", 0.05),
        ("smollm3", 0.05),
    ] {
        let [mut host, mut gpu] =
            both(&repository("tests/fixtures/golden").join(fixture), Quantize::AsStored, 24);
        let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 290).collect();
        for contexts in [
            [(&tokens[..21], 0, 21), (&tokens[3..4], 12, 1)],
            [(&tokens[..30], 0, 9), (&tokens[3..5], 12, 1)],
            [(&tokens[..31], 0, 1), (&tokens[3..6], 12, 1)],
        ] {
            let batch = batch(&contexts);
            let (a, b) = (host.forward(&batch).unwrap(), gpu.forward(&batch).unwrap());
            let distance = distance(&a, &b);
            assert!(distance < tolerance, "{fixture}: {distance} of {} rows", batch.tokens.len());
        }
    }
}

#[test]
fn the_demo_says_the_same_word_for_word() {
    let prompt = "My parcel has not arrived, and nobody answers the phone. Where is it? ";
    // the longer one is attended to in several ranges
    for times in [1, 8] {
        says_the_same(&prompt.repeat(times));
    }
}

fn says_the_same(prompt: &str) {
    let [host, gpu] = both(&repository("models/v1"), Quantize::AsStored, 100);
    let model = load(&repository("models/v1"), Quantize::AsStored, &WeightPool::new(), &|_, _| ()).unwrap();
    let tokens = model.tokenizer.encode(prompt, super::SpecialTokens::Add).unwrap();
    let answer = |mut lm: Box<dyn CausalLm>| {
        let (mut tokens, mut new) = (tokens.clone(), tokens.len());
        for _ in 0..12 {
            let logits = lm.forward(&batch(&[(&tokens, 0, new)])).unwrap();
            tokens.push(best(&logits.row(0).unwrap()) as u32);
            new = 1;
            // what a pass of another kind does to memory in between must not matter
            lm.forward(&batch(&[(&tokens[..13], 90, 13)])).unwrap();
        }
        tokens
    };
    let (host, gpu) = (answer(host), answer(gpu));
    assert_eq!(host, gpu);
    assert!(host.len() == tokens.len() + 12);
}

/// Once a pass over as many rows as ever come was rehearsed, no pass asks the device for memory.
#[test]
fn passes_find_their_memory_where_the_rehearsal_left_it() {
    let (device, used) = watched_device(1 << 30);
    let model =
        load(&repository("models/v1"), Quantize::AsStored, &WeightPool::of(device), &|_, _| ()).unwrap();
    let mut lm = model.lm().unwrap();
    lm.allocate_kv(KvGeometry { blocks: 64, block_size: BLOCK }).unwrap();
    let before = used.device();
    lm.reserve(96, 2).unwrap();
    let reserved = used.device();
    assert!(reserved > before);
    let tokens: Vec<u32> = (0..96).map(|i| i * 7 % 1000).collect();
    for rows in [96, 1, 37, 2, 64, 9, 3, 95] {
        lm.forward(&batch(&[(&tokens[..rows], 0, rows)])).unwrap();
        assert_eq!(used.device(), reserved, "{rows} rows");
    }
    // contexts that go on beside prompts, and prompts beside each other, with rows that are scored
    for (tokens_of, scored) in [(&[1, 1, 94][..], 64), (&[1, 30, 65], 20), (&[48, 48], 50), (&[1, 9], 3)] {
        let mut first = 0;
        let contexts: Vec<_> = tokens_of
            .iter()
            .map(|n| {
                let context = (&tokens[..*n], first, *n);
                first += n.div_ceil(BLOCK) as u32;
                context
            })
            .collect();
        let mut mixed = batch(&contexts);
        mixed.logit_rows = (0..scored).collect();
        lm.forward(&mixed).unwrap();
        assert_eq!(used.device(), reserved, "{tokens_of:?}");
    }
}

/// What does not fit is an error of its own load, and the version that serves goes on.
#[test]
fn a_version_that_does_not_fit_leaves_the_one_that_serves_alone() {
    let room = {
        let (device, used) = watched_device(1 << 30);
        let _fits = ready(&WeightPool::of(device)).unwrap();
        used.device()
    };
    // the second shares no weight with the first
    let (device, used) = watched_device(room + room / 2);
    let pool = WeightPool::of(device);
    let mut serving = ready(&pool).unwrap();
    let before = used.device();
    let other = load(&repository("models/v2"), Quantize::AsStored, &pool, &|_, _| ()).and_then(|model| {
        let mut second = model.lm()?;
        second.allocate_kv(KvGeometry { blocks: 64, block_size: BLOCK })?;
        second.reserve(96, 2)
    });
    let refused = other.unwrap_err().to_string();
    assert!(refused.contains("no room for") || refused.contains("no memory for"), "{refused}");
    assert_eq!(used.device(), before, "what it had is given back");
    serving.forward(&batch(&[(&[1, 2, 3], 0, 3)])).unwrap();
}

fn ready(pool: &WeightPool) -> Result<Box<dyn CausalLm>, super::ModelError> {
    let mut lm = load(&repository("models/v1"), Quantize::AsStored, pool, &|_, _| ())?.lm()?;
    lm.allocate_kv(KvGeometry { blocks: 64, block_size: BLOCK })?;
    lm.reserve(96, 2)?;
    Ok(lm)
}

/// A model whose weights are staged leaves the device and comes back; what another one shares of it stays there.
#[test]
fn staged_weights_leave_the_device_and_come_back() {
    let (device, used) = watched_device(1 << 30);
    let pool = WeightPool::of(device);
    let model = load(&repository("models/v1"), Quantize::AsStored, &pool, &|_, _| ()).unwrap();
    let tokens = [5, 6, 7, 8, 9];
    let answer = |model: &LoadedModel| {
        let mut lm = model.lm().unwrap();
        lm.allocate_kv(KvGeometry { blocks: 4, block_size: BLOCK }).unwrap();
        let logits = lm.forward(&batch(&[(&tokens, 0, 5)])).unwrap();
        logits.row(0).unwrap().into_owned()
    };
    let cold = answer(&model);
    assert_eq!(
        (used.device(), used.pinned()),
        (0, 0),
        "a model that computes nothing holds nothing of a device"
    );

    let serving = model.lm().unwrap();
    let placed = used.device();
    let staged = model.stage().unwrap();
    assert!(used.pinned() as u64 >= model.info.weight_bytes);
    let sibling = load(&repository("models/v1"), Quantize::AsStored, &pool, &|_, _| ()).unwrap();
    let pinned = used.pinned();
    let staged_again = sibling.stage().unwrap();
    assert_eq!(used.pinned(), pinned, "equal weights are staged once");
    let hot = sibling.lm().unwrap();
    assert!(used.device() < placed + placed / 10, "equal weights are placed once; gains are each one's own");
    drop((serving, hot));
    assert_eq!(used.device(), 0);
    assert_eq!(answer(&model), cold, "from pinned memory as from the file");
    drop((staged, staged_again));
    assert_eq!(used.pinned(), 0);
    assert_eq!(answer(&model), cold);
}

/// Passes over single rows are recorded by their number and done again with other rows; contexts come, grow and go.
#[test]
fn recorded_decode_steps_give_what_the_host_gives() {
    for (fixture, tolerance) in [("gqa", 1e-4), ("gemma2", 1e-4), ("qwen3_moe", 1e-4), ("smollm3", 0.05)] {
        recorded_steps_are_those_of_the_host(fixture, tolerance);
    }
}

fn recorded_steps_are_those_of_the_host(fixture: &str, tolerance: f32) {
    let [mut host, mut gpu] =
        both(&repository("tests/fixtures/golden").join(fixture), Quantize::AsStored, 40);
    let tokens: Vec<u32> = (0..40).map(|i| (i * 53 + 5) % 290).collect();
    let start = |first: usize, len: usize| (&tokens[first..first + len], (first / 10 * 10) as u32, len);
    let prompts = batch(&[start(0, 7), start(10, 5), start(20, 9), start(30, 2)]);
    let mut steps = vec![prompts];
    for (step, contexts) in
        [&[0, 1, 2][..], &[0, 1, 2], &[3], &[1, 3, 0, 2], &[2], &[0, 1, 2]].into_iter().enumerate()
    {
        let grown = |context: &usize| {
            let prompt = [7, 5, 9, 2][*context];
            // the tokens that a context has by now are the same ones each time, so that slots hold what they should
            (
                &tokens[context * 10..context * 10 + prompt.max(1) + usize::from(step > 3)],
                (context * 10) as u32,
                1,
            )
        };
        steps.push(batch(&contexts.iter().map(grown).collect::<Vec<_>>()));
    }
    for (i, batch) in steps.iter().enumerate() {
        let (a, b) = (host.forward(batch).unwrap(), gpu.forward(batch).unwrap());
        assert_eq!(a.rows(), b.rows());
        let distance = distance(&a, &b);
        assert!(distance < tolerance, "{fixture}, step {i}: {distance}");
    }
}

/// Prompts, and then recorded steps, of contexts that go through one adapter, another or none; the second comes when steps
/// are recorded already, and goes while the others go on.
#[test]
fn adapters_add_on_a_gpu_what_they_add_on_the_host() {
    for (fixture, first, tolerance) in
        [("gqa", "gqa_all", 1e-4), ("gemma2", "gemma2_all", 1e-4), ("phi3", "phi3_fused", 0.05)]
    {
        let adapters = repository("tests/fixtures/adapters");
        let [mut host, mut gpu] = both_with(
            &repository("tests/fixtures/golden").join(fixture),
            Quantize::AsStored,
            &[adapters.join(first)],
            40,
        );
        let slots: Vec<AdapterSlot> = AdapterSlot::all().take(2).collect();
        let tokens: Vec<u32> = (0..40).map(|i| (i * 53 + 5) % 290).collect();
        let mut check = |what: &str, contexts: &[(usize, usize)], through: &[Option<AdapterSlot>]| {
            let spans: Vec<_> = contexts
                .iter()
                .enumerate()
                .map(|(i, (len, new))| (&tokens[i * 10..i * 10 + len], i as u32 * 10, *new))
                .collect();
            let mut batch = batch(&spans);
            for (span, adapter) in batch.spans.iter_mut().zip(through) {
                span.adapter = *adapter;
            }
            let (a, b) = (host.forward(&batch).unwrap(), gpu.forward(&batch).unwrap());
            let distance = distance(&a, &b);
            assert!(distance < tolerance, "{fixture}, {what}: {distance}");
        };
        let none_and_one = [None, Some(slots[0]), None];
        check("prompts", &[(5, 5), (9, 9), (3, 3)], &none_and_one);
        check("a step", &[(6, 1), (10, 1), (4, 1)], &none_and_one);
        check("the same step with other rows", &[(7, 1), (10, 1), (5, 1)], &[None, None, Some(slots[0])]);
        check("nobody goes through it", &[(8, 1), (10, 1), (6, 1)], &[None; 3]);
    }
}

#[test]
fn an_adapter_comes_and_goes_while_steps_are_recorded() {
    let golden = repository("tests/fixtures/golden/gqa");
    let adapters = repository("tests/fixtures/adapters");
    let (device, used) = watched_device(1 << 30);
    let pool = WeightPool::of(device);
    let model = load(&golden, Quantize::AsStored, &pool, &|_, _| ()).unwrap();
    let load = |name: &str| model.adapter(&adapters.join(name), &pool).unwrap();
    let (all, some) = (load("gqa_all"), load("gqa_qv"));
    let mut lm = model.lm().unwrap();
    lm.allocate_kv(KvGeometry { blocks: 40, block_size: BLOCK }).unwrap();
    lm.reserve(16, 4).unwrap();
    let tokens = [3, 1, 4, 1, 5];
    let answer = |lm: &mut dyn CausalLm, adapter: Option<AdapterSlot>| {
        let mut rows = Vec::new();
        for (len, new) in [(4, 4), (5, 1)] {
            let mut batch = batch(&[(&tokens[..len], 0, new)]);
            batch.spans[0].adapter = adapter;
            rows = lm.forward(&batch).unwrap().row(0).unwrap().into_owned();
        }
        rows
    };
    let alone = answer(lm.as_mut(), None);
    let first = lm.seat(&all).unwrap();
    let before = used.device();
    let through_first = answer(lm.as_mut(), first);
    assert!(through_first != alone);
    let second = lm.seat(&some).unwrap();
    let through_second = answer(lm.as_mut(), second);
    assert!(through_second != through_first && through_second != alone);
    assert_eq!(answer(lm.as_mut(), first), through_first, "another one is there");
    lm.unseat(second.unwrap()).unwrap();
    assert_eq!(answer(lm.as_mut(), first), through_first, "another one was there");
    assert!(used.device() <= before, "what it had is given back");
    lm.unseat(first.unwrap()).unwrap();
    assert_eq!(answer(lm.as_mut(), None), alone);
}
