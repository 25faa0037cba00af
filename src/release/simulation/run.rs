//! One run, and many.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

use super::measures::{Guarded, Meter};
use super::report::{Decision, Report};
use super::schedule::{Minute, Schedule};
use super::threshold::Threshold;
use super::traffic::{Answer, Crowd, Traffic};
use crate::config::EarlyPromote;
use crate::ids::Weight;
use crate::release::analysis::{Arm, Guardrails, LimitFinding, PassRate, Standing, Terms, UserCell, Verdict};

/// Minutes that an answer may take, unless the configuration says otherwise: as long a canary is watched at each weight
/// before it is promoted early.
const LONGEST_ANSWER: usize = 5;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The canary's weight over time.
    pub schedule: Schedule,
    /// What the analysis is held to.
    pub terms: Terms,
    /// Who asks, and how well they are answered.
    pub traffic: Traffic,
    /// Whether a canary that is found to be as good as stable is promoted at once; else when the steps are over, if it
    /// is so then.
    pub early_promote: EarlyPromote,
    /// How long answers take and are, where guardrails are played too.
    pub guarded: Option<Guarded>,
}

/// How one run ended, by the analysis and by the threshold.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) analysis: Decision,
    pub(super) threshold: Decision,
    pub(super) guardrails: Option<Guards>,
}

/// What came of the guardrails of one run: those that were breached, and when the first was.
#[derive(Debug, Clone)]
pub(super) struct Guards {
    pub(super) breached: Vec<&'static str>,
    pub(super) minute: usize,
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
    scenario.guarded.as_ref().map_or(Ok(()), |guarded| guarded.measures.check())?;
    let one = |run: u64| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(run);
        let ended = play(scenario, random, &Meter::seed(seed, run));
        done();
        ended.ok_or_else(|| "no distribution has this pass rate and this icc".to_owned())
    };
    let ended = (0..runs).into_par_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(Report::of(&ended))
}

fn play(scenario: &Scenario, random: ChaCha8Rng, of_measures: &ChaCha8Rng) -> Option<Ended> {
    let Scenario { schedule, terms, traffic, early_promote, guarded } = scenario;
    let mut guards = guarded.as_ref().map(|guarded| Watch::new(guarded, traffic.icc, of_measures.clone()));
    let mut crowd = Crowd::new(traffic, random)?;
    let (mut analysis, mut threshold) = (PassRate::new(*terms), Threshold::default());
    let mut exposed: HashSet<UserCell> = HashSet::new();
    let (mut by_analysis, mut by_threshold) = (None, None);
    // Since when it has been found to be as good as stable without a break.
    let mut proven = None;
    // Since when the canary has had its share, and its answers since then.
    let (mut since, mut answers) = (0, 0);
    let minutes = schedule.minutes();
    for (minute, gets) in minutes.iter().enumerate() {
        if minute > 0 && minutes[minute - 1] != *gets {
            analysis.cut();
            (since, answers) = (minute, 0);
            if let Some(guards) = &mut guards {
                guards.limits.cut();
            }
        }
        crowd.minute(*gets, minute as f64 / minutes.len() as f64, |answer| {
            answers += u64::from(answer.arm == Arm::Canary);
            analysis.observe(answer.arm, answer.user, answer.outcome);
            threshold.observe(answer);
            if let Some(guards) = &mut guards {
                guards.observe(answer, *gets);
            }
            // Nobody reads the answer to a copy.
            if answer.arm == Arm::Canary && gets.weight > Weight::ZERO {
                exposed.insert(answer.user);
            }
        });
        let found = analysis.look().verdict;
        proven = (found == Verdict::Promote).then(|| proven.unwrap_or(minute + 1));
        let decided =
            |verdict| Decision { verdict, minute: minute + 1, proven, users_exposed: exposed.len() };
        let acted_on = match found {
            Verdict::Abort => true,
            // Copies do not show how fast it is, and answers that take long are not there at once.
            Verdict::Promote => {
                *early_promote == EarlyPromote::Yes
                    && gets.weight > Weight::ZERO
                    && minute + 1 - since >= LONGEST_ANSWER
                    && answers >= terms.min_samples
            }
            Verdict::Continue | Verdict::Inconclusive => false,
        };
        by_analysis = by_analysis.or_else(|| acted_on.then(|| decided(found)));
        by_threshold =
            by_threshold.or_else(|| conclusive(threshold.look(terms.margin, terms.min_samples)).map(decided));
        if let Some(guards) = &mut guards {
            guards.look(minute + 1);
        }
        if by_analysis.is_some() && by_threshold.is_some() && guards.is_none() {
            break;
        }
    }
    // What is left in the last stratum counts too.
    analysis.cut();
    let over = |verdict| {
        let proven = (verdict == Verdict::Promote).then(|| proven.unwrap_or(minutes.len()));
        Decision { verdict, minute: minutes.len(), proven, users_exposed: exposed.len() }
    };
    Some(Ended {
        analysis: by_analysis.unwrap_or_else(|| over(analysis.finding().at_the_end().verdict)),
        // A threshold that was never passed promotes, whatever the traffic was.
        threshold: by_threshold.unwrap_or_else(|| over(Verdict::Promote)),
        guardrails: guards.map(|guards| guards.seen),
    })
}

