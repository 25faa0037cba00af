//! Each operator's launch: which kernel, over what shape, with which arguments.
//!
//! The residual stream is `f32`. What a layer multiplies is in the type that the gain of the norm before it gives
//! (`Vector::element`), of which plain weights are, too; products give the same, but for logits, which are `f32`.

#![allow(unsafe_code)]

use std::sync::Arc;

use super::driver::{Gpu, Shape};
use super::gemm::{Product, ProductShape};
use super::launch::Launch;
use super::lists::Indices;
use super::memory::Buffer;
use super::quantised;
use crate::tensor::encoding::{ElementType, Encoding};
use crate::tensor::error::{Result, TensorError};
use crate::tensor::ops::Activation;

/// Threads of the kernels of norm.cu, rope.cu and elementwise.cu.
const THREADS: u32 = 256;
/// Warps of linear.cu's blocks.
const LINEAR_WARPS: usize = 4;
/// Rows up to this width are normalised by a warp each.
const WIDEST_HEAD: usize = 256;
/// Rows up to which linear.cu is used: it reads each weight once for so many rows.
const FEW_ROWS: usize = 8;

/// The elements of a tensor on a device.
#[derive(Debug, Clone)]
pub(in crate::tensor) struct Array {
    pub(super) buffer: Arc<Buffer>,
    pub(super) element: ElementType,
}

/// A weight on a device, or a layer's weight and bias.
#[derive(Clone, Copy)]
pub(in crate::tensor) struct Layer<'a> {
    /// `[outs, width]`.
    pub(in crate::tensor) weight: &'a Buffer,
    pub(in crate::tensor) encoding: Encoding,
    /// `f32` `[outs]`.
    pub(in crate::tensor) bias: Option<&'a Buffer>,
    pub(in crate::tensor) outs: usize,
    pub(in crate::tensor) width: usize,
}

impl Layer<'_> {
    /// The type of its weight's elements; an error where that is quantised.
    pub(super) fn plain(&self) -> Result<ElementType> {
        match self.encoding {
            Encoding::Plain(element) => Ok(element),
            Encoding::Blocks(format) => {
                Err(TensorError::shape("weight", format!("{format}, which is quantised")))
            }
        }
    }
}

impl Array {
    pub(super) fn new(gpu: &Gpu, n: usize, element: ElementType) -> Result<Self> {
        Ok(Self { buffer: Arc::new(gpu.scratch(n * element.size())?), element })
    }

    /// What lies in a buffer.
    #[cfg(test)]
    pub(in crate::tensor) const fn of(buffer: Arc<Buffer>, element: ElementType) -> Self {
        Self { buffer, element }
    }

    /// A row of so many elements as `f32`, once all work before is done.
    pub(in crate::tensor) fn row(&self, row: usize, width: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; width * self.element.size()];
        self.buffer.gpu().read_from(&self.buffer, row * bytes.len(), &mut bytes)?;
        Ok(self.element.widen(&bytes))
    }

    /// The first `n` elements as `f32`, once all work before is done.
    pub(in crate::tensor) fn to_vec(&self, n: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; n * self.element.size()];
        self.buffer.gpu().read(&self.buffer, &mut bytes)?;
        Ok(self.element.widen(&bytes))
    }
}

/// One block a row.
pub(super) fn a_row(rows: usize) -> Shape {
    Shape { grid: [rows as u32, 1, 1], block: THREADS, shared: 0 }
}

/// One thread an element.
pub(super) fn an_element(n: usize) -> Shape {
    Shape { grid: [n.div_ceil(THREADS as usize) as u32, 1, 1], block: THREADS, shared: 0 }
}

/// Refuses an element type that an operator does not take.
pub(super) fn same_element(operator: &'static str, found: ElementType, wanted: ElementType) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let what = format!("{found:?} where {wanted:?} is wanted: a GPU takes weights of one element type");
    Err(TensorError::shape(operator, what))
}

/// As the kernels number them.
pub(super) const fn activation_code(activation: Activation) -> usize {
    match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
    }
}

/// The rows `ids` of `table` times `scale`, as `f32`.
pub(in crate::tensor) fn embedding(table: Layer<'_>, ids: &Indices, scale: f32) -> Result<Array> {
    let element = match table.encoding {
        Encoding::Plain(element) => element,
        Encoding::Blocks(format) => return quantised::embedding(table, format, ids, scale),
    };
    let gpu = ids.gpu();
    let out = Array::new(gpu, ids.len() * table.width, ElementType::F32)?;
    let launch = Launch::of(format!("embedding_{}", element.name()));
    let launch = launch.buffer(table.weight).list(ids).buffer(&out.buffer).int(table.width).float(scale);
    // SAFETY: embedding(table, ids, out, width, scale): the host knows the ids to be rows of the table
    unsafe { launch.go(gpu, a_row(ids.len()))? };
    Ok(out)
}

