//! The paged cache on a device, and the launches of attention over it.

#![allow(unsafe_code)]

use std::sync::Arc;

use super::driver::{Gpu, Shape};
use super::launch::Launch;
use super::lists::Indices;
use super::memory::Buffer;
use super::ops::{Array, a_row, an_element, same_element};
use super::rows::{Contexts, Tiling, upload};
use crate::tensor::attention::Attention;
use crate::tensor::encoding::ElementType;
use crate::tensor::error::{Result, TensorError};
use crate::tensor::kv::KvLayout;
use crate::tensor::rows::HostRows;

/// Threads of the kernels of attention.cu and prefill.cu.
const THREADS: usize = 128;
/// Ranges that attention.cu cuts a context into at most.
const MOST_SPLITS: usize = 16;
/// Tokens of one tile of prefill.cu, and the bytes by which its rows are padded.
const TILE_TOKENS: usize = 64;
const PADDING: usize = 16;
/// What the kernels take for a layer whose scores have no cap, and whose rows see their whole context.
const NO_SOFTCAP: f32 = 0.0;
const NO_WINDOW: usize = 0;
/// Heads that prefill.cu is compiled for.
const TILED_HEADS: [usize; 3] = [32, 64, 128];

/// Keys and values of all layers on a device, in the element type of the model.
#[derive(Debug)]
pub(in crate::tensor) struct KvStore {
    layout: KvLayout,
    element: ElementType,
    /// Keys and values of each layer.
    layers: Vec<[Array; 2]>,
}

impl KvStore {
    /// Allocates all of it; `None` if the memory is not to be had.
    pub(in crate::tensor) fn new(gpu: &Gpu, layout: KvLayout, element: ElementType) -> Option<Self> {
        let bytes = layout.layer()?.checked_mul(element.size())?;
        let part = || Some(Array { buffer: Arc::new(gpu.zeroed(bytes).ok()?), element });
        let layers = (0..layout.layers).map(|_| Some([part()?, part()?])).collect::<Option<_>>()?;
        // other streams use it
        gpu.wait().ok()?;
        Some(Self { layout, element, layers })
    }

    /// Brings the lists of a pass to the device, as its kernels of attention want them, for work on a stream of it.
    pub(in crate::tensor) fn upload(
        &self,
        gpu: &Gpu,
        host: &HostRows<'_>,
    ) -> Result<([Indices; 5], Contexts)> {
        upload(gpu, host, self.tiling())
    }

    /// Whether contexts of many rows go to tensor cores.
    fn tiling(&self) -> Tiling {
        let cores = matches!(self.element, ElementType::Bf16 | ElementType::F16);
        if cores && TILED_HEADS.contains(&self.layout.head_dim) { Tiling::Tiles } else { Tiling::Singles }
    }
}

/// Turns `q` in its place; turns `k` into the slots of layer `layer`, and copies `v` into its own. `angles` are those of a
/// pass, and how many elements of a head they turn.
pub(in crate::tensor) fn rope_write_kv(
    [q, k, v]: [&Array; 3],
    heads: usize,
    angles: Option<(&Buffer, usize)>,
    slots: &Indices,
    (store, layer): (&KvStore, usize),
) -> Result<()> {
    for x in [q, k, v] {
        same_element("rope", x.element, store.element)?;
    }
    let KvLayout { kv_heads, head_dim, .. } = store.layout;
    let [keys, values] = &store.layers[layer];
    let launch = Launch::of(format!("rope_write_kv_{}", q.element.name()));
    let half = angles.map_or(0, |(_, turned)| turned / 2);
    let launch = launch.buffer(&q.buffer).buffer(&k.buffer).buffer(&v.buffer);
    let launch = launch.optional(angles.map(|(angles, _)| angles));
    let launch = launch.list(slots).buffer(&keys.buffer).buffer(&values.buffer);
    let launch = launch.int(heads).int(kv_heads).int(head_dim).int(half);
    // SAFETY: rope_write_kv(q, k, v, angles, slots, keys, values, heads, kv_heads, head_dim, half); the host knows the
    // slots to be in the cache
    unsafe { launch.go(q.buffer.gpu(), a_row(slots.len())) }
}

