//! Launches over quantised weights: products of few rows from the blocks, of many by way of the weight's numbers.

#![allow(unsafe_code)]

use super::driver::{Gpu, Shape};
use super::gemm::{Product, ProductShape};
use super::launch::Launch;
use super::lists::Indices;
use super::ops::{Array, Layer, a_row, activation_code};
use crate::tensor::blocks::BlockFormat;
use crate::tensor::encoding::{ElementType, Encoding};
use crate::tensor::error::Result;
use crate::tensor::ops::Activation;

/// Threads and warps of the kernels of quantised.cu, and the outputs and the rows that a block of them takes.
const THREADS: u32 = 256;
const WARPS: usize = 8;
const OUTS: usize = 16;
const ROWS: usize = 8;
/// Rows up to which blocks are multiplied as they are. Each eight rows cost their own unpacking, but no more of the memory; a
/// weight that is widened is read, written and read again in two bytes a number, once for all rows.
const FEW_ROWS: usize = 64;
/// Bytes of a weight's numbers that are widened at once: enough outputs to keep a GPU busy, and little beside a pass's own
/// memory, with which they are taken and given back. Few in tests, so that theirs are several parts, too.
const WIDENED_BYTES: usize = if cfg!(test) { 12 << 10 } else { 64 << 20 };

/// `x Wᵀ + b`, in `out`: the element type of `x`, or `f32`.
pub(super) fn product(
    x: &Array,
    rows: usize,
    layer: Layer<'_>,
    format: BlockFormat,
    out: ElementType,
) -> Result<Array> {
    if rows > FEW_ROWS {
        return widened(x, rows, layer, format, out);
    }
    let Layer { weight, bias, outs, width, .. } = layer;
    let (gpu, element) = (x.buffer.gpu(), x.element);
    let y = Array::new(gpu, rows * outs, out)?;
    let launch = Launch::of(format!("linear_{}_{}", format.name(), element.name()));
    let launch = launch.buffer(&x.buffer).buffer(weight).optional(bias).buffer(&y.buffer);
    if element == ElementType::F32 {
        let launch = launch.int(outs).int(width);
        let shape = Shape { grid: [rows as u32, outs.div_ceil(WARPS) as u32, 1], block: THREADS, shared: 0 };
        // SAFETY: linear_f32(x, weight, bias, y, outs, width), a warp an output of a row
        unsafe { launch.go(gpu, shape)? };
        return Ok(y);
    }
    let launch = launch.int(rows).int(outs).int(width).int(usize::from(out == ElementType::F32));
    // SAFETY: linear(x, weight, bias, y, rows, outs, width, wide)
    unsafe { launch.go(gpu, tiles(rows, outs))? };
    Ok(y)
}

/// `activation(gate(x)) * up(x)` in one launch, where there is a kernel for it: few rows of 16 bits, and one format.
pub(super) fn gated(
    x: &Array,
    rows: usize,
    [gate, up]: [Layer<'_>; 2],
    activation: Activation,
) -> Result<Option<Array>> {
    let Encoding::Blocks(format) = gate.encoding else { return Ok(None) };
    if up.encoding != gate.encoding || rows > FEW_ROWS || x.element == ElementType::F32 {
        return Ok(None);
    }
    let gpu = x.buffer.gpu();
    let y = Array::new(gpu, rows * gate.outs, x.element)?;
    let launch = Launch::of(format!("gated_{}_{}", format.name(), x.element.name()));
    let launch = launch.buffer(&x.buffer).buffer(gate.weight).optional(gate.bias);
    let launch = launch.buffer(up.weight).optional(up.bias).buffer(&y.buffer);
    let launch = launch.int(rows).int(gate.outs).int(gate.width).int(activation_code(activation));
    // SAFETY: gated(x, gate, gate_bias, up, up_bias, y, rows, outs, width, activation)
    unsafe { launch.go(gpu, tiles(rows, gate.outs))? };
    Ok(Some(y))
}

/// The rows `ids` of `table` times `scale`, as `f32`.
pub(super) fn embedding(table: Layer<'_>, format: BlockFormat, ids: &Indices, scale: f32) -> Result<Array> {
    let gpu = ids.gpu();
    let out = Array::new(gpu, ids.len() * table.width, ElementType::F32)?;
    let launch = Launch::of(format!("embedding_{}", format.name())).buffer(table.weight).list(ids);
    let launch = launch.buffer(&out.buffer).int(table.outs).int(table.width).float(scale);
    // SAFETY: embedding(table, ids, out, vocab, width, scale): the host knows the ids to be rows of the table
    unsafe { launch.go(gpu, a_row(ids.len()))? };
    Ok(out)
}

/// A whole number of so many outputs takes a multiple of 256 bytes: cuBLASLt plans for matrices that begin at one.
const ALIGNED_OUTS: usize = 128;

/// A part of the outputs after the other: their numbers in the element type of `x`, and the product of matrices with them.
fn widened(x: &Array, rows: usize, layer: Layer<'_>, format: BlockFormat, out: ElementType) -> Result<Array> {
    let Layer { weight, bias, outs, width, .. } = layer;
    let (gpu, element): (&Gpu, _) = (x.buffer.gpu(), x.element);
    let y = Array::new(gpu, rows * outs, out)?;
    let fit = WIDENED_BYTES / (width * element.size());
    let at_once = (fit - fit % ALIGNED_OUTS).max(ALIGNED_OUTS).min(outs);
    let numbers = gpu.scratch(at_once * width * element.size())?;
    for first in (0..outs).step_by(at_once) {
        let part = at_once.min(outs - first);
        let launch = Launch::of(format!("widen_{}_{}", format.name(), element.name()));
        let launch = launch.buffer(weight).buffer(&numbers).int(first).int(outs).int(width);
        // SAFETY: widen(weight, numbers, first, outs, width) of so many rows, for which the scratch has room
        unsafe { launch.go(gpu, a_row(part))? };
        let shape = ProductShape { rows, outs: part, y_stride: outs, width, element, out };
        let y = y.buffer.address() + (first * out.size()) as u64;
        let product = Product { x: x.buffer.address(), weight: numbers.address(), y, shape };
        // SAFETY: the buffers hold matrices of this shape
        unsafe { gpu.multiply(&product)? };
    }
    if let Some(bias) = bias {
        super::ops::add_bias(&y, bias, [rows, outs])?;
    }
    Ok(y)
}

/// Groups of rows that share outputs beside each other: the second finds the weights of the first in the cache.
fn tiles(rows: usize, outs: usize) -> Shape {
    Shape { grid: [rows.div_ceil(ROWS) as u32, outs.div_ceil(OUTS) as u32, 1], block: THREADS, shared: 0 }
}
