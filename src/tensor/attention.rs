//! The operators of attention: rotary position embedding, the write of keys and values, and attention over the cache.

use super::array::{Data, Tensor};
use super::cpu;
use super::error::{Result, TensorError, elsewhere};
use super::gpu;
use super::kv::{self, Store};
use super::ops::expect;
use super::rope::{RopeAngles, Turns};
use super::rows::{Contexts, Numbers, Rows};

/// How a layer's rows attend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Multiplies the product of a query and a key.
    pub scale: f32,
    /// Keeps scores within so much of 0, smoothly: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// A row sees the last so many tokens that its mask lets it see; all of them, if there is no window.
    pub window: Option<usize>,
}

impl Attention {
    /// As Vaswani et al. (2017) have it, for heads of this width.
    pub fn of_heads(head_dim: usize) -> Self {
        Self { scale: (head_dim as f32).sqrt().recip(), softcap: None, window: None }
    }
}

/// Writes keys and values, each `[rows, kv_heads * head_dim]`, into the slots of their rows in layer `layer`. On the
/// host only: a GPU writes them as it turns them.
pub fn write_kv(layer: usize, rows: &Rows<'_>, keys: &Tensor, values: &Tensor) -> Result<()> {
    fit_cache("write-kv", layer, rows, [keys, values])?;
    match (rows.cache().store(), &rows.slots.0, keys.data(), values.data()) {
        (Store::Host(store), Numbers::Host(slots), Data::Host(keys), Data::Host(values)) => {
            kv::write(store, rows, layer, slots, [keys, values]);
            Ok(())
        }
        _ => Err(elsewhere("write-kv")),
    }
}

/// Rotary position embedding of queries `[rows, heads * head_dim]` and keys, each row by its own angles, where a layer
/// has any; the keys and their values then go into their slots as by [`write_kv`]. Of each head its first elements turn,
/// as many as there are angles for, and the others stay. Gives the queries.
pub fn rope_write_kv(
    mut queries: Tensor,
    mut keys: Tensor,
    values: &Tensor,
    angles: Option<&RopeAngles>,
    layer: usize,
    rows: &Rows<'_>,
) -> Result<Tensor> {
    let cache = rows.cache();
    let head_dim = cache.layout().head_dim;
    for x in [&queries, &keys] {
        expect("rope", "rows", x.rows(), rows.len())?;
        if !x.width().is_multiple_of(head_dim) {
            return Err(TensorError::shape("rope", format!("rows of {} for heads of {head_dim}", x.width())));
        }
    }
    if let Some(turned) = angles.map(RopeAngles::turned).filter(|turned| *turned > head_dim) {
        return Err(TensorError::shape("rope", format!("angles for {turned} of a head of {head_dim}")));
    }
    if let (Data::Host(q), Data::Host(k)) = (queries.data_mut(), keys.data_mut()) {
        match angles.map(RopeAngles::turns) {
            Some(Turns::Host(turns)) => {
                cpu::rope(q, turns, head_dim, rows.len());
                cpu::rope(k, turns, head_dim, rows.len());
            }
            Some(Turns::Device(_)) => return Err(elsewhere("rope")),
            None => (),
        }
        write_kv(layer, rows, &keys, values)?;
        return Ok(queries);
    }
    fit_cache("rope", layer, rows, [&keys, values])?;
    let heads = queries.width() / head_dim;
    let turns = match angles {
        Some(angles) => match angles.turns() {
            Turns::Device(turns) => Some((turns, angles.turned())),
            Turns::Host(_) => return Err(elsewhere("rope")),
        },
        None => None,
    };
    match (queries.data(), keys.data(), values.data(), &rows.slots.0, cache.store()) {
        (Data::Device(q), Data::Device(k), Data::Device(v), Numbers::Device(slots), Store::Device(store)) => {
            gpu::rope_write_kv([q, k, v], heads, turns, slots, (store, layer))?;
        }
        _ => return Err(elsewhere("rope")),
    }
    Ok(queries)
}

