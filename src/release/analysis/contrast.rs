//! The difference of two arms' means, with a variance that knows that answers of one user are alike.
//!
//! Time is cut where weights change. Within a stretch the arms have constant shares of the traffic, so a bad hour meets
//! both alike; their difference there is weighed with `w = n_c n_s / (n_c + n_s)`, which no answer's value has a part
//! in. The variance is that of the sum over users of what each adds to the difference, over all stretches: a user's
//! answers count together (the linearised estimate of survey sampling; Cochran, Sampling Techniques, 1977).

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::UserCell;
use super::clusters::NAMED;
use super::confidence::Estimate;
use super::table::Arm;

/// Users of each arm before an estimate is shown: the sequences over it are asymptotic, and a variance needs users to be
/// estimated.
pub(super) const LEAST_USERS: usize = 30;

/// What is compared of two means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scale {
    /// The canary's less stable's.
    Difference,
    /// The logarithm of the canary's over stable's; means must be above 0.
    LogRatio,
}

/// Two means, compared.
#[derive(Debug, Clone)]
pub(super) struct Contrast {
    scale: Scale,
    closed: Closed,
    canary: ArmMean,
    stable: ArmMean,
}

/// The stretches that are over.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Closed {
    /// The sum of their weights.
    weight: f64,
    /// The sum of their differences, each by its weight.
    weighted: f64,
}

#[derive(Debug, Clone, Default)]
struct ArmMean {
    users: HashMap<UserCell, User>,
    /// Users that are in the sums, but were not named in the snapshot that this goes on from.
    unnamed: usize,
    /// Over all stretches.
    all: Mean,
    /// Of the stretch that is open.
    open: Mean,
    sums: Sums,
}

/// Answers and the sum of their values.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Mean {
    /// All answers.
    pub(super) answers: u64,
    /// The sum of their values.
    pub(super) total: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct User {
    /// What he has added to the weighted sum of the stretches that are over.
    closed: f64,
    /// His answers in the open one.
    answers: f64,
    /// The sum of their values.
    total: f64,
}

/// Sums over users of the products of `closed` (c), `answers` (n) and `total` (y).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Sums {
    cc: f64,
    cn: f64,
    cy: f64,
    nn: f64,
    ny: f64,
    yy: f64,
}

/// A comparison, to be written down and gone on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ContrastSnapshot {
    closed: Closed,
    canary: ArmSnapshot,
    stable: ArmSnapshot,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ArmSnapshot {
    unnamed: usize,
    all: Mean,
    open: Mean,
    sums: Sums,
    /// Cell, `closed`, `answers` and `total` of each user that is named, in the order of the cells.
    users: Vec<(u32, f64, f64, f64)>,
}

/// What the open stretch says.
struct Stretch {
    weight: f64,
    difference: f64,
    /// What a user's `total - mean * answers` is multiplied with to be what he adds to `weight * difference`.
    canary: f64,
    stable: f64,
}

impl Contrast {
    /// Of nothing yet.
    pub(super) fn new(scale: Scale) -> Self {
        let (canary, stable) = (ArmMean::default(), ArmMean::default());
        Self { scale, closed: Closed::default(), canary, stable }
    }

    /// What [`Contrast::resume`] goes on from.
    pub(super) fn snapshot(&self) -> ContrastSnapshot {
        let Self { scale: _, closed, canary, stable } = self;
        ContrastSnapshot { closed: *closed, canary: canary.snapshot(), stable: stable.snapshot() }
    }

    /// Goes on with a comparison on the same scale.
    pub(super) fn resume(scale: Scale, snapshot: ContrastSnapshot) -> Self {
        let ContrastSnapshot { closed, canary, stable } = snapshot;
        Self { scale, closed, canary: ArmMean::resume(canary), stable: ArmMean::resume(stable) }
    }

    /// Takes one answer in.
    pub(super) fn observe(&mut self, arm: Arm, user: UserCell, value: f64) {
        match arm {
            Arm::Canary => self.canary.add(user, value),
            Arm::Stable => self.stable.add(user, value),
        }
    }

    /// Ends a stretch, where weights change. One in which an arm had no answer says nothing and is forgotten.
    pub(super) fn cut(&mut self) {
        let open = self.open();
        if let Some(Stretch { weight, difference, .. }) = open {
            self.closed.weight += weight;
            self.closed.weighted += weight * difference;
        }
        self.canary.close(open.as_ref().map_or(0.0, |open| open.canary));
        self.stable.close(open.as_ref().map_or(0.0, |open| open.stable));
    }

    /// All answers of an arm.
    pub(super) fn mean(&self, arm: Arm) -> Mean {
        self.arm(arm).all
    }

    /// Users that an arm has seen.
    pub(super) fn users(&self, arm: Arm) -> usize {
        self.arm(arm).users()
    }

