//! `y = x Wᵀ` with weights as stored.
//!
//! Each output element is a dot product over 16 running sums, added up in one fixed order, whatever the
//! number of rows. A row of weights is widened once into a buffer and used for all rows of `x`, so a batch
//! reads the weights once. Outputs are shared out over rayon's threads.

use rayon::prelude::*;

use super::weight::Weight;

const LANES: usize = 16;
/// Multiplications below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 17;
/// Output elements that one task takes.
const OUTPUTS_PER_TASK: usize = 32;

/// `x` is `[rows, in]`; the result is `[rows, out]` for a weight `[out, in]`.
///
/// # Panics
/// If `x` is not a whole number of rows of the weight's width.
pub fn linear(x: &[f32], weight: &Weight) -> Vec<f32> {
    let (outs, width) = (weight.rows(), weight.cols());
    assert!(x.len().is_multiple_of(width), "rows of another width");
    let rows = x.len() / width;
    // [out, rows], so that a task writes one contiguous piece; turned over at the end
    let mut turned = vec![0.0; outs * rows];
    let task = |(first, piece): (usize, &mut [f32])| {
        let mut widened = vec![0.0; width];
        for (o, row) in piece.chunks_mut(rows).enumerate() {
            weight.widen_row(first * OUTPUTS_PER_TASK + o, &mut widened);
            for (y, x) in row.iter_mut().zip(x.chunks_exact(width)) {
                *y = dot(x, &widened);
            }
        }
    };
    if rows == 0 {
        return turned;
    }
    if rows * outs * width < WORTH_A_THREAD {
        turned.chunks_mut(OUTPUTS_PER_TASK * rows).enumerate().for_each(task);
    } else {
        turned.par_chunks_mut(OUTPUTS_PER_TASK * rows).enumerate().for_each(task);
    }
    if rows == 1 {
        return turned;
    }
    let mut y = vec![0.0; rows * outs];
    for (o, row) in turned.chunks_exact(rows).enumerate() {
        for (r, value) in row.iter().enumerate() {
            y[r * outs + o] = *value;
        }
    }
    y
}

/// The dot product of two equally long vectors, in one fixed order.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + rest
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::tensor::ElementType;

    #[allow(unsafe_code)]
    fn weight(rows: usize, cols: usize) -> (Weight, Vec<f32>) {
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 500.0).collect();
        let mut file = tempfile::tempfile().unwrap();
        for v in &values {
            file.write_all(&v.to_le_bytes()).unwrap();
        }
        // SAFETY: the file is this test's own and nobody shortens it
        let map = Arc::new(unsafe { memmap2::Mmap::map(&file) }.unwrap());
        let range = 0..map.len();
        (Weight::new(map, range, ElementType::F32, &[rows, cols]).unwrap(), values)
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        for (outs, width) in [(3, 5), (64, 48), (100, 257), (512, 512)] {
            let (w, _) = weight(outs, width);
            let x: Vec<f32> = (0..64 * width).map(|i| ((i * 104_729 % 997) as f32).sin()).collect();
            let all = linear(&x, &w);
            for r in 0..64 {
                let alone = linear(&x[r * width..(r + 1) * width], &w);
                assert!(alone.iter().zip(&all[r * outs..]).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }

    #[test]
    fn it_is_the_matrix_product() {
        let (w, values) = weight(9, 37);
        let x: Vec<f32> = (0..37).map(|i| i as f32 / 37.0).collect();
        for (o, y) in linear(&x, &w).iter().enumerate() {
            let exact: f64 = (0..37).map(|i| f64::from(x[i]) * f64::from(values[o * 37 + i])).sum();
            assert!((f64::from(*y) - exact).abs() < 1e-5, "{y} against {exact}");
        }
    }
}
