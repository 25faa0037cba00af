//! Properties of the schedule, with made-up tokens in place of a model.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::engine::plan::Part;
use crate::engine::sequence::{PromptScores, Variant};
use crate::model::AdapterSlot;

const BLOCK: usize = 4;

fn limits(blocks: usize, max_running: usize, max_step_tokens: usize, prefix_cache: PrefixCache) -> Limits {
    Limits { blocks, block_size: BLOCK, max_running, max_step_tokens, prefix_cache }
}

/// A scheduler that has all the blocks there are.
fn stocked(limits: Limits) -> Scheduler {
    let blocks = limits.blocks as u32;
    let mut scheduler = Scheduler::new(limits);
    scheduler.stock((0..blocks).rev().collect());
    scheduler
}

const PRIORITIES: [Priority; 2] = [Priority::Foreground, Priority::Background];

/// The next token, from the whole context: any mistake in the context shows.
fn next(tokens: &[u32]) -> u32 {
    tokens.iter().fold(7, |h: u32, t| h.wrapping_mul(31).wrapping_add(*t)) % 3
}

#[derive(Debug, Clone)]
struct Wish {
    prompt: Vec<u32>,
    generate: usize,
    /// The step at which it arrives.
    arrives: usize,
    /// The step at which its client goes away, if it does.
    leaves: Option<usize>,
    scores: bool,
    priority: Priority,
    rank: i32,
}

/// The `arrival`-th of those that have no rank.
fn nth(arrival: u64) -> SequenceId {
    SequenceId { rank: 0, arrival }
}

fn wish(capacity: usize) -> impl Strategy<Value = Wish> {
    (1..=capacity - 1)
        .prop_flat_map(move |len| {
            (
                prop::collection::vec(0u32..2, len),
                1..=(capacity - len),
                0usize..40,
                prop::option::weighted(0.2, 0usize..60),
                any::<bool>(),
                prop::sample::select(vec![Priority::Foreground, Priority::Background]),
                prop::sample::select(vec![0, 0, 0, -5, 7]),
            )
        })
        .prop_map(|(prompt, generate, arrives, leaves, scores, priority, rank)| Wish {
            prompt,
            generate,
            arrives,
            leaves,
            scores,
            priority,
            rank,
        })
}

fn world() -> impl Strategy<Value = (Limits, Vec<Wish>)> {
    (2usize..12, 1usize..6, 1usize..20, any::<bool>()).prop_flat_map(|(blocks, running, budget, cache)| {
        let cache = if cache { PrefixCache::On } else { PrefixCache::Off };
        (Just(limits(blocks, running, budget, cache)), prop::collection::vec(wish(blocks * BLOCK), 1..12))
    })
}

