//! Blocks of key-value storage that an engine has: who holds them, which are free, and which still hold a known prefix.
//! They come from the memory that engines share, and go back there.
//!
//! A [`BlockId`] is a claim: it cannot be copied, so what is given back cannot be given back twice. A block is free
//! (empty), held (one or more claims) or evictable (no claim, but its content is kept until the room is needed).

use std::collections::{BTreeMap, HashMap};

/// A claim on one block. Dropping it without [`BlockPool::release`] would leak the block.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "a claim that is dropped leaks its block"]
pub(super) struct BlockId(u32);

impl BlockId {
    /// The block's number, as a model's block table has it.
    pub(super) fn number(&self) -> u32 {
        self.0
    }
}

/// Names the content of a block together with all that comes before it. Never used again for other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PrefixId(u64);

impl PrefixId {
    /// What comes before the first block of a context that goes through no adapter: nothing.
    pub(super) const ROOT: Self = Self(0);
}

/// What a full block holds. The parent stands for everything before it, so equal keys mean equal contexts: the map
/// hashes parent and tokens and then compares them, and a collision of hashes finds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PrefixKey {
    parent: PrefixId,
    tokens: Box<[u32]>,
}

#[derive(Debug, Clone, Copy)]
struct CachedBlock {
    block: u32,
    id: PrefixId,
}

#[derive(Debug, Default)]
struct Slot {
    claims: u32,
    /// Set while the prefix cache knows the block; such a block is full and is never written again.
    key: Option<PrefixKey>,
    /// When the last claim was given up, while the block is evictable.
    released: u64,
}

/// All blocks that one engine has.
#[derive(Debug)]
pub(super) struct BlockPool {
    /// One for each block of the memory, whoever has it.
    slots: Vec<Slot>,
    /// How many the engine has.
    stocked: usize,
    free: Vec<u32>,
    /// By the time of release: the least recently used comes first.
    evictable: BTreeMap<u64, u32>,
    prefixes: HashMap<PrefixKey, CachedBlock>,
    clock: u64,
    next_prefix: u64,
}

