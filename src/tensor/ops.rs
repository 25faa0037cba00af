//! The face of the room: each operator as one function, whatever the device of its tensors.

use super::array::{Data, Tensor};
use super::cpu::{self, Level};
use super::error::{Result, TensorError};
use super::kv::{KvCache, Store};
use super::rope::{RopeAngles, Turns};
use super::rows::{Contexts, Indices, Rows};
use super::weight::{Values, Vector, Weight};

/// A linear layer: a weight `[out, in]`, and a bias `[out]` where it has one.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// `[out, in]`.
    pub weight: &'a Weight,
    /// `[out]`.
    pub bias: Option<&'a Vector>,
}

/// Rows of `table` `[vocab, hidden]` for `ids`: `[ids, hidden]`.
pub fn embedding(table: &Weight, ids: &Indices<'_>) -> Result<Tensor> {
    let shape = |data| Tensor::new(ids.len(), table.cols(), data);
    match ids {
        Indices::Host(ids) => {
            if let Some(id) = ids.iter().find(|id| **id as usize >= table.rows()) {
                let what = format!("token {id} of a vocabulary of {}", table.rows());
                return Err(TensorError::shape("embedding", what));
            }
            Ok(shape(Data::Host(cpu::embedding(table, ids))))
        }
    }
}

/// `x Wᵀ + b`: `[rows, in]` gives `[rows, out]`.
pub fn linear(x: &Tensor, layer: Affine<'_>) -> Result<Tensor> {
    let Affine { weight, bias } = layer;
    if x.width() != weight.cols() {
        let what = format!("rows of {} and a weight of [{}, {}]", x.width(), weight.rows(), weight.cols());
        return Err(TensorError::shape("linear", what));
    }
    if let Some(bias) = bias {
        expect("linear", "a bias", bias.len(), weight.rows())?;
    }
    let data = match x.data() {
        Data::Host(x) => {
            let mut y = vec![0.0; x.len() / weight.cols() * weight.rows()];
            cpu::linear(Level::best(), x, weight, &mut y);
            if let Some(bias) = bias {
                cpu::add(&mut y, on_host(bias));
            }
            Data::Host(y)
        }
    };
    Ok(Tensor::new(x.rows(), weight.rows(), data))
}

/// `silu(gate(x)) * up(x)`: `[rows, in]` gives `[rows, out]`, for two layers of the same shape.
pub fn gated_linear(x: &Tensor, gate: Affine<'_>, up: Affine<'_>) -> Result<Tensor> {
    expect("gated-linear", "an upward layer", up.weight.rows(), gate.weight.rows())?;
    let (mut gate, up) = (linear(x, gate)?, linear(x, up)?);
    match (gate.data_mut(), up.data()) {
        (Data::Host(gate), Data::Host(up)) => cpu::silu_mul(Level::best(), gate, up),
    }
    Ok(gate)
}

/// `x Wᵀ` in `f32`, for the last layer: `[rows, hidden]` gives `[rows, vocab]`.
pub fn logits(x: &Tensor, head: &Weight) -> Result<Tensor> {
    linear(x, Affine { weight: head, bias: None })
}

/// Root-mean-square normalisation of each row of `[rows, hidden]`, scaled by `gain` `[hidden]`.
pub fn rms_norm(x: &Tensor, gain: &Vector, eps: f32) -> Result<Tensor> {
    expect("rms-norm", "a gain", gain.len(), x.width())?;
    let data = match x.data() {
        Data::Host(x) => Data::Host(cpu::rms_norm(x, on_host(gain), eps)),
    };
    Ok(Tensor::new(x.rows(), x.width(), data))
}

/// `x += y`, and then the [`rms_norm`] of `x`: how a block of a decoder gives its result to the next.
pub fn add_rms_norm(x: &mut Tensor, y: &Tensor, gain: &Vector, eps: f32) -> Result<Tensor> {
    expect("add-rms-norm", "a gain", gain.len(), x.width())?;
    same_shape("add-rms-norm", x, y)?;
    let data = match (x.data_mut(), y.data()) {
        (Data::Host(x), Data::Host(y)) => {
            cpu::add(x, y);
            Data::Host(cpu::rms_norm(x, on_host(gain), eps))
        }
    };
    Ok(Tensor::new(x.rows(), x.width(), data))
}

