//! The slow, obvious twin of each kernel, in `f64`; and what the tests feed to both.

use super::blocks::BlockFormat;
use super::cpu::KvStore;
use super::rows::Query;
use super::{Activation, Attention, ElementType, RopeTable, Routing, Shares, Weight};

/// Seeded values in -1..1 (splitmix64).
pub(super) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..n).map(|_| (next() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).collect()
}

pub(super) fn weight(values: &[f32], element: ElementType, shape: &[usize]) -> Weight {
    let bytes = values.iter().flat_map(|v| match element {
        ElementType::Bf16 => half::bf16::from_f32(*v).to_le_bytes().to_vec(),
        ElementType::F16 => half::f16::from_f32(*v).to_le_bytes().to_vec(),
        ElementType::F32 => v.to_le_bytes().to_vec(),
    });
    Weight::owned(bytes.collect(), element, shape).unwrap()
}

/// Blocks of any bits, but with scales that are ordinary numbers.
pub(super) fn blocks(format: BlockFormat, rows: usize, cols: usize) -> Weight {
    let n = format.row_bytes(cols).unwrap() * rows;
    let mut bytes: Vec<u8> = noise(n, 3).into_iter().map(|x| (x * 128.0) as i8 as u8).collect();
    // -128 is no quant of an 8-bit block: it would be written as -127
    if format == BlockFormat::Q8_0 {
        bytes.iter_mut().filter(|b| **b == 128).for_each(|b| *b = 129);
    }
    let halves: &[usize] = match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
        BlockFormat::Q2K => &[80, 82],
        BlockFormat::Q3K => &[108],
        BlockFormat::Q6K => &[208],
    };
    for (i, block) in bytes.chunks_exact_mut(format.bytes()).enumerate() {
        for at in halves {
            let scale = half::f16::from_f32(0.01 + 0.001 * (i % 7) as f32);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    Weight::owned(bytes, format, &[rows, cols]).unwrap()
}

pub(super) fn linear(x: &[f32], weight: &Weight) -> Vec<f32> {
    let mut y = Vec::new();
    let mut row = vec![0.0; weight.cols()];
    for x in x.chunks_exact(weight.cols()) {
        for out in 0..weight.rows() {
            weight.widen_row(out, &mut row);
            y.push(x.iter().zip(&row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32);
        }
    }
    y
}

pub(super) fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::new();
    for x in x.chunks_exact(gain.len()) {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        let norm = (mean + f64::from(eps)).sqrt();
        out.extend(x.iter().zip(gain).map(|(x, g)| (f64::from(*x) / norm * f64::from(*g)) as f32));
    }
    out
}

pub(super) fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::new();
    for x in x.chunks_exact(gain.len()) {
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let deviation = (variance + f64::from(eps)).sqrt();
        let normed = x.iter().map(|x| (f64::from(*x) - mean) / deviation);
        out.extend(normed.zip(gain).zip(bias).map(|((x, g), b)| (x * f64::from(*g) + f64::from(*b)) as f32));
    }
    out
}

pub(super) fn gelu(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| f64::from(*x)).map(|x| (x * normal_distribution(x)) as f32).collect()
}

/// `Φ(x)` by the series about 0, whose terms all have the sign of `x`: nothing cancels.
fn normal_distribution(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, 0.0, 1.0);
    while term.abs() > f64::EPSILON * f64::abs(sum) {
        sum += term;
        n += 2.0;
        term *= x * x / n;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

pub(super) fn gate_mul(activation: Activation, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let active = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    };
    gate.iter().zip(up).map(|(g, u)| (active(f64::from(*g)) * f64::from(*u)) as f32).collect()
}

pub(super) fn softcap(x: &[f32], cap: f32) -> Vec<f32> {
    let cap = f64::from(cap);
    x.iter().map(|x| (cap * (f64::from(*x) / cap).tanh()) as f32).collect()
}

/// Each pair is a complex number; turning it is a multiplication by a complex number.
pub(super) fn rope(x: &[f32], positions: &[u32], table: &RopeTable, head_dim: usize) -> Vec<f32> {
    let half = table.frequencies.len();
    let heads = x.len() / positions.len() / head_dim;
    let mut out = x.to_vec();
    for (r, position) in positions.iter().enumerate() {
        for h in 0..heads {
            for (i, frequency) in table.frequencies.iter().enumerate() {
                let angle = f64::from(*position) * f64::from(*frequency);
                let at = (r * heads + h) * head_dim + i;
                let (re, im) = (f64::from(x[at]), f64::from(x[at + half]));
                let factor = f64::from(table.attention_factor);
                let (c, s) = (angle.cos() * factor, angle.sin() * factor);
                out[at] = (re * c - im * s) as f32;
                out[at + half] = (re * s + im * c) as f32;
            }
        }
    }
    out
}

/// A mixture of experts, each `[gate, up, down]`: a row and one of its experts at a time.
pub(super) fn mixture(
    x: &[f32],
    router: &Weight,
    experts: &[[Weight; 3]],
    routing: Routing,
    activation: Activation,
) -> Vec<f32> {
    let mut out = Vec::new();
    for x in x.chunks_exact(router.cols()) {
        let weights: Vec<f64> = linear(x, router).iter().map(|score| f64::from(*score).exp()).collect();
        let mut order: Vec<usize> = (0..experts.len()).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        order.truncate(routing.per_token);
        let total: f64 = match routing.shares {
            Shares::Normalised => order.iter().map(|e| weights[*e]).sum(),
            Shares::OfAll => weights.iter().sum(),
        };
        let mut row = vec![0.0; router.cols()];
        for e in order {
            let [gate, up, down] = &experts[e];
            let h = gate_mul(activation, &linear(x, gate), &linear(x, up));
            for (sum, y) in row.iter_mut().zip(linear(&h, down)) {
                *sum += weights[e] / total * f64::from(y);
            }
        }
        out.extend(row.iter().map(|y| *y as f32));
    }
    out
}

/// The formula of Vaswani et al. (2017), a head and a row at a time, over gathered keys and values.
pub(super) fn attend(
    q: &[f32],
    queries: &[Query<'_>],
    cache: &KvStore,
    layer: usize,
    attention: Attention,
) -> Vec<f32> {
    let layout = cache.layout();
    let dim = layout.head_dim;
    let heads = q.len() / queries.len() / dim;
    let mut out = Vec::new();
    for (query, q) in queries.iter().zip(q.chunks_exact(heads * dim)) {
        for (h, q) in q.chunks_exact(dim).enumerate() {
            let kv_head = h / (heads / layout.kv_heads);
            let slot = |t: usize| {
                query.blocks[t / layout.block_size] as usize * layout.block_size + t % layout.block_size
            };
            let product = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            };
            let first = attention.window.map_or(0, |window| query.visible.saturating_sub(window));
            let score = |t: usize| {
                let score = product(q, cache.key(layer, slot(t), kv_head)) * f64::from(attention.scale);
                attention.softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh())
            };
            let weights: Vec<f64> = (first..query.visible).map(|t| score(t).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let sum: f64 = weights
                    .iter()
                    .zip(first..)
                    .map(|(w, t)| w * f64::from(cache.value(layer, slot(t), kv_head)[d]))
                    .sum();
                out.push((sum / total) as f32);
            }
        }
    }
    out
}