proptest! {
    #[test]
    fn every_schedule_is_sound_and_comes_to_an_end((limits, wishes) in world()) {
        let mut scheduler = stocked(limits.clone());
        let mut order: Vec<usize> = (0..wishes.len()).collect();
        order.sort_by_key(|i| wishes[*i].arrives);
        let mut open: HashMap<SequenceId, &Wish> = HashMap::new();
        let mut arrived = 0;
        // What each slot holds: the whole context up to and with its token.
        let mut memory: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut scored: HashMap<SequenceId, Vec<usize>> = HashMap::new();
        let mut step = 0;
        while arrived < order.len() || !PRIORITIES.iter().all(|p| scheduler.len(*p) == 0) {
            prop_assert!(step < 20_000, "no end in sight");
            while arrived < order.len() && wishes[order[arrived]].arrives <= step {
                let wish = &wishes[order[arrived]];
                let id = SequenceId { rank: wish.rank, arrival: arrived as u64 };
                let scores = if wish.scores { PromptScores::Want } else { PromptScores::Skip };
                scheduler.add(Sequence::new(id, Variant::BASE, wish.prompt.clone(), scores), wish.priority);
                open.insert(id, wish);
                arrived += 1;
            }
            let gone: Vec<_> = open.iter().filter(|(_, w)| w.leaves == Some(step)).map(|(id, _)| *id).collect();
            for id in gone {
                scheduler.remove(id);
                open.remove(&id);
            }
            // As the engine does: the background has its turn while the foreground has nothing.
            let [foreground, background] = PRIORITIES;
            let priority = if scheduler.len(foreground) == 0 { background } else { foreground };
            let plan = scheduler.plan(priority, Lacking::SetAside);
            step += 1;
            prop_assert!(scheduler.len(priority) == 0 || !plan.parts.is_empty(), "a step without progress");
            prop_assert!(plan.parts.iter().all(|part| open[&part.id].priority == priority));
            for lane in [&scheduler.foreground, &scheduler.background] {
                prop_assert!(lane.running.len() <= limits.max_running);
                prop_assert!(lane.waiting.iter().is_sorted_by_key(|s| s.id));
                prop_assert!(lane.running.is_sorted_by_key(|s| s.id));
            }
            let distinct: HashSet<_> = plan.batch.slots.iter().collect();
            prop_assert_eq!(distinct.len(), plan.batch.slots.len(), "one slot, two writers");
            // a row for each that decodes, and whatever else is in the budget, which is never nothing
            let decode = |part: &&Part| scheduler.get(part.id).is_some_and(Sequence::decodes);
            let decoding = plan.parts.iter().filter(decode).count();
            prop_assert!(plan.batch.tokens.len() <= limits.max_step_tokens.max(decoding + 1));

            // The model's part: write all, then read each context back through its table.
            for (part, span) in plan.parts.iter().zip(&plan.batch.spans) {
                let tokens = &scheduler.get(part.id).unwrap().tokens;
                for (row, position) in span.rows.clone().zip(part.positions.clone()) {
                    prop_assert_eq!(plan.batch.tokens[row], tokens[position]);
                    memory.insert(plan.batch.slots[row], tokens[..=position].to_vec());
                }
            }
            for (part, span) in plan.parts.iter().zip(&plan.batch.spans) {
                let tokens = &scheduler.get(part.id).unwrap().tokens;
                prop_assert_eq!(span.context_len, part.positions.end);
                for position in 0..span.context_len {
                    let slot = span.block_table[position / BLOCK] as usize * BLOCK + position % BLOCK;
                    prop_assert_eq!(memory.get(&(slot as u32)).unwrap(), &tokens[..=position]);
                }
                scored.entry(part.id).or_default().extend(part.scores.iter().map(|(p, _)| p + 1));
            }
            scheduler.computed(&plan);
            for part in plan.parts.iter().filter(|p| p.sample.is_some()) {
                let sequence = scheduler.get(part.id).unwrap();
                prop_assert_eq!(part.positions.end, sequence.tokens.len());
                let (wish, mut left) = (open[&part.id], open[&part.id].generate - sequence.generated().len());
                // some bring others with them, as where a grammar forces them
                loop {
                    let token = next(&scheduler.get(part.id).unwrap().tokens);
                    scheduler.append(part.id, token);
                    left -= 1;
                    if left == 0 || !token.is_multiple_of(3) {
                        break;
                    }
                }
                let sequence = scheduler.get(part.id).unwrap();
                if sequence.generated().len() == wish.generate {
                    let mut alone = wish.prompt.clone();
                    (0..wish.generate).for_each(|_| alone.push(next(&alone)));
                    prop_assert_eq!(&sequence.tokens, &alone);
                    let wanted: Vec<_> = if wish.scores { (1..wish.prompt.len()).collect() } else { vec![] };
                    prop_assert_eq!(scored.remove(&part.id).unwrap(), wanted, "each prompt token is scored once");
                    scheduler.remove(part.id);
                    open.remove(&part.id);
                }
            }
        }
        prop_assert_eq!(scheduler.blocks_used(), 0);
    }
}

