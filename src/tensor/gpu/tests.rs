//! Each operator on an emulated device, or on a GPU where `SWITCHBACK_TEST_DEVICE` names one, against its slow twin; and
//! what becomes of memory.

use super::Array;
use super::driver::Gpu;
use super::emulated::Emulated;
use crate::tensor::array::Data;
use crate::tensor::device::Place;
use crate::tensor::reference::{self, noise, weight};
use crate::tensor::{
    Activation, Affine, Attention, Choice, Context, Device, Edit, ElementType, Experts, HostRows, Indices,
    KvCache, KvLayout, Mask, Rope, RopeTable, Routing, Rows, Shares, Tensor, TensorError, TokenMask, Vector,
    Weight, add_rms_norm, choose, embedding, gated_linear, linear, logits, mixture, paged_attention,
    rms_norm, rms_norm_heads, rope_write_kv, select_rows, softcap,
};

const ELEMENTS: [ElementType; 3] = [ElementType::F32, ElementType::F16, ElementType::Bf16];

pub(super) fn device(emulated: &Emulated) -> Device {
    Device(Place::Gpu(Gpu::new(emulated.stream())))
}

pub(super) fn roomy() -> Device {
    super::test_device(1 << 30)
}

/// What a number may be off by that went through an element type once, as a share of the largest.
pub(super) fn rounding(element: ElementType) -> f32 {
    match element {
        ElementType::F32 => 2e-6,
        ElementType::F16 => 1.0 / 1024.0,
        ElementType::Bf16 => 1.0 / 128.0,
    }
}

pub(super) fn near(what: &str, found: &[f32], exact: &[f32], tolerance: f32) {
    assert_eq!(found.len(), exact.len(), "{what}");
    let largest = exact.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(exact).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * largest,
            "{what}, element {i}: {a} against {b}, of at most {largest}"
        );
    }
}

/// The values as an element type holds them.
fn rounded(values: &[f32], element: ElementType) -> Vec<f32> {
    element.widen(weight(values, element, &[values.len()]).bytes())
}

/// Activations on a device, and the same on the host.
pub(super) fn both(
    device: &Device,
    [rows, width]: [usize; 2],
    element: ElementType,
    seed: u64,
) -> (Tensor, Vec<f32>) {
    let values = noise(rows * width, seed);
    (activations(device, &values, [rows, width], element), rounded(&values, element))
}

/// A weight on the host and on a device.
fn weights(device: &Device, shape: &[usize], element: ElementType, seed: u64) -> [Weight; 2] {
    let host = weight(&noise(shape.iter().product(), seed), element, shape);
    [host.clone(), host.on(device).unwrap()]
}

pub(super) fn vector(device: &Device, n: usize, element: ElementType, seed: u64) -> (Vector, Vec<f32>) {
    let stored = weight(&noise(n, seed), element, &[n]);
    (Vector::new(&stored, device).unwrap(), element.widen(stored.bytes()))
}

#[test]
fn rows_are_looked_up_picked_and_normalised() {
    let device = roomy();
    let layout = KvLayout { layers: 1, blocks: 1, block_size: 8, kv_heads: 1, head_dim: 8 };
    for (element, width) in ELEMENTS.into_iter().flat_map(|e| [(e, 37), (e, 600)]) {
        let what = format!("{element:?} {width}");
        let [host, table] = weights(&device, &[50, width], element, 1);
        let cache = KvCache::new(&device, layout, element).unwrap();
        let context = Context { rows: 5, len: 5, blocks: &[0], mask: Mask::Causal, adapter: None };
        let rows = HostRows {
            tokens: &[7, 49, 0, 7, 13],
            positions: &[0, 1, 2, 3, 4],
            slots: &[0, 1, 2, 3, 4],
            wanted: &[4, 1],
            contexts: &[context],
        };
        let rows = Rows::new(&cache, rows).unwrap();
        let mut x = embedding(&table, rows.tokens(), 1.5).unwrap();
        let picked = select_rows(&x, rows.wanted()).unwrap().into_vec().unwrap();
        let looked_up =
            embedding(&host, &Indices::host(&[7, 49, 0, 7, 13]), 1.5).unwrap().into_vec().unwrap();
        assert_eq!(picked, [&looked_up[4 * width..], &looked_up[width..2 * width]].concat(), "{what}");

        let (gain, gains) = vector(&device, width, element, 2);
        let normed = rms_norm(&x, &gain, 1e-5).unwrap().into_vec().unwrap();
        near(&what, &normed, &reference::rms_norm(&looked_up, &gains, 1e-5), rounding(element));

        let (y, ys) = both(&device, [5, width], element, 3);
        let normed = add_rms_norm(&mut x, &y, &gain, 1e-5).unwrap().into_vec().unwrap();
        let sums: Vec<f32> = looked_up.iter().zip(&ys).map(|(x, y)| x + y).collect();
        near(&what, &normed, &reference::rms_norm(&sums, &gains, 1e-5), rounding(element));
        assert_eq!(x.into_vec().unwrap(), sums, "{what}: the residual stream");
    }
}

