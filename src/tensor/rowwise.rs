//! Kernels that treat each row, or each element, by itself.

use rayon::prelude::*;

use super::weight::Weight;

/// Elements below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 14;
const LANES: usize = 16;

/// Root-mean-square normalisation of each row (Zhang and Sennrich, 2019): `x / sqrt(mean(x²) + eps) * gain`.
pub(super) fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (out, x) in out.chunks_exact_mut(gain.len()).zip(x.chunks_exact(gain.len())) {
        let scale = (sum_of_squares(x) / x.len() as f32 + eps).sqrt().recip();
        for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
            *out = gain * (x * scale);
        }
    }
    out
}

/// In one fixed order: 16 running sums, then a tree.
fn sum_of_squares(x: &[f32]) -> f32 {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for x in vectors {
        for i in 0..LANES {
            sums[i] += x[i] * x[i];
        }
    }
    let rest: f32 = rest.iter().map(|x| x * x).sum();
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + rest
}

/// Rows of `table` `[vocab, hidden]` for `tokens`: `[tokens, hidden]`.
///
/// # Panics
/// If a token is not below the table's rows.
pub(super) fn embedding(table: &Weight, tokens: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; tokens.len() * table.cols()];
    for (row, token) in out.chunks_exact_mut(table.cols()).zip(tokens) {
        table.widen_row(*token as usize, row);
    }
    out
}

/// `silu(gate) * up`, element by element.
pub(super) fn silu_mul(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let one = |(g, u): (&f32, &f32)| g / (1.0 + (-g).exp()) * u;
    if gate.len() < WORTH_A_THREAD {
        return gate.iter().zip(up).map(one).collect();
    }
    gate.par_iter().zip(up).with_min_len(WORTH_A_THREAD / 4).map(one).collect()
}

/// How far each pair of a head turns a position, and by what the result is scaled.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Radians a position, one for each of the `head_dim / 2` pairs.
    pub frequencies: Vec<f32>,
    /// Multiplies sine and cosine; 1 but for scalings that sharpen attention.
    pub attention_factor: f32,
}

/// Cosines and sines of a batch's rows: computed once a forward, used in every layer.
#[derive(Debug, Clone)]
pub struct RopeAngles {
    half: usize,
    /// `[rows, half]`, cosine and sine.
    turns: Vec<(f32, f32)>,
}

impl RopeTable {
    /// The angles of rows at `positions`.
    pub fn angles(&self, positions: &[u32]) -> RopeAngles {
        let turn = |position: u32, frequency: &f32| {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            (cos * self.attention_factor, sin * self.attention_factor)
        };
        let turns =
            positions.iter().flat_map(|p| self.frequencies.iter().map(move |f| turn(*p, f))).collect();
        RopeAngles { half: self.frequencies.len(), turns }
    }
}

impl RopeAngles {
    pub(super) fn rows(&self) -> usize {
        self.turns.len() / self.half
    }

    pub(super) const fn head_dim(&self) -> usize {
        2 * self.half
    }
}

/// Rotary position embedding of halves, as Hugging Face's Llama rotates (Su et al., 2021): `x` is
/// `[rows, heads, head_dim]`, and element `i` of a head turns with element `i + head_dim / 2`.
pub(super) fn rope(x: &[f32], angles: &RopeAngles) -> Vec<f32> {
    let mut out = x.to_vec();
    if out.is_empty() {
        return out;
    }
    let half = angles.half;
    let width = x.len() / angles.rows();
    for (row, turns) in out.chunks_exact_mut(width).zip(angles.turns.chunks_exact(half)) {
        for head in row.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::reference::{self, noise};

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

        let (gate, up) = (noise(40_000, 3), noise(40_000, 4));
        let both = silu_mul(&gate, &up);
        near(&both, &reference::silu_mul(&gate, &up));
        assert_eq!(silu_mul(&gate[77..99], &up[77..99]), both[77..99], "more elements, more threads");

        let table = RopeTable { frequencies: vec![1.0, 0.3, 0.01], attention_factor: 1.25 };
        let positions = [0, 5, 4095];
        let x = noise(3 * 4 * 6, 5);
        let turned = rope(&x, &table.angles(&positions));
        let exact = reference::rope(&x, &positions, &table);
        for (a, b) in turned.iter().zip(&exact) {
            assert!(
                (a - b).abs() < 1e-3,
                "{a} against {b}: an angle of 4095 radians has an error of 2e-4 in f32"
            );
        }
        assert_eq!(rope(&x[24..48], &table.angles(&positions[1..2])), turned[24..48]);
    }
}