#[test]
fn running_sequences_decode_together_while_a_long_prompt_is_read_in_chunks() {
    let mut scheduler = stocked(limits(64, 8, 6, PrefixCache::Off));
    for id in 0..2 {
        scheduler
            .add(Sequence::new(nth(id), Variant::BASE, vec![1], PromptScores::Skip), Priority::Foreground);
    }
    let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
    scheduler.computed(&plan);
    for step in &plan.parts {
        scheduler.append(step.id, 5);
    }
    scheduler
        .add(Sequence::new(nth(2), Variant::BASE, vec![1; 10], PromptScores::Skip), Priority::Foreground);
    let chunks: Vec<Vec<usize>> = (0..3)
        .map(|_| {
            let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
            scheduler.computed(&plan);
            let sampled: Vec<_> = plan.parts.iter().filter(|s| s.sample.is_some()).map(|s| s.id).collect();
            for id in sampled {
                scheduler.append(id, 5);
            }
            plan.parts.iter().map(|s| s.positions.len()).collect()
        })
        .collect();
    assert_eq!(chunks, [vec![1, 1, 4], vec![1, 1, 4], vec![1, 1, 2]]);
}

#[test]
fn a_second_request_with_the_same_prompt_computes_only_the_end_of_it() {
    let mut scheduler = stocked(limits(16, 8, 64, PrefixCache::On));
    let prompt: Vec<u32> = (0..12).collect();
    scheduler
        .add(Sequence::new(nth(0), Variant::BASE, prompt.clone(), PromptScores::Skip), Priority::Foreground);
    let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
    scheduler.computed(&plan);
    scheduler.add(Sequence::new(nth(1), Variant::BASE, prompt, PromptScores::Skip), Priority::Foreground);
    scheduler.append(nth(0), 3);
    let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
    assert_eq!(plan.parts[1].positions, 8..12);
    assert_eq!(scheduler.get(nth(1)).unwrap().cached, Some(8));
}

#[test]
fn of_requests_with_one_prompt_that_come_together_the_first_computes_it() {
    let mut scheduler = stocked(limits(32, 8, 64, PrefixCache::On));
    let prompt: Vec<u32> = (0..14).collect();
    let other = Sequence::new(nth(3), Variant::BASE, vec![9; 6], PromptScores::Skip);
    for id in 0..3 {
        let choice = Sequence::new(nth(id), Variant::BASE, prompt.clone(), PromptScores::Skip);
        scheduler.add(choice, Priority::Foreground);
    }
    scheduler.add(other, Priority::Foreground);
    let rows = |plan: &Plan| plan.parts.iter().map(|s| s.positions.clone()).collect::<Vec<_>>();
    let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
    assert_eq!((plan.parts.len(), plan.parts[0].positions.clone()), (1, 0..14));
    scheduler.computed(&plan);
    scheduler.append(nth(0), 3);
    let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
    assert_eq!(rows(&plan), [14..15, 12..14, 12..14, 0..6]);
}

/// Keys and values of the same tokens differ by adapter: nobody waits for, or finds, those of another.
#[test]
fn what_goes_through_another_adapter_has_no_beginning_in_common() {
    let mut scheduler = stocked(limits(32, 8, 64, PrefixCache::On));
    let mut slots = AdapterSlot::all();
    let [one, other] = [(); 2].map(|()| Variant { adapter: slots.next(), root: scheduler.root() });
    let prompt: Vec<u32> = (0..14).collect();
    for (id, variant) in [Variant::BASE, one, other, one].into_iter().enumerate() {
        let sequence = Sequence::new(nth(id as u64), variant, prompt.clone(), PromptScores::Skip);
        scheduler.add(sequence, Priority::Foreground);
    }
    let rows = |plan: &Plan| plan.parts.iter().map(|s| s.positions.clone()).collect::<Vec<_>>();
    let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
    assert_eq!(rows(&plan), [0..14, 0..14, 0..14], "each its own, and the fourth waits for the second");
    let through: Vec<_> = plan.batch.spans.iter().map(|span| span.adapter).collect();
    assert_eq!(through, [None, one.adapter, other.adapter]);
    scheduler.computed(&plan);
    for id in 0..3 {
        scheduler.append(nth(id), 3);
    }
    let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
    assert_eq!(rows(&plan)[3], 12..14);
}

