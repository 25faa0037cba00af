//! What one step computes: a batch for the model, and whose rows are in it.

use std::ops::Range;

use super::block_pool::BlockId;
use super::sequence::{Sequence, SequenceId, State};
use super::speculation::MOST_GUESSING_ROWS;
use crate::model::{Batch, MOST_SCORED_ROWS, Span};

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
    /// The positions that are computed; guesses come after them.
    pub(super) positions: Range<usize>,
    /// Prompt positions whose logits are wanted, with their index among the wanted rows.
    pub(super) scores: Vec<(usize, usize)>,
    /// The index among the wanted rows of the one that the next token is sampled from, if it is its turn.
    pub(super) sample: Option<usize>,
    /// What may be the tokens that follow. The wanted rows behind `sample` are theirs, in their order.
    pub(super) guesses: Vec<u32>,
}

/// What a step may still spend on prompts, and on guesses.
pub(super) struct Budget {
    pub(super) rows: usize,
    /// Of these, rows of prompts whose every token is scored.
    pub(super) scored: usize,
    /// For guesses at each sequence that decodes.
    pub(super) guesses: usize,
}

impl Budget {
    /// Of a step of at most `most` rows, in which so many sequences decode.
    pub(super) fn new(most: usize, decoding: usize) -> Self {
        Self {
            // prompts go on even where the tokens of running sequences fill the step
            rows: most.saturating_sub(decoding).max(1),
            scored: MOST_SCORED_ROWS,
            guesses: (MOST_GUESSING_ROWS / decoding.max(1)).saturating_sub(1),
        }
    }

    /// What is guessed of a sequence that decodes; one row is left for a prompt.
    pub(super) fn guess<'s>(&mut self, sequence: &'s Sequence, block_size: usize) -> &'s [u32] {
        let room = self.guesses.min(self.rows.saturating_sub(1)).min(self.scored);
        let guesses = sequence.guesses(room, block_size);
        self.rows -= guesses.len();
        // as many logits of a step are wanted as it has sequences and rows that are scored
        self.scored -= guesses.len();
        guesses
    }

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

/// Takes a row of a context with these blocks into a batch.
pub(super) fn push_row(batch: &mut Batch, table: &[u32], token: u32, position: usize, block_size: usize) {
    let block = table[position / block_size] as usize;
    batch.tokens.push(token);
    batch.positions.push(position as u32);
    batch.slots.push((block * block_size + position % block_size) as u32);
}

/// Rows of a batch as those up to the `end` of a context with these blocks.
pub(super) fn span(rows: Range<usize>, end: usize, table: &[u32], block_size: usize) -> Span {
    let block_table = table[..end.div_ceil(block_size)].to_vec();
    Span { rows, context_len: end, block_table, adapter: None }
}

impl Plan {
    /// Takes in the next so many rows of a running sequence, and behind its last token what may follow.
    pub(super) fn push(&mut self, sequence: &Sequence, rows: usize, guesses: &[u32], block_size: usize) {
        let State::Running { blocks, computed, .. } = &sequence.state else { return };
        if rows == 0 {
            return;
        }
        let positions = *computed..computed + rows;
        let first = self.batch.tokens.len();
        let (mut scores, mut sample) = (Vec::new(), None);
        let end = positions.end + guesses.len();
        let table: Vec<u32> = blocks.iter().map(BlockId::number).collect();
        for position in positions.start..end {
            if position >= positions.end || sequence.wants_logits(position) {
                let wanted = self.batch.logit_rows.len();
                self.batch.logit_rows.push(self.batch.tokens.len() as u32);
                if sequence.scores_prompt(position) {
                    scores.push((position, wanted));
                }
                if position + 1 == sequence.tokens.len() {
                    sample = Some(wanted);
                }
            }
            let token = sequence.tokens.get(position);
            let token = *token.unwrap_or_else(|| &guesses[position - positions.end]);
            push_row(&mut self.batch, &table, token, position, block_size);
        }
        let rows = first..first + rows + guesses.len();
        let span = span(rows, end, &table, block_size);
        self.batch.spans.push(Span { adapter: sequence.variant.adapter, ..span });
        self.parts.push(Part { id: sequence.id, positions, scores, sample, guesses: guesses.to_vec() });
    }
}
