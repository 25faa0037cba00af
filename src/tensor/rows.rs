//! What the operators of one forward pass know of its rows: checked once, used in every layer.

use std::ops::Range;

use super::error::{Result, TensorError};
use super::gpu;
use super::kv::{KvCache, Store};
use super::low_rank::AdapterSlot;

/// Numbers of tokens, positions, slots or rows, on a device.
#[derive(Debug, Clone)]
pub struct Indices<'a>(pub(super) Numbers<'a>);

#[derive(Debug, Clone)]
pub(super) enum Numbers<'a> {
    Host(&'a [u32]),
    Device(gpu::Indices),
}

impl<'a> Indices<'a> {
    /// Numbers in the host's memory.
    pub const fn host(numbers: &'a [u32]) -> Self {
        Self(Numbers::Host(numbers))
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        match &self.0 {
            Numbers::Host(numbers) => numbers.len(),
            Numbers::Device(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Consecutive rows that share a context, and where that lies.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// How many rows there are. They are the context's last tokens.
    pub rows: usize,
    /// Tokens of the context, those of the rows included.
    pub len: usize,
    /// The blocks that hold it, in its order; more than are needed do no harm.
    pub blocks: &'a [u32],
    /// What of it a row sees.
    pub mask: Mask,
    /// The adapter that its rows go through, if any.
    pub adapter: Option<AdapterSlot>,
}

/// What of its context a row sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// What comes before it, and itself: a decoder.
    Causal,
    /// All of it: an encoder.
    Full,
}

/// What a row attends to: the first `visible` tokens of `blocks`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) blocks: &'a [u32],
    pub(super) visible: usize,
}

/// The rows of one forward pass.
#[derive(Debug)]
pub struct Rows<'a> {
    tokens: Indices<'a>,
    positions: Indices<'a>,
    /// Of blocks that the cache holds: nobody else writes there.
    pub(super) slots: Indices<'a>,
    wanted: Indices<'a>,
    contexts: Contexts<'a>,
    /// None where no row has an adapter.
    adapted: Option<Adapted<'a>>,
    cache: &'a KvCache,
}

/// Which rows have which adapters.
#[derive(Debug)]
pub(super) enum Adapted<'a> {
    /// Neighbours of one adapter together; rows of none are left out.
    Host(Vec<(Range<usize>, AdapterSlot)>),
    /// The slot of each row, or [`NO_ADAPTER`].
    Device(Indices<'a>),
}

/// In the place of a slot: none.
pub(super) const NO_ADAPTER: u32 = u32::MAX;

#[derive(Debug)]
pub(super) enum Contexts<'a> {
    /// One a row.
    Host(Vec<Query<'a>>),
    Device(gpu::Contexts),
}

/// [`Rows`] as the host knows them.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostRows<'a> {
    /// A token a row.
    pub tokens: &'a [u32],
    /// Its position in its context.
    pub positions: &'a [u32],
    /// Where its keys and values go: `block * block_size + offset`.
    pub slots: &'a [u32],
    /// The rows whose results are wanted in the end.
    pub wanted: &'a [u32],
    /// The contexts, in the order of their rows; together they cover all rows.
    pub contexts: &'a [Context<'a>],
}

impl<'a> Rows<'a> {
    /// Brings the rows to where a cache lies. An error if the lists are of different lengths, if a row sees nothing, or if
    /// a wanted row is not there, or a slot or a block is none that the cache holds. Tokens are checked where they are
    /// looked up, on the host only: a GPU reads whatever lies there.
    pub fn new(cache: &'a KvCache, host: HostRows<'a>) -> Result<Self> {
        host.check(cache)?;
        Ok(match cache.store() {
            Store::Host(_) => Self {
                tokens: Indices::host(host.tokens),
                positions: Indices::host(host.positions),
                slots: Indices::host(host.slots),
                wanted: Indices::host(host.wanted),
                contexts: Contexts::Host(queries(host.contexts)),
                adapted: host.is_adapted().then(|| Adapted::Host(host.runs())),
                cache,
            },
            Store::Device(store) => {
                let (lists, contexts) = store.upload(cache.gpu()?, &host)?;
                let [tokens, positions, slots, wanted, adapters] =
                    lists.map(|list| Indices(Numbers::Device(list)));
                let adapted = host.is_adapted().then_some(Adapted::Device(adapters));
                Self {
                    tokens,
                    positions,
                    slots,
                    wanted,
                    contexts: Contexts::Device(contexts),
                    adapted,
                    cache,
                }
            }
        })
    }

