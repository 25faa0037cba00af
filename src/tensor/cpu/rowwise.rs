//! Kernels that treat each row, or each element, by itself.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

use super::isa::{Isa, Kernel, Level, MOST_LANES, dispatch, exp, tanh};
use super::team;
use crate::tensor::ops::Activation;
use crate::tensor::weight::Weight;

/// Elements below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 14;
/// Elements of one task, where there are several.
const PART: usize = WORTH_A_THREAD / 4;
const LANES: usize = 16;

/// Root-mean-square normalisation of each row (Zhang and Sennrich, 2019): `x / sqrt(mean(x²) + eps) * gain`.
pub(in crate::tensor) fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (out, x) in out.chunks_exact_mut(gain.len()).zip(x.chunks_exact(gain.len())) {
        let scale = (sum_of(x, |x| x * x) / x.len() as f32 + eps).sqrt().recip();
        for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
            *out = gain * (x * scale);
        }
    }
    out
}

/// Normalisation of each row to mean 0 and variance 1 (Ba et al., 2016): `(x - mean) / sqrt(variance + eps) * gain +
/// bias`, in its place. The variance is taken about the mean: that of the squares less the square of the mean loses its
/// digits.
pub(in crate::tensor) fn layer_norm(x: &mut [f32], gain: &[f32], bias: &[f32], eps: f32) {
    for row in x.chunks_exact_mut(gain.len()) {
        let n = row.len() as f32;
        let mean = sum_of(row, |x| x) / n;
        for x in row.iter_mut() {
            *x -= mean;
        }
        let scale = (sum_of(row, |x| x * x) / n + eps).sqrt().recip();
        for ((x, gain), bias) in row.iter_mut().zip(gain).zip(bias) {
            *x = *x * scale * gain + bias;
        }
    }
}

/// The sum of what each element gives, in one fixed order: 16 running sums, then a tree.
fn sum_of(x: &[f32], gives: impl Fn(f32) -> f32) -> f32 {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for x in vectors {
        for i in 0..LANES {
            sums[i] += gives(x[i]);
        }
    }
    let rest: f32 = rest.iter().map(|x| gives(*x)).sum();
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + rest
}

/// Rows of `table` `[vocab, hidden]` for `tokens`, times `scale`: `[tokens, hidden]`.
///
/// # Panics
/// If a token is not below the table's rows.
pub(in crate::tensor) fn embedding(table: &Weight, tokens: &[u32], scale: f32) -> Vec<f32> {
    let mut out = vec![0.0; tokens.len() * table.cols()];
    for (row, token) in out.chunks_exact_mut(table.cols()).zip(tokens) {
        table.widen_row(*token as usize, row);
        for x in row {
            *x *= scale;
        }
    }
    out
}

/// `x += y`; `y` is as long as `x`, or one of its rows, which is added to each.
pub(in crate::tensor) fn add(x: &mut [f32], y: &[f32]) {
    for row in x.chunks_exact_mut(y.len().max(1)) {
        row.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
}

/// `activation(gate) * up`, element by element, in the place of `gate`.
pub(in crate::tensor) fn gate_mul(level: Level, activation: Activation, gate: &mut [f32], up: &[f32]) {
    let task = |(out, up): (&mut [f32], &[f32])| dispatch(level, GateMul { activation, out, up });
    if gate.len() < WORTH_A_THREAD {
        task((gate, up));
    } else {
        team::consume(gate.chunks_mut(PART).zip(up.chunks(PART)).collect(), task);
    }
}

/// `out` is the gate before and the result after.
struct GateMul<'a> {
    activation: Activation,
    out: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for GateMul<'_> {
    /// Both activations are `x / (1 + exp(-z))`. For silu `z` is `x`; `1 + tanh(y)` is `2 / (1 + exp(-2y))`, so for gelu
    /// it is `2 √(2/π) (x + 0.044715 x³)`.
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        const LINEAR: f32 = 1.595_769;
        const CUBIC: f32 = 0.044_715 * LINEAR;
        for (out, up) in self.out.chunks_mut(I::LANES).zip(self.up.chunks(I::LANES)) {
            let (mut gates, mut ups) = ([0.0; MOST_LANES], [0.0; MOST_LANES]);
            gates[..out.len()].copy_from_slice(out);
            ups[..up.len()].copy_from_slice(up);
            // SAFETY: the processor has `I`, and each buffer holds a vector
            unsafe {
                let (zero, one) = (I::splat(0.0), I::splat(1.0));
                let gate = I::load(gates.as_ptr());
                let z = match self.activation {
                    Activation::Silu => gate,
                    Activation::GeluTanh => {
                        let slope = I::fma(I::fma(gate, gate, zero), I::splat(CUBIC), I::splat(LINEAR));
                        I::fma(gate, slope, zero)
                    }
                };
                // below -87 the exponential would leave the floats, and the result is 0 to within 1e-35
                let negative = I::sub(zero, I::max(I::splat(-87.0), z));
                let active = I::div(gate, I::fma(exp::<I>(negative), one, one));
                I::store(gates.as_mut_ptr(), I::fma(active, I::load(ups.as_ptr()), zero));
            }
            out.copy_from_slice(&gates[..out.len()]);
        }
    }
}