/// Heads that a warp normalises each, and rows that take a block.
#[test]
fn heads_are_normalised_and_logits_capped() {
    let device = roomy();
    for (element, width) in ELEMENTS.into_iter().flat_map(|e| [(e, 12), (e, 80), (e, 300)]) {
        let what = format!("{element:?} {width}");
        let (gain, gains) = vector(&device, width, element, 2);
        let (x, xs) = both(&device, [5, 3 * width], element, 1);
        let normed = rms_norm_heads(x, &gain, 1e-5).unwrap().into_vec().unwrap();
        near(&what, &normed, &reference::rms_norm(&xs, &gains, 1e-5), rounding(element));
    }
    let (x, xs) = both(&device, [3, 700], ElementType::F32, 3);
    let capped = softcap(x, 0.4).unwrap().into_vec().unwrap();
    near("softcap", &capped, &reference::softcap(&xs, 0.4), 1e-6);
}

#[test]
fn a_mixture_of_experts_is_what_the_formula_says_and_a_row_is_computed_alone() {
    let device = roomy();
    // more experts than a warp has lanes; widths that 16 bytes divide, and ones that they do not
    for (element, count, width, hidden) in
        ELEMENTS.into_iter().flat_map(|e| [(e, 6, 10, 28), (e, 40, 24, 64)])
    {
        let experts: Vec<[Weight; 3]> = (0..count as u64)
            .map(|e| {
                let of = |shape: [usize; 2], seed| weight(&noise(width * hidden, seed), element, &shape);
                [of([width, hidden], 3 * e), of([width, hidden], 3 * e + 1), of([hidden, width], 3 * e + 2)]
            })
            .collect();
        let placed = Experts::new(experts.clone()).unwrap().on(&device).unwrap();
        let [host_router, router] = weights(&device, &[count, hidden], element, 999);
        for (per_token, shares) in [(2, Shares::Normalised), (5, Shares::OfAll)] {
            let what = format!("{element:?}, {per_token} of {count}");
            let routing = Routing { per_token, shares };
            let (x, xs) = both(&device, [8, hidden], element, 7);
            let run = |x: &Tensor| {
                mixture(x, &router, &placed, routing, Activation::Silu).unwrap().into_vec().unwrap()
            };
            let all = run(&x);
            let exact = reference::mixture(&xs, &host_router, &experts, routing, Activation::Silu);
            near(&what, &all, &exact, 4.0 * rounding(element) + 1e-5);
            let alone = run(&activations(&device, &xs[3 * hidden..4 * hidden], [1, hidden], element));
            assert_eq!(alone, all[3 * hidden..4 * hidden], "{what}");
        }
    }
}