/// The guardrails beside an analysis. They look at the whole of a run: what the checks decide hides no breach.
struct Watch {
    meter: Meter,
    limits: Guardrails,
    seen: Guards,
}

impl Watch {
    fn new(guarded: &Guarded, icc: f64, random: ChaCha8Rng) -> Self {
        let meter = Meter::new(guarded.measures, icc, random);
        let seen = Guards { breached: Vec::new(), minute: 0 };
        Self { meter, limits: Guardrails::new(&guarded.policy), seen }
    }

    fn observe(&mut self, answer: Answer, gets: Minute) {
        let measured = self.meter.measure(answer);
        let measured = if gets.weight > Weight::ZERO { measured } else { measured.untimed() };
        self.limits.observe(answer.arm, answer.user, &measured);
    }

    fn look(&mut self, minute: usize) {
        self.limits.look();
        let breached = |finding: &LimitFinding| finding.standing == Standing::Breached;
        let names = self.limits.findings().into_iter().filter(breached).map(|finding| finding.name);
        let names: Vec<_> = names.collect();
        if self.seen.breached.is_empty() && !names.is_empty() {
            self.seen.minute = minute;
        }
        self.seen.breached = names;
    }
}

fn conclusive(verdict: Verdict) -> Option<Verdict> {
    matches!(verdict, Verdict::Promote | Verdict::Abort).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Guardrails as Limits, Pause, Policy, Ratio, ReadyMade, RelativeChange, Step, TimeLimit, Timing,
    };
    use crate::ids::Weight;
    use crate::release::simulation::{Breaches, Decisions, Measures};

    /// A tenth of what is claimed in `docs/rollouts.md`, with room for chance: the claims themselves take longer.
    fn decisions(traffic: Traffic, runs: u64) -> Decisions {
        let schedule = Schedule::of(&ReadyMade::CustomerFacing.policy(), 60).unwrap();
        let terms = Terms { margin: 0.05, alpha: 0.01, power: 0.95, min_samples: 30 };
        let scenario = Scenario { schedule, terms, traffic, early_promote: EarlyPromote::No, guarded: None };
        simulate(&scenario, runs, 1, &|| {}).unwrap().analysis
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
    fn a_promotion_waits_for_the_steps_unless_the_policy_is_early() {
        let play = |early_promote| {
            let schedule = Schedule::of(&ReadyMade::CustomerFacing.policy(), 60).unwrap();
            let terms = Terms { margin: 0.05, alpha: 0.01, power: 0.95, min_samples: 30 };
            let traffic = Traffic { rate: 300.0, ..TRAFFIC };
            let scenario = Scenario { schedule, terms, traffic, early_promote, guarded: None };
            simulate(&scenario, 60, 1, &|| {}).unwrap().analysis
        };
        let (late, early) = (play(EarlyPromote::No), play(EarlyPromote::Yes));
        assert_eq!(late.median_minutes_to_promote, Some(60));
        assert!(late.median_minutes_to_evidence.unwrap() < 30, "{late:?}");
        assert!(early.median_minutes_to_promote.unwrap() < 30, "{early:?}");
        assert!(late.promote > 0.9 && early.users_exposed < late.users_exposed);
    }

    /// A quarter of an hour at 30 %: 40 requests a minute, of users who ask four times and are alike.
    fn breaches(latency_ratio: f64, length_ratio: f64, runs: u64) -> Breaches {
        let quantile = 0.5.try_into().unwrap();
        let limit = TimeLimit { quantile, max_ratio: Ratio::new(1.5).unwrap() };
        let guardrails = Limits {
            alpha: 0.1.try_into().unwrap(),
            times: [(Timing::TimePerOutputToken, limit)].into(),
            output_length: RelativeChange::percent(50.0),
        };
        let steps = vec![
            Step::SetWeight(Weight::from_percent(30.0).unwrap()),
            Step::Pause(Pause::For(std::time::Duration::from_mins(15))),
        ];
        let policy = Policy { steps, guardrails, ..Policy::default() };
        let schedule = Schedule::of(&policy, 0).unwrap();
        let traffic = Traffic { rate: 40.0, requests_per_user: 4, icc: 0.3, ..TRAFFIC };
        let terms = Terms::from(&policy);
        let guarded = Some(Guarded { policy, measures: Measures { latency_ratio, length_ratio } });
        let scenario = Scenario { schedule, terms, traffic, early_promote: EarlyPromote::No, guarded };
        simulate(&scenario, runs, 1, &|| {}).unwrap().guardrails.unwrap()
    }

    #[test]
    fn guardrails_keep_their_alpha_at_the_very_limit_and_where_nothing_has_changed() {
        // Exactly what is allowed, of both; half of alpha each.
        let at_the_limit = breaches(1.5, 1.5, 2000);
        assert!(at_the_limit.abort <= 0.1, "{at_the_limit:?}");
        assert!(at_the_limit.by_guardrail.values().all(|share| *share <= 0.05), "{at_the_limit:?}");
        assert!(at_the_limit.abort > 0.005, "a test that never errs is too timid: {at_the_limit:?}");
        let unchanged = breaches(1.0, 1.0, 2000);
        assert!(unchanged.abort <= 0.002, "{unchanged:?}");
    }

    #[test]
    fn guardrails_find_what_they_are_for() {
        let slow = breaches(2.2, 1.0, 200);
        assert!(slow.by_guardrail["time_per_output_token"] > 0.95, "{slow:?}");
        let long = breaches(1.0, 2.5, 200);
        assert!(long.by_guardrail["output_length"] > 0.9, "{long:?}");
    }

    #[test]
    fn guardrails_that_are_played_change_nothing_of_the_checks() {
        let schedule = Schedule::of(&ReadyMade::CustomerFacing.policy(), 60).unwrap();
        let terms = Terms { margin: 0.05, alpha: 0.01, power: 0.95, min_samples: 30 };
        let measures = Measures { latency_ratio: 1.5, length_ratio: 1.0 };
        let guarded = Some(Guarded { policy: ReadyMade::CustomerFacing.policy(), measures });
        let early_promote = EarlyPromote::No;
        let scenario = Scenario { schedule, terms, traffic: TRAFFIC, early_promote, guarded };
        assert_eq!(simulate(&scenario, 20, 1, &|| {}).unwrap().analysis, decisions(TRAFFIC, 20));
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
