//! One run, and many.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

use super::report::{Decision, Report};
use super::schedule::Schedule;
use super::threshold::Threshold;
use super::traffic::{Crowd, Traffic};
use crate::ids::Weight;
use crate::release::analysis::{Arm, PassRate, Terms, UserCell, Verdict};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The canary's weight over time.
    pub schedule: Schedule,
    /// What the analysis is held to.
    pub terms: Terms,
    /// Who asks, and how well they are answered.
    pub traffic: Traffic,
}

/// How one run ended, by the analysis and by the threshold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) analysis: Decision,
    pub(super) threshold: Decision,
}

/// Plays a scenario `runs` times; run i depends on the seed and i alone. `done` is told of each that has ended. The
/// error says what about the traffic makes no sense.
pub fn simulate(
    scenario: &Scenario,
    runs: u64,
    seed: u64,
    done: &(dyn Fn() + Sync),
) -> Result<Report, String> {
    scenario.traffic.check()?;
    let one = |run: u64| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(run);
        let ended = play(scenario, random);
        done();
        ended.ok_or_else(|| "no distribution has this pass rate and this icc".to_owned())
    };
    let ended = (0..runs).into_par_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(Report::of(&ended))
}

fn play(scenario: &Scenario, random: ChaCha8Rng) -> Option<Ended> {
    let Scenario { schedule, terms, traffic } = scenario;
    let mut crowd = Crowd::new(traffic, random)?;
    let (mut analysis, mut threshold) = (PassRate::new(*terms), Threshold::default());
    let mut exposed: HashSet<UserCell> = HashSet::new();
    let (mut by_analysis, mut by_threshold) = (None, None);
    let minutes = schedule.minutes();
    for (minute, gets) in minutes.iter().enumerate() {
        if minute > 0 && minutes[minute - 1] != *gets {
            analysis.cut();
        }
        crowd.minute(*gets, minute as f64 / minutes.len() as f64, |answer| {
            analysis.observe(answer.arm, answer.user, answer.outcome);
            threshold.observe(answer);
            // Nobody reads the answer to a copy.
            if answer.arm == Arm::Canary && gets.weight > Weight::ZERO {
                exposed.insert(answer.user);
            }
        });
        let decided = |verdict| Decision { verdict, minute: minute + 1, users_exposed: exposed.len() };
        by_analysis = by_analysis.or_else(|| conclusive(analysis.look().verdict).map(decided));
        by_threshold =
            by_threshold.or_else(|| conclusive(threshold.look(terms.margin, terms.min_samples)).map(decided));
        if by_analysis.is_some() && by_threshold.is_some() {
            break;
        }
    }
    // What is left in the last stratum counts too.
    analysis.cut();
    let over = |verdict| Decision { verdict, minute: minutes.len(), users_exposed: exposed.len() };
    Some(Ended {
        analysis: by_analysis.unwrap_or_else(|| over(analysis.finding().at_the_end().verdict)),
        // A threshold that was never passed promotes, whatever the traffic was.
        threshold: by_threshold.unwrap_or_else(|| over(Verdict::Promote)),
    })
}

fn conclusive(verdict: Verdict) -> Option<Verdict> {
    matches!(verdict, Verdict::Promote | Verdict::Abort).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReadyMade;
    use crate::release::simulation::Decisions;

    /// A tenth of what is claimed in `docs/rollouts.md`, with room for chance: the claims themselves take longer.
    fn decisions(traffic: Traffic, runs: u64) -> Decisions {
        let schedule = Schedule::of(&ReadyMade::CustomerFacing.policy(), 60).unwrap();
        let terms = Terms { margin: 0.05, alpha: 0.01, power: 0.95, min_samples: 30 };
        simulate(&Scenario { schedule, terms, traffic }, runs, 1, &|| {}).unwrap().analysis
    }

    const TRAFFIC: Traffic =
        Traffic { rate: 100.0, stable: 0.92, drop: 0.0, drift: 0.0, requests_per_user: 1, icc: 0.0 };

    #[test]
    fn a_good_canary_is_hardly_ever_aborted() {
        assert!(decisions(TRAFFIC, 400).abort <= 0.02);
        let drifting = Traffic { drift: 0.3, ..TRAFFIC };
        assert!(decisions(drifting, 400).abort <= 0.02, "a drift of both arms is nobody's fault");
        let rarely_failing = Traffic { stable: 0.99, ..TRAFFIC };
        assert!(decisions(rarely_failing, 400).abort <= 0.02);
        let alike = Traffic { requests_per_user: 10, icc: 0.3, ..TRAFFIC };
        assert!(decisions(alike, 400).abort <= 0.02);
    }

    #[test]
    fn a_bad_one_is_aborted_and_too_little_traffic_admits_that_it_cannot_tell() {
        assert!(decisions(Traffic { drop: 0.05, ..TRAFFIC }, 400).abort >= 0.92);
        let thin = decisions(Traffic { rate: 5.0, ..TRAFFIC }, 200);
        assert!(thin.inconclusive >= 0.9 && thin.abort <= 0.02, "{thin:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_report() {
        assert_eq!(decisions(TRAFFIC, 50), decisions(TRAFFIC, 50));
    }

    #[test]
    fn traffic_that_cannot_be_is_refused() {
        for bad in [
            Traffic { rate: 0.0, ..TRAFFIC },
            Traffic { stable: 1.0, ..TRAFFIC },
            Traffic { drop: 0.95, ..TRAFFIC },
            Traffic { icc: 1.0, ..TRAFFIC },
            Traffic { requests_per_user: 0, ..TRAFFIC },
            Traffic { drift: f64::NAN, ..TRAFFIC },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