#[test]
fn products_of_few_rows_and_of_many_are_what_the_formula_says() {
    let device = roomy();
    for element in ELEMENTS {
        // an odd number of outputs; a width that 16 bytes divide, and one that they do not
        for (rows, outs, width) in
            [(1, 7, 24), (2, 33, 100), (3, 9, 1040), (8, 34, 264), (5, 1, 8), (9, 6, 40)]
        {
            let what = format!("{element:?} [{rows}, {width}] by [{outs}, {width}]");
            let (x, xs) = both(&device, [rows, width], element, 1);
            let [host, placed] = weights(&device, &[outs, width], element, 2);
            let [host_up, up] = weights(&device, &[outs, width], element, 3);
            let (bias, biases) = vector(&device, outs, element, 4);
            let layer = Affine { weight: &placed, bias: None };
            // sums of products of numbers below 1: an error of the sum's own order in f32
            let tolerance = rounding(element) + 1e-5;

            let exact = reference::linear(&xs, &host);
            near(&what, &linear(&x, layer).unwrap().into_vec().unwrap(), &exact, tolerance);
            near(&what, &logits(&x, &placed).unwrap().into_vec().unwrap(), &exact, 1e-5);
            let biased: Vec<f32> = exact.iter().zip(biases.iter().cycle()).map(|(y, b)| y + b).collect();
            let with_bias = linear(&x, Affine { bias: Some(&bias), ..layer }).unwrap();
            near(&what, &with_bias.into_vec().unwrap(), &biased, 2.0 * tolerance);

            for activation in [Activation::Silu, Activation::GeluTanh] {
                let exact = reference::gate_mul(activation, &exact, &reference::linear(&xs, &host_up));
                let gated = gated_linear(&x, layer, Affine { weight: &up, bias: None }, activation).unwrap();
                near(&what, &gated.into_vec().unwrap(), &exact, 4.0 * tolerance);
            }
        }
    }
}

#[test]
fn a_row_of_a_small_batch_is_computed_alone() {
    let device = roomy();
    let (rows, outs, width) = (8, 40, 72);
    for element in ELEMENTS {
        let [_, placed] = weights(&device, &[outs, width], element, 2);
        let layer = Affine { weight: &placed, bias: None };
        let (x, values) = both(&device, [rows, width], element, 1);
        let all = linear(&x, layer).unwrap().into_vec().unwrap();
        for few in [1, 2, 3, 5] {
            let some = activations(&device, &values[..few * width], [few, width], element);
            let part = linear(&some, layer).unwrap().into_vec().unwrap();
            assert_eq!(part, all[..few * outs], "{element:?}");
        }
    }
}

/// Contexts of a pass: how many rows, and how long they are then.
const PASSES: [&[(usize, usize)]; 3] =
    [&[(1, 1), (1, 67), (1, 700), (3, 5)], &[(9, 9), (1, 40), (70, 90)], &[(64, 64), (65, 130)]];

#[test]
fn attention_over_the_paged_cache_is_what_the_formula_says() {
    let device = roomy();
    for (kv_heads, group, head_dim) in [(1, 1, 12), (2, 3, 32), (1, 9, 64), (1, 4, 128)] {
        for element in ELEMENTS {
            for contexts in PASSES {
                let what = format!("{element:?}, {kv_heads} x {group} heads of {head_dim}, {contexts:?}");
                compare_attention(&device, [kv_heads, group, head_dim], element, contexts, &what);
            }
        }
    }
}

