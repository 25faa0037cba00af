//! Engines in one memory, without threads: whatever the order of their steps, each comes to its end with the right text.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, sync_channel};

use proptest::prelude::*;

use super::*;
use crate::engine::PrefixCache;
use crate::engine::scheduler::Limits;
use crate::engine::sequence::{PromptScores, Sequence, Variant};
use crate::engine::testing::small_pool;
use crate::model::KvGeometry;

const BLOCK: usize = 4;

#[derive(Debug, Clone)]
struct Wish {
    engine: usize,
    prompt: Vec<u32>,
    generate: usize,
    /// The round in which it arrives.
    arrives: usize,
    /// The round from which its client is gone, if he goes.
    leaves: Option<usize>,
    priority: Priority,
    rank: i32,
}

fn wish(engines: usize, capacity: usize) -> impl Strategy<Value = Wish> {
    (1..capacity)
        .prop_flat_map(move |len| {
            (
                0..engines,
                prop::collection::vec(0u32..2, len),
                1..=(capacity - len),
                0usize..30,
                prop::option::weighted(0.2, 0usize..60),
                prop_oneof![3 => Just(Priority::Foreground), 1 => Just(Priority::Background)],
                prop_oneof![3 => Just(0), 1 => -2i32..3],
            )
        })
        .prop_map(|(engine, prompt, generate, arrives, leaves, priority, rank)| Wish {
            engine,
            prompt,
            generate,
            arrives,
            leaves,
            priority,
            rank,
        })
}

/// One engine: its scheduler, its part of the memory, and what it is told.
struct Desk {
    scheduler: Scheduler,
    share: Share,
    cache: KvCache,
    inbox: Receiver<Command>,
    /// Whether its thread would wait for a message, as it has nothing to do.
    rests: bool,
}

fn desks(memory: &KvMemory, engines: usize, prefix_cache: PrefixCache) -> Vec<Desk> {
    let blocks = memory.pool().layout().blocks;
    let limits = Limits { blocks, block_size: BLOCK, max_running: 4, max_step_tokens: 16, prefix_cache };
    let desk = |_| {
        let (wake, inbox) = sync_channel(4);
        let (scheduler, cache) =
            (Scheduler::new(limits.clone()), memory.pool().cache(&crate::model::Device::CPU));
        Desk { scheduler, share: memory.share(blocks, wake), cache, inbox, rests: false }
    };
    (0..engines).map(desk).collect()
}

fn next(tokens: &[u32]) -> u32 {
    tokens.iter().fold(7, |h: u32, t| h.wrapping_mul(31).wrapping_add(*t)) % 3
}

type World = (usize, usize, bool, Vec<Wish>, Vec<u8>);

fn world() -> impl Strategy<Value = World> {
    (2usize..4, 3usize..14, any::<bool>()).prop_flat_map(|(engines, blocks, cache)| {
        let wishes = prop::collection::vec(wish(engines, blocks * BLOCK), 1..14);
        (Just(engines), Just(blocks), Just(cache), wishes, prop::collection::vec(any::<u8>(), 16))
    })
}

