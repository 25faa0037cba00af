//! What one step computes: a batch for the model, and whose rows are in it.

use std::ops::Range;

use super::block_pool::BlockId;
use super::sequence::{Sequence, SequenceId, State};
use crate::model::{Batch, Span};

/// What one step computes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// For the model.
    pub(super) batch: Batch,
    /// One for each span of the batch.
    pub(super) parts: Vec<Part>,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) id: SequenceId,
    /// The positions that are computed.
    pub(super) positions: Range<usize>,
    /// Prompt positions whose logits are wanted, with their index among the wanted rows.
    pub(super) scores: Vec<(usize, usize)>,
    /// The index among the wanted rows of the one that the next token is sampled from, if it is its turn.
    pub(super) sample: Option<usize>,
}

/// What a step may still spend on prompts.
pub(super) struct Budget {
    pub(super) rows: usize,
    /// Of these, rows of prompts whose every token is scored.
    pub(super) scored: usize,
}

impl Budget {
    /// How many rows of this sequence's prompt the step computes; they are taken from the budget.
    pub(super) fn spend(&mut self, sequence: &Sequence) -> usize {
        if !sequence.wants_scores() {
            return self.spend_on(sequence.remaining());
        }
        let rows = self.spend_on(sequence.remaining().min(self.scored));
        self.scored -= rows;
        rows
    }

    /// As many of so many rows as there are left.
    pub(super) fn spend_on(&mut self, rows: usize) -> usize {
        let rows = rows.min(self.rows);
        self.rows -= rows;
        rows
    }
}

impl Plan {
    /// Takes in the next so many rows of a running sequence.
    pub(super) fn push(&mut self, sequence: &Sequence, rows: usize, block_size: usize) {
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
            adapter: sequence.variant.adapter,
        });
        self.parts.push(Part { id: sequence.id, positions, scores, sample });
    }
}
