//! What a step does for the sequences that a grammar guides: waits for their masks before the choices, and takes the
//! guides on by what was chosen after them. Each depends on its own sequence only, so they are taken on in parallel.

use std::collections::HashMap;

use rayon::prelude::*;

use super::constraint::Advance;
use super::generation::Failure;
use super::job::Job;
use super::outcomes::Outcome;
use super::plan::Plan;
use super::sequence::SequenceId;

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

/// Takes the guides on by the tokens that were chosen. What became of each; nothing where there is no guide or no choice.
pub(super) fn advance(
    jobs: &mut HashMap<SequenceId, Job>,
    plan: &Plan,
    outcomes: &[Result<Outcome, Failure>],
) -> HashMap<SequenceId, Advance> {
    let chosen = plan.parts.iter().zip(outcomes).filter_map(|(part, outcome)| {
        jobs.get(&part.id)?.guide.as_ref()?;
        Some((part.id, outcome.as_ref().ok()?.chosen.first()?.0))
    });
    let chosen: HashMap<_, _> = chosen.collect();
    if chosen.is_empty() {
        return HashMap::new();
    }
    let guided = jobs.par_iter_mut().filter_map(|(id, job)| {
        let (guide, token) = job.guide.as_mut().zip(chosen.get(id))?;
        Some((*id, guide.advance(*token)))
    });
    guided.collect()
}
