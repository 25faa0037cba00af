//! A small model that says ahead what a large one may say (Leviathan et al., 2023; Chen et al., 2023): what it guesses is
//! checked by the large one in one step, as guesses by prompt lookup are.
//!
//! It chooses as the request would, by the same settings and the same random number for each position. So where the two
//! models are of one mind, they also draw the same token, at any temperature; and a guess decides nothing
//! ([`super::speculation`]).
//!
//! Its keys and values have a memory of their own, of as many blocks as the large model's, and a context has the same block
//! numbers in both. Contexts are computed here when something of them is first guessed: under load, when nothing is, it
//! does nothing. Of a prefix that several contexts share it is known which blocks have been computed here, by the name that
//! the prefix cache gave their content; a block that is written to has none until its rows are there.
//! Rows of a guess that was wrong are written over.

use std::collections::HashMap;

use super::EngineConfig;
use super::block_pool::{BlockId, PrefixId};
use super::job::Job;
use super::plan::{push_row, span};
use super::scheduler::Scheduler;
use super::sequence::{Sequence, SequenceId, State};
use super::speculation::MOST_GUESSING_ROWS;
use crate::model::{Batch, CausalLm, Choice, KvGeometry, ModelError};

/// The most rows of prompts that it computes before one step: the step waits for them.
const MOST_ROWS: usize = 256;
/// Contexts that it guesses at together, at most.
const MOST_CONTEXTS: usize = MOST_GUESSING_ROWS / 2;

/// A model that guesses.
pub(super) struct Draft {
    lm: Box<dyn CausalLm>,
    /// By the number of a block: whose keys and values it holds here.
    blocks: Vec<Option<PrefixId>>,
    block_size: usize,
    most_rows: usize,
    /// Tokens that both models know are below it.
    vocab: usize,
}

/// What a draft has made of a context. Follows its blocks: who gives them up has nothing here, either.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Drafted {
    /// Tokens at its beginning whose keys and values are there.
    known: usize,
    /// What was guessed to follow, when these were all. The keys and values of all but the last are there, too.
    guesses: Vec<u32>,
}

/// A context that is guessed at.
struct Guesser<'j> {
    id: SequenceId,
    job: &'j Job,
    tokens: usize,
    /// Wanted guesses.
    most: usize,
    table: Vec<u32>,
    guesses: Vec<u32>,
}

impl Drafted {
    /// At most so many guesses of what follows a context, if they were made of all of it.
    pub(super) fn guesses(&self, tokens: usize, most: usize) -> &[u32] {
        if self.known == tokens { &self.guesses[..most.min(self.guesses.len())] } else { &[] }
    }

    /// Takes in what was guessed to follow all that is known.
    pub(super) fn guess(&mut self, guesses: Vec<u32>) {
        self.guesses = guesses;
    }

    /// Compares the guesses with what did follow. The last token is left to be computed: what comes after it is wanted.
    fn settle(&mut self, tokens: &[u32]) {
        let followed = &tokens[self.known.min(tokens.len())..];
        let right = self.guesses.iter().zip(followed).take_while(|(guess, token)| guess == token).count();
        self.known += right.min(self.guesses.len().saturating_sub(1));
        self.known = self.known.min(tokens.len().saturating_sub(1));
        self.guesses.clear();
    }
}

impl Draft {
    /// A draft for an engine with such settings, whose memory has so many blocks and whose model knows so many tokens.
    pub(super) fn new(
        mut lm: Box<dyn CausalLm>,
        config: &EngineConfig,
        blocks: usize,
        vocab: usize,
    ) -> Result<Self, ModelError> {
        let block_size = config.block_size;
        lm.allocate_kv(KvGeometry { blocks, block_size })?;
        let most_rows = MOST_ROWS.min(config.max_step_tokens);
        lm.reserve(most_rows, MOST_CONTEXTS)?;
        let vocab = vocab.min(lm.vocab_size());
        Ok(Self { lm, blocks: vec![None; blocks], block_size, most_rows, vocab })
    }

