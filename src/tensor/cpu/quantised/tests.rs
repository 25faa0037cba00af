use super::*;
use crate::tensor::reference::{self, blocks, noise, weight};

const ALL: [BlockFormat; 10] = BlockFormat::ALL;

/// The largest sum of absolute products of a row with an output: what an error is to be compared with.
fn magnitude(x: &[f32], weight: &Weight) -> f32 {
    let mut row = vec![0.0; weight.cols()];
    let mut most = 0.0_f32;
    for x in x.chunks_exact(weight.cols()) {
        for out in 0..weight.rows() {
            weight.widen_row(out, &mut row);
            most = most.max(x.iter().zip(&row).map(|(x, w)| (x * w).abs()).sum());
        }
    }
    most
}

#[test]
fn it_is_the_product_of_what_the_blocks_mean() {
    for format in ALL {
        // also a number of blocks that eight does not divide
        for (outs, width) in [(1, 256), (7, 512), (30, 768), (5, 13 * format.values())] {
            let w = blocks(format, outs, width);
            let x = noise(9 * width, 4);
            let exact = reference::linear(&x, &w);
            let most = magnitude(&x, &w);
            for level in Level::available() {
                let mut y = vec![f32::NAN; 9 * outs];
                multiply(*level, &x, &w, format, &mut y);
                for (y, exact) in y.iter().zip(&exact) {
                    // activations are rounded to 8 bits: errors of both signs
                    assert!(
                        (y - exact).abs() < 2e-3 * most,
                        "{level:?} {format}: {y} against {exact} of {most}"
                    );
                }
            }
        }
    }
}

#[test]
fn activations_that_are_whole_numbers_are_multiplied_exactly() {
    for format in ALL {
        let w = blocks(format, 6, 512);
        let mut x: Vec<f32> = noise(5 * 512, 5).into_iter().map(|x| (x * 126.0).round()).collect();
        // with 127 in each group, its scale is 1
        x.iter_mut().step_by(32).for_each(|x| *x = 127.0);
        let exact = reference::linear(&x, &w);
        let most = magnitude(&x, &w);
        for level in Level::available() {
            let mut y = vec![f32::NAN; 5 * 6];
            multiply(*level, &x, &w, format, &mut y);
            for (y, exact) in y.iter().zip(&exact) {
                assert!((y - exact).abs() < 1e-6 * most, "{level:?} {format}: {y} against {exact} of {most}");
            }
        }
    }
}

#[test]
fn sixteen_rows_are_each_what_they_are_alone() {
    for level in Level::available() {
        for format in ALL {
            let (outs, width) = (300, if format.values() == SMALL { 1056 } else { 1024 });
            let w = blocks(format, outs, width);
            let x = noise(16 * width, 2);
            for rows in [16, 15, 5, 3, 2] {
                let mut all = vec![0.0; rows * outs];
                multiply(*level, &x[..rows * width], &w, format, &mut all);
                for (x, all) in x.chunks_exact(width).zip(all.chunks_exact(outs)) {
                    let mut alone = vec![0.0; outs];
                    multiply(*level, x, &w, format, &mut alone);
                    assert!(
                        alone.iter().zip(all).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{level:?} {format}, {rows} rows"
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_that_is_not_a_number_stays_so() {
    let w = weight(&noise(4 * 256, 1), ElementType::F32, &[4, 256]);
    for format in ALL.into_iter().filter(|format| format.can_be_written()) {
        let w = w.quantised(format).unwrap();
        let mut x = noise(256, 2);
        x[100] = f32::NAN;
        let mut y = vec![0.0; 4];
        multiply(Level::best(), &x, &w, format, &mut y);
        assert!(y.iter().all(|y| y.is_nan()), "{format}");
    }
}
