//! The face of the room: each operator as one function, whatever the device of its tensors.

use super::array::{Data, Tensor};
use super::choice::Choice;
use super::cpu::{self, Level};
use super::error::{Result, TensorError, elsewhere};
use super::gpu;
use super::rows::{Indices, Numbers};
use super::weight::{Values, Vector, Weight};

/// A linear layer: a weight `[out, in]`, and a bias `[out]` where it has one.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// `[out, in]`.
    pub weight: &'a Weight,
    /// `[out]`.
    pub bias: Option<&'a Vector>,
}

/// What the gate of an MLP goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// GELU by its approximation with tanh.
    GeluTanh,
}

/// Rows of `table` `[vocab, hidden]` for `ids`, times `scale`: `[ids, hidden]`.
pub fn embedding(table: &Weight, ids: &Indices<'_>, scale: f32) -> Result<Tensor> {
    let data = match &ids.0 {
        Numbers::Host(ids) => {
            if let Some(id) = ids.iter().find(|id| **id as usize >= table.rows()) {
                let what = format!("token {id} of a vocabulary of {}", table.rows());
                return Err(TensorError::shape("embedding", what));
            }
            Data::Host(cpu::embedding(table, ids, scale))
        }
        Numbers::Device(ids) => Data::Device(gpu::embedding(placed("embedding", table)?, ids, scale)?),
    };
    Ok(Tensor::new(ids.len(), table.cols(), data))
}

/// `x Wᵀ + b`: `[rows, in]` gives `[rows, out]`.
pub fn linear(x: &Tensor, layer: Affine<'_>) -> Result<Tensor> {
    layer.takes("linear", x)?;
    let Affine { weight, bias } = layer;
    let data = match x.data() {
        Data::Host(x) => {
            let mut y = vec![0.0; x.len() / weight.cols() * weight.rows()];
            cpu::linear(Level::best(), x, weight, &mut y);
            if let Some(bias) = bias {
                cpu::add(&mut y, on_host("linear", bias)?);
            }
            Data::Host(y)
        }
        Data::Device(array) => Data::Device(gpu::linear(array, x.rows(), layer.placed("linear")?)?),
    };
    Ok(Tensor::new(x.rows(), weight.rows(), data))
}

