//! Products with quantised weights of every format, on an emulated device or a GPU, against the slow twin of what the blocks
//! mean.

use super::tests::{activations, both, near, roomy, rounding, vector};
use crate::tensor::blocks::BlockFormat;
use crate::tensor::reference::{self, blocks, noise, weight};
use crate::tensor::{
    Activation, Affine, Context, Device, ElementType, Experts, HostRows, Indices, KvCache, KvLayout, Mask,
    Routing, Rows, Shares, Tensor, Weight, embedding, gated_linear, linear, logits, mixture,
};

const ELEMENTS: [ElementType; 3] = [ElementType::F32, ElementType::F16, ElementType::Bf16];

/// A weight on the host and on a device.
fn weights(device: &Device, format: BlockFormat, [outs, width]: [usize; 2]) -> [Weight; 2] {
    let host = blocks(format, outs, width);
    [host.clone(), host.on(device).unwrap()]
}

/// Widths in blocks: less than a chunk of 128 columns, several, and more than the warps of a block take at once.
fn widths(format: BlockFormat) -> [usize; 3] {
    let values = format.values();
    [values, 5 * values, if values == 32 { 1184 } else { 1280 }]
}

/// The sum of the absolute products that make an output, the largest of them: what errors of sums are a share of.
fn magnitude(x: &[f32], weight: &Weight) -> f32 {
    let mut row = vec![0.0; weight.cols()];
    let mut most = 0.0_f32;
    for out in 0..weight.rows() {
        weight.widen_row(out, &mut row);
        for x in x.chunks_exact(weight.cols()) {
            most = most.max(x.iter().zip(&row).map(|(x, w)| (x * w).abs()).sum());
        }
    }
    most
}

fn close(what: &str, found: &[f32], exact: &[f32], most: f32) {
    assert_eq!(found.len(), exact.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(exact).enumerate() {
        assert!((a - b).abs() <= most, "{what}, element {i}: {a} against {b}, {most} at most");
    }
}

/// Rows that one block of threads takes, and rows that several do; outputs that 16 does not divide.
#[test]
fn products_of_few_rows_are_what_the_blocks_mean() {
    let device = roomy();
    for format in BlockFormat::ALL {
        for (i, width) in widths(format).into_iter().enumerate() {
            for (element, rows, outs) in
                ELEMENTS.into_iter().flat_map(|e| [(e, 1, 7), (e, 3 + 2 * i, 16), (e, 8, 33), (e, 9, 1)])
            {
                let what = format!("{format} {element:?} [{rows}, {width}] by [{outs}, {width}]");
                let (x, xs) = both(&device, [rows, width], element, 1);
                let [host, placed] = weights(&device, format, [outs, width]);
                let exact = reference::linear(&xs, &host);
                // each sum of f32 is exact to its last places; a result is rounded once
                let sums = 1e-5 * magnitude(&xs, &host);
                let largest = exact.iter().fold(0.0_f32, |most, y| most.max(y.abs()));
                let once = sums + rounding(element) * largest;

                close(&what, &logits(&x, &placed).unwrap().into_vec().unwrap(), &exact, sums);
                let layer = Affine { weight: &placed, bias: None };
                close(&what, &linear(&x, layer).unwrap().into_vec().unwrap(), &exact, once);
                let (bias, biases) = vector(&device, outs, element, 4);
                let biased: Vec<f32> = exact.iter().zip(biases.iter().cycle()).map(|(y, b)| y + b).collect();
                let with_bias = linear(&x, Affine { bias: Some(&bias), ..layer }).unwrap();
                close(&what, &with_bias.into_vec().unwrap(), &biased, once + rounding(element));
            }
        }
    }
}

#[test]
fn a_gate_and_what_it_opens_are_multiplied_where_they_are_summed() {
    let device = roomy();
    for format in BlockFormat::ALL {
        let (outs, width) = (21, widths(format)[1]);
        for (element, rows) in ELEMENTS.into_iter().flat_map(|e| [(e, 2), (e, 10)]) {
            // small enough that no product leaves the half-precision numbers
            let xs: Vec<f32> = noise(rows * width, 1).iter().map(|x| element.rounded(x / 64.0)).collect();
            let x = activations(&device, &xs, [rows, width], element);
            let [host_gate, gate] = weights(&device, format, [outs, width]);
            // another weight: the same one upside down
            let turned = |rows: Vec<u8>| {
                let each = rows.len() / outs;
                rows.chunks_exact(each).rev().flatten().copied().collect::<Vec<u8>>()
            };
            let host_up = Weight::owned(turned(host_gate.bytes().to_vec()), format, &[outs, width]).unwrap();
            let up = host_up.on(&device).unwrap();
            let (bias, biases) = vector(&device, outs, element, 4);
            let sum = |weight: &Weight| -> Vec<f32> {
                let sums = reference::linear(&xs, weight);
                sums.iter().zip(biases.iter().cycle()).map(|(y, b)| y + b).collect()
            };
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let what = format!("{format} {element:?} {activation:?} of {rows} rows");
                let exact = reference::gate_mul(activation, &sum(&host_gate), &sum(&host_up));
                let layer = |weight| Affine { weight, bias: Some(&bias) };
                let gated = gated_linear(&x, layer(&gate), layer(&up), activation).unwrap();
                near(&what, &gated.into_vec().unwrap(), &exact, 4.0 * rounding(element) + 1e-4);
            }
        }
    }
}