/// Normalisation of each row of `[rows, hidden]` to mean 0 and variance 1, then scaled by `gain` and moved by `bias`,
/// both `[hidden]`.
pub fn layer_norm(mut x: Tensor, gain: &Vector, bias: &Vector, eps: f32) -> Result<Tensor> {
    for vector in [gain, bias] {
        expect("layer-norm", "a vector", vector.len(), x.width())?;
    }
    match x.data_mut() {
        Data::Host(x) => cpu::layer_norm(x, on_host(gain), on_host(bias), eps),
    }
    Ok(x)
}

/// `x Φ(x)`, element by element: GELU with the error function, not its approximation by tanh.
pub fn gelu(mut x: Tensor) -> Tensor {
    match x.data_mut() {
        Data::Host(x) => cpu::gelu(Level::best(), x),
    }
    x
}

/// `x + y`, both `[rows, width]`; or `y` is one row, which is added to each of `x`.
pub fn add(mut x: Tensor, y: &Tensor) -> Result<Tensor> {
    if y.rows() != 1 {
        same_shape("add", &x, y)?;
    }
    expect("add", "a row", y.width(), x.width())?;
    match (x.data_mut(), y.data()) {
        (Data::Host(x), Data::Host(y)) => cpu::add(x, y),
    }
    Ok(x)
}

/// Rows `rows` of `x`, in that order.
pub fn select_rows(x: &Tensor, rows: &Indices<'_>) -> Result<Tensor> {
    let data = match (x.data(), rows) {
        (Data::Host(values), Indices::Host(rows)) => {
            let row = |row: &u32| values.chunks_exact(x.width().max(1)).nth(*row as usize);
            let picked: Option<Vec<&[f32]>> = rows.iter().map(row).collect();
            let picked = picked
                .ok_or_else(|| TensorError::shape("select-rows", format!("rows {rows:?} of {}", x.rows())))?;
            Data::Host(picked.concat())
        }
    };
    Ok(Tensor::new(rows.len(), x.width(), data))
}

/// Writes keys and values, each `[rows, kv_heads * head_dim]`, into the slots of their rows in layer `layer`.
pub fn write_kv(
    cache: &mut KvCache,
    layer: usize,
    rows: &Rows<'_>,
    keys: &Tensor,
    values: &Tensor,
) -> Result<()> {
    in_cache("write-kv", cache, layer, rows)?;
    for x in [keys, values] {
        expect("write-kv", "rows", x.rows(), rows.len())?;
        expect("write-kv", "a width", x.width(), cache.layout().slot())?;
    }
    match (cache.store_mut(), &rows.slots, keys.data(), values.data()) {
        (Store::Host(store), Indices::Host(slots), Data::Host(keys), Data::Host(values)) => {
            store.write(layer, slots, keys, values);
        }
    }
    Ok(())
}

/// Rotary position embedding of queries `[rows, heads * head_dim]` and keys, each row by its own angles; the keys and
/// their values then go into their slots as by [`write_kv`]. Gives the queries.
pub fn rope_write_kv(
    mut queries: Tensor,
    mut keys: Tensor,
    values: &Tensor,
    angles: &RopeAngles,
    (cache, layer): (&mut KvCache, usize),
    rows: &Rows<'_>,
) -> Result<Tensor> {
    expect("rope", "a head", cache.layout().head_dim, angles.head_dim())?;
    for x in [&queries, &keys] {
        expect("rope", "rows", x.rows(), rows.len())?;
        if !x.width().is_multiple_of(angles.head_dim()) {
            let what = format!("rows of {} for heads of {}", x.width(), angles.head_dim());
            return Err(TensorError::shape("rope", what));
        }
    }
    match (queries.data_mut(), keys.data_mut(), angles.turns()) {
        (Data::Host(queries), Data::Host(keys), Turns::Host(turns)) => {
            cpu::rope(queries, turns, angles.head_dim() / 2);
            cpu::rope(keys, turns, angles.head_dim() / 2);
        }
    }
    write_kv(cache, layer, rows, &keys, values)?;
    Ok(queries)
}