/// Attention of queries `[rows, heads * head_dim]`, each row over its own context in layer `layer` of the cache.
pub fn paged_attention(
    queries: &Tensor,
    layer: usize,
    rows: &Rows<'_>,
    attention: Attention,
) -> Result<Tensor> {
    in_cache("paged-attention", layer, rows)?;
    let layout = rows.cache().layout();
    expect("paged-attention", "rows", queries.rows(), rows.len())?;
    if !queries.width().is_multiple_of(layout.slot()) {
        let what = format!("rows of {} over {layout:?}", queries.width());
        return Err(TensorError::shape("paged-attention", what));
    }
    if attention.window == Some(0) {
        return Err(TensorError::shape("paged-attention", "a window of no token"));
    }
    let data = match (queries.data(), rows.cache().store(), rows.contexts()) {
        (Data::Host(queries), Store::Host(store), Contexts::Host(contexts)) => {
            Data::Host(kv::attend(store, rows, layer, queries, contexts, attention))
        }
        (Data::Device(array), Store::Device(store), Contexts::Device(contexts)) => {
            let shape = [rows.len(), queries.width() / layout.head_dim];
            Data::Device(gpu::paged_attention(array, shape, (store, layer), contexts, attention)?)
        }
        _ => return Err(elsewhere("paged-attention")),
    };
    Ok(Tensor::new(queries.rows(), queries.width(), data))
}

fn in_cache(operator: &'static str, layer: usize, rows: &Rows<'_>) -> Result<()> {
    let layout = rows.cache().layout();
    if layer < layout.layers {
        return Ok(());
    }
    Err(TensorError::shape(operator, format!("layer {layer} of {layout:?}")))
}

/// Refuses keys and values that are not one of each for each row of a pass.
fn fit_cache(
    operator: &'static str,
    layer: usize,
    rows: &Rows<'_>,
    keys_and_values: [&Tensor; 2],
) -> Result<()> {
    in_cache(operator, layer, rows)?;
    for x in keys_and_values {
        expect(operator, "rows", x.rows(), rows.len())?;
        expect(operator, "a width", x.width(), rows.cache().layout().slot())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Context, Device, ElementType, HostRows, KvCache, KvLayout, Mask};
    use crate::tensor::{Rope, RopeTable};

    #[test]
    fn keys_and_values_of_other_rows_or_no_layer_are_refused() {
        let layout = KvLayout { layers: 1, blocks: 2, block_size: 4, kv_heads: 1, head_dim: 6 };
        let context = Context { rows: 2, len: 2, blocks: &[0], mask: Mask::Causal, adapter: None };
        let host = HostRows {
            tokens: &[0, 0],
            positions: &[0, 1],
            slots: &[0, 1],
            wanted: &[],
            contexts: &[context],
        };
        let cache = KvCache::new(&Device::CPU, layout, ElementType::F32).unwrap();
        let rows = Rows::new(&cache, host).unwrap();
        let x = |n| Tensor::from_vec(vec![0.0; n * 6], n, 6).unwrap();
        let plain = Attention::of_heads(6);
        for (n, layer, fits) in [(2, 0, true), (1, 0, false), (2, 1, false)] {
            assert_eq!(write_kv(layer, &rows, &x(n), &x(n)).is_ok(), fits);
            assert_eq!(paged_attention(&x(n), layer, &rows, plain).is_ok(), fits);
        }
        let none = Attention { window: Some(0), ..plain };
        assert!(paged_attention(&x(2), 0, &rows, none).is_err(), "a row sees itself at least");

        let rope = |pairs| {
            let table = RopeTable { frequencies: vec![1.0; pairs], attention_factor: 1.0 };
            Rope::new(table, &Device::CPU).unwrap().angles(&rows).unwrap()
        };
        for (pairs, fits) in [(2, true), (3, true), (4, false)] {
            assert_eq!(
                rope_write_kv(x(2), x(2), &x(2), Some(&rope(pairs)), 0, &rows).is_ok(),
                fits,
                "{pairs}"
            );
        }
    }
}
