//! Decode passes that a GPU is told once.
//!
//! A decode step of a small batch is a few hundred short kernels, and telling the device of each takes the host longer
//! than some of them run. So a pass over so many single rows is recorded (as CUDA graphs are) the first time, and done
//! again from then on with other rows in the same places. Row counts are rounded up to powers of two; rows that only
//! fill a pass up see nothing and write nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::array::Tensor;
use super::error::Result;
use super::gpu::{Graph, Places};
use super::kv::{KvCache, KvLayout, KvPool, Store};
use super::rows::{Adapters, HostRows, Rows};

/// The most rows of a pass that is recorded: larger ones keep a device busy by themselves.
const MOST_ROWS: usize = 256;

/// The passes of one model that are recorded so far, by their rows. On the host there are none.
pub struct Replays {
    /// Tokens of the longest context.
    longest: usize,
    by_rows: BTreeMap<usize, Replay>,
    /// The memory that they write to, so that it stays while they do.
    over: Option<KvPool>,
    /// Whether rows of theirs may have adapters.
    adapters: Adapters,
}

struct Replay {
    places: Places,
    graph: Graph,
    out: Tensor,
}

impl Replays {
    /// Of a model whose contexts have at most `longest` tokens.
    pub fn new(longest: usize) -> Self {
        Self { longest, by_rows: BTreeMap::new(), over: None, adapters: Adapters::None }
    }

    /// What `pass` gives for these rows, if it is one to be recorded: single rows of contexts on a GPU, the results of all
    /// of which are wanted, in their order. `pass` must do the same work for the same number of rows, whatever they are.
    /// The result is written anew by the next run.
    pub fn run(
        &mut self,
        cache: &KvCache,
        host: &HostRows<'_>,
        pass: impl FnMut(&Rows<'_>) -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        let n = host.tokens.len();
        if matches!(cache.store(), Store::Host(_)) {
            return Ok(None);
        }
        let single = host.contexts.iter().all(|context| context.rows == 1);
        let all = host.wanted.iter().copied().eq(0..n as u32);
        if n == 0 || n > MOST_ROWS || !single || !all {
            return Ok(None);
        }
        host.check(cache)?;
        let rows = n.next_power_of_two();
        let Replay { places, graph, out } = self.recorded(cache, rows, pass)?;
        places.fill(host, cache.layout().block_size)?;
        graph.replay()?;
        Ok(Some(out.first_rows(n)))
    }

    /// Records `pass` over each number of rows that up to `rows` are rounded to, so that none of [`Replays::run`] has to.
    /// No block of the cache is read or written.
    pub fn record(
        &mut self,
        cache: &KvCache,
        rows: usize,
        mut pass: impl FnMut(&Rows<'_>) -> Result<Tensor>,
    ) -> Result<()> {
        if matches!(cache.store(), Store::Host(_)) {
            return Ok(());
        }
        sizes(rows).try_for_each(|rows| self.recorded(cache, rows, &mut pass).map(drop))
    }

    /// The recording for so many rows; made now, over rows that see nothing and write nothing, if there is none.
    fn recorded(
        &mut self,
        cache: &KvCache,
        rows: usize,
        mut pass: impl FnMut(&Rows<'_>) -> Result<Tensor>,
    ) -> Result<&Replay> {
        if self.over.as_ref().is_none_or(|over| !over.is(cache.pool())) {
            self.clear();
            self.over = Some(cache.pool().clone());
        }
        let adapters = self.adapters;
        match self.by_rows.entry(rows) {
            Entry::Occupied(recorded) => Ok(recorded.into_mut()),
            Entry::Vacant(place) => {
                let KvLayout { blocks, block_size, .. } = cache.layout();
                let table = self.longest.div_ceil(block_size).min(blocks);
                let places = Places::new(cache.gpu()?, rows, table)?;
                places.fill(&HostRows::default(), block_size)?;
                // Rows of its own for each pass: what a pass makes once for all layers is made, and so recorded, anew.
                let mut pass_once = || pass(&Rows::at(&places, cache, adapters));
                // once as it is, so that all that is asked for the first time is there when it is recorded
                drop(pass_once()?);
                let (graph, out) = places.gpu().record(pass_once)?;
                Ok(place.insert(Replay { places, graph, out }))
            }
        }
    }

    /// Forgets all of them, as the model's adapters have changed: what passes read of those is recorded with them. Gives
    /// the rows of the largest.
    pub fn adapt(&mut self, adapters: Adapters) -> Option<usize> {
        self.adapters = adapters;
        let largest = self.by_rows.last_key_value().map(|(rows, _)| *rows);
        self.by_rows.clear();
        largest
    }

    /// Forgets all of them, as a cache that they write to goes.
    pub fn clear(&mut self) {
        self.by_rows.clear();
        self.over = None;
    }
}

/// The row counts that passes over up to so many rows are recorded with.
fn sizes(rows: usize) -> impl Iterator<Item = usize> {
    let most = rows.next_power_of_two().min(MOST_ROWS);
    std::iter::successors(Some(1), |size| Some(size * 2)).take_while(move |size| *size <= most)
}