/// `cap * tanh(x / cap)`, element by element, in its place.
pub(in crate::tensor) fn softcap(level: Level, x: &mut [f32], cap: f32) {
    in_parts(x, |out| dispatch(level, Softcap { out, scale: 1.0, cap }));
}

/// Each part of `x` by itself, on several threads if it is worth it.
fn in_parts(x: &mut [f32], task: impl Fn(&mut [f32]) + Sync + Send) {
    if x.len() < WORTH_A_THREAD {
        task(x);
    } else {
        team::consume(x.chunks_mut(PART).collect(), task);
    }
}

/// `cap * tanh(scale * x / cap)`; `out` is `x` before and the result after.
pub(super) struct Softcap<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) scale: f32,
    pub(super) cap: f32,
}

impl Kernel for Softcap<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for out in self.out.chunks_mut(I::LANES) {
            let mut xs = [0.0; MOST_LANES];
            xs[..out.len()].copy_from_slice(out);
            // SAFETY: the processor has `I`, and the buffer holds a vector
            unsafe {
                let (zero, cap) = (I::splat(0.0), I::splat(self.cap));
                let scaled = I::fma(I::load(xs.as_ptr()), I::splat(self.scale / self.cap), zero);
                I::store(xs.as_mut_ptr(), I::fma(tanh::<I>(scaled), cap, zero));
            }
            out.copy_from_slice(&xs[..out.len()]);
        }
    }
}

/// `x Φ(x)`, element by element, in its place, for the normal distribution's `Φ` (Hendrycks and Gimpel, 2016).
pub(in crate::tensor) fn gelu(level: Level, x: &mut [f32]) {
    in_parts(x, |out| dispatch(level, Gelu { out }));
}

/// `out` is `x` before and the result after.
struct Gelu<'a> {
    out: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    /// The error function by 7.1.26 of Abramowitz and Stegun, whose error is below 1.5e-7: a polynomial in
    /// `t = 1 / (1 + P a)` times `exp(-a²)` is `erfc(a)` for `a = |x| / √2`. And `x Φ(x)` is `max(x, 0) - |x| erfc(a) / 2`
    /// on both sides of 0.
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        const P: f32 = 0.327_591_1;
        const POLYNOMIAL: [f32; 5] = [1.061_405_4, -1.453_152_1, 1.421_413_8, -0.284_496_74, 0.254_829_6];
        for out in self.out.chunks_mut(I::LANES) {
            let mut xs = [0.0; MOST_LANES];
            xs[..out.len()].copy_from_slice(out);
            // SAFETY: the processor has `I`, and the buffer holds a vector
            unsafe {
                let (zero, one) = (I::splat(0.0), I::splat(1.0));
                let x = I::load(xs.as_ptr());
                let size = I::max(I::sub(zero, x), x);
                let a = I::fma(size, I::splat(std::f32::consts::FRAC_1_SQRT_2), zero);
                let t = I::div(one, I::fma(a, I::splat(P), one));
                let mut p = I::splat(POLYNOMIAL[0]);
                for c in &POLYNOMIAL[1..] {
                    p = I::fma(p, t, I::splat(*c));
                }
                // where a² leaves `exp`'s range, erfc is 0 to within 1e-38
                let bell = exp::<I>(I::fma(I::sub(zero, a), a, zero));
                let tail = I::fma(I::fma(p, t, zero), bell, zero);
                let half = I::fma(size, I::splat(-0.5), zero);
                I::store(xs.as_mut_ptr(), I::fma(half, tail, I::max(zero, x)));
            }
            out.copy_from_slice(&xs[..out.len()]);
        }
    }
}