/// The rows `rows` of `x`.
pub(in crate::tensor) fn select_rows(x: &Array, width: usize, rows: &Indices) -> Result<Array> {
    let gpu = x.buffer.gpu();
    let out = Array::new(gpu, rows.len() * width, x.element)?;
    let launch = Launch::of(format!("select_rows_{}", x.element.name()));
    let launch = launch.buffer(&x.buffer).list(rows).buffer(&out.buffer).int(width);
    // SAFETY: select_rows(x, rows, out, width): the host knows them to be rows of x
    unsafe { launch.go(gpu, a_row(rows.len()))? };
    Ok(out)
}

/// `f32` in, what the next layer multiplies out.
pub(in crate::tensor) fn rms_norm(
    x: &Array,
    [rows, width]: [usize; 2],
    gain: &Buffer,
    eps: f32,
    out: ElementType,
) -> Result<Array> {
    same_element("rms-norm", x.element, ElementType::F32)?;
    let gpu = x.buffer.gpu();
    let normed = Array::new(gpu, rows * width, out)?;
    let launch = Launch::of(format!("rms_norm_{}", out.name()));
    let launch = launch.buffer(&x.buffer).buffer(gain).buffer(&normed.buffer).int(width).float(eps);
    // SAFETY: rms_norm(x, gain, out, width, eps) of so many rows
    unsafe { launch.go(gpu, a_row(rows))? };
    Ok(normed)
}

/// `x += y` and the norm of `x`.
pub(in crate::tensor) fn add_rms_norm(
    x: &Array,
    y: &Array,
    [rows, width]: [usize; 2],
    gain: &Buffer,
    eps: f32,
) -> Result<Array> {
    same_element("add-rms-norm", x.element, ElementType::F32)?;
    let gpu = x.buffer.gpu();
    let normed = Array::new(gpu, rows * width, y.element)?;
    let launch = Launch::of(format!("add_rms_norm_{}", y.element.name()));
    let launch =
        launch.buffer(&x.buffer).buffer(&y.buffer).buffer(gain).buffer(&normed.buffer).int(width).float(eps);
    // SAFETY: add_rms_norm(x, y, gain, out, width, eps) of so many rows
    unsafe { launch.go(gpu, a_row(rows))? };
    Ok(normed)
}

/// The norm of each of `heads` neighbours in a row, in their place.
pub(in crate::tensor) fn rms_norm_heads(
    x: &Array,
    [heads, width]: [usize; 2],
    gain: &Buffer,
    eps: f32,
) -> Result<()> {
    let gpu = x.buffer.gpu();
    let element = x.element.name();
    if width > WIDEST_HEAD {
        let launch = Launch::of(format!("rms_norm_rows_{element}"));
        let launch = launch.buffer(&x.buffer).buffer(gain).int(width).float(eps);
        // SAFETY: rms_norm_rows(x, gain, width, eps) of so many rows
        return unsafe { launch.go(gpu, a_row(heads)) };
    }
    let launch = Launch::of(format!("rms_norm_heads_{element}"));
    let launch = launch.buffer(&x.buffer).buffer(gain).int(heads).int(width).float(eps);
    // SAFETY: rms_norm_heads(x, gain, heads, width, eps), a warp a head
    unsafe { launch.go(gpu, an_element(heads * 32)) }
}

/// `cap * tanh(x / cap)` of `n` logits, in their place.
pub(in crate::tensor) fn softcap(x: &Array, n: usize, cap: f32) -> Result<()> {
    same_element("softcap", x.element, ElementType::F32)?;
    let launch = Launch::of("softcap").buffer(&x.buffer).float(cap).size(n);
    // SAFETY: softcap(x, cap, n)
    unsafe { launch.go(x.buffer.gpu(), an_element(n)) }
}

/// `x Wᵀ + b` in the element type of `x`.
pub(in crate::tensor) fn linear(x: &Array, rows: usize, layer: Layer<'_>) -> Result<Array> {
    product("linear", x, rows, layer, x.element)
}

/// `x Wᵀ` in `f32`.
pub(in crate::tensor) fn logits(x: &Array, rows: usize, head: Layer<'_>) -> Result<Array> {
    product("logits", x, rows, head, ElementType::F32)
}

