//! What a step gives each of its sequences: scores of prompt tokens, and the next token with its own. All sequences at
//! once; each depends on its own rows and job only.

use std::borrow::Cow;
use std::collections::HashMap;

use rayon::prelude::*;

use super::generation::{Failure, Unusable};
use super::job::{Chosen, Job};
use super::logprobs::{Score, score};
use super::plan::{Part, Plan};
use super::scheduler::Scheduler;
use super::sequence::SequenceId;
use crate::model::{Choice, Logits, ModelError};

/// What a step gave one sequence.
pub(super) struct Outcome {
    pub(super) scores: Vec<Score>,
    /// Its next tokens: the first was chosen in any case, and each of the others after a guess that was right.
    pub(super) chosen: Vec<Chosen>,
}

/// A token that is to be drawn.
struct Draw<'l> {
    row: u32,
    /// What was drawn; nothing where the row is unusable.
    token: Option<u32>,
    /// The row as the model gave it, and how many of the likeliest are wanted, where scores are.
    scored: Option<(Cow<'l, [f32]>, u8)>,
}

/// One for each part of a plan.
pub(super) fn outcomes(
    jobs: &HashMap<SequenceId, Job>,
    scheduler: &Scheduler,
    plan: &Plan,
    logits: &Logits,
) -> Result<Vec<Result<Outcome, Failure>>, ModelError> {
    // before the choices, which may spend their rows
    let scores = plan.parts.par_iter().map(|part| prompt_scores(jobs, scheduler, part, logits));
    let scores: Vec<Result<Vec<Score>, Unusable>> = scores.collect::<Result<_, _>>()?;
    let mut draws: Vec<Vec<Draw<'_>>> = Vec::with_capacity(plan.parts.len());
    let mut choices = Vec::new();
    for part in &plan.parts {
        let (own, theirs): (Vec<_>, Vec<_>) = draw(jobs, part, logits)?.into_iter().unzip();
        draws.push(own);
        choices.extend(theirs);
    }
    let rows: Vec<u32> = draws.iter().flatten().map(|draw: &Draw<'_>| draw.row).collect();
    for (draw, token) in draws.iter_mut().flatten().zip(logits.choose(&rows, &choices)?) {
        draw.token = token;
    }
    let all = scores.into_par_iter().zip(draws).zip(&plan.parts);
    let outcomes = all
        .map(|((scores, draws), part)| Ok(Outcome { chosen: valid(draws, &part.guesses)?, scores: scores? }));
    Ok(outcomes.collect())
}

/// The tokens up to the first that is not what was guessed in its place: what comes after it was computed for another
/// context.
fn valid(draws: Vec<Draw<'_>>, guesses: &[u32]) -> Result<Vec<Chosen>, Unusable> {
    let mut chosen = Vec::with_capacity(draws.len());
    for (i, draw) in draws.into_iter().enumerate() {
        let (token, score) = match draw.scored() {
            Ok(chosen) => chosen,
            // the row after a guess that was right: the next step comes to it by itself
            Err(_) if !chosen.is_empty() => break,
            Err(why) => return Err(why),
        };
        chosen.push((token, score));
        if guesses.get(i) != Some(&token) {
            break;
        }
    }
    Ok(chosen)
}

fn prompt_scores(
    jobs: &HashMap<SequenceId, Job>,
    scheduler: &Scheduler,
    part: &Part,
    logits: &Logits,
) -> Result<Result<Vec<Score>, Unusable>, ModelError> {
    let Some((job, sequence)) = jobs.get(&part.id).zip(scheduler.get(part.id)) else {
        return Ok(Ok(Vec::new()));
    };
    let top = job.prompt_logprobs.unwrap_or(0);
    let mut scores = Vec::with_capacity(part.scores.len());
    for (position, row) in &part.scores {
        match score(&logits.row(*row)?, sequence.tokens[position + 1], top) {
            Ok(score) => scores.push(score),
            Err(unusable) => return Ok(Err(unusable)),
        }
    }
    Ok(Ok(scores))
}

/// What is to be drawn for a sequence, if it is its turn: its next token, and one after each guess.
fn draw<'l>(
    jobs: &HashMap<SequenceId, Job>,
    part: &Part,
    logits: &'l Logits,
) -> Result<Vec<(Draw<'l>, Choice)>, ModelError> {
    let Some((job, row)) = jobs.get(&part.id).zip(part.sample) else { return Ok(Vec::new()) };
    let draw = |(row, choice): (usize, Choice)| {
        let scored = match job.logprobs {
            Some(top) => Some((logits.row(row)?, top)),
            None => None,
        };
        Ok((Draw { row: row as u32, token: None, scored }, choice))
    };
    (row..).zip(job.choices(&part.guesses)).map(draw).collect()
}

impl Draw<'_> {
    /// The token that was drawn, with its score.
    fn scored(self) -> Result<Chosen, Unusable> {
        let token = self.token.ok_or(Unusable)?;
        let score = self.scored.map(|(row, top)| score(&row, token, top)).transpose()?;
        Ok((token, score))
    }
}