proptest! {
    #[test]
    fn engines_in_one_memory_come_to_their_ends((engines, blocks, cache, wishes, order) in world()) {
        let memory = KvMemory::new(small_pool(KvGeometry { blocks, block_size: BLOCK }));
        let mut desks = desks(&memory, engines, if cache { PrefixCache::On } else { PrefixCache::Off });
        let mut open: BTreeMap<SequenceId, &Wish> = BTreeMap::new();
        let mut slots: HashMap<u32, Vec<u32>> = HashMap::new();
        let last = wishes.iter().map(|wish| wish.arrives).max().unwrap_or(0);
        let mut round = 0;
        while round <= last || !open.is_empty() {
            prop_assert!(round < 3000, "no end in sight for {open:?}");
            for wish in wishes.iter().filter(|wish| wish.arrives == round) {
                let desk = &mut desks[wish.engine];
                let id = desk.share.arrival(wish.rank);
                let sequence = Sequence::new(id, Variant::BASE, wish.prompt.clone(), PromptScores::Skip);
                desk.scheduler.add(sequence, wish.priority);
                desk.rests = false;
                open.insert(id, wish);
            }
            // some engine takes its turn, not each in each round
            let i = usize::from(order[round % order.len()]).wrapping_add(round / order.len()) % engines;
            // that a client is gone is found when his engine looks
            let is_gone = |wish: &Wish| wish.engine == i && wish.leaves.is_some_and(|leaves| leaves <= round);
            let gone: Vec<_> = open.iter().filter(|(_, wish)| is_gone(wish)).map(|(id, _)| *id).collect();
            for id in gone {
                desks[i].scheduler.remove(id);
                open.remove(&id);
            }
            round += 1;
            let clients = open.values().any(|wish| wish.priority == Priority::Foreground);
            let oldest = open.iter().find(|(_, wish)| wish.priority == Priority::Foreground);
            let oldest = oldest.map(|(id, wish)| (*id, wish.engine));
            let runs = |desks: &[Desk]| oldest.is_some_and(|(id, of)| desks[of].scheduler.get(id).is_some());
            let ran = runs(&desks);
            let desk = &mut desks[i];
            if desk.inbox.try_iter().count() > 0 {
                desk.rests = false;
            }
            if desk.rests {
                continue;
            }
            desk.share.give_way(&mut desk.scheduler, &mut desk.cache);
            let has = |priority| desk.scheduler.len(priority) > 0;
            let priority = match (has(Priority::Foreground), has(Priority::Background)) {
                (true, _) => Priority::Foreground,
                (false, true) if !clients => Priority::Background,
                (false, true) => continue,
                (false, false) => {
                    desk.rests = true;
                    continue;
                }
            };
            let plan = desk.share.plan(&mut desk.scheduler, &mut desk.cache, priority);
            let shares: Vec<_> = desks.iter().map(|desk| (desk.share.held, desk.share.want)).collect();
            prop_assert!(
                !ran || runs(&desks),
                "the oldest of all, {oldest:?}, is not set aside by {i} for another: {shares:?}"
            );
            let Some(plan) = plan else { continue };
            let desk = &mut desks[i];
            prop_assert!(!plan.parts.is_empty(), "a step without progress");
            for (part, span) in plan.parts.iter().zip(&plan.batch.spans) {
                let tokens = &desk.scheduler.get(part.id).unwrap().tokens;
                prop_assert!(span.block_table.iter().all(|block| desk.cache.holds(*block)));
                for (row, position) in span.rows.clone().zip(part.positions.clone()) {
                    slots.insert(plan.batch.slots[row], tokens[..=position].to_vec());
                }
            }
            for (part, span) in plan.parts.iter().zip(&plan.batch.spans) {
                let tokens = &desk.scheduler.get(part.id).unwrap().tokens;
                for position in 0..span.context_len {
                    let slot = span.block_table[position / BLOCK] as usize * BLOCK + position % BLOCK;
                    prop_assert_eq!(slots.get(&(slot as u32)).unwrap(), &tokens[..=position]);
                }
            }
            desk.scheduler.computed(&plan);
            for part in plan.parts.iter().filter(|part| part.sample.is_some()) {
                let token = next(&desk.scheduler.get(part.id).unwrap().tokens);
                desk.scheduler.append(part.id, token);
                if desk.scheduler.get(part.id).unwrap().generated().len() == open[&part.id].generate {
                    desk.scheduler.remove(part.id);
                    open.remove(&part.id);
                }
            }
        }
        prop_assert!(desks.iter().all(|desk| desk.scheduler.blocks_used() == 0));
        drop(desks);
        prop_assert_eq!(memory.pool().free(), blocks);
    }
}

/// What has run once is found again as long as the memory has room for it and for what runs now.
#[test]
fn prefixes_stay_while_there_are_empty_blocks() {
    let memory = KvMemory::new(small_pool(KvGeometry { blocks: 64, block_size: BLOCK }));
    let Desk { mut scheduler, mut share, mut cache, .. } =
        desks(&memory, 1, PrefixCache::On).pop().expect("one");
    let mut ask = |first: u32| {
        let id = share.arrival(0);
        let prompt: Vec<u32> = (0..13).map(|i| first + i).collect();
        scheduler.add(Sequence::new(id, Variant::BASE, prompt, PromptScores::Skip), Priority::Foreground);
        let plan = share.plan(&mut scheduler, &mut cache, Priority::Foreground).unwrap();
        scheduler.computed(&plan);
        let cached = scheduler.get(id).unwrap().cached;
        scheduler.remove(id);
        share.give_way(&mut scheduler, &mut cache);
        cached
    };
    for first in [100, 200, 300, 400] {
        assert_eq!(ask(first), Some(0));
    }
    for first in [100, 200, 300, 400] {
        assert_eq!(ask(first), Some(12), "the prompt that begins with {first}");
    }
}

/// An engine whose own sequences would grow into them asks others for no blocks on behalf of one that goes before those.
#[test]
fn who_goes_before_those_that_run_takes_nothing_from_others_for_them() {
    let memory = KvMemory::new(small_pool(KvGeometry { blocks: 8, block_size: BLOCK }));
    let mut desks = desks(&memory, 2, PrefixCache::Off);
    let come = |Desk { scheduler, share, .. }: &mut Desk, rank: i32, tokens: usize| {
        let id = share.arrival(rank);
        let sequence = Sequence::new(id, Variant::BASE, vec![1; tokens], PromptScores::Skip);
        scheduler.add(sequence, Priority::Foreground);
        id
    };
    let step = |desk: &mut Desk| {
        desk.share.give_way(&mut desk.scheduler, &mut desk.cache);
        let plan = desk.share.plan(&mut desk.scheduler, &mut desk.cache, Priority::Foreground)?;
        desk.scheduler.computed(&plan);
        plan.parts.iter().for_each(|part| desk.scheduler.append(part.id, 1));
        Some(())
    };
    // the two have all blocks
    let last = come(&mut desks[0], 10, 3 * BLOCK + 1);
    let middle = come(&mut desks[1], 5, 3 * BLOCK + 1);
    for desk in &mut desks {
        step(desk).unwrap();
    }
    come(&mut desks[0], 0, 2 * BLOCK);
    for _ in 0..2 {
        for desk in &mut desks {
            step(desk);
        }
        assert!(desks[1].scheduler.get(middle).is_some(), "it was set aside, and {last:?} runs");
    }
}