    /// The difference as far as it is known; none before each arm has two users.
    pub(super) fn estimate(&self) -> Option<Estimate> {
        if self.canary.users().min(self.stable.users()) < 2 {
            return None;
        }
        let Closed { mut weight, mut weighted } = self.closed;
        let (mut canary, mut stable) = (0.0, 0.0);
        if let Some(open) = self.open() {
            weight += open.weight;
            weighted += open.weight * open.difference;
            (canary, stable) = (open.canary, open.stable);
        }
        if weight == 0.0 {
            return None;
        }
        let variance = self.canary.variance(canary) + self.stable.variance(stable);
        Some(Estimate { value: weighted / weight, variance: variance / (weight * weight) })
    }

    fn arm(&self, arm: Arm) -> &ArmMean {
        match arm {
            Arm::Canary => &self.canary,
            Arm::Stable => &self.stable,
        }
    }

    fn open(&self) -> Option<Stretch> {
        let (ours, theirs) = (self.canary.open, self.stable.open);
        let (n_c, n_s) = (ours.answers as f64, theirs.answers as f64);
        let (mean_c, mean_s) = (ours.mean()?, theirs.mean()?);
        let weight = n_c * n_s / (n_c + n_s);
        Some(match self.scale {
            Scale::Difference => {
                Stretch { weight, difference: mean_c - mean_s, canary: weight / n_c, stable: weight / n_s }
            }
            Scale::LogRatio if mean_c <= 0.0 || mean_s <= 0.0 => return None,
            Scale::LogRatio => Stretch {
                weight,
                difference: (mean_c / mean_s).ln(),
                canary: weight / (n_c * mean_c),
                stable: weight / (n_s * mean_s),
            },
        })
    }
}

impl Mean {
    /// None where there are no answers.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.total / self.answers as f64)
    }

    fn add(&mut self, value: f64) {
        self.answers += 1;
        self.total += value;
    }
}

impl ArmMean {
    fn users(&self) -> usize {
        self.users.len() + self.unnamed
    }

    fn add(&mut self, user: UserCell, value: f64) {
        let user = self.users.entry(user).or_default();
        let before = *user;
        user.answers += 1.0;
        user.total += value;
        let sums = &mut self.sums;
        sums.cn += user.closed;
        sums.cy += user.closed * value;
        sums.nn += user.answers * user.answers - before.answers * before.answers;
        sums.ny += user.answers * user.total - before.answers * before.total;
        sums.yy += user.total * user.total - before.total * before.total;
        self.all.add(value);
        self.open.add(value);
    }

    /// The sum over users of the squares of what each has added, `factor (total - mean * answers)` for the open
    /// stretch. Users who are not named are in it.
    fn squares(&self, factor: f64) -> f64 {
        let Sums { cc, cn, cy, nn, ny, yy } = self.sums;
        let mean = self.open.mean().unwrap_or(0.0);
        let of_open = yy - 2.0 * mean * ny + mean * mean * nn;
        (cc + 2.0 * factor * (cy - mean * cn) + factor * factor * of_open).max(0.0)
    }

    fn variance(&self, factor: f64) -> f64 {
        let users = self.users() as f64;
        self.squares(factor) * users / (users - 1.0)
    }

    fn close(&mut self, factor: f64) {
        let cc = self.squares(factor);
        let mean = self.open.mean().unwrap_or(0.0);
        for user in self.users.values_mut() {
            let closed = user.closed + factor * (user.total - mean * user.answers);
            *user = User { closed, ..User::default() };
        }
        self.sums = Sums { cc, ..Sums::default() };
        self.open = Mean::default();
    }

    fn snapshot(&self) -> ArmSnapshot {
        let mut users: Vec<_> =
            self.users.iter().map(|(cell, u)| (cell.number(), u.closed, u.answers, u.total)).collect();
        if users.len() > NAMED {
            users
                .select_nth_unstable_by_key(NAMED, |(cell, _, answers, _)| (Reverse(*answers as u64), *cell));
            users.truncate(NAMED);
        }
        users.sort_unstable_by_key(|(cell, ..)| *cell);
        let Self { all, open, sums, .. } = *self;
        ArmSnapshot { unnamed: self.users() - users.len(), all, open, sums, users }
    }

