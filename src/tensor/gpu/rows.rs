//! What a forward pass tells the device of its rows: one copy for all of it.

use std::cell::OnceCell;

use super::driver::Gpu;
use super::lists::{Indices, Lists};
use super::memory::Buffer;
use crate::tensor::error::{Result, TensorError};
use crate::tensor::rows::{Context, HostRows, Mask, queries};

/// Rows of a context from which tensor cores attend for all of them together.
pub(super) const LEAST_TILE: usize = 8;
/// Rows of one tile of prefill.cu.
pub(super) const TILE_ROWS: usize = 64;

/// The contexts of a pass, as the kernels of attention find them.
#[derive(Debug)]
pub(in crate::tensor) struct Contexts {
    /// All block tables, one after the other.
    pub(super) tables: Indices,
    /// Of each single row: which it is, where its table starts, and how many tokens it sees.
    pub(super) singles: [Indices; 3],
    /// Tiles of consecutive rows `[tiles, 4]`: first row, how many, where their table starts, what the first sees.
    pub(super) tiles: Indices,
    /// How many ranges of each row's context are done: zeros between two layers, made by the first.
    pub(super) arrived: OnceCell<Buffer>,
}

/// The lists of a pass: tokens, positions, slots, wanted rows and adapters, and its contexts.
pub(super) fn upload(gpu: &Gpu, host: &HostRows<'_>, tiling: Tiling) -> Result<([Indices; 5], Contexts)> {
    let cut = cut(host.contexts, tiling)?;
    let mut lists = Lists::default();
    for list in [host.tokens, host.positions, host.slots, host.wanted] {
        lists.add(list.iter().copied());
    }
    lists.add(host.adapters());
    for list in [cut.tables, cut.rows, cut.starts, cut.visible, cut.tiles] {
        lists.add(list);
    }
    let [tokens, positions, slots, wanted, adapters, tables, rows, starts, visible, tiles] =
        lists.upload(gpu)?;
    let contexts = Contexts { tables, singles: [rows, starts, visible], tiles, arrived: OnceCell::new() };
    Ok(([tokens, positions, slots, wanted, adapters], contexts))
}

/// Whether contexts of many rows are cut into tiles for tensor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tiling {
    Tiles,
    Singles,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Cut {
    tables: Vec<u32>,
    rows: Vec<u32>,
    starts: Vec<u32>,
    visible: Vec<u32>,
    tiles: Vec<u32>,
}

fn cut(contexts: &[Context<'_>], tiling: Tiling) -> Result<Cut> {
    let mut cut = Cut::default();
    let mut row = 0;
    for context in contexts {
        if context.mask != Mask::Causal {
            return Err(TensorError::shape("rows", "a GPU attends to what comes before a row, not after it"));
        }
        let start = cut.tables.len() as u32;
        cut.tables.extend_from_slice(context.blocks);
        if tiling == Tiling::Tiles && context.rows >= LEAST_TILE {
            for first in (0..context.rows).step_by(TILE_ROWS) {
                let rows = TILE_ROWS.min(context.rows - first);
                let sees = context.len - context.rows + first + 1;
                cut.tiles.extend([(row + first) as u32, rows as u32, start, sees as u32]);
            }
        } else {
            for (i, query) in queries(&[*context]).into_iter().enumerate() {
                cut.rows.push((row + i) as u32);
                cut.starts.push(start);
                cut.visible.push(query.visible as u32);
            }
        }
        row += context.rows;
    }
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_contexts_are_cut_into_tiles_and_short_ones_into_rows() {
        let of = |rows, len, blocks| Context { rows, len, blocks, mask: Mask::Causal, adapter: None };
        let contexts = [of(1, 5, &[3, 1][..]), of(70, 90, &[2, 4]), of(2, 2, &[7])];
        let cut = cut(&contexts, Tiling::Tiles).unwrap();
        assert_eq!(cut.tables, [3, 1, 2, 4, 7]);
        assert_eq!((cut.rows, cut.starts, cut.visible), (vec![0, 71, 72], vec![0, 4, 4], vec![5, 1, 2]));
        assert_eq!(cut.tiles, [1, 64, 2, 21, 65, 6, 2, 85]);
        assert_eq!(super::cut(&contexts, Tiling::Singles).unwrap().rows.len(), 73);
        assert!(super::cut(&[Context { mask: Mask::Full, ..contexts[0] }], Tiling::Tiles).is_err());
    }
}
