//! Operators that treat each row, or each element, by itself.

use super::linear::dot;
use super::weight::Weight;

/// Rows of `table` `[vocab, hidden]` for `tokens`: `[tokens, hidden]`.
///
/// # Panics
/// If a token is not below the table's rows.
pub fn embed(table: &Weight, tokens: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; tokens.len() * table.cols()];
    for (row, token) in out.chunks_exact_mut(table.cols()).zip(tokens) {
        table.widen_row(*token as usize, row);
    }
    out
}

/// Root-mean-square normalisation of each row (Zhang and Sennrich, 2019): `x / sqrt(mean(x²) + eps) * gain`.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (out, x) in out.chunks_exact_mut(gain.len()).zip(x.chunks_exact(gain.len())) {
        let scale = (dot(x, x) / x.len() as f32 + eps).sqrt().recip();
        for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
            *out = x * scale * gain;
        }
    }
    out
}

/// `silu(gate) * up`, element by element, into `gate`.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + (-*g).exp()) * u;
    }
}

/// `x += y`
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Rotary position embedding of halves, as Hugging Face's Llama rotates (Su et al., 2021). `x` is
/// `[rows, heads, 2 * frequencies]`, `positions` one a row, `frequencies` in radians a position.
pub fn rope(x: &mut [f32], positions: &[u32], frequencies: &[f32]) {
    let half = frequencies.len();
    if positions.is_empty() {
        return;
    }
    let width = x.len() / positions.len();
    for (row, position) in x.chunks_exact_mut(width).zip(positions) {
        let turns: Vec<(f32, f32)> = frequencies.iter().map(|f| (*position as f32 * f).sin_cos()).collect();
        for head in row.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (sin, cos)) in first.iter_mut().zip(second).zip(&turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
