//! Decides what the next forward pass computes. Pure: no clock, no channel, no model.
//!
//! First come, first served. Every sequence that is ready for its next token gets it in every step; what is left of the
//! step's budget goes to prompts, in chunks. When the blocks run out, the youngest is set aside and computed anew
//! later. Every running sequence is older than every waiting one, and the oldest can always have all the blocks, so
//! each step makes progress.

use std::collections::VecDeque;
use std::ops::Range;

use super::block_pool::{BlockId, BlockPool};
use super::config::PrefixCache;
use super::sequence::{Sequence, SequenceId, State};
use crate::model::{Batch, Span};

/// The most prompt rows of a step that are scored over the whole vocabulary: each takes `vocab` numbers.
const SCORED_ROWS: usize = 64;

/// The limits that a schedule keeps to.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) blocks: usize,
    pub(super) block_size: usize,
    pub(super) max_running: usize,
    pub(super) max_step_tokens: usize,
    pub(super) prefix_cache: PrefixCache,
}

/// What one step computes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// For the model.
    pub(super) batch: Batch,
    /// One for each span of the batch.
    pub(super) steps: Vec<Step>,
    /// How many sequences were set aside to make room.
    pub(super) preempted: usize,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) id: SequenceId,
    /// The positions that are computed.
    pub(super) positions: Range<usize>,
    /// Prompt positions whose logits are wanted, with their index among the wanted rows.
    pub(super) scores: Vec<(usize, usize)>,
    /// The index among the wanted rows of the one that the next token is sampled from, if it is its turn.
    pub(super) sample: Option<usize>,
}

/// All sequences of one engine and their blocks.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    /// Oldest first.
    running: Vec<Sequence>,
    /// Oldest first.
    waiting: VecDeque<Sequence>,
}

impl Scheduler {
    /// A scheduler with no sequences.
    pub(super) fn new(limits: Limits) -> Self {
        let pool = BlockPool::new(limits.blocks);
        Self { limits, pool, running: Vec::new(), waiting: VecDeque::new() }
    }

    /// Takes a sequence in at the end of the queue. It must fit the pool when nothing else is there, and be younger
    /// than all before it.
    pub(super) fn add(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Takes a sequence out and frees its blocks.
    pub(super) fn remove(&mut self, id: SequenceId) {
        if let Some(i) = self.running.iter().position(|s| s.id == id) {
            let sequence = self.running.remove(i);
            self.free(sequence);
        } else {
            self.waiting.retain(|s| s.id != id);
        }
    }

    /// Gives a running sequence its next token.
    pub(super) fn append(&mut self, id: SequenceId, token: u32) {
        if let Some(sequence) = self.running.iter_mut().find(|s| s.id == id) {
            sequence.tokens.push(token);
        }
    }

    /// A running sequence.
    pub(super) fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.running.iter().find(|s| s.id == id)
    }

    /// Sequences that hold blocks.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that ran before and were set aside.
    pub(super) fn set_aside(&self) -> usize {
        self.waiting.iter().filter(|s| s.cached.is_some()).count()
    }

    /// Blocks that running sequences hold.
    pub(super) fn blocks_used(&self) -> usize {
        self.pool.used()
    }

    /// Whether there is nothing to do.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// The next step. Empty only if there is no sequence.
    pub(super) fn plan(&mut self) -> Plan {
        let mut plan = Plan { preempted: self.make_room(), ..Plan::default() };
        let ready = self.running.iter().filter(|s| s.remaining() == 1).count();
        // Prompts go on even where the tokens of running sequences fill the budget.
        let mut budget =
            Budget { rows: self.limits.max_step_tokens.saturating_sub(ready).max(1), scored: SCORED_ROWS };
        for sequence in &self.running {
            let rows = match sequence.remaining() {
                1 => 1,
                _ => budget.spend(sequence),
            };
            plan.push(sequence, rows, self.limits.block_size);
        }
        // Who was just set aside would come straight back and be set aside again.
        while plan.preempted == 0 && budget.rows > 0 && self.running.len() < self.limits.max_running {
            let Some(sequence) = self.admit() else { break };
            let rows = budget.spend(&sequence);
            plan.push(&sequence, rows, self.limits.block_size);
            self.running.push(sequence);
        }
        plan
    }

