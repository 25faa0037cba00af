//! The face of the room: each operator as a function over candle tensors.
//!
//! An operator is a candle custom op whose CPU body calls a kernel beside this file; a device joins by giving
//! the same op a body of its own, and no caller changes.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};

use super::attention::{Contexts, KvCache, attend};
use super::isa::Level;
use super::rowwise::{self, RopeAngles};
use super::weight::Weight;

/// The elements of a contiguous tensor.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a tensor that is not contiguous") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

struct Linear<'a>(&'a Weight);

impl CustomOp1 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = layout.dims()[0];
        let mut y = vec![0.0; rows * self.0.rows()];
        super::linear::linear(Level::best(), elements(storage, layout)?, self.0, &mut y);
        Ok((CpuStorage::F32(y), (rows, self.0.rows()).into()))
    }
}

/// `x Wᵀ`: `[rows, in]` and a weight `[out, in]` give `[rows, out]`.
pub fn linear(x: &Tensor, weight: &Weight) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    if width != weight.cols() {
        bail!("linear: rows of {width} and a weight of [{}, {}]", weight.rows(), weight.cols());
    }
    x.contiguous()?.apply_op1_no_bwd(&Linear(weight))
}

/// Rows of `table` `[vocab, hidden]` for `tokens`: `[tokens, hidden]`.
pub fn embedding(table: &Weight, tokens: &[u32]) -> Result<Tensor> {
    if let Some(token) = tokens.iter().find(|t| **t as usize >= table.rows()) {
        bail!("embedding: token {token} of a vocabulary of {}", table.rows());
    }
    Tensor::from_vec(rowwise::embedding(table, tokens), (tokens.len(), table.cols()), &Device::Cpu)
}

struct RmsNorm<'a> {
    gain: &'a Weight,
    eps: f32,
}

impl CustomOp1 for RmsNorm<'_> {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut gain = vec![0.0; self.gain.cols()];
        self.gain.widen_row(0, &mut gain);
        let out = rowwise::rms_norm(elements(storage, layout)?, &gain, self.eps);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Root-mean-square normalisation of each row of `[rows, hidden]`, scaled by `gain` `[hidden]`.
pub fn rms_norm(x: &Tensor, gain: &Weight, eps: f32) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    if gain.rows() != 1 || gain.cols() != width {
        bail!("rms-norm: rows of {width} and a gain of [{}, {}]", gain.rows(), gain.cols());
    }
    x.contiguous()?.apply_op1_no_bwd(&RmsNorm { gain, eps })
}

struct LayerNorm<'a> {
    gain: &'a Weight,
    bias: &'a Weight,
    eps: f32,
}

impl CustomOp1 for LayerNorm<'_> {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let wide = |weight: &Weight| {
            let mut row = vec![0.0; weight.cols()];
            weight.widen_row(0, &mut row);
            row
        };
        let out =
            rowwise::layer_norm(elements(storage, layout)?, &wide(self.gain), &wide(self.bias), self.eps);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Normalisation of each row of `[rows, hidden]` to mean 0 and variance 1, then scaled by `gain` and moved by `bias`,
/// both `[hidden]`.
pub fn layer_norm(x: &Tensor, gain: &Weight, bias: &Weight, eps: f32) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    for weight in [gain, bias] {
        if weight.rows() != 1 || weight.cols() != width {
            bail!("layer-norm: rows of {width} and a weight of [{}, {}]", weight.rows(), weight.cols());
        }
    }
    x.contiguous()?.apply_op1_no_bwd(&LayerNorm { gain, bias, eps })
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = rowwise::gelu(Level::best(), elements(storage, layout)?);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// `x Φ(x)`, element by element: GELU with the error function, not its approximation by tanh. Not candle's own, which
/// takes the error function of one element after the other in `f64`.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&Gelu)
}

struct Rope<'a>(&'a RopeAngles);

impl CustomOp1 for Rope<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = rowwise::rope(elements(storage, layout)?, self.0);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Rotary position embedding of `[rows, heads, head_dim]`, each row by its own angles.
pub fn rope(x: &Tensor, angles: &RopeAngles) -> Result<Tensor> {
    let (rows, _, head_dim) = x.dims3()?;
    if rows != angles.rows() || head_dim != angles.head_dim() {
        bail!(
            "rope: {rows} rows of heads of {head_dim}, angles for {} of {}",
            angles.rows(),
            angles.head_dim()
        );
    }
    x.contiguous()?.apply_op1_no_bwd(&Rope(angles))
}

struct SiluMul;

impl CustomOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = rowwise::silu_mul(Level::best(), elements(s1, l1)?, elements(s2, l2)?);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

/// `silu(gate) * up`, element by element.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("silu-mul: {:?} and {:?}", gate.dims(), up.dims());
    }
    gate.contiguous()?.apply_op2_no_bwd(&up.contiguous()?, &SiluMul)
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = rowwise::add(elements(s1, l1)?, elements(s2, l2)?);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

/// `x + y`, both `[rows, width]`; or `y` is one row, which is added to each of `x`. Not candle's own, which hands
/// these small sums to threads that spin while the next operator computes.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let ((rows, width), (y_rows, y_width)) = (x.dims2()?, y.dims2()?);
    if width != y_width || (y_rows != rows && y_rows != 1) {
        bail!("add: {:?} and {:?}", x.dims(), y.dims());
    }
    x.contiguous()?.apply_op2_no_bwd(&y.contiguous()?, &Add)
}