fn product(name: &'static str, x: &Array, rows: usize, layer: Layer<'_>, out: ElementType) -> Result<Array> {
    let Layer { weight, encoding, bias, outs, width } = layer;
    let element = match encoding {
        Encoding::Plain(element) => element,
        Encoding::Blocks(format) => return quantised::product(x, rows, layer, format, out),
    };
    same_element(name, x.element, element)?;
    let gpu = x.buffer.gpu();
    let y = Array::new(gpu, rows * outs, out)?;
    if rows <= FEW_ROWS {
        let launch = Launch::of(format!("{name}_{}_{}", element.name(), few(rows)));
        let launch = launch.buffer(&x.buffer).buffer(weight).optional(bias).buffer(&y.buffer);
        let launch = launch.int(rows).int(outs).int(width);
        // two outputs a warp
        // SAFETY: linear(x, weight, bias, y, rows, outs, width)
        unsafe { launch.go(gpu, warps(outs.div_ceil(2)))? };
        return Ok(y);
    }
    let shape = ProductShape { rows, outs, y_stride: outs, width, element, out };
    let addresses = [&*x.buffer, weight, &*y.buffer].map(Buffer::address);
    let product = Product { x: addresses[0], weight: addresses[1], y: addresses[2], shape };
    // SAFETY: the buffers hold matrices of this shape
    unsafe { gpu.multiply(&product)? };
    if let Some(bias) = bias {
        add_bias(&y, bias, [rows, outs])?;
    }
    Ok(y)
}

/// `y += bias`, row by row.
pub(super) fn add_bias(y: &Array, bias: &Buffer, [rows, outs]: [usize; 2]) -> Result<()> {
    let n = rows * outs;
    let launch = Launch::of(format!("add_bias_{}", y.element.name()));
    let launch = launch.buffer(&y.buffer).buffer(bias).int(outs).size(n);
    // SAFETY: add_bias(y, bias, width, n)
    unsafe { launch.go(y.buffer.gpu(), an_element(n)) }
}

/// `activation(gate(x)) * up(x)`.
pub(in crate::tensor) fn gated_linear(
    x: &Array,
    rows: usize,
    [gate, up]: [Layer<'_>; 2],
    activation: Activation,
) -> Result<Array> {
    if let Some(y) = quantised::gated(x, rows, [gate, up], activation)? {
        return Ok(y);
    }
    let (gpu, element) = (x.buffer.gpu(), x.element);
    if rows <= FEW_ROWS && [gate.encoding, up.encoding] == [Encoding::Plain(element); 2] {
        let y = Array::new(gpu, rows * gate.outs, element)?;
        // compiled for each: one that asks which needs more registers than there are
        let name = match activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu",
        };
        let launch = Launch::of(format!("gated_{name}_{}_{}", element.name(), few(rows)));
        let launch = launch.buffer(&x.buffer).buffer(gate.weight).optional(gate.bias);
        let launch = launch.buffer(up.weight).optional(up.bias).buffer(&y.buffer);
        let launch = launch.int(rows).int(gate.outs).int(gate.width);
        // one output a warp: a row of each weight
        // SAFETY: gated(x, gate, gate_bias, up, up_bias, y, rows, outs, width)
        unsafe { launch.go(gpu, warps(gate.outs))? };
        return Ok(y);
    }
    let n = rows * gate.outs;
    let (gate, up) = (linear(x, rows, gate)?, linear(x, rows, up)?);
    gate_mul(&gate, &up, n, activation).map(|()| gate)
}

/// `activation(gate) * up` of `n` elements, in the place of `gate`.
pub(in crate::tensor) fn gate_mul(gate: &Array, up: &Array, n: usize, activation: Activation) -> Result<()> {
    same_element("gate-mul", up.element, gate.element)?;
    let launch = Launch::of(format!("gate_mul_{}", gate.element.name()));
    let launch = launch.buffer(&gate.buffer).buffer(&up.buffer).size(n).int(activation_code(activation));
    // SAFETY: gate_mul(gate, up, n, activation)
    unsafe { launch.go(gate.buffer.gpu(), an_element(n)) }
}

/// The number of rows that a kernel of linear.cu is compiled for.
const fn few(rows: usize) -> usize {
    match rows {
        0..=1 => 1,
        2 => 2,
        3..=4 => 4,
        _ => FEW_ROWS,
    }
}

fn warps(n: usize) -> Shape {
    Shape { grid: [n.div_ceil(LINEAR_WARPS) as u32, 1, 1], block: 32 * LINEAR_WARPS as u32, shared: 0 }
}

/// Cosine and sine of each row's position, `[rows, half]`.
pub(in crate::tensor) fn angles(
    positions: &Indices,
    frequencies: &Buffer,
    half: usize,
    factor: f32,
) -> Result<Buffer> {
    let (gpu, rows) = (positions.gpu(), positions.len());
    let angles = gpu.scratch(rows * half * 2 * size_of::<f32>())?;
    let launch = Launch::of("rope_angles").list(positions).buffer(frequencies).float(factor);
    let launch = launch.buffer(&angles).int(rows).int(half);
    // SAFETY: rope_angles(positions, frequencies, factor, angles, rows, half)
    unsafe { launch.go(gpu, an_element(rows * half))? };
    Ok(angles)
}