/// Attention of `q` over layer `layer`: each single row by attention.cu, each tile by prefill.cu.
pub(in crate::tensor) fn paged_attention(
    q: &Array,
    [rows, heads]: [usize; 2],
    (store, layer): (&KvStore, usize),
    contexts: &Contexts,
    attention: Attention,
) -> Result<Array> {
    same_element("paged-attention", q.element, store.element)?;
    let gpu = q.buffer.gpu();
    let KvLayout { block_size, kv_heads, head_dim, .. } = store.layout;
    let out = Array::new(gpu, rows * heads * head_dim, q.element)?;
    let Attention { scale, softcap, window } = attention;
    let (softcap, window) = (softcap.unwrap_or(NO_SOFTCAP), window.unwrap_or(NO_WINDOW));
    let [keys, values] = &store.layers[layer];
    let Contexts { tables, singles: [which, starts, visible], tiles, arrived } = contexts;

    if which.len() > 0 {
        let plan = Plan::new(q.element, heads / kv_heads, head_dim)?;
        let packs = kv_heads * (heads / kv_heads).div_ceil(plan.heads);
        let partial = gpu.scratch(which.len() * heads * MOST_SPLITS * (head_dim + 2) * size_of::<f32>())?;
        // the kernel leaves them as it found them, for the next layer
        if arrived.get().is_none() {
            let _ = arrived.set(cleared(gpu, which.len() * packs)?);
        }
        let name = format!("paged_attention_{}_{}_{}", q.element.name(), plan.lanes, plan.heads);
        let launch = Launch::of(name).buffer(&q.buffer).buffer(&keys.buffer).buffer(&values.buffer);
        let launch = launch.list(tables).list(which);
        let launch = launch.list(starts).list(visible);
        let launch = launch.buffer(&out.buffer).buffer(&partial).optional(arrived.get());
        let launch = launch.int(heads).int(kv_heads).int(head_dim).int(block_size);
        let launch = launch.float(scale).float(softcap).int(window);
        let grid = [packs as u32, which.len() as u32, MOST_SPLITS as u32];
        let shape = Shape { grid, block: THREADS as u32, shared: plan.shared(head_dim) };
        // SAFETY: paged_attention(q, keys, values, tables, which, starts, visible, out, partial, arrived, heads,
        // kv_heads, head_dim, block_size, scale, softcap, window); the host knows the contexts to be in the cache
        unsafe { launch.go(gpu, shape)? };
    }
    if tiles.len() > 0 {
        let name = format!("prefill_attention_{}_{head_dim}", q.element.name());
        let launch = Launch::of(name).buffer(&q.buffer).buffer(&keys.buffer).buffer(&values.buffer);
        let launch = launch.list(tables).list(tiles);
        let launch = launch.buffer(&out.buffer).int(heads).int(kv_heads).int(block_size);
        let launch = launch.float(scale).float(softcap).int(window);
        let shared = 2 * TILE_TOKENS * (head_dim * q.element.size() + PADDING);
        let grid = [heads as u32, (tiles.len() / 4) as u32, 1];
        // SAFETY: prefill_attention(q, keys, values, tables, tiles, out, heads, kv_heads, block_size, scale, softcap,
        // window), for heads of this width
        unsafe { launch.go(gpu, Shape { grid, block: THREADS as u32, shared })? };
    }
    Ok(out)
}

/// Which form of attention.cu takes a model's heads.
struct Plan {
    /// Lanes that hold one head.
    lanes: usize,
    /// Query heads of a block.
    heads: usize,
}

impl Plan {
    /// For so many query heads of a key-value head.
    fn new(element: ElementType, group: usize, head_dim: usize) -> Result<Self> {
        let wide = 16 / element.size();
        let lanes = head_dim.div_ceil(wide).next_power_of_two().max(8);
        if lanes > 32 {
            let what = format!("heads of {head_dim} {element:?}: a GPU takes at most {}", 32 * wide);
            return Err(TensorError::shape("paged-attention", what));
        }
        let heads = match group {
            1 => 1,
            2..=4 => 4,
            _ => 8,
        };
        Ok(Self { lanes, heads })
    }

    /// Bytes of shared memory: of each query head and token at once its highest score, its total and its sums.
    const fn shared(&self, head_dim: usize) -> usize {
        self.heads * (THREADS / self.lanes) * (head_dim + 2) * size_of::<f32>()
    }
}

/// So many words of zeros.
fn cleared(gpu: &Gpu, n: usize) -> Result<Buffer> {
    let buffer = gpu.scratch(n * size_of::<u32>())?;
    let launch = Launch::of("clear").buffer(&buffer).size(n);
    // SAFETY: clear(numbers, n)
    unsafe { launch.go(gpu, an_element(n))? };
    Ok(buffer)
}