/// A gate of another format than what it opens, as recipes mix them.
#[test]
fn a_gate_of_another_format_is_multiplied_apart() {
    let device = roomy();
    let (rows, outs, width) = (2, 9, 256);
    let (x, xs) = both(&device, [rows, width], ElementType::Bf16, 1);
    let [host_gate, gate] = weights(&device, BlockFormat::Q6K, [outs, width]);
    let [host_up, up] = weights(&device, BlockFormat::Q4_0, [outs, width]);
    let exact = reference::gate_mul(
        Activation::Silu,
        &reference::linear(&xs, &host_gate),
        &reference::linear(&xs, &host_up),
    );
    let layer = |weight| Affine { weight, bias: None };
    let gated = gated_linear(&x, layer(&gate), layer(&up), Activation::Silu).unwrap();
    near("q6_k and q4_0", &gated.into_vec().unwrap(), &exact, 4.0 * rounding(ElementType::Bf16));
}

/// More rows than the blocks themselves are multiplied with: by way of numbers, in several parts of the outputs.
#[test]
fn products_of_many_rows_are_what_the_blocks_mean() {
    let device = roomy();
    for format in BlockFormat::ALL {
        let (rows, outs, width) = (65, 13, widths(format)[1]);
        for element in ELEMENTS {
            let what = format!("{format} {element:?}");
            let (x, xs) = both(&device, [rows, width], element, 1);
            let [host, placed] = weights(&device, format, [outs, width]);
            let exact = reference::linear(&xs, &host);
            // weights are rounded to the element type
            let most = rounding(element) * magnitude(&xs, &host);
            let (bias, biases) = vector(&device, outs, element, 4);
            let biased: Vec<f32> = exact.iter().zip(biases.iter().cycle()).map(|(y, b)| y + b).collect();
            let layer = Affine { weight: &placed, bias: Some(&bias) };
            close(
                &what,
                &linear(&x, layer).unwrap().into_vec().unwrap(),
                &biased,
                most + 2.0 * rounding(element),
            );
            close(&what, &logits(&x, &placed).unwrap().into_vec().unwrap(), &exact, most);
        }
    }
}