    /// Rows that are written to places of their own, again and again, of which some may have adapters if there are any.
    pub(super) fn at(places: &gpu::Places, cache: &'a KvCache, adapters: Adapters) -> Self {
        let (lists, contexts) = places.lists();
        let [tokens, positions, slots, wanted, adapted] = lists.map(|list| Indices(Numbers::Device(list)));
        let adapted = match adapters {
            Adapters::None => None,
            Adapters::Some => Some(Adapted::Device(adapted)),
        };
        Self { tokens, positions, slots, wanted, contexts: Contexts::Device(contexts), adapted, cache }
    }

    /// How many rows there are.
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A token a row.
    pub const fn tokens(&self) -> &Indices<'a> {
        &self.tokens
    }

    /// Its position in its context.
    pub const fn positions(&self) -> &Indices<'a> {
        &self.positions
    }

    /// The rows whose results are wanted in the end.
    pub const fn wanted(&self) -> &Indices<'a> {
        &self.wanted
    }

    /// The cache that the contexts lie in.
    pub const fn cache(&self) -> &'a KvCache {
        self.cache
    }

    pub(super) const fn contexts(&self) -> &Contexts<'a> {
        &self.contexts
    }

    pub(super) const fn adapted(&self) -> Option<&Adapted<'a>> {
        self.adapted.as_ref()
    }

    /// Whether any of them may have an adapter.
    pub const fn adapters(&self) -> Adapters {
        match self.adapted {
            None => Adapters::None,
            Some(_) => Adapters::Some,
        }
    }
}

/// Whether there are adapters, or rows that go through one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adapters {
    /// There are none.
    #[default]
    None,
    /// There are some.
    Some,
}

/// What each row attends to.
pub(super) fn queries<'a>(contexts: &[Context<'a>]) -> Vec<Query<'a>> {
    let of = |context: &Context<'a>| {
        let Context { rows, len, blocks, mask, .. } = *context;
        (0..rows).map(move |row| {
            let visible = match mask {
                Mask::Causal => len - rows + row + 1,
                Mask::Full => len,
            };
            Query { blocks, visible }
        })
    };
    contexts.iter().flat_map(of).collect()
}