    /// Guesses what follows the contexts of clients that are ready for their next token, as far as the next step has room.
    pub(super) fn guess(
        &mut self,
        scheduler: &mut Scheduler,
        jobs: &HashMap<SequenceId, Job>,
    ) -> Result<(), ModelError> {
        let mut batch = Batch::default();
        let (mut guessers, mut rows) = (Vec::new(), self.most_rows);
        for (sequence, most) in scheduler.guessable() {
            if let Some(job) = jobs.get(&sequence.id) {
                guessers.extend(self.catch_up(sequence, (job, most), &mut rows, &mut batch));
            }
        }
        while !batch.tokens.is_empty() {
            let logits = self.lm.forward(&batch)?;
            let choices: Vec<Choice> = guessers.iter().map(Guesser::choice).collect();
            let rows: Vec<u32> = (0..choices.len() as u32).collect();
            let chosen = logits.choose(&rows, &choices)?;
            batch = Batch::default();
            let mut open = Vec::with_capacity(guessers.len());
            for (mut guesser, chosen) in guessers.into_iter().zip(chosen) {
                let known = chosen.filter(|token| (*token as usize) < self.vocab);
                guesser.guesses.extend(known);
                if known.is_none() || guesser.guesses.len() == guesser.most {
                    scheduler.drafted(guesser.id, guesser.guesses);
                    continue;
                }
                guesser.push(&mut batch, self.block_size);
                open.push(guesser);
            }
            guessers = open;
        }
        Ok(())
    }

    /// Takes the rows of a context that are not known yet into a batch, as far as there are rows left: all of them, and what
    /// follows can be guessed.
    fn catch_up<'j>(
        &mut self,
        sequence: &mut Sequence,
        (job, most): (&'j Job, usize),
        rows: &mut usize,
        batch: &mut Batch,
    ) -> Option<Guesser<'j>> {
        let left = sequence.left();
        let Sequence { id, ref tokens, .. } = *sequence;
        let most = most.min(self.lm.max_positions().saturating_sub(tokens.len()));
        let State::Running { blocks, prefixes, drafted, .. } = &mut sequence.state else { return None };
        if most == 0 {
            return None;
        }
        let table: Vec<u32> = blocks.iter().map(BlockId::number).collect();
        drafted.settle(tokens);
        let has = |(block, prefix): &(&u32, &PrefixId)| self.blocks[**block as usize] == Some(**prefix);
        let shared = table.iter().zip(&*prefixes).take_while(has).count() * self.block_size;
        drafted.known = drafted.known.max(shared.min(tokens.len() - 1));
        // what would be known only when the answer is over is no help to it
        if (tokens.len() - drafted.known).div_ceil(self.most_rows) > left {
            return None;
        }
        let end = tokens.len().min(drafted.known + *rows);
        let new = &tokens[drafted.known..end];
        if new.is_empty() || new.iter().any(|token| *token as usize >= self.vocab) {
            return None;
        }
        // also those that guesses will be written to
        for block in &table[drafted.known / self.block_size..] {
            self.blocks[*block as usize] = None;
        }
        let first = batch.tokens.len();
        for (token, position) in new.iter().zip(drafted.known..) {
            push_row(batch, &table, *token, position, self.block_size);
        }
        batch.spans.push(span(first..batch.tokens.len(), end, &table, self.block_size));
        *rows -= new.len();
        drafted.known = end;
        for (block, prefix) in table.iter().zip(&*prefixes).take(end / self.block_size) {
            self.blocks[*block as usize] = Some(*prefix);
        }
        if end < tokens.len() {
            return None;
        }
        batch.logit_rows.push(batch.tokens.len() as u32 - 1);
        Some(Guesser { id, job, tokens: tokens.len(), most, table, guesses: Vec::with_capacity(most) })
    }
}

impl Guesser<'_> {
    /// How it chooses its next guess: as its request will.
    fn choice(&self) -> Choice {
        self.job.choice_after(&self.guesses)
    }

    /// Takes the row of its last guess into a batch, to guess the next.
    fn push(&self, batch: &mut Batch, block_size: usize) {
        let Some(token) = self.guesses.last() else { return };
        let (row, end) = (batch.tokens.len(), self.tokens + self.guesses.len());
        batch.logit_rows.push(row as u32);
        push_row(batch, &self.table, *token, end - 1, block_size);
        batch.spans.push(span(row..row + 1, end, &self.table, block_size));
    }
}
