//! Mixtures of experts on a device: rows are routed there, so that a recorded pass needs nothing of the host.

#![allow(unsafe_code)]

use super::driver::{Gpu, Shape};
use super::launch::Launch;
use super::memory::Buffer;
use super::ops::{Array, Layer, activation_code, same_element};
use crate::tensor::encoding::Encoding;
use crate::tensor::error::Result;
use crate::tensor::experts::{Routing, Shares};
use crate::tensor::ops::Activation;

/// Warps of the blocks of experts.cu, each of which takes one output.
const WARPS: usize = 4;

/// The sizes of a mixture.
#[derive(Debug, Clone, Copy)]
pub(in crate::tensor) struct MixtureShape {
    pub(in crate::tensor) rows: usize,
    pub(in crate::tensor) hidden: usize,
    /// Of one expert.
    pub(in crate::tensor) width: usize,
    pub(in crate::tensor) experts: usize,
    /// Of gates and upward layers, and of downward layers.
    pub(in crate::tensor) encodings: [Encoding; 2],
}

/// Where weights lie, as kernels find them.
pub(in crate::tensor) fn table(gpu: &Gpu, layers: &[Layer<'_>]) -> Result<Buffer> {
    let bytes: Vec<u8> = layers.iter().flat_map(|layer| layer.weight.address().to_le_bytes()).collect();
    gpu.place(&bytes)
}

/// `scores` are `f32` `[rows, experts]`.
pub(in crate::tensor) fn mixture(
    x: &Array,
    scores: &Array,
    table: &Buffer,
    shape: MixtureShape,
    (routing, activation): (Routing, Activation),
) -> Result<Array> {
    let MixtureShape { rows, hidden, width, experts, encodings } = shape;
    let element = x.element;
    for encoding in encodings {
        if let Encoding::Plain(own) = encoding {
            same_element("mixture", element, own)?;
        }
    }
    let [gated, down] = encodings.map(|encoding| match encoding {
        Encoding::Plain(element) => element.name().to_owned(),
        Encoding::Blocks(format) => format!("{}_{}", format.name(), element.name()),
    });
    let (gpu, per_token) = (x.buffer.gpu(), routing.per_token);
    let picks = rows * per_token;
    let picked = gpu.scratch(picks * size_of::<u32>())?;
    let shares = gpu.scratch(picks * size_of::<f32>())?;
    let normalised = usize::from(routing.shares == Shares::Normalised);
    let launch = Launch::of("route").buffer(&scores.buffer).buffer(&picked).buffer(&shares);
    let launch = launch.int(experts).int(per_token).int(normalised);
    // SAFETY: route(scores, picked, shares, experts, per_token, normalised), a warp a row
    unsafe { launch.go(gpu, Shape { grid: [rows as u32, 1, 1], block: 32, shared: 0 })? };

    let h = Array::new(gpu, picks * width, element)?;
    let launch = Launch::of(format!("experts_gated_{gated}"));
    let launch = launch.buffer(&x.buffer).buffer(table).buffer(&picked).buffer(&h.buffer);
    let launch = launch.int(per_token).int(experts).int(width).int(hidden).int(activation_code(activation));
    // SAFETY: experts_gated(x, table, picked, h, per_token, experts, outs, width, activation)
    unsafe { launch.go(gpu, an_output(width, picks))? };

    let y = Array::new(gpu, rows * hidden, element)?;
    let launch = Launch::of(format!("experts_down_{down}"));
    let launch = launch.buffer(&h.buffer).buffer(table).buffer(&picked).buffer(&shares).buffer(&y.buffer);
    let launch = launch.int(per_token).int(experts).int(hidden).int(width);
    // SAFETY: experts_down(h, table, picked, shares, y, per_token, experts, outs, width)
    unsafe { launch.go(gpu, an_output(hidden, rows))? };
    Ok(y)
}

/// A warp for each output of each row.
fn an_output(outs: usize, rows: usize) -> Shape {
    Shape { grid: [rows as u32, outs.div_ceil(WARPS) as u32, 1], block: 32 * WARPS as u32, shared: 0 }
}