impl HostRows<'_> {
    /// Whether any row has an adapter.
    pub(super) fn is_adapted(&self) -> bool {
        self.contexts.iter().any(|context| context.adapter.is_some())
    }

    /// The slot of each row, or [`NO_ADAPTER`].
    pub(super) fn adapters(&self) -> impl Iterator<Item = u32> {
        let of = |context: &Context<'_>| {
            let slot = context.adapter.map_or(NO_ADAPTER, AdapterSlot::number);
            std::iter::repeat_n(slot, context.rows)
        };
        self.contexts.iter().flat_map(of)
    }

    /// Neighbours of one adapter together; rows of none are left out.
    fn runs(&self) -> Vec<(Range<usize>, AdapterSlot)> {
        let mut runs: Vec<(Range<usize>, AdapterSlot)> = Vec::new();
        let mut row = 0;
        for Context { rows, adapter, .. } in self.contexts {
            let own = row..row + rows;
            row = own.end;
            let Some(slot) = *adapter else { continue };
            match runs.last_mut() {
                Some((run, same)) if *same == slot && run.end == own.start => run.end = own.end,
                _ => runs.push((own, slot)),
            }
        }
        runs
    }

    /// What [`Rows::new`] refuses.
    pub(super) fn check(&self, cache: &KvCache) -> Result<()> {
        let layout = cache.layout();
        let wrong = |what: String| Err(TensorError::shape("rows", what));
        let HostRows { tokens, positions, slots, wanted, contexts } = *self;
        let rows = tokens.len();
        if positions.len() != rows || slots.len() != rows {
            return wrong(format!("{rows} tokens, {} positions, {} slots", positions.len(), slots.len()));
        }
        let block_of = |slot: u32| slot / layout.block_size as u32;
        if let Some(slot) = slots.iter().find(|slot| !cache.holds(block_of(**slot))) {
            return wrong(format!("slot {slot}, whose block is not held, of {}", layout.slots()));
        }
        if let Some(row) = wanted.iter().find(|r| **r as usize >= rows) {
            return wrong(format!("row {row} of {rows}"));
        }
        let mut covered = 0;
        for context in contexts {
            let held = context.blocks.get(..context.len.div_ceil(layout.block_size)).unwrap_or_default();
            if context.rows > context.len || held.is_empty() {
                return wrong(format!("{context:?} in blocks of {}", layout.block_size));
            }
            if let Some(block) = held.iter().find(|block| !cache.holds(**block)) {
                return wrong(format!("block {block}, which is not held, of {}", layout.blocks));
            }
            covered += context.rows;
        }
        if covered == rows { Ok(()) } else { wrong(format!("contexts of {covered} rows for {rows}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Device, ElementType, KvLayout, KvPool};

    #[test]
    fn rows_that_contradict_themselves_or_the_cache_are_refused() {
        let layout = KvLayout { layers: 1, blocks: 2, block_size: 4, kv_heads: 1, head_dim: 6 };
        let context = Context { rows: 2, len: 5, blocks: &[1, 0], mask: Mask::Causal, adapter: None };
        let host = HostRows {
            tokens: &[1, 2],
            positions: &[3, 4],
            slots: &[7, 0],
            wanted: &[1],
            contexts: &[context],
        };
        let cache = KvCache::new(&Device::CPU, layout, ElementType::F32).unwrap();
        let new = |host| Rows::new(&cache, host);
        let rows = new(host).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(super::queries(&[context]).iter().map(|q| q.visible).collect::<Vec<_>>(), [4, 5]);
        let full = [Context { mask: Mask::Full, ..context }];
        assert!(super::queries(&full).iter().all(|q| q.visible == 5));

        for wrong in [
            HostRows { positions: &[3], ..host },
            HostRows { slots: &[7, 8], ..host },
            HostRows { wanted: &[2], ..host },
            HostRows { contexts: &[], ..host },
            HostRows { contexts: &[Context { len: 9, ..context }], ..host },
            HostRows { contexts: &[Context { len: 1, ..context }], ..host },
            HostRows { contexts: &[Context { blocks: &[1], ..context }], ..host },
            HostRows { contexts: &[Context { blocks: &[1, 2], ..context }], ..host },
            HostRows { contexts: &[context, Context { rows: 0, len: 0, ..context }], ..host },
        ] {
            assert!(new(wrong).is_err(), "{wrong:?}");
        }

        let pool = KvPool::new(&Device::CPU, layout, ElementType::F32).unwrap();
        let mut part = pool.cache(&Device::CPU);
        let held = part.take(1);
        assert!(Rows::new(&part, host).is_err(), "one of the two blocks is not held");
        let [slot] = [held[0] * 4];
        let context = [Context { rows: 1, len: 1, blocks: &held, mask: Mask::Causal, adapter: None }];
        let one = HostRows { tokens: &[1], positions: &[0], slots: &[slot], wanted: &[], contexts: &context };
        assert!(
            Rows::new(&part, one).is_ok()
                && Rows::new(&part, HostRows { slots: &[4 - slot], ..one }).is_err()
        );
    }
}