/// Attention of queries `[rows, heads * head_dim]`, each row over its own context in layer `layer` of the cache.
pub fn paged_attention(queries: &Tensor, cache: &KvCache, layer: usize, rows: &Rows<'_>) -> Result<Tensor> {
    in_cache("paged-attention", cache, layer, rows)?;
    let layout = cache.layout();
    expect("paged-attention", "rows", queries.rows(), rows.len())?;
    if !queries.width().is_multiple_of(layout.slot()) {
        let what = format!("rows of {} over {layout:?}", queries.width());
        return Err(TensorError::shape("paged-attention", what));
    }
    let data = match (queries.data(), cache.store(), rows.contexts()) {
        (Data::Host(queries), Store::Host(store), Contexts::Host(contexts)) => {
            Data::Host(cpu::attend(Level::best(), queries, contexts, store, layer))
        }
    };
    Ok(Tensor::new(queries.rows(), queries.width(), data))
}

fn on_host(vector: &Vector) -> &[f32] {
    let Values::Host(values) = vector.values();
    values
}

fn in_cache(operator: &'static str, cache: &KvCache, layer: usize, rows: &Rows<'_>) -> Result<()> {
    let layout = cache.layout();
    if layer < layout.layers && rows.layout() == layout {
        return Ok(());
    }
    Err(TensorError::shape(operator, format!("layer {layer} of {layout:?}, for rows in {:?}", rows.layout())))
}

fn expect(operator: &'static str, what: &str, found: usize, wanted: usize) -> Result<()> {
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
    use crate::tensor::{Context, Device, ElementType, HostRows, KvLayout, Mask};

    fn vector(n: usize) -> Vector {
        Vector::new(&weight(&noise(n, 1), ElementType::F32, &[n]), &Device::Cpu).unwrap()
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let x = || Tensor::from_vec(vec![0.0; 12], 2, 6).unwrap();
        let w = weight(&noise(20, 1), ElementType::F32, &[4, 5]);
        let layer = Affine { weight: &w, bias: None };
        let (five, six) = (vector(5), vector(6));
        assert!(linear(&x(), layer).is_err() && gated_linear(&x(), layer, layer).is_err());
        let fits = Tensor::from_vec(vec![0.0; 10], 2, 5).unwrap();
        assert!(
            linear(&fits, layer).is_ok() && linear(&fits, Affine { bias: Some(&five), ..layer }).is_err()
        );
        assert!(rms_norm(&x(), &five, 1e-5).is_err() && rms_norm(&x(), &six, 1e-5).is_ok());
        assert!(add_rms_norm(&mut x(), &fits, &six, 1e-5).is_err());
        assert!(layer_norm(x(), &six, &six, 1e-5).is_ok());
        assert!(layer_norm(x(), &six, &five, 1e-5).is_err() && layer_norm(x(), &five, &six, 1e-5).is_err());
        assert!(embedding(&w, &Indices::Host(&[0, 4])).is_err());
        assert!(add(x(), &fits).is_err());
        assert!(select_rows(&x(), &Indices::Host(&[2])).is_err());
        assert!(Tensor::from_vec(vec![0.0; 11], 2, 6).is_err() && Vector::new(&w, &Device::Cpu).is_err());
    }

    #[test]
    fn rows_of_another_cache_are_refused() {
        let layout = KvLayout { layers: 1, blocks: 2, block_size: 4, kv_heads: 1, head_dim: 6 };
        let context = Context { rows: 2, len: 2, blocks: &[0], mask: Mask::Causal };
        let host = HostRows {
            tokens: &[0, 0],
            positions: &[0, 1],
            slots: &[0, 1],
            wanted: &[],
            contexts: &[context],
        };
        let rows = |layout| Rows::new(&Device::Cpu, layout, host).unwrap();
        let mut cache = KvCache::new(&Device::Cpu, layout).unwrap();
        let x = |n| Tensor::from_vec(vec![0.0; n * 6], n, 6).unwrap();
        let larger = KvLayout { blocks: 3, ..layout };
        for (n, layer, layout, fits) in
            [(2, 0, layout, true), (1, 0, layout, false), (2, 1, layout, false), (2, 0, larger, false)]
        {
            assert_eq!(write_kv(&mut cache, layer, &rows(layout), &x(n), &x(n)).is_ok(), fits);
            assert_eq!(paged_attention(&x(n), &cache, layer, &rows(layout)).is_ok(), fits);
        }
    }
}
