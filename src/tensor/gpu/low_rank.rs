//! What adapters add to a linear layer on a device, which finds them by a table, so that a recorded pass needs nothing of
//! the host.

#![allow(unsafe_code)]

use super::driver::{Gpu, Shape};
use super::launch::Launch;
use super::lists::Indices;
use super::memory::Buffer;
use super::ops::{Array, Layer, same_element};
use crate::tensor::encoding::ElementType;
use crate::tensor::error::Result;
use crate::tensor::low_rank::MOST_ADAPTERS;

/// The threads of a block of lora.cu.
const THREADS: usize = 256;
/// Its warps, each of which takes one rank.
const WARPS: usize = THREADS / 32;
/// The rows that it takes.
const ROWS: usize = 8;
/// Bytes of an entry: two pointers, the rank and the scale.
const ENTRY: usize = 24;

/// The adapters of one layer, by slot, where kernels find them.
pub(in crate::tensor) struct AdapterTable {
    buffer: Buffer,
    element: ElementType,
    /// The highest of those that are there.
    rank: usize,
}

/// The two matrices of an adapter, and its scale.
pub(in crate::tensor) type Entry<'a> = (Layer<'a>, Layer<'a>, f32);

impl AdapterTable {
    pub(in crate::tensor) fn new(gpu: &Gpu, entries: &[Option<Entry<'_>>]) -> Result<Self> {
        let mut table =
            Self { buffer: gpu.zeroed(MOST_ADAPTERS * ENTRY)?, element: ElementType::F32, rank: 0 };
        table.write(entries).map(|()| table)
    }

    /// Says anew what is there, once all work before is done.
    pub(in crate::tensor) fn write(&mut self, entries: &[Option<Entry<'_>>]) -> Result<()> {
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
        self.rank = 0;
        for entry in entries {
            let Some((down, up, scale)) = entry else {
                bytes.extend([0; ENTRY]);
                continue;
            };
            let (down_element, up_element) = (down.plain()?, up.plain()?);
            same_element("adapters", up_element, down_element)?;
            self.element = down_element;
            self.rank = self.rank.max(down.outs);
            bytes.extend(down.weight.address().to_le_bytes());
            bytes.extend(up.weight.address().to_le_bytes());
            bytes.extend((down.outs as u32).to_le_bytes());
            bytes.extend(scale.to_le_bytes());
        }
        self.buffer.gpu().write(&self.buffer, &bytes)
    }
}

/// `y += scale * up(down(x))` for rows with an adapter in `slots`, of `x` `[rows, width]` and `y` `[rows, outs]`.
pub(in crate::tensor) fn add_low_rank(
    y: &Array,
    x: &Array,
    [width, outs]: [usize; 2],
    slots: &Indices,
    table: &AdapterTable,
) -> Result<()> {
    same_element("add-low-rank", x.element, table.element)?;
    same_element("add-low-rank", y.element, table.element)?;
    let (gpu, rows, rank) = (x.buffer.gpu(), slots.len(), table.rank);
    let between = gpu.scratch(rows * rank * size_of::<f32>())?;
    let grid = |n: usize| [rows.div_ceil(ROWS) as u32, n as u32, 1];
    let shape = |n: usize| Shape { grid: grid(n), block: THREADS as u32, shared: 0 };
    let launch = Launch::of(format!("lora_shrink_{}", table.element.name()));
    let launch = launch.buffer(&x.buffer).list(slots).buffer(&table.buffer).buffer(&between);
    let launch = launch.int(rows).int(width).int(rank);
    // SAFETY: lora_shrink(x, slots, adapters, h, rows, width, stride): the host knows which slots are taken
    unsafe { launch.go(gpu, shape(rank.div_ceil(WARPS)))? };
    let launch = Launch::of(format!("lora_expand_{}", table.element.name()));
    let launch = launch.buffer(&between).list(slots).buffer(&table.buffer).buffer(&y.buffer);
    let launch = launch.int(rows).int(outs).int(rank);
    // SAFETY: lora_expand(h, slots, adapters, y, rows, outs, stride), in the place of y
    unsafe { launch.go(gpu, shape(outs.div_ceil(THREADS))) }
}
