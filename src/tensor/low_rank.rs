//! Low-rank additions to linear layers: `y += scale * up(down(x))`, where both matrices are those of a row's adapter
//! (LoRA: Hu et al., 2021). Rows of several adapters, and rows of none, are computed in one pass (Chen et al., Punica,
//! 2023): all have the products with the layer's own weight in common.
//!
//! An adapter has an [`AdapterSlot`] in all layers of a model while it is seated. What a row gets depends on its own
//! slot only, whoever else is in the pass.

use std::ops::Range;

use super::array::{Data, Tensor};
use super::cpu::{self, Level};
use super::device::{Device, Place};
use super::encoding::{ElementType, Encoding};
use super::error::{Result, TensorError, elsewhere};
use super::gpu;
use super::ops::{expect, placed};
use super::rows::{Adapted, Numbers, Rows};
use super::weight::Weight;

/// The most adapters that a model has at once: a GPU finds them by tables of so many entries.
pub const MOST_ADAPTERS: usize = 64;

/// The highest rank: a GPU keeps as many numbers of each row between the two products.
pub const HIGHEST_RANK: usize = 512;

/// Which of a model's adapters; below [`MOST_ADAPTERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterSlot(u32);

impl AdapterSlot {
    /// All that there are.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MOST_ADAPTERS as u32).map(Self)
    }

    /// Its place in a list of all.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) const fn number(self) -> u32 {
        self.0
    }
}

/// What one adapter adds to one layer.
#[derive(Clone)]
pub struct LowRank {
    /// `[rank, in]`
    down: Weight,
    /// `[out, rank]`
    up: Weight,
    scale: f32,
}

impl LowRank {
    /// From `down` `[rank, in]` and `up` `[out, rank]` in the host's memory, neither of them quantised.
    pub fn new(down: Weight, up: Weight, scale: f32) -> Result<Self> {
        let plain = |weight: &Weight| matches!(weight.encoding(), Encoding::Plain(_));
        let rank = down.rows();
        if up.cols() != rank || rank > HIGHEST_RANK || !plain(&down) || !plain(&up) {
            let of =
                |weight: &Weight| format!("{} [{}, {}]", weight.encoding(), weight.rows(), weight.cols());
            let what = format!("{} and then {}, of a rank up to {HIGHEST_RANK}", of(&down), of(&up));
            return Err(TensorError::shape("low-rank", what));
        }
        Ok(Self { down, up, scale })
    }

    /// The width between the two products.
    pub fn rank(&self) -> usize {
        self.down.rows()
    }

    /// The same on a device; on a GPU in the element type of what is multiplied there.
    fn on(&self, device: &Device, element: ElementType) -> Result<Self> {
        let there = |weight: &Weight| match &device.0 {
            Place::Cpu => Ok(weight.clone()),
            Place::Gpu(_) => weight.rounded_to(element).on(device),
        };
        Ok(Self { down: there(&self.down)?, up: there(&self.up)?, scale: self.scale })
    }
}

/// What the adapters of a model add to one layer `[out, in]`, by their slots.
#[derive(Default)]
pub struct LowRanks {
    seated: Vec<Option<LowRank>>,
    /// On a GPU, where they lie.
    table: Option<gpu::AdapterTable>,
}

impl LowRanks {
    /// Puts an adapter's part into its slot. `layer` is the weight that it is added to, on `device`, where activations are of
    /// type `element`.
    pub fn seat(
        &mut self,
        slot: AdapterSlot,
        part: &LowRank,
        layer: &Weight,
        (device, element): (&Device, ElementType),
    ) -> Result<()> {
        expect("low-rank", "a row in", part.down.cols(), layer.cols())?;
        expect("low-rank", "a row out", part.up.rows(), layer.rows())?;
        let part = part.on(device, element)?;
        self.seated.resize_with(self.seated.len().max(slot.index() + 1), || None);
        self.seated[slot.index()] = Some(part);
        self.tell(device)
    }

    /// Empties a slot.
    pub fn unseat(&mut self, slot: AdapterSlot, device: &Device) -> Result<()> {
        match self.seated.get_mut(slot.index()).and_then(Option::take) {
            // work that is enqueued may still read it, and what is enqueued now comes after that
            Some(part) => self.tell(device).map(|()| drop(part)),
            None => Ok(()),
        }
    }

    /// Whether no adapter adds anything.
    pub fn is_empty(&self) -> bool {
        self.seated.iter().all(Option::is_none)
    }

    /// Lets a GPU find what is seated.
    fn tell(&mut self, device: &Device) -> Result<()> {
        let Place::Gpu(gpu) = &device.0 else { return Ok(()) };
        let mut entries = Vec::with_capacity(self.seated.len());
        for part in &self.seated {
            entries.push(match part {
                Some(LowRank { down, up, scale }) => {
                    Some((placed("low-rank", down)?, placed("low-rank", up)?, *scale))
                }
                None => None,
            });
        }
        match &mut self.table {
            Some(table) => table.write(&entries),
            none => {
                *none = Some(gpu::AdapterTable::new(gpu, &entries)?);
                Ok(())
            }
        }
    }
}

/// Adds to `y` `[rows, out]` what the rows' adapters make of `x` `[rows, in]`.
pub fn add_low_rank(mut y: Tensor, x: &Tensor, parts: &LowRanks, rows: &Rows<'_>) -> Result<Tensor> {
    let Some(adapted) = rows.adapted().filter(|_| !parts.is_empty()) else { return Ok(y) };
    for tensor in [&y, x] {
        expect("add-low-rank", "rows", tensor.rows(), rows.len())?;
    }
    let (width, outs) = (x.width(), y.width());
    match (y.data_mut(), x.data(), adapted, &parts.table) {
        (Data::Host(y), Data::Host(x), Adapted::Host(runs), None) => {
            cpu::add_low_rank(Level::best(), tasks(x, y, [width, outs], runs, &parts.seated));
        }
        (Data::Device(y), Data::Device(x), Adapted::Device(slots), Some(table)) => {
            let Numbers::Device(slots) = &slots.0 else { return Err(elsewhere("add-low-rank")) };
            gpu::add_low_rank(y, x, [width, outs], slots, table)?;
        }
        _ => return Err(elsewhere("add-low-rank")),
    }
    Ok(y)
}

/// The rows of each run with an adapter that adds something, a few at a time.
fn tasks<'t>(
    x: &'t [f32],
    mut y: &'t mut [f32],
    [width, outs]: [usize; 2],
    runs: &[(Range<usize>, AdapterSlot)],
    seated: &'t [Option<LowRank>],
) -> Vec<cpu::LowRankTask<'t>> {
    let mut tasks = Vec::new();
    let mut row = 0;
    for (rows, slot) in runs {
        let Some(LowRank { down, up, scale }) = seated.get(slot.index()).and_then(Option::as_ref) else {
            continue;
        };
        y = std::mem::take(&mut y).split_at_mut((rows.start - row) * outs).1;
        row = rows.start;
        while row < rows.end {
            let n = ROWS_OF_A_TASK.min(rows.end - row);
            let (own, rest) = std::mem::take(&mut y).split_at_mut(n * outs);
            tasks.push(cpu::LowRankTask {
                x: &x[row * width..][..n * width],
                y: own,
                down,
                up,
                scale: *scale,
            });
            (y, row) = (rest, row + n);
        }
    }
    tasks
}

/// Rows that one thread takes at once: as many as share each weight that is read.
const ROWS_OF_A_TASK: usize = 12;

#[cfg(test)]
#[path = "low_rank_tests.rs"]
mod tests;
