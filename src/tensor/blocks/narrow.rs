//! `f32` as blocks: the formats that weights may be quantised to.
//!
//! A scale is looked for by trying several: each gives the quants by rounding, and for given quants the scale of the least
//! squared error is known (a least-squares fit). What a half-precision scale loses is taken into account: quants are
//! rounded anew for the scale as it is stored.

use half::f16;

use super::packed::pack_sub_scales;
use super::{BlockFormat, LARGE, SMALL};

impl BlockFormat {
    /// Whether weights may be quantised to it.
    pub const fn can_be_written(self) -> bool {
        matches!(self, Self::Q5_0 | Self::Q8_0 | Self::Q4K | Self::Q6K)
    }

    /// Writes whole blocks.
    ///
    /// # Panics
    /// If the format is none that [`can_be_written`](Self::can_be_written).
    pub(in crate::tensor) fn narrow_into(self, values: &[f32], out: &mut [u8]) {
        for (values, block) in values.chunks_exact(self.values()).zip(out.chunks_exact_mut(self.bytes())) {
            match self {
                Self::Q5_0 => q5_0(values, block),
                Self::Q8_0 => q8_0(values, block),
                Self::Q4K => q4_k(values, block),
                Self::Q6K => q6_k(values, block),
                other => unreachable!("{other} is not written: see can_be_written"),
            }
        }
    }
}

/// Writes a scale, and gives what was written.
fn put_half(block: &mut [u8], at: usize, scale: f32) -> f32 {
    let scale = f16::from_f32(scale);
    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    scale.to_f32()
}

/// 1 / `scale`, or 0 where that is no number: then everything is 0.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { scale.recip() }
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, x| most.max(x.abs()))
}