#[test]
fn a_row_of_a_batch_is_computed_alone() {
    let device = roomy();
    let (rows, outs, width) = (20, 24, 512);
    for (element, format) in ELEMENTS.into_iter().flat_map(|e| BlockFormat::ALL.map(|format| (e, format))) {
        let [_, placed] = weights(&device, format, [outs, width]);
        let layer = Affine { weight: &placed, bias: None };
        let run = |x: &Tensor| {
            let gated = gated_linear(x, layer, layer, Activation::Silu).unwrap();
            [linear(x, layer).unwrap(), gated].map(|y| y.into_vec().unwrap())
        };
        let (x, values) = both(&device, [rows, width], element, 1);
        let all = run(&x);
        for (first, few) in [(0, 1), (7, 2), (3, 9)] {
            let part =
                activations(&device, &values[first * width..(first + few) * width], [few, width], element);
            for (part, all) in run(&part).iter().zip(&all) {
                assert_eq!(part[..], all[first * outs..(first + few) * outs], "{format} {element:?}");
            }
        }
    }
}

#[test]
fn rows_of_a_quantised_table_are_looked_up() {
    let device = roomy();
    let layout = KvLayout { layers: 1, blocks: 1, block_size: 8, kv_heads: 1, head_dim: 8 };
    let cache = KvCache::new(&device, layout, ElementType::Bf16).unwrap();
    let ids = [7, 49, 0, 7];
    for (format, width) in
        BlockFormat::ALL.into_iter().flat_map(|format| widths(format).map(|width| (format, width)))
    {
        let [host, table] = weights(&device, format, [50, width]);
        let context = Context { rows: 4, len: 4, blocks: &[0], mask: Mask::Causal, adapter: None };
        let rows = HostRows {
            tokens: &ids,
            positions: &[0, 1, 2, 3],
            slots: &[0, 1, 2, 3],
            wanted: &[0],
            contexts: &[context],
        };
        let rows = Rows::new(&cache, rows).unwrap();
        let found = embedding(&table, rows.tokens(), 1.5).unwrap().into_vec().unwrap();
        let exact = embedding(&host, &Indices::host(&ids), 1.5).unwrap().into_vec().unwrap();
        near(&format!("{format} {width}"), &found, &exact, 1e-6);
    }
}

#[test]
fn experts_may_be_quantised_and_a_row_is_computed_alone() {
    let device = roomy();
    let (count, width, hidden) = (6, 256, 256);
    for (i, format) in BlockFormat::ALL.into_iter().enumerate() {
        let down = BlockFormat::ALL[(i + 3) % 10];
        let element = ELEMENTS[i % 3];
        let experts: Vec<[Weight; 3]> = (0..count)
            .map(|e| {
                // weights of their own, and small
                let of = |format: BlockFormat, [rows, cols]: [usize; 2]| {
                    let all = blocks(format, rows * count, cols);
                    let each = all.bytes().len() / count;
                    Weight::owned(all.bytes()[e * each..][..each].to_vec(), format, &[rows, cols]).unwrap()
                };
                [of(format, [width, hidden]), of(format, [width, hidden]), of(down, [hidden, width])]
            })
            .collect();
        let placed = Experts::new(experts.clone()).unwrap().on(&device).unwrap();
        let host_router = weight(&noise(count * hidden, 999), element, &[count, hidden]);
        let router = host_router.on(&device).unwrap();
        let routing = Routing { per_token: 2, shares: Shares::Normalised };
        let xs: Vec<f32> = noise(3 * hidden, 7).iter().map(|x| x / 16.0).collect();
        let x = activations(&device, &xs, [3, hidden], element);
        let xs: Vec<f32> = xs.iter().map(|x| element.rounded(*x)).collect();
        let run =
            |x: &Tensor| mixture(x, &router, &placed, routing, Activation::Silu).unwrap().into_vec().unwrap();
        let all = run(&x);
        let exact = reference::mixture(&xs, &host_router, &experts, routing, Activation::Silu);
        near(&format!("{format} and {down}, {element:?}"), &all, &exact, 4.0 * rounding(element) + 1e-4);
        let alone = run(&activations(&device, &xs[hidden..2 * hidden], [1, hidden], element));
        assert_eq!(alone, all[hidden..2 * hidden], "{format}");
    }
}
