//! Work that is recorded once and done again.

use std::cell::OnceCell;
use std::sync::Arc;

use super::driver::{Gpu, Pin};
use super::lists::{Indices, Lists};
use super::memory::Buffer;
use super::rows::Contexts;
use crate::tensor::error::Result;
use crate::tensor::rows::{HostRows, NO_ADAPTER};

/// What a driver has recorded.
pub(super) trait Recorded: Send {
    /// Enqueues all of it.
    fn replay(&self) -> Result<()>;
}

/// Recorded work of one stream. While there is one, no memory that tensors gave back leaves the stream: the work still
/// writes there.
pub(in crate::tensor) struct Graph {
    recorded: Box<dyn Recorded>,
    _pin: Pin,
}

impl Graph {
    pub(super) fn new(pin: Pin, recorded: Box<dyn Recorded>) -> Self {
        Self { recorded, _pin: pin }
    }

    /// Enqueues the work.
    pub(in crate::tensor) fn replay(&self) -> Result<()> {
        self.recorded.replay()
    }
}

/// Lists of single rows at places that stay: tokens, positions, slots, wanted rows, adapters, which rows, where tables
/// start, what is visible; and block tables behind them, as long as need be.
pub(in crate::tensor) struct Places {
    buffer: Arc<Buffer>,
    rows: usize,
    /// Words that there is room for in the tables.
    table: usize,
}

/// A row that only fills a pass up.
const NO_SLOT: u32 = u32::MAX;
/// Lists before the tables.
const LISTS: usize = 8;

impl Places {
    pub(in crate::tensor) fn new(gpu: &Gpu, rows: usize, blocks_of_a_context: usize) -> Result<Self> {
        let table = rows * blocks_of_a_context;
        let words = LISTS * Lists::stride(rows) + table;
        Ok(Self { buffer: Arc::new(gpu.lasting(words * size_of::<u32>())?), rows, table })
    }

    pub(in crate::tensor) fn gpu(&self) -> &Gpu {
        self.buffer.gpu()
    }

    /// The lists at their places.
    pub(in crate::tensor) fn lists(&self) -> ([Indices; 5], Contexts) {
        let stride = Lists::stride(self.rows);
        let list = |i: usize, len: usize| Indices::new(Arc::clone(&self.buffer), i * stride, len);
        let rows = |i: usize| list(i, self.rows);
        let contexts = Contexts {
            tables: list(LISTS, self.table),
            singles: [rows(5), rows(6), rows(7)],
            tiles: list(LISTS, 0),
            arrived: OnceCell::new(),
        };
        ([rows(0), rows(1), rows(2), rows(3), rows(4)], contexts)
    }

    /// Writes rows there, and what fills them up behind them.
    pub(in crate::tensor) fn fill(&self, host: &HostRows<'_>, block_size: usize) -> Result<()> {
        let (mut starts, mut visible, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        for context in host.contexts {
            starts.push(tables.len() as u32);
            visible.push(context.len as u32);
            // the host has checked that they are so many
            tables.extend_from_slice(&context.blocks[..context.len.div_ceil(block_size)]);
        }
        let mut lists = Lists::default();
        let mut add = |list: &[u32], filling| lists.add_filled(list.iter().copied(), self.rows, filling);
        add(host.tokens, 0);
        add(host.positions, 0);
        add(host.slots, NO_SLOT);
        // all rows are wanted, and each is single
        let numbers: Vec<u32> = (0..self.rows as u32).collect();
        add(&numbers, 0);
        add(&host.adapters().collect::<Vec<_>>(), NO_ADAPTER);
        add(&numbers, 0);
        add(&starts, 0);
        add(&visible, 0);
        lists.add(tables);
        lists.write_to(&self.buffer)
    }
}