fn compare_attention(
    device: &Device,
    [kv_heads, group, head_dim]: [usize; 3],
    element: ElementType,
    contexts: &[(usize, usize)],
    what: &str,
) {
    let block_size = 16;
    let tokens: usize = contexts.iter().map(|(_, len)| len.next_multiple_of(block_size)).sum();
    let layout = KvLayout { layers: 2, blocks: tokens / block_size, block_size, kv_heads, head_dim };
    // blocks in an order of their own
    let blocks: Vec<u32> = (0..layout.blocks as u32).rev().collect();
    let mut tables = Vec::new();
    let mut rest = &blocks[..];
    for (_, len) in contexts {
        let (table, others) = rest.split_at(len.div_ceil(block_size));
        tables.push(table);
        rest = others;
    }
    // all of a head turns, part of it, or nothing
    let pairs = [head_dim / 2, head_dim / 2 - 2, 0][contexts.len() % 3];
    let table = RopeTable {
        frequencies: (0..pairs).map(|i| 0.7_f32.powi(i as i32)).collect(),
        attention_factor: 1.1,
    };
    let plain = Attention::of_heads(head_dim);
    let narrow = Attention { window: Some(21), softcap: Some(0.3), scale: 2.0 * plain.scale };
    let mut attended = Vec::new();
    for device in [&Device::CPU, device] {
        let cache = KvCache::new(device, layout, element).unwrap();
        let rope = (pairs > 0).then(|| Rope::new(table.clone(), device).unwrap());
        // first all tokens of all contexts, then their last rows once more, as queries
        for whole in [true, false] {
            let counts: Vec<usize> =
                contexts.iter().map(|(rows, len)| if whole { *len } else { *rows }).collect();
            let (mut positions, mut slots, mut spans) = (Vec::new(), Vec::new(), Vec::new());
            for ((rows, (_, len)), blocks) in counts.iter().zip(contexts).zip(&tables) {
                spans.push(Context { rows: *rows, len: *len, blocks, mask: Mask::Causal, adapter: None });
                for position in len - rows..*len {
                    positions.push(position as u32);
                    slots.push(
                        blocks[position / block_size] * block_size as u32 + (position % block_size) as u32,
                    );
                }
            }
            let n = positions.len();
            let host = HostRows {
                tokens: &vec![0; n],
                positions: &positions,
                slots: &slots,
                wanted: &[],
                contexts: &spans,
            };
            let rows = Rows::new(&cache, host).unwrap();
            let angles = rope.as_ref().map(|rope| rope.angles(&rows).unwrap());
            // a token's keys and values are the same in both passes
            let of = |width: usize, seed: u64| {
                let values = slots.iter().flat_map(|slot| noise(width, u64::from(*slot) * 8 + seed));
                activations(device, &values.collect::<Vec<f32>>(), [n, width], element)
            };
            let (q, k, v) = (of(kv_heads * group * head_dim, 1), of(layout.slot(), 2), of(layout.slot(), 3));
            let q = rope_write_kv(q, k, &v, angles.as_ref(), 1, &rows).unwrap();
            if !whole {
                let attend =
                    |attention| paged_attention(&q, 1, &rows, attention).unwrap().into_vec().unwrap();
                let first = attend(plain);
                let windowed = attend(narrow);
                assert_ne!(first, windowed, "{what}");
                // what one layer leaves behind is what the next finds
                assert_eq!(first, attend(plain), "{what}");
                attended.push([first, windowed]);
            }
        }
    }
    // queries, keys, values, shares and the result are each rounded once
    for (found, exact) in attended[1].iter().zip(&attended[0]) {
        near(what, found, exact, 4.0 * rounding(element) + 1e-5);
    }
}

/// Activations with these values, on a device.
pub(super) fn activations(
    device: &Device,
    values: &[f32],
    [rows, width]: [usize; 2],
    element: ElementType,
) -> Tensor {
    let values = rounded(values, element);
    match &device.0 {
        Place::Cpu => Tensor::from_vec(values, rows, width).unwrap(),
        Place::Gpu(gpu) => {
            let buffer = gpu.place(weight(&values, element, &[rows, width]).bytes()).unwrap().into();
            Tensor::new(rows, width, Data::Device(Array { buffer, element }))
        }
    }
}

#[test]
fn memory_is_used_again_and_given_back() {
    let emulated = Emulated::new(3 << 20);
    let device = device(&emulated);
    let Place::Gpu(gpu) = &device.0 else { unreachable!("the tests' device") };
    let address = gpu.scratch(1000).unwrap().address();
    let again = gpu.scratch(900).unwrap();
    assert_eq!((again.address(), again.bytes(), emulated.used()), (address, 1024, 1024));

    // a piece that is larger than need be is better than a new one
    drop(again);
    let small = gpu.scratch(100).unwrap();
    assert_eq!((small.address(), emulated.used()), (address, 1024));

    // what no tensor has is there for others, and what somebody has is not
    drop(gpu.scratch(2 << 20).unwrap());
    assert!(emulated.used() > 2 << 20);
    let large = gpu.lasting(5 << 19).unwrap();
    assert_eq!(emulated.used(), 1024 + large.bytes());
    let refused = gpu.scratch(1 << 20).unwrap_err();
    assert!(matches!(refused, TensorError::Memory { bytes, .. } if bytes == 1 << 20), "{refused}");
    drop((large, small));
    drop(device);
    assert_eq!(emulated.used(), 0);
}