#[test]
fn without_a_prefix_cache_or_where_scores_are_wanted_nobody_waits_for_another_prompt() {
    for (cache, scores) in [(PrefixCache::Off, PromptScores::Skip), (PrefixCache::On, PromptScores::Want)] {
        let mut scheduler = stocked(limits(32, 8, 64, cache));
        for id in 0..2 {
            scheduler.add(Sequence::new(nth(id), Variant::BASE, vec![1; 14], scores), Priority::Foreground);
        }
        assert_eq!(scheduler.plan(Priority::Foreground, Lacking::SetAside).parts.len(), 2);
    }
}

#[test]
fn the_foreground_takes_blocks_from_the_background_which_goes_on_later() {
    let mut scheduler = stocked(limits(4, 8, 64, PrefixCache::Off));
    scheduler
        .add(Sequence::new(nth(0), Variant::BASE, vec![1; 12], PromptScores::Skip), Priority::Background);
    let plan = scheduler.plan(Priority::Background, Lacking::SetAside);
    scheduler.computed(&plan);
    assert_eq!(scheduler.blocks_used(), 3);
    scheduler.add(Sequence::new(nth(1), Variant::BASE, vec![2; 8], PromptScores::Skip), Priority::Foreground);
    let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
    assert_eq!(plan.parts.iter().map(|s| s.id).collect::<Vec<_>>(), [nth(1)]);
    assert_eq!((scheduler.blocks_used(), scheduler.set_aside().count()), (2, 1));
    scheduler.remove(nth(1));
    assert_eq!(scheduler.plan(Priority::Background, Lacking::SetAside).parts[0].positions, 0..12);
}

#[test]
fn a_step_in_the_background_is_short() {
    let mut scheduler = stocked(limits(256, 8, 512, PrefixCache::Off));
    scheduler
        .add(Sequence::new(nth(0), Variant::BASE, vec![1; 500], PromptScores::Skip), Priority::Background);
    assert_eq!(scheduler.plan(Priority::Background, Lacking::SetAside).batch.tokens.len(), BACKGROUND_ROWS);
}

/// The lower rank goes first among those that wait, whenever it came, and is the last to give its blocks up.
#[test]
fn the_lower_rank_goes_first_and_is_set_aside_last() {
    let mut scheduler = stocked(limits(8, 2, 64, PrefixCache::Off));
    let ids = [(0, 0), (5, 1), (-1, 2), (0, 3)].map(|(rank, arrival)| SequenceId { rank, arrival });
    for id in ids {
        let sequence = Sequence::new(id, Variant::BASE, vec![1; 8], PromptScores::Skip);
        scheduler.add(sequence, Priority::Foreground);
    }
    let [first, last, urgent, second] = ids;
    let step = |scheduler: &mut Scheduler| {
        let plan = scheduler.plan(Priority::Foreground, Lacking::SetAside);
        scheduler.computed(&plan);
        let ids: Vec<_> = plan.parts.iter().map(|part| part.id).collect();
        for id in &ids {
            scheduler.append(*id, 3);
        }
        ids
    };
    assert_eq!(step(&mut scheduler), [urgent, first]);
    // one that is more urgent than those that run has the next place, and its rows come first
    let most_urgent = SequenceId { rank: -9, arrival: 4 };
    let sequence = Sequence::new(most_urgent, Variant::BASE, vec![1; 8], PromptScores::Skip);
    scheduler.add(sequence, Priority::Foreground);
    scheduler.remove(first);
    step(&mut scheduler);
    for id in [most_urgent, urgent] {
        (0..12).for_each(|token| scheduler.append(id, token));
    }
    assert_eq!(step(&mut scheduler), [most_urgent], "there is no room for both");
    scheduler.remove(most_urgent);
    let left = std::iter::from_fn(|| {
        let id = step(&mut scheduler).first().copied();
        id.inspect(|id| scheduler.remove(*id))
    });
    assert_eq!(left.collect::<Vec<_>>(), [urgent, second, last]);
}
