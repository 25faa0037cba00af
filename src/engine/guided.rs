//! What a step does for the sequences that a grammar guides: waits for their masks before the choices, and takes the
//! guides on by what was chosen after them. Each depends on its own sequence only, so they are taken on in parallel.

use std::collections::HashMap;

use rayon::prelude::*;

use super::constraint::Advance;
use super::generation::Failure;
use super::job::Job;
use super::outcomes::Outcome;
use super::scheduler::Plan;
use super::sequence::SequenceId;

/// What became of the guides of a step's parts, in their order; nothing where there is no guide or no choice.
pub(super) type Advances = Vec<Option<Advance>>;

/// Waits for the masks of all choices of a plan. Those that there is no mask for, and why.
pub(super) fn wait(jobs: &mut HashMap<SequenceId, Job>, plan: &Plan) -> Vec<(SequenceId, Failure)> {
    let mut failed = Vec::new();
    for part in plan.parts.iter().filter(|part| part.sample.is_some()) {
        let guide = jobs.get_mut(&part.id).and_then(|job| job.guide.as_mut());
        if let Some(Err(why)) = guide.map(super::constraint::Guide::wait) {
            failed.push((part.id, Failure::Constraint(why)));
        }
    }
    failed
}

/// Takes the guides on by the tokens that were chosen.
pub(super) fn advance(
    jobs: &mut HashMap<SequenceId, Job>,
    plan: &Plan,
    outcomes: &[Result<Outcome, Failure>],
) -> Advances {
    let chosen = plan.parts.iter().zip(outcomes).map(|(part, outcome)| {
        let chosen = outcome.as_ref().ok()?.chosen.as_ref()?.0;
        let guide = jobs.get_mut(&part.id)?.guide.take()?;
        Some((part.id, guide, chosen))
    });
    let chosen: Vec<_> = chosen.collect();
    if chosen.iter().all(Option::is_none) {
        return vec![None; plan.parts.len()];
    }
    let taken = chosen.into_par_iter().map(|chosen| {
        let (id, mut guide, token) = chosen?;
        let advance = guide.advance(token);
        Some((id, guide, advance))
    });
    let taken: Vec<_> = taken.collect();
    let advances = taken.into_iter().map(|taken| {
        let (id, guide, advance) = taken?;
        jobs.get_mut(&id)?.guide = Some(guide);
        Some(advance)
    });
    advances.collect()
}