#[test]
fn a_weight_is_placed_once_for_all_who_hold_it() {
    let emulated = Emulated::new(1 << 20);
    let device = device(&emulated);
    let host = weight(&noise(64, 1), ElementType::Bf16, &[8, 8]);
    let (first, second) = (host.on(&device).unwrap(), host.on(&device).unwrap());
    assert!(first.is(&second) && !first.is(&host));
    assert_eq!(emulated.used(), 128);
    drop((first, second));
    assert_eq!(emulated.used(), 0);
}

#[test]
fn a_cache_that_does_not_fit_leaves_nothing_behind() {
    let emulated = Emulated::new(1 << 20);
    let layout = KvLayout { layers: 3, blocks: 16, block_size: 16, kv_heads: 4, head_dim: 128 };
    assert!(KvCache::new(&device(&emulated), layout, ElementType::Bf16).is_none());
    assert_eq!(emulated.used(), 0);
}

/// Choices of every kind over rows of a vocabulary that no power of two divides.
#[test]
fn tokens_are_chosen_as_on_the_host() {
    let (device, vocab) = (roomy(), 1531);
    let plain = Choice {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        random: 0,
        allowed: None,
        edits: Vec::new(),
    };
    let edits = (0..40).map(|i| Edit {
        token: i * 31,
        bias: i as f32 / 20.0 - 1.0,
        repetition: 1.3,
        minus: if i % 7 == 0 { f32::INFINITY } else { 0.2 * i as f32 },
    });
    let kinds = [
        Choice { temperature: 0.0, ..plain.clone() },
        plain.clone(),
        Choice { temperature: 0.3, min_p: 0.1, ..plain.clone() },
        Choice { top_k: 1, ..plain.clone() },
        Choice { temperature: 2.0, top_k: 50, ..plain.clone() },
        Choice { top_k: 4000, ..plain.clone() },
        Choice { top_p: 0.9, ..plain.clone() },
        Choice { temperature: 0.7, top_k: 20, top_p: 0.8, min_p: 0.01, ..plain.clone() },
        Choice { top_p: 1e-9, ..plain.clone() },
        Choice { edits: edits.clone().collect(), ..plain.clone() },
        Choice { allowed: Some(TokenMask::of((0..1531).step_by(13), vocab)), ..plain.clone() },
        // the last word of the vocabulary's is not a whole one, and a mask may stop before it
        Choice { allowed: Some(TokenMask::of([1530], vocab)), top_k: 9, ..plain.clone() },
        Choice {
            temperature: 0.0,
            allowed: Some(TokenMask::of([0, 31, 32, 930], 931)),
            edits: edits.collect(),
            ..plain.clone()
        },
    ];
    let mut choices = Vec::new();
    for i in 0..6_u64 {
        choices.extend(
            kinds.iter().map(|kind| Choice { random: i.wrapping_mul(0x2AAA_AAAB_F123_4567), ..kind.clone() }),
        );
    }
    let mut values = noise(choices.len() * vocab, 9);
    for (i, value) in values.iter_mut().enumerate() {
        // ties: every logit of every third row is one of eleven
        *value = if i / vocab % 3 == 0 { (*value * 5.0).round() } else { *value * 8.0 };
    }
    values[5 * vocab + 3] = f32::NAN;
    values[6 * vocab + 700] = f32::INFINITY;
    values[7 * vocab..8 * vocab].fill(f32::NEG_INFINITY);
    // of these, such a number is no token that is allowed
    values[vocab + 3] = f32::INFINITY;
    values[2 * vocab + 1] = f32::NAN;
    let rows: Vec<u32> = (0..choices.len() as u32).rev().collect();
    let shape = [choices.len(), vocab];
    let host = Tensor::from_vec(values.clone(), shape[0], shape[1]).unwrap();
    let placed = activations(&device, &values, shape, ElementType::F32);
    let expected = choose(&host, &rows, &choices).unwrap();
    assert_eq!(choose(&placed, &rows, &choices).unwrap(), expected);
    assert_eq!(expected.iter().filter(|token| token.is_none()).count(), 5);
    let different: std::collections::BTreeSet<_> = expected.iter().collect();
    assert!(different.len() > 30, "{different:?}");
}