/// Rows `rows` of `x`, in that order.
pub fn select_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    x.index_select(&Tensor::new(rows, x.device())?, 0)
}

/// Writes keys and values, each `[rows, kv_heads, head_dim]`, into `slots` of layer `layer`.
pub fn write_kv(
    cache: &mut KvCache,
    layer: usize,
    slots: &[u32],
    keys: &Tensor,
    values: &Tensor,
) -> Result<()> {
    let layout = cache.layout();
    let expected = (slots.len(), layout.kv_heads, layout.head_dim);
    if keys.dims3()? != expected || values.dims3()? != expected {
        bail!("write-kv: {:?} and {:?} for {expected:?}", keys.dims(), values.dims());
    }
    let held = layout.blocks * layout.block_size;
    if layer >= layout.layers || slots.iter().any(|s| *s as usize >= held) {
        bail!("write-kv: a slot outside of {} layers of {held} slots", layout.layers);
    }
    let (keys, values) = (keys.contiguous()?, values.contiguous()?);
    let (keys, values) = (keys.storage_and_layout(), values.storage_and_layout());
    match (&*keys.0, &*values.0) {
        (candle_core::Storage::Cpu(k), candle_core::Storage::Cpu(v)) => {
            cache.write(layer, slots, elements(k, keys.1)?, elements(v, values.1)?);
            Ok(())
        }
        _ => bail!("write-kv: a cache in host memory takes host tensors"),
    }
}

struct PagedAttention<'a> {
    cache: &'a KvCache,
    layer: usize,
    contexts: &'a Contexts<'a>,
}

impl CustomOp1 for PagedAttention<'_> {
    fn name(&self) -> &'static str {
        "paged-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = attend(Level::best(), elements(storage, layout)?, self.contexts, self.cache, self.layer);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Attention of `q` `[rows, heads, head_dim]`, each row over its own context in the cache: causal where a row's context
/// ends with itself, in both directions where it is the whole text.
pub fn paged_attention(q: &Tensor, cache: &KvCache, layer: usize, contexts: &Contexts<'_>) -> Result<Tensor> {
    let (rows, heads, head_dim) = q.dims3()?;
    let layout = cache.layout();
    if rows != contexts.rows()
        || contexts.layout() != layout
        || head_dim != layout.head_dim
        || heads % layout.kv_heads != 0
        || layer >= layout.layers
    {
        let (rows, other) = (contexts.rows(), contexts.layout());
        bail!("paged-attention: {:?} for {rows} rows in {other:?}, over {layout:?}", q.dims());
    }
    q.contiguous()?.apply_op1_no_bwd(&PagedAttention { cache, layer, contexts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::reference::{noise, weight};
    use crate::tensor::{ElementType, KvLayout, Query};

    #[test]
    fn wrong_shapes_are_errors() {
        let x = Tensor::zeros((2, 6), candle_core::DType::F32, &Device::Cpu).unwrap();
        let w = weight(&noise(20, 1), ElementType::F32, &[4, 5]);
        assert!(linear(&x, &w).is_err());
        assert!(rms_norm(&x, &w, 1e-5).is_err());
        let (six, five) =
            (weight(&noise(6, 1), ElementType::F32, &[6]), weight(&noise(5, 1), ElementType::F32, &[5]));
        assert!(layer_norm(&x, &six, &six, 1e-5).is_ok());
        assert!(layer_norm(&x, &six, &five, 1e-5).is_err() && layer_norm(&x, &five, &six, 1e-5).is_err());
        assert!(embedding(&w, &[0, 4]).is_err());
        assert!(add(&x, &x.narrow(1, 0, 5).unwrap()).is_err());
        let layout = KvLayout { layers: 1, blocks: 2, block_size: 4, kv_heads: 1, head_dim: 6 };
        let mut cache = KvCache::new(layout).unwrap();
        let rows = x.reshape((2, 1, 6)).unwrap();
        assert!(write_kv(&mut cache, 0, &[0, 8], &rows, &rows).is_err());
        assert!(write_kv(&mut cache, 0, &[0, 7], &rows, &rows).is_ok());
        for (blocks, visible) in [(&[0][..], 5), (&[2], 1), (&[0], 0)] {
            let query = Query { blocks, visible };
            assert!(Contexts::new(vec![query, query], layout).is_none(), "{query:?}");
        }
        let query = Query { blocks: &[0], visible: 1 };
        let larger = KvLayout { blocks: 3, ..layout };
        for (rows_seen, layout, fits) in [(2, layout, true), (1, layout, false), (2, larger, false)] {
            let contexts = Contexts::new(vec![query; rows_seen], layout).unwrap();
            assert_eq!(paged_attention(&rows, &cache, 0, &contexts).is_ok(), fits);
        }
    }

    #[test]
    fn a_view_of_a_tensor_is_taken_for_what_it_shows() {
        let w = weight(&noise(12, 1), ElementType::Bf16, &[4, 3]);
        let x = Tensor::from_vec(noise(15, 2), (5, 3), &Device::Cpu).unwrap();
        let whole = linear(&x, &w).unwrap().to_vec2::<f32>().unwrap();
        let part = linear(&x.narrow(0, 2, 2).unwrap(), &w).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(part, whole[2..4]);
        let turned = x.t().unwrap().contiguous().unwrap().t().unwrap();
        assert_eq!(linear(&turned, &w).unwrap().to_vec2::<f32>().unwrap(), whole);
    }
}