/// `activation(gate(x)) * up(x)`: `[rows, in]` gives `[rows, out]`, for two layers of the same shape.
pub fn gated_linear<'a>(
    x: &Tensor,
    gate: Affine<'a>,
    up: Affine<'a>,
    activation: Activation,
) -> Result<Tensor> {
    expect("gated-linear", "an upward layer", up.weight.rows(), gate.weight.rows())?;
    if let Data::Device(array) = x.data() {
        gate.takes("gated-linear", x)?;
        up.takes("gated-linear", x)?;
        let (outs, on_gpu) = (gate.weight.rows(), |layer: Affine<'a>| layer.placed("gated-linear"));
        let gated = gpu::gated_linear(array, x.rows(), [on_gpu(gate)?, on_gpu(up)?], activation)?;
        return Ok(Tensor::new(x.rows(), outs, Data::Device(gated)));
    }
    gate_mul(linear(x, gate)?, &linear(x, up)?, activation)
}

/// `activation(gate) * up`, element by element: [`gated_linear`] where something comes between its products and this.
pub fn gate_mul(mut gate: Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    same_shape("gate-mul", &gate, up)?;
    let n = gate.rows() * gate.width();
    match (gate.data_mut(), up.data()) {
        (Data::Host(gate), Data::Host(up)) => cpu::gate_mul(Level::best(), activation, gate, up),
        (Data::Device(gate), Data::Device(up)) => gpu::gate_mul(gate, up, n, activation)?,
        _ => return Err(elsewhere("gate-mul")),
    }
    Ok(gate)
}

/// `x Wᵀ` in `f32`, for the last layer: `[rows, hidden]` gives `[rows, vocab]`.
pub fn logits(x: &Tensor, head: &Weight) -> Result<Tensor> {
    let layer = Affine { weight: head, bias: None };
    match x.data() {
        Data::Host(_) => linear(x, layer),
        Data::Device(array) => {
            layer.takes("logits", x)?;
            let y = gpu::logits(array, x.rows(), layer.placed("logits")?)?;
            Ok(Tensor::new(x.rows(), head.rows(), Data::Device(y)))
        }
    }
}

/// Root-mean-square normalisation of each row of `[rows, hidden]`, scaled by `gain` `[hidden]`.
pub fn rms_norm(x: &Tensor, gain: &Vector, eps: f32) -> Result<Tensor> {
    expect("rms-norm", "a gain", gain.len(), x.width())?;
    let shape = [x.rows(), x.width()];
    let data = match x.data() {
        Data::Host(x) => Data::Host(cpu::rms_norm(x, on_host("rms-norm", gain)?, eps)),
        Data::Device(x) => {
            Data::Device(gpu::rms_norm(x, shape, on_device("rms-norm", gain)?, eps, gain.element())?)
        }
    };
    Ok(Tensor::new(x.rows(), x.width(), data))
}

/// [`rms_norm`] of each head of `[rows, heads * head_dim]`, or of each whole row that a layer gives: as many neighbours at
/// a time as `gain` has values. In the element type of `x`.
pub fn rms_norm_heads(mut x: Tensor, gain: &Vector, eps: f32) -> Result<Tensor> {
    if gain.is_empty() || !x.width().is_multiple_of(gain.len()) {
        let what = format!("rows of {} for a gain of {}", x.width(), gain.len());
        return Err(TensorError::shape("rms-norm-heads", what));
    }
    let heads = x.rows() * (x.width() / gain.len());
    match x.data_mut() {
        Data::Host(values) => *values = cpu::rms_norm(values, on_host("rms-norm-heads", gain)?, eps),
        Data::Device(array) => {
            let values = on_device("rms-norm-heads", gain)?;
            gpu::rms_norm_heads(array, [heads, gain.len()], values, eps)?;
        }
    }
    Ok(x)
}

/// `cap * tanh(x / cap)`, element by element, of logits.
pub fn softcap(mut x: Tensor, cap: f32) -> Result<Tensor> {
    let n = x.rows() * x.width();
    match x.data_mut() {
        Data::Host(values) => cpu::softcap(Level::best(), values, cap),
        Data::Device(array) => gpu::softcap(array, n, cap)?,
    }
    Ok(x)
}

/// `x += y`, and then the [`rms_norm`] of `x`: how a block of a decoder gives its result to the next.
pub fn add_rms_norm(x: &mut Tensor, y: &Tensor, gain: &Vector, eps: f32) -> Result<Tensor> {
    expect("add-rms-norm", "a gain", gain.len(), x.width())?;
    same_shape("add-rms-norm", x, y)?;
    let shape = [x.rows(), x.width()];
    let data = match (x.data_mut(), y.data()) {
        (Data::Host(x), Data::Host(y)) => {
            cpu::add(x, y);
            Data::Host(cpu::rms_norm(x, on_host("add-rms-norm", gain)?, eps))
        }
        (Data::Device(x), Data::Device(y)) => {
            Data::Device(gpu::add_rms_norm(x, y, shape, on_device("add-rms-norm", gain)?, eps)?)
        }
        _ => return Err(elsewhere("add-rms-norm")),
    };
    Ok(Tensor::new(x.rows(), x.width(), data))
}

/// Normalisation of each row of `[rows, hidden]` to mean 0 and variance 1, then scaled by `gain` and moved by `bias`,
/// both `[hidden]`. On the host only: encoders compute there.
pub fn layer_norm(mut x: Tensor, gain: &Vector, bias: &Vector, eps: f32) -> Result<Tensor> {
    for vector in [gain, bias] {
        expect("layer-norm", "a vector", vector.len(), x.width())?;
    }
    match x.data_mut() {
        Data::Host(values) => {
            cpu::layer_norm(values, on_host("layer-norm", gain)?, on_host("layer-norm", bias)?, eps);
            Ok(x)
        }
        Data::Device(_) => Err(elsewhere("layer-norm")),
    }
}

/// `x Φ(x)`, element by element: GELU with the error function, not its approximation by tanh. On the host
/// only.
pub fn gelu(mut x: Tensor) -> Result<Tensor> {
    match x.data_mut() {
        Data::Host(values) => {
            cpu::gelu(Level::best(), values);
            Ok(x)
        }
        Data::Device(_) => Err(elsewhere("gelu")),
    }
}

/// `x + y`, both `[rows, width]`; or `y` is one row, which is added to each of `x`. On the host only: a GPU adds
/// where it normalises.
pub fn add(mut x: Tensor, y: &Tensor) -> Result<Tensor> {
    if y.rows() != 1 {
        same_shape("add", &x, y)?;
    }
    expect("add", "a row", y.width(), x.width())?;
    match (x.data_mut(), y.data()) {
        (Data::Host(values), Data::Host(y)) => {
            cpu::add(values, y);
            Ok(x)
        }
        _ => Err(elsewhere("add")),
    }
}

/// Rows `rows` of `x`, in that order.
pub fn select_rows(x: &Tensor, rows: &Indices<'_>) -> Result<Tensor> {
    let data = match (x.data(), &rows.0) {
        (Data::Host(values), Numbers::Host(rows)) => {
            let row = |row: &u32| values.chunks_exact(x.width().max(1)).nth(*row as usize);
            let picked: Option<Vec<&[f32]>> = rows.iter().map(row).collect();
            let picked = picked
                .ok_or_else(|| TensorError::shape("select-rows", format!("rows {rows:?} of {}", x.rows())))?;
            Data::Host(picked.concat())
        }
        (Data::Device(array), Numbers::Device(rows)) => {
            Data::Device(gpu::select_rows(array, x.width(), rows)?)
        }
        _ => return Err(elsewhere("select-rows")),
    };
    Ok(Tensor::new(rows.len(), x.width(), data))
}

/// A token of row `rows[i]` of `logits` `[rows, vocab]` for each of `choices`; none where nothing can be chosen from it.
/// A row has one choice. On a GPU its edits spend it: what else is wanted of it is read before.
///
/// # Panics
/// If there are not as many rows as choices.
pub fn choose(logits: &Tensor, rows: &[u32], choices: &[Choice]) -> Result<Vec<Option<u32>>> {
    assert_eq!(rows.len(), choices.len(), "a row for each choice");
    if let Some(row) = rows.iter().find(|row| **row as usize >= logits.rows()) {
        return Err(TensorError::shape("choose", format!("row {row} of {}", logits.rows())));
    }
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    match logits.data() {
        Data::Host(values) => {
            let row = |row: &u32| &values[*row as usize * logits.width()..][..logits.width()];
            Ok(cpu::choose(&rows.iter().map(row).collect::<Vec<_>>(), choices))
        }
        Data::Device(array) => gpu::choose(array, logits.width(), rows, choices),
    }
}

impl<'a> Affine<'a> {
    /// Refuses rows of another width, and a bias of another length.
    fn takes(self, operator: &'static str, x: &Tensor) -> Result<()> {
        let Self { weight, bias } = self;
        if x.width() != weight.cols() {
            let what =
                format!("rows of {} and a weight of [{}, {}]", x.width(), weight.rows(), weight.cols());
            return Err(TensorError::shape(operator, what));
        }
        bias.map_or(Ok(()), |bias| expect(operator, "a bias", bias.len(), weight.rows()))
    }

    /// The layer on a GPU.
    fn placed(self, operator: &'static str) -> Result<gpu::Layer<'a>> {
        let bias = self.bias.map(|bias| on_device(operator, bias)).transpose()?;
        Ok(gpu::Layer { bias, ..placed(operator, self.weight)? })
    }
}

pub(super) fn placed<'a>(operator: &'static str, weight: &'a Weight) -> Result<gpu::Layer<'a>> {
    let buffer = weight.placed().ok_or_else(|| elsewhere(operator))?;
    let (outs, width) = (weight.rows(), weight.cols());
    Ok(gpu::Layer { weight: buffer, encoding: weight.encoding(), bias: None, outs, width })
}

fn on_host<'a>(operator: &'static str, vector: &'a Vector) -> Result<&'a [f32]> {
    match vector.values() {
        Values::Host(values) => Ok(values),
        Values::Device(_) => Err(elsewhere(operator)),
    }
}

fn on_device<'a>(operator: &'static str, vector: &'a Vector) -> Result<&'a gpu::Buffer> {
    match vector.values() {
        Values::Device(values) => Ok(values),
        Values::Host(_) => Err(elsewhere(operator)),
    }
}

pub(super) fn expect(operator: &'static str, what: &str, found: usize, wanted: usize) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(TensorError::shape(operator, format!("{what} of {found} where {wanted} is wanted")))
}

fn same_shape(operator: &'static str, x: &Tensor, y: &Tensor) -> Result<()> {
    if (x.rows(), x.width()) == (y.rows(), y.width()) {
        return Ok(());
    }
    let what = format!("[{}, {}] and [{}, {}]", x.rows(), x.width(), y.rows(), y.width());
    Err(TensorError::shape(operator, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::reference::{noise, weight};
    use crate::tensor::{Device, ElementType};

    fn vector(n: usize) -> Vector {
        Vector::new(&weight(&noise(n, 1), ElementType::F32, &[n]), &Device::CPU).unwrap()
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let x = || Tensor::from_vec(vec![0.0; 12], 2, 6).unwrap();
        let w = weight(&noise(20, 1), ElementType::F32, &[4, 5]);
        let layer = Affine { weight: &w, bias: None };
        let (five, six) = (vector(5), vector(6));
        assert!(linear(&x(), layer).is_err() && gated_linear(&x(), layer, layer, Activation::Silu).is_err());
        let fits = Tensor::from_vec(vec![0.0; 10], 2, 5).unwrap();
        assert!(
            linear(&fits, layer).is_ok() && linear(&fits, Affine { bias: Some(&five), ..layer }).is_err()
        );
        assert!(rms_norm(&x(), &five, 1e-5).is_err() && rms_norm(&x(), &six, 1e-5).is_ok());
        assert!(add_rms_norm(&mut x(), &fits, &six, 1e-5).is_err());
        assert!(layer_norm(x(), &six, &six, 1e-5).is_ok());
        assert!(layer_norm(x(), &six, &five, 1e-5).is_err() && layer_norm(x(), &five, &six, 1e-5).is_err());
        assert!(rms_norm_heads(x(), &five, 1e-5).is_err() && rms_norm_heads(x(), &vector(3), 1e-5).is_ok());
        assert!(embedding(&w, &Indices::host(&[0, 4]), 1.0).is_err());
        assert!(add(x(), &fits).is_err());
        assert!(select_rows(&x(), &Indices::host(&[2])).is_err());
        assert!(Tensor::from_vec(vec![0.0; 11], 2, 6).is_err() && Vector::new(&w, &Device::CPU).is_err());
    }
}