    fn resume(snapshot: ArmSnapshot) -> Self {
        let ArmSnapshot { unnamed, all, open, sums, users } = snapshot;
        let named =
            |(cell, closed, answers, total)| (UserCell::numbered(cell), User { closed, answers, total });
        Self { users: users.into_iter().map(named).collect(), unnamed, all, open, sums }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cell(user: u64) -> UserCell {
        UserCell::of(user.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn of(scale: Scale, answers: &[(Arm, u64, f64)]) -> Contrast {
        let mut contrast = Contrast::new(scale);
        for (arm, user, value) in answers {
            contrast.observe(*arm, cell(*user), *value);
        }
        contrast
    }

    #[test]
    fn single_answers_have_the_variance_of_the_textbook() {
        let answers: Vec<_> = (0..40_u64)
            .map(|i| (if i % 4 == 0 { Arm::Canary } else { Arm::Stable }, i, (i * 7 % 11) as f64))
            .collect();
        let of_arm = |wanted: Arm| -> (f64, f64) {
            let values: Vec<f64> = answers.iter().filter(|(arm, ..)| *arm == wanted).map(|a| a.2).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance =
                values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0);
            (mean, variance / values.len() as f64)
        };
        let (ours, theirs) = (of_arm(Arm::Canary), of_arm(Arm::Stable));
        let found = of(Scale::Difference, &answers).estimate().unwrap();
        assert!((found.value - (ours.0 - theirs.0)).abs() < 1e-9, "{found:?}");
        assert!((found.variance - (ours.1 + theirs.1)).abs() < 1e-9, "{found:?}");
        let found = of(Scale::LogRatio, &answers).estimate().unwrap();
        assert!((found.value - (ours.0 / theirs.0).ln()).abs() < 1e-9, "{found:?}");
        let delta = ours.1 / ours.0.powi(2) + theirs.1 / theirs.0.powi(2);
        assert!((found.variance - delta).abs() < 1e-9, "{found:?} and {delta}");
    }

    #[test]
    fn a_user_who_says_the_same_eight_times_counts_once() {
        let once: Vec<_> = (0..40_u64)
            .map(|i| (if i % 4 == 0 { Arm::Canary } else { Arm::Stable }, i, (i * 7 % 11) as f64))
            .collect();
        let often: Vec<_> = (0..8).flat_map(|_| once.clone()).collect();
        let (once, often) = (of(Scale::Difference, &once), of(Scale::Difference, &often));
        let (once, often) = (once.estimate().unwrap(), often.estimate().unwrap());
        assert!((once.value - often.value).abs() < 1e-9);
        assert!((once.variance - often.variance).abs() < 1e-9, "{once:?} and {often:?}");
    }

    /// Simpson's paradox: answers are longer in the evening, when most of the canary's traffic comes.
    #[test]
    fn a_long_evening_is_not_the_canarys_fault() {
        let mut contrast = Contrast::new(Scale::LogRatio);
        for user in 0..2000_u64 {
            let evening = user >= 1000;
            if user == 1000 {
                contrast.cut();
            }
            let share = if evening { 2 } else { 10 };
            let arm = if user % share == 0 { Arm::Canary } else { Arm::Stable };
            let tokens = 100.0 + (user * 13 % 7) as f64;
            contrast.observe(arm, cell(user), if evening { 3.0 * tokens } else { tokens });
        }
        let pooled = contrast.mean(Arm::Canary).mean().unwrap() / contrast.mean(Arm::Stable).mean().unwrap();
        let found = contrast.estimate().unwrap();
        assert!(pooled > 1.2 && found.value.abs() < 0.01, "{pooled} and {found:?}");
    }

    #[test]
    fn nothing_is_claimed_of_too_little() {
        assert_eq!(of(Scale::Difference, &[]).estimate(), None);
        let one = [(Arm::Canary, 1, 1.0), (Arm::Stable, 2, 2.0), (Arm::Stable, 3, 4.0)];
        assert_eq!(of(Scale::Difference, &one).estimate(), None);
    }

    proptest! {
        /// A cut that falls at random, a restart at any time: the sums say what the users say.
        #[test]
        fn it_goes_on_after_a_restart_and_sums_are_those_of_the_users(
            answers in prop::collection::vec((any::<bool>(), 0..12_u64, 1.0..50.0_f64, 0..20_u8), 1..120), at in 0..120_usize
        ) {
            let (mut whole, mut resumed) = (Contrast::new(Scale::LogRatio), Contrast::new(Scale::LogRatio));
            for (i, (canary, user, value, cut)) in answers.iter().enumerate() {
                let arm = if *canary { Arm::Canary } else { Arm::Stable };
                for contrast in [&mut whole, &mut resumed] {
                    contrast.observe(arm, cell(*user), *value);
                    if *cut == 0 {
                        contrast.cut();
                    }
                }
                if i == at {
                    let text = serde_json::to_string(&resumed.snapshot()).unwrap();
                    resumed = Contrast::resume(Scale::LogRatio, serde_json::from_str(&text).unwrap());
                }
            }
            let squares = |arm: &ArmMean| {
                let mean = arm.open.mean().unwrap_or(0.0);
                arm.users.values().map(|u| (u.closed + 0.1 * (u.total - mean * u.answers)).powi(2)).sum::<f64>()
            };
            for arm in [&whole.canary, &whole.stable] {
                prop_assert!((arm.squares(0.1) - squares(arm)).abs() < 1e-6 * (1.0 + squares(arm)));
            }
            match (whole.estimate(), resumed.estimate()) {
                (Some(a), Some(b)) => prop_assert!(
                    (a.value - b.value).abs() < 1e-9 && (a.variance - b.variance).abs() < 1e-9 * (1.0 + a.variance)
                ),
                (a, b) => prop_assert_eq!(a.is_some(), b.is_some()),
            }
        }
    }
}