/// Rotary position embedding of halves, as Hugging Face's Llama rotates (Su et al., 2021): `x` is
/// `[rows, heads, head_dim]`. The first `2 * pairs` elements of a head turn, element `i` with element `i + pairs`, by pair
/// `i` of its row's `turns` `[rows, pairs]`; the others stay.
pub(in crate::tensor) fn rope(x: &mut [f32], turns: &[(f32, f32)], head_dim: usize, rows: usize) {
    if x.is_empty() || turns.is_empty() {
        return;
    }
    let (width, pairs) = (x.len() / rows, turns.len() / rows);
    for (row, turns) in x.chunks_exact_mut(width).zip(turns.chunks_exact(pairs)) {
        for head in row.chunks_exact_mut(head_dim) {
            let (first, second) = head[..2 * pairs].split_at_mut(pairs);
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::RopeTable;
    use crate::tensor::reference::{self, noise};

    /// What a kernel that works in place makes of `x`.
    fn made(x: &[f32], kernel: impl FnOnce(&mut [f32])) -> Vec<f32> {
        let mut out = x.to_vec();
        kernel(&mut out);
        out
    }

    fn near(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
    }

    #[test]
    fn each_kernel_agrees_with_its_slow_twin_and_computes_a_row_alone() {
        let gain = noise(37, 1);
        let x = noise(64 * 37, 2);
        let normed = rms_norm(&x, &gain, 1e-5);
        near(&normed, &reference::rms_norm(&x, &gain, 1e-5));
        for (x, all) in x.chunks_exact(37).zip(normed.chunks_exact(37)) {
            assert_eq!(rms_norm(x, &gain, 1e-5), all);
        }

        let bias = noise(37, 6);
        // far from 0, so that a variance that is not taken about the mean would show
        let x: Vec<f32> = x.iter().map(|x| x + 100.0).collect();
        let layer_norm = |x: &[f32]| made(x, |x| layer_norm(x, &gain, &bias, 1e-12));
        let normed = layer_norm(&x);
        for (a, b) in normed.iter().zip(reference::layer_norm(&x, &gain, &bias, 1e-12)) {
            assert!((a - b).abs() < 1e-4, "{a} against {b}");
        }
        for (x, all) in x.chunks_exact(37).zip(normed.chunks_exact(37)) {
            assert_eq!(layer_norm(x), all);
        }

        let wide: Vec<f32> = noise(40_000, 7).iter().map(|x| x * 15.0).collect();
        for level in Level::available() {
            let gelu = |x: &[f32]| made(x, |x| gelu(*level, x));
            let all = gelu(&wide);
            near(&all, &reference::gelu(&wide));
            assert_eq!(gelu(&wide[77..99]), all[77..99], "{level:?}: fewer elements, other lanes");
            let far = gelu(&[0.0, -0.0, 1e30, -1e30]);
            assert_eq!(far, [0.0, 0.0, 1e30, 0.0], "{level:?}");
        }

        let (gate, up) = (noise(40_000, 3), noise(40_000, 4));
        let gate: Vec<f32> = gate.iter().map(|g| g * 120.0).collect();
        for (level, activation) in Level::available()
            .iter()
            .flat_map(|level| [Activation::Silu, Activation::GeluTanh].map(|activation| (*level, activation)))
        {
            let gate_mul =
                |gate: &[f32], up: &[f32]| made(gate, |gate| gate_mul(level, activation, gate, up));
            let both = gate_mul(&gate, &up);
            near(&both, &reference::gate_mul(activation, &gate, &up));
            let some = gate_mul(&gate[77..99], &up[77..99]);
            assert_eq!(some, both[77..99], "{level:?}: fewer elements, fewer threads, other lanes");
            let far = gate_mul(&[1e30, -1e30, f32::NAN], &[1.0; 3]);
            assert!(far[0] > 9e29 && far[1].abs() < 1e-5 && far[2].is_nan(), "{level:?}: {far:?}");
        }

        for level in Level::available() {
            let softcap = |x: &[f32]| made(x, |x| softcap(*level, x, 3.0));
            let all = softcap(&wide);
            near(&all, &reference::softcap(&wide, 3.0));
            assert_eq!(softcap(&wide[77..99]), all[77..99], "{level:?}: fewer elements, other lanes");
            let far = softcap(&[1e30, -1e30, f32::NAN]);
            assert!(far[..2] == [3.0, -3.0] && far[2].is_nan(), "{level:?}: {far:?}");
        }

        let sum = made(&[1.0, 2.0, 3.0, 4.0], |x| add(x, &[0.5, 0.25]));
        assert_eq!(sum, [1.5, 2.25, 3.5, 4.25], "one row, added to each");
        assert_eq!(made(&[1.0, 2.0], |x| add(x, &[0.5, 0.25])), [1.5, 2.25]);

        let table = RopeTable { frequencies: vec![1.0, 0.3, 0.01], attention_factor: 1.25 };
        let positions = [0, 5, 4095];
        // all of a head turns, or the first 6 of 8 elements
        for head_dim in [6, 8] {
            let x = noise(3 * 4 * head_dim, 5);
            let turned = made(&x, |x| rope(x, &table.turns(&positions), head_dim, 3));
            let exact = reference::rope(&x, &positions, &table, head_dim);
            for (a, b) in turned.iter().zip(&exact) {
                assert!(
                    (a - b).abs() < 1e-3,
                    "{a} against {b}: an angle of 4095 radians has an error of 2e-4 in f32"
                );
            }
            let second = 4 * head_dim..8 * head_dim;
            let alone = made(&x[second.clone()], |x| rope(x, &table.turns(&positions[1..2]), head_dim, 1));
            assert_eq!(alone, turned[second]);
        }
    }
}