fn q8_0(values: &[f32], block: &mut [u8]) {
    let inverse = inverse(put_half(block, 0, greatest(values) / 127.0));
    for (q, x) in block[2..].iter_mut().zip(values) {
        *q = (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
    }
}

fn q5_0(values: &[f32], block: &mut [u8]) {
    let inverse = inverse(put_half(block, 0, symmetric_scale(values, 16.0)));
    let mut fifth = 0_u32;
    block[6..].fill(0);
    for (i, x) in values.iter().enumerate() {
        let q = (x * inverse).round().clamp(-16.0, 15.0) as i32 + 16;
        block[6 + i % 16] |= (q as u8 & 15) << (4 * (i / 16));
        fifth |= (q as u32 >> 4) << i;
    }
    block[2..6].copy_from_slice(&fifth.to_le_bytes());
}

/// The `d` with which `d q` is nearest to the values, `q` from `-reach` to `reach - 1`.
fn symmetric_scale(values: &[f32], reach: f32) -> f32 {
    let peak = values.iter().copied().fold(0.0, |peak: f32, x| if x.abs() > peak.abs() { x } else { peak });
    let mut best = (0.0, 0.0);
    // the peak is to be about -reach: that side has one quant more
    for step in -4..=4_i8 {
        let inverse = -(reach + 0.2 * f32::from(step)) * inverse(peak);
        let (mut xq, mut qq) = (0.0, 0.0);
        for x in values {
            let q = (x * inverse).round().clamp(-reach, reach - 1.0);
            xq += x * q;
            qq += q * q;
        }
        // the squared error is less than that of all zeroes by this much, with the scale xq / qq
        let gain = if qq > 0.0 { xq * xq / qq } else { 0.0 };
        if gain > best.0 {
            best = (gain, xq / qq);
        }
    }
    best.1
}

fn q6_k(values: &[f32], block: &mut [u8]) {
    let scales: [f32; 16] = std::array::from_fn(|j| symmetric_scale(&values[16 * j..][..16], 32.0));
    let d = put_half(block, 208, greatest(&scales) / 127.0);
    let scales = scales.map(|scale| (scale * inverse(d)).round().clamp(-127.0, 127.0) as i8);
    block[..192].fill(0);
    for (i, x) in values.iter().enumerate() {
        let inverse = inverse(d * f32::from(scales[i / 16]));
        let q = ((x * inverse).round().clamp(-32.0, 31.0) + 32.0) as u8;
        let (half, j) = (i / 128, i % 128);
        block[64 * half + j % 64] |= (q & 15) << (4 * (j / 64));
        block[128 + 32 * half + j % 32] |= (q >> 4) << (2 * (j / 32));
    }
    block[192..208].copy_from_slice(&scales.map(|scale| scale as u8));
}

/// The `scale` and the `minimum`, neither below 0, with which `scale q - minimum` is nearest to the values, `q` from 0 to
/// 15.
fn affine_scale(values: &[f32]) -> (f32, f32) {
    let low = values.iter().copied().fold(0.0, f32::min);
    let high = values.iter().copied().fold(0.0, f32::max);
    let mut best = (f32::INFINITY, (0.0, -low));
    for step in -3..=3_i8 {
        let inverse = (15.0 + 0.3 * f32::from(step)) * inverse(high - low);
        let n = values.len() as f32;
        let (mut q1, mut q2, mut x1, mut xq) = (0.0, 0.0, 0.0, 0.0);
        let mut quants = [0.0_f32; SMALL];
        for (q, x) in quants.iter_mut().zip(values) {
            *q = ((x - low) * inverse).round().clamp(0.0, 15.0);
            q1 += *q;
            q2 += *q * *q;
            x1 += x;
            xq += x * *q;
        }
        let spread = n * q2 - q1 * q1;
        let mut scale = if spread > 0.0 { (n * xq - q1 * x1) / spread } else { 0.0 };
        let mut minimum = (scale * q1 - x1) / n;
        if minimum < 0.0 {
            (scale, minimum) = (if q2 > 0.0 { xq / q2 } else { 0.0 }, 0.0);
        }
        let error: f32 = values.iter().zip(&quants).map(|(x, q)| (scale * q - minimum - x).powi(2)).sum();
        if scale >= 0.0 && error < best.0 {
            best = (error, (scale, minimum));
        }
    }
    best.1
}

fn q4_k(values: &[f32], block: &mut [u8]) {
    let fits: [(f32, f32); 8] = std::array::from_fn(|j| affine_scale(&values[SMALL * j..][..SMALL]));
    let most = |pick: fn(&(f32, f32)) -> f32| fits.iter().map(pick).fold(0.0, f32::max);
    let d = put_half(block, 0, most(|fit| fit.0) / 63.0);
    let m = put_half(block, 2, most(|fit| fit.1) / 63.0);
    let whole = |x: f32, unit: f32| (x * inverse(unit)).round().clamp(0.0, 63.0) as u8;
    let (scales, minima) = (fits.map(|fit| whole(fit.0, d)), fits.map(|fit| whole(fit.1, m)));
    block[4..16].copy_from_slice(&pack_sub_scales(scales, minima));
    block[16..].fill(0);
    for (i, x) in values.iter().take(LARGE).enumerate() {
        let j = i / SMALL;
        let (scale, minimum) = (d * f32::from(scales[j]), m * f32::from(minima[j]));
        let q = ((x + minimum) * inverse(scale)).round().clamp(0.0, 15.0) as u8;
        block[16 + 32 * (j / 2) + i % SMALL] |= q << (4 * (j % 2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::reference::noise;

    /// The root of the mean squared error over that of the values.
    fn loss(format: BlockFormat, values: &[f32]) -> f64 {
        let mut bytes = vec![0xff; format.row_bytes(values.len()).unwrap()];
        format.narrow_into(values, &mut bytes);
        let mut back = vec![f32::NAN; values.len()];
        format.widen_into(&bytes, &mut back);
        let square = |x: f32| f64::from(x).powi(2);
        let error: f64 = values.iter().zip(&back).map(|(x, y)| square(x - y)).sum();
        (error / values.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
    }

    #[test]
    fn more_bits_lose_less() {
        // sums of uniform noise: about normal, as weights are
        let values: Vec<f32> = noise(4 * 4096, 1).chunks_exact(4).map(|four| four.iter().sum()).collect();
        let losses = [BlockFormat::Q4K, BlockFormat::Q5_0, BlockFormat::Q6K, BlockFormat::Q8_0]
            .map(|format| loss(format, &values));
        for (loss, most) in losses.iter().zip([0.075, 0.045, 0.02, 0.006]) {
            assert!(*loss < most && *loss > most / 3.0, "{losses:?}");
        }
    }

    #[test]
    fn zeroes_tiny_and_lopsided_numbers_stay_numbers() {
        for format in [BlockFormat::Q4K, BlockFormat::Q5_0, BlockFormat::Q6K, BlockFormat::Q8_0] {
            let cases = [
                vec![0.0; LARGE],
                vec![1e-12; LARGE],
                vec![-3.0; LARGE],
                vec![2.5; LARGE],
                (0..LARGE).map(|i| if i == 77 { 1000.0 } else { 0.0 }).collect(),
            ];
            for values in cases {
                let mut bytes = vec![0; format.row_bytes(LARGE).unwrap()];
                format.narrow_into(&values, &mut bytes);
                let mut back = vec![f32::NAN; LARGE];
                format.widen_into(&bytes, &mut back);
                for (x, y) in values.iter().zip(&back) {
                    // what is below the scales of half precision is nothing
                    let near = 0.04 * greatest(&values) + 4e-6;
                    assert!((x - y).abs() <= near, "{format}: {x} came back as {y}");
                }
            }
        }
    }
}