impl BlockPool {
    /// A pool that has none yet of a memory of so many blocks.
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            slots: (0..blocks).map(|_| Slot::default()).collect(),
            stocked: 0,
            free: Vec::new(),
            evictable: BTreeMap::new(),
            prefixes: HashMap::new(),
            clock: 0,
            next_prefix: PrefixId::ROOT.0 + 1,
        }
    }

    /// A beginning of its own, for contexts that go through an adapter: the same tokens have other keys and values there.
    pub(super) fn root(&mut self) -> PrefixId {
        self.new_prefix()
    }

    /// A name that nothing has had.
    fn new_prefix(&mut self) -> PrefixId {
        self.next_prefix += 1;
        PrefixId(self.next_prefix - 1)
    }

    /// Takes empty blocks in.
    pub(super) fn stock(&mut self, blocks: Vec<u32>) {
        self.stocked += blocks.len();
        self.free.extend(blocks);
    }

    /// Gives at most so many blocks away: empty ones first, then those whose prefixes were least recently used.
    pub(super) fn spare(&mut self, most: usize) -> Vec<u32> {
        let spared: Vec<u32> = std::iter::from_fn(|| self.empty()).take(most).collect();
        self.stocked -= spared.len();
        spared
    }

    /// Gives all empty blocks away.
    pub(super) fn spare_empty(&mut self) -> Vec<u32> {
        self.stocked -= self.free.len();
        std::mem::take(&mut self.free)
    }

    /// Blocks with nothing in them.
    pub(super) fn empties(&self) -> usize {
        self.free.len()
    }

    /// How many blocks of a context that is cut into such pieces are known after `root`, and how many of those nobody holds.
    pub(super) fn known<'t>(
        &self,
        root: PrefixId,
        pieces: impl Iterator<Item = &'t [u32]>,
    ) -> (usize, usize) {
        let (mut parent, mut known, mut unheld) = (root, 0, 0);
        for tokens in pieces {
            let Some(CachedBlock { block, id }) =
                self.prefixes.get(&PrefixKey { parent, tokens: tokens.into() })
            else {
                break;
            };
            parent = *id;
            known += 1;
            unheld += usize::from(self.slots[*block as usize].claims == 0);
        }
        (known, unheld)
    }

    /// Blocks that can be had, empty or by forgetting what they hold.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.evictable.len()
    }

    /// Blocks that someone holds.
    pub(super) fn used(&self) -> usize {
        self.stocked - self.available()
    }

    /// A block for one writer. Forgets the least recently used prefix where no block is empty.
    pub(super) fn allocate(&mut self) -> Option<BlockId> {
        let block = self.empty()?;
        self.slots[block as usize].claims = 1;
        Some(BlockId(block))
    }

    /// A block that holds nothing, if need be after forgetting what it held.
    fn empty(&mut self) -> Option<u32> {
        if let Some(empty) = self.free.pop() {
            return Some(empty);
        }
        let (_, oldest) = self.evictable.pop_first()?;
        if let Some(key) = self.slots[oldest as usize].key.take() {
            self.prefixes.remove(&key);
        }
        Some(oldest)
    }

    /// A claim on the block that holds `tokens` after `parent`, if one is known.
    pub(super) fn find(&mut self, parent: PrefixId, tokens: &[u32]) -> Option<(BlockId, PrefixId)> {
        let key = PrefixKey { parent, tokens: tokens.into() };
        let CachedBlock { block, id } = *self.prefixes.get(&key)?;
        let slot = &mut self.slots[block as usize];
        if slot.claims == 0 {
            self.evictable.remove(&slot.released);
        }
        slot.claims += 1;
        Some((BlockId(block), id))
    }

    /// Lets others find a block that is now full and computed. If the same content is known already, that one stays
    /// and this block remains private; either way the content's name is returned.
    pub(super) fn publish(&mut self, block: &BlockId, parent: PrefixId, tokens: &[u32]) -> PrefixId {
        let key = PrefixKey { parent, tokens: tokens.into() };
        if let Some(known) = self.prefixes.get(&key) {
            return known.id;
        }
        let id = self.new_prefix();
        self.slots[block.0 as usize].key = Some(key.clone());
        self.prefixes.insert(key, CachedBlock { block: block.0, id });
        id
    }

    /// Gives claims back. Of one context, the last block is forgotten first: the others are of use without it.
    pub(super) fn release(&mut self, blocks: Vec<BlockId>) {
        for BlockId(block) in blocks.into_iter().rev() {
            let slot = &mut self.slots[block as usize];
            slot.claims -= 1;
            if slot.claims > 0 {
                continue;
            }
            if slot.key.is_some() {
                self.clock += 1;
                slot.released = self.clock;
                self.evictable.insert(self.clock, block);
            } else {
                self.free.push(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn stocked(blocks: u32) -> BlockPool {
        let mut pool = BlockPool::new(blocks as usize);
        pool.stock((0..blocks).rev().collect());
        pool
    }

    #[derive(Debug, Clone)]
    enum Act {
        /// Build a context of these blocks, sharing what is known.
        Build(Vec<u8>),
        /// Give one of the contexts up.
        GiveUp(usize),
        /// Let others have so many blocks for a while.
        Spare(usize),
        /// Have back what others had.
        Stock,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            prop::collection::vec(0u8..3, 1..6).prop_map(Act::Build),
            any::<prop::sample::Index>().prop_map(|i| Act::GiveUp(i.index(1 << 20))),
            (0usize..4).prop_map(Act::Spare),
            Just(Act::Stock),
        ];
        prop::collection::vec(act, 1..120)
    }

    proptest! {
        #[test]
        fn no_block_leaks_is_freed_twice_or_is_written_by_two(acts in acts(), blocks in 1u32..12) {
            let mut pool = stocked(blocks);
            let mut elsewhere: Vec<u32> = Vec::new();
            // What each block holds, as a model would: the whole context up to its end.
            let mut memory: HashMap<u32, Vec<u8>> = HashMap::new();
            let mut held: Vec<Vec<BlockId>> = Vec::new();
            for act in acts {
                match act {
                    Act::Build(content) => {
                        let mut claims = Vec::new();
                        let mut parent = PrefixId::ROOT;
                        let pieces: Vec<_> = content.iter().map(|token| [u32::from(*token)]).collect();
                        let (known, _) = pool.known(PrefixId::ROOT, pieces.iter().map(<[u32; 1]>::as_slice));
                        for (i, token) in content.iter().enumerate() {
                            let tokens = [u32::from(*token)];
                            let found = pool.find(parent, &tokens);
                            prop_assert!(i >= known || found.is_some(), "what is known is found");
                            if let Some((block, id)) = found {
                                prop_assert_eq!(&memory[&block.number()], &content[..=i], "a foreign prefix");
                                parent = id;
                                claims.push(block);
                            } else if let Some(block) = pool.allocate() {
                                let taken = held.iter().flatten().chain(&claims).any(|b| *b == block);
                                prop_assert!(!taken, "a held block was given out to write");
                                prop_assert!(!elsewhere.contains(&block.number()), "it is with others");
                                memory.insert(block.number(), content[..=i].to_vec());
                                parent = pool.publish(&block, parent, &tokens);
                                claims.push(block);
                            } else {
                                break;
                            }
                        }
                        held.push(claims);
                    }
                    Act::GiveUp(i) if !held.is_empty() => {
                        let claims = held.swap_remove(i % held.len());
                        pool.release(claims);
                    }
                    Act::GiveUp(_) => {}
                    Act::Spare(most) => {
                        let spared = pool.spare(most);
                        prop_assert!(spared.iter().all(|b| held.iter().flatten().all(|h| h.number() != *b)));
                        elsewhere.extend(spared);
                    }
                    Act::Stock => pool.stock(std::mem::take(&mut elsewhere)),
                }
                let distinct: std::collections::HashSet<_> = held.iter().flatten().map(BlockId::number).collect();
                prop_assert_eq!(pool.used(), distinct.len());
                prop_assert_eq!(pool.used() + pool.available() + elsewhere.len(), blocks as usize);
            }
            for claims in held {
                pool.release(claims);
            }
            prop_assert_eq!(pool.available() + elsewhere.len(), blocks as usize);
        }
    }

    #[test]
    fn the_least_recently_used_prefix_is_forgotten_first() {
        let mut pool = stocked(2);
        let [a, b] = [pool.allocate().unwrap(), pool.allocate().unwrap()];
        pool.publish(&a, PrefixId::ROOT, &[1]);
        pool.publish(&b, PrefixId::ROOT, &[2]);
        pool.release(vec![a]);
        pool.release(vec![b]);
        let (a, _) = pool.find(PrefixId::ROOT, &[1]).unwrap();
        pool.release(vec![a]);
        let _writer = pool.allocate().unwrap();
        assert!(pool.find(PrefixId::ROOT, &[2]).is_none());
        assert!(pool.find(PrefixId::ROOT, &[1]).is_some());
    }

    #[test]
    fn the_same_tokens_after_another_prefix_are_not_found() {
        let mut pool = stocked(3);
        let [a, b, c] = [(); 3].map(|()| pool.allocate().unwrap());
        let one = pool.publish(&a, PrefixId::ROOT, &[1]);
        let two = pool.publish(&b, PrefixId::ROOT, &[2]);
        pool.publish(&c, one, &[9]);
        assert!(pool.find(two, &[9]).is_none());
        assert!(pool.find(PrefixId::ROOT, &[9]).is_none());
        let adapted = pool.root();
        assert!(pool.find(adapted, &[1]).is_none(), "another adapter computes another prefix");
        assert!(pool.find(one, &[9]).is_some());
    }
}