    /// Notes that a plan was computed, and lets others find the blocks that it filled.
    pub(super) fn computed(&mut self, plan: &Plan) {
        let size = self.limits.block_size;
        for step in &plan.steps {
            let Some(sequence) = self.running.iter_mut().find(|s| s.id == step.id) else { continue };
            sequence.computed_to(step.positions.end);
            let State::Running { blocks, prefixes, computed } = &mut sequence.state else { continue };
            if self.limits.prefix_cache == PrefixCache::Off {
                continue;
            }
            let full = &blocks[..*computed / size];
            for (block, tokens) in full.iter().zip(sequence.tokens.chunks_exact(size)).skip(prefixes.len()) {
                prefixes.push(self.pool.publish(block, prefixes.last().copied(), tokens));
            }
        }
    }

    /// Gives every sequence that is about to outgrow its blocks another one, setting the youngest aside for the older
    /// where none is left. How many were set aside.
    fn make_room(&mut self) -> usize {
        let mut preempted = 0;
        let mut i = 0;
        while i < self.running.len() {
            let needed = self.running[i].tokens.len().div_ceil(self.limits.block_size);
            let State::Running { blocks, .. } = &mut self.running[i].state else { break };
            if blocks.len() >= needed {
                i += 1;
            } else if let Some(block) = self.pool.allocate() {
                blocks.push(block);
            } else {
                // The youngest may be the one in need; then it goes itself.
                if let Some(youngest) = self.running.pop() {
                    let youngest = self.free(youngest);
                    self.waiting.push_front(youngest);
                }
                preempted += 1;
            }
        }
        preempted
    }

    /// The oldest waiting sequence with blocks for all its tokens, if there is room beside those that run.
    fn admit(&mut self) -> Option<Sequence> {
        let size = self.limits.block_size;
        let sequence = self.waiting.front()?;
        let (mut blocks, mut prefixes) = (Vec::new(), Vec::new());
        if self.limits.prefix_cache == PrefixCache::On && !sequence.wants_scores() {
            // The last token is always computed: its logits are what is wanted.
            for tokens in sequence.tokens[..sequence.tokens.len() - 1].chunks_exact(size) {
                let Some((block, id)) = self.pool.find(prefixes.last().copied(), tokens) else { break };
                blocks.push(block);
                prefixes.push(id);
            }
        }
        let hit = blocks.len() * size;
        let missing = sequence.tokens.len().div_ceil(size) - blocks.len();
        // Each running sequence soon needs another block: without this reserve, who is let in is soon put out.
        if self.pool.available() < missing + self.running.len() {
            self.pool.release(blocks);
            return None;
        }
        blocks.extend((0..missing).filter_map(|_| self.pool.allocate()));
        let mut sequence = self.waiting.pop_front()?;
        sequence.cached.get_or_insert(hit);
        sequence.state = State::Running { blocks, prefixes, computed: hit };
        Some(sequence)
    }

    /// Frees a sequence's blocks.
    fn free(&mut self, mut sequence: Sequence) -> Sequence {
        if let State::Running { blocks, .. } = std::mem::replace(&mut sequence.state, State::Waiting) {
            self.pool.release(blocks);
        }
        sequence
    }
}

/// What a step may still spend on prompts.
struct Budget {
    rows: usize,
    /// Of these, rows of prompts whose every token is scored.
    scored: usize,
}

impl Budget {
    /// How many rows of this sequence's prompt the step computes; they are taken from the budget.
    fn spend(&mut self, sequence: &Sequence) -> usize {
        let mut rows = sequence.remaining().min(self.rows);
        if sequence.wants_scores() {
            rows = rows.min(self.scored);
            self.scored -= rows;
        }
        self.rows -= rows;
        rows
    }
}

impl Plan {
    fn push(&mut self, sequence: &Sequence, rows: usize, block_size: usize) {
        let State::Running { blocks, computed, .. } = &sequence.state else { return };
        if rows == 0 {
            return;
        }
        let positions = *computed..computed + rows;
        let first = self.batch.tokens.len();
        let (mut scores, mut sample) = (Vec::new(), None);
        for position in positions.clone() {
            let block = blocks[position / block_size].number() as usize;
            if sequence.wants_logits(position) {
                let wanted = self.batch.logit_rows.len();
                self.batch.logit_rows.push(self.batch.tokens.len() as u32);
                if sequence.scores_prompt(position) {
                    scores.push((position, wanted));
                }
                if position + 1 == sequence.tokens.len() {
                    sample = Some(wanted);
                }
            }
            self.batch.tokens.push(sequence.tokens[position]);
            self.batch.positions.push(position as u32);
            self.batch.slots.push((block * block_size + position % block_size) as u32);
        }
        self.batch.spans.push(Span {
            rows: first..first + rows,
            context_len: positions.end,
            block_table: blocks[..positions.end.div_ceil(block_size)].iter().map(BlockId::number).collect(),
        });
        self.steps.push(Step { id: sequence.id, positions, scores, sample });
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
