//! Decode passes that a GPU is told once.
//!
//! A decode step of a small batch is a few hundred short kernels, and telling the device of each takes the host longer
//! than some of them run. So a pass over so many single rows is recorded (as CUDA graphs are) the first time, and done
//! again from then on with other rows in the same places. Row counts are rounded up to powers of two; rows that only
//! fill a pass up see nothing and write nothing.

use std::collections::BTreeMap;

use super::array::Tensor;
use super::error::Result;
use super::gpu::{Graph, Places};
use super::kv::{KvCache, Store};
use super::rows::{HostRows, Rows};

/// The most rows of a pass that is recorded: larger ones keep a device busy by themselves.
const MOST_ROWS: usize = 256;

/// The passes of one model that are recorded so far, by their rows. On the host there are none.
#[derive(Default)]
pub struct Replays(BTreeMap<usize, Replay>);

struct Replay {
    places: Places,
    graph: Graph,
    out: Tensor,
}

impl Replays {
    /// What `pass` gives for these rows, if it is one to be recorded: single rows of contexts on a GPU, the results of all
    /// of which are wanted, in their order. `pass` must do the same work for the same number of rows, whatever they are.
    /// The result is written anew by the next run.
    pub fn run(
        &mut self,
        cache: &mut KvCache,
        host: &HostRows<'_>,
        mut pass: impl FnMut(&mut KvCache, &Rows<'_>) -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        let n = host.tokens.len();
        let Store::Device(store) = cache.store() else { return Ok(None) };
        let single = host.contexts.iter().all(|context| context.rows == 1);
        let all = host.wanted.iter().copied().eq(0..n as u32);
        if n == 0 || n > MOST_ROWS || !single || !all {
            return Ok(None);
        }
        host.check(cache.layout())?;
        let rows = n.next_power_of_two();
        if let Some(Replay { places, graph, out }) = self.0.get(&rows) {
            places.fill(host)?;
            graph.replay()?;
            return Ok(Some(out.first_rows(n)));
        }
        let places = store.places(rows)?;
        places.fill(host)?;
        // Rows of its own for each pass: what a pass makes once for all layers is made, and so recorded, anew.
        let mut pass_once = || {
            let rows = Rows::at(&places, cache.layout());
            pass(cache, &rows)
        };
        // once as it is, so that all that is asked for the first time is there when it is recorded
        drop(pass_once()?);
        let (graph, out) = places.gpu().record(pass_once)?;
        graph.replay()?;
        let result = out.first_rows(n);
        self.0.insert(rows, Replay { places, graph, out });
        Ok(Some(result))
    }

    /// The row counts that passes over up to so many rows are recorded with.
    pub fn sizes(rows: usize) -> impl Iterator<Item = usize> {
        let most = rows.next_power_of_two().min(MOST_ROWS);
        std::iter::successors(Some(1), |size| Some(size * 2)).take_while(move |size| *size <= most)
    }

    /// Forgets all of them, as a cache that they write to goes.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
