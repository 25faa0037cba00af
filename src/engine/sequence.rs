//! One context that grows: its tokens, how many of them are computed, and the blocks that hold them.

use super::block_pool::{BlockId, PrefixId};
use super::draft::Drafted;
use super::speculation::{GuessedBy, Guessing, look_up};
use super::turns::Priority;
use crate::model::AdapterSlot;

/// Names a sequence for its whole life; who goes before another has a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SequenceId {
    /// What its client says of that; the lower goes first.
    pub(super) rank: i32,
    /// Of equals, a later arrival has a larger one.
    pub(super) arrival: u64,
}

/// Who goes before whom, over all engines: clients before copies, then by rank, and then who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    pub(super) priority: Priority,
    pub(super) id: SequenceId,
}

/// Whether the scores of the prompt's own tokens are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PromptScores {
    /// Only the next token matters; a cached prefix may be used.
    Skip,
    /// Every prompt row must be computed at least once.
    Want,
}

/// What computes a context beside the weights that all have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    /// The adapter that its rows go through, if any.
    pub(super) adapter: Option<AdapterSlot>,
    /// Where the prefix cache looks for its beginning.
    pub(super) root: PrefixId,
}

impl Variant {
    /// Nothing.
    pub(super) const BASE: Self = Self { adapter: None, root: PrefixId::ROOT };
}

/// Where a sequence stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Holds nothing: not yet admitted, or set aside to make room.
    Waiting,
    /// Holds blocks for all its tokens.
    Running {
        /// Its blocks, in order.
        blocks: Vec<BlockId>,
        /// The names of its full and computed blocks.
        prefixes: Vec<PrefixId>,
        /// How many of its tokens have their keys and values in the blocks.
        computed: usize,
        /// What a smaller model has made of it.
        drafted: Drafted,
    },
}

/// One context.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) variant: Variant,
    /// The prompt and then what was generated.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_len: usize,
    pub(super) state: State,
    /// Prompt tokens that the prefix cache spared at the first admission; none before it.
    pub(super) cached: Option<usize>,
    prompt_scores: PromptScores,
    /// Prompt tokens that have their score.
    scored: usize,
    guessing: Guessing,
}

impl Sequence {
    /// A sequence that waits.
    pub(super) fn new(
        id: SequenceId,
        variant: Variant,
        prompt: Vec<u32>,
        prompt_scores: PromptScores,
    ) -> Self {
        Self {
            id,
            variant,
            prompt_len: prompt.len(),
            tokens: prompt,
            state: State::Waiting,
            cached: None,
            prompt_scores,
            // The first token has nothing before it, so it has no score.
            scored: 1,
            guessing: Guessing::NEVER,
        }
    }

    /// The same sequence, of which so much is guessed at.
    pub(super) const fn guessing(mut self, guessing: Guessing) -> Self {
        self.guessing = guessing;
        self
    }

    /// How many of its next tokens may be guessed, while only the last one it has is to be computed: `most`, or as many as
    /// there is room for in its blocks.
    pub(super) fn to_guess(&self, most: usize, block_size: usize) -> usize {
        let room = (self.blocks() * block_size).saturating_sub(self.tokens.len());
        self.wants_guesses(most.min(room))
    }

    /// The most tokens that its answer may still have.
    pub(super) fn left(&self) -> usize {
        self.guessing.left(self.tokens.len())
    }

    /// From now on, the context is looked through.
    pub(super) fn guess_by_lookup(&mut self) {
        self.guessing.look_up();
    }

    /// As many of `most` as may be guessed, whether there is room or not.
    pub(super) fn wants_guesses(&self, most: usize) -> usize {
        if self.remaining() == 1 { self.guessing.most(self.tokens.len(), most) } else { 0 }
    }

    /// What may be its next tokens.
    pub(super) fn guesses(&self, most: usize, block_size: usize) -> &[u32] {
        let most = self.to_guess(most, block_size);
        match (self.guessing.by(), &self.state) {
            (_, State::Waiting) => &[],
            (GuessedBy::Lookup, State::Running { .. }) => look_up(&self.tokens, most),
            (GuessedBy::Draft, State::Running { drafted, .. }) => drafted.guesses(self.tokens.len(), most),
        }
    }

    /// Notes that the first `right` of some guesses are its tokens by now.
    pub(super) fn confirmed(&mut self, right: usize) {
        self.guessing.learn(right, self.tokens.len());
        if let State::Running { computed, .. } = &mut self.state {
            *computed += right;
        }
    }

    /// What was generated.
    #[cfg(test)]
    pub(super) fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// How many blocks it holds.
    pub(super) fn blocks(&self) -> usize {
        match &self.state {
            State::Waiting => 0,
            State::Running { blocks, .. } => blocks.len(),
        }
    }

    /// Whether it runs and its blocks have no room for all its tokens.
    pub(super) fn has_outgrown(&self, block_size: usize) -> bool {
        self.lacks(block_size) > 0
    }

    /// How many blocks it needs for its tokens beside those it holds, while it runs.
    pub(super) fn lacks(&self, block_size: usize) -> usize {
        match &self.state {
            State::Waiting => 0,
            State::Running { blocks, .. } => {
                self.tokens.len().div_ceil(block_size).saturating_sub(blocks.len())
            }
        }
    }

    /// Whether only generated tokens are left to be computed: the last one, and where a grammar forced some, those.
    pub(super) fn decodes(&self) -> bool {
        self.remaining() == 1 || self.computed() >= self.prompt_len
    }

    /// Takes a block on. One that waits has none, and nobody gives it one.
    pub(super) fn grow(&mut self, block: BlockId) {
        if let State::Running { blocks, .. } = &mut self.state {
            blocks.push(block);
        }
    }

    /// How many tokens have their keys and values in the blocks.
    pub(super) fn computed(&self) -> usize {
        match &self.state {
            State::Waiting => 0,
            State::Running { computed, .. } => *computed,
        }
    }

    /// Tokens that are still to be computed before the next one can be sampled.
    pub(super) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed()
    }

    /// Whether prompt rows are still to be scored. A row at position `p` scores the token at `p + 1`.
    pub(super) fn wants_scores(&self) -> bool {
        self.prompt_scores == PromptScores::Want && self.scored < self.prompt_len
    }

    /// Whether the row at `position` gives logits that someone reads.
    pub(super) fn wants_logits(&self, position: usize) -> bool {
        position + 1 == self.tokens.len() || self.scores_prompt(position)
    }

    /// Whether the row at `position` scores a prompt token that has no score yet.
    pub(super) fn scores_prompt(&self, position: usize) -> bool {
        self.wants_scores() && (self.scored..self.prompt_len).contains(&(position + 1))
    }

    /// Notes that the tokens below `end` are computed.
    pub(super) fn computed_to(&mut self, end: usize) {
        if let State::Running { computed, .. } = &mut self.state {
            *computed = end;
        }
        self.scored = self.scored.max((end + 1).min(self.prompt_len));
    }
}
