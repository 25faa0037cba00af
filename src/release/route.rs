//! A model's route: weights, and which version owns which bucket. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::ReleaseError;
use super::sticky::{BUCKETS, Bucket};
use crate::ids::{VersionName, Weight};
use crate::store::{BucketRun, StableRoute};

/// Shares that sum to 100 %, none of them 0, and the buckets that realise them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub(super) revision: u64,
    pub(super) weights: BTreeMap<VersionName, Weight>,
    /// Owner of each bucket.
    owners: Arc<[VersionName]>,
    pub(super) rollback_points: Vec<StableRoute>,
}

/// Drops zeros and checks the sum.
pub(super) fn whole(
    weights: BTreeMap<VersionName, Weight>,
) -> Result<BTreeMap<VersionName, Weight>, ReleaseError> {
    let sum: u32 = weights.values().map(|w| u32::from(w.basis_points())).sum();
    if sum != u32::from(BUCKETS) {
        return Err(ReleaseError::SumNot100 { sum: f64::from(sum) / 100.0 });
    }
    Ok(weights.into_iter().filter(|(_, w)| *w > Weight::ZERO).collect())
}

impl Route {
    /// A model's first route: as if its heaviest version (the first by name among equals) had had all
    /// traffic before, so that replicas that start alike agree.
    pub fn first(weights: BTreeMap<VersionName, Weight>) -> Result<Self, ReleaseError> {
        let weights = whole(weights)?;
        let heaviest = weights.iter().rev().max_by_key(|(_, w)| **w).map(|(v, _)| v.clone());
        let Some(heaviest) = heaviest else { return Err(ReleaseError::SumNot100 { sum: 0.0 }) };
        let owners = reassigned(&vec![heaviest; BUCKETS.into()], &weights);
        Ok(Self { revision: 1, weights, owners, rollback_points: Vec::new() })
    }

    /// The next revision with other weights. The fewest buckets move: only versions that shrink give some
    /// up, only versions that grow get some.
    pub fn reweighted(&self, weights: BTreeMap<VersionName, Weight>) -> Result<Self, ReleaseError> {
        let weights = whole(weights)?;
        let owners = reassigned(&self.owners, &weights);
        let mut next = Self { revision: self.revision + 1, weights, owners, rollback_points: Vec::new() };
        next.rollback_points = super::history::points_after(self, next.stable_alone());
        Ok(next)
    }

    /// The next revision, back on the last stable route of a version; `None` where it had none.
    pub fn rolled_back_to(&self, version: &VersionName) -> Option<Self> {
        let at = self.rollback_points.iter().rposition(|point| point.version == *version)?;
        let weights = BTreeMap::from([(version.clone(), Weight::FULL)]);
        let owners = vec![version.clone(); BUCKETS.into()].into();
        let rollback_points = super::history::points_behind(&self.rollback_points[..=at], version);
        Some(Self { revision: self.revision + 1, weights, owners, rollback_points })
    }

    /// Whether a rollback may go to a version, now or later: it had all traffic before.
    pub fn leads_back_to(&self, version: &VersionName) -> bool {
        self.rollback_points.iter().any(|point| point.version == *version)
    }

    /// The next revision, without what a rollback could go to and that is none of these; `None` where all are.
    pub(super) fn leading_back_to(&self, versions: &BTreeSet<VersionName>) -> Option<Self> {
        let mut next = Self { revision: self.revision + 1, ..self.clone() };
        next.rollback_points.retain(|point| versions.contains(&point.version));
        (next.rollback_points.len() < self.rollback_points.len()).then_some(next)
    }

    /// Rebuilds a stored route.
    pub(super) fn restored(
        revision: u64,
        weights: BTreeMap<VersionName, Weight>,
        runs: &[BucketRun],
        rollback_points: Vec<StableRoute>,
    ) -> Option<Self> {
        let expand = |run: &BucketRun| std::iter::repeat_n(run.version.clone(), run.buckets.into());
        let owners: Arc<[VersionName]> = runs.iter().flat_map(expand).collect();
        (owners.len() == usize::from(BUCKETS)).then_some(Self { revision, weights, owners, rollback_points })
    }

    /// The buckets as runs of one owner each.
    pub(super) fn bucket_runs(&self) -> Vec<BucketRun> {
        let runs = self.owners.chunk_by(|a, b| a == b);
        runs.map(|run| BucketRun { version: run[0].clone(), buckets: run.len() as u16 }).collect()
    }

    /// The version of a bucket.
    pub fn owner(&self, bucket: Bucket) -> &VersionName {
        &self.owners[bucket.index()]
    }

    /// Share of each version that has one.
    pub fn weights(&self) -> &BTreeMap<VersionName, Weight> {
        &self.weights
    }

    /// Counts up with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Where a rollback would go.
    pub fn rollback_target(&self) -> Option<&StableRoute> {
        self.rollback_points.last()
    }

    /// The version that has all traffic, where one has.
    pub fn stable_alone(&self) -> Option<&VersionName> {
        self.weights.iter().find(|(_, w)| **w == Weight::FULL).map(|(v, _)| v)
    }

    /// The stable version: the one that a rollback would restore while it still has traffic, else the
    /// heaviest. All others are canaries.
    pub fn stable(&self) -> &VersionName {
        let target = self.rollback_target().map(|t| &t.version).filter(|v| self.weights.contains_key(v));
        let heaviest = || self.weights.iter().rev().max_by_key(|(_, w)| **w).map(|(v, _)| v);
        self.stable_alone().or(target).or_else(heaviest).unwrap_or(&self.owners[0])
    }
}

/// Gives each version as many buckets as its weight says, moving as few as can be. The owner of bucket 0
/// gives up its highest buckets, any other its lowest: so a canary's share is always an end of the circle,
/// and a smaller share of it lies within each larger one. Versions that grow take the lowest that are free,
/// in the order of their names.
fn reassigned(owners: &[VersionName], weights: &BTreeMap<VersionName, Weight>) -> Arc<[VersionName]> {
    let mut surplus: BTreeMap<&VersionName, i32> = BTreeMap::new();
    for owner in owners {
        *surplus.entry(owner).or_default() += 1;
    }
    for (version, weight) in weights {
        *surplus.entry(version).or_default() -= i32::from(weight.basis_points());
    }
    let mut free = Vec::new();
    let mut give_up = |bucket: usize, from_the_top: bool| {
        let owner = &owners[bucket];
        let left = surplus.get_mut(owner);
        if let Some(left) = left.filter(|left| **left > 0 && (owner == &owners[0]) == from_the_top) {
            *left -= 1;
            free.push(bucket);
        }
    };
    (0..owners.len()).rev().for_each(|bucket| give_up(bucket, true));
    (0..owners.len()).for_each(|bucket| give_up(bucket, false));
    free.sort_unstable();
    let growing = surplus.iter().filter(|(_, left)| **left < 0);
    let takers = growing
        .flat_map(|(version, left)| std::iter::repeat_n((*version).clone(), left.unsigned_abs() as usize));
    let mut next = owners.to_vec();
    for (bucket, taker) in free.into_iter().zip(takers) {
        next[bucket] = taker;
    }
    next.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights(basis_points: &[u16]) -> BTreeMap<VersionName, Weight> {
        let one = |(i, bp): (usize, &u16)| {
            (format!("v{i}").parse().unwrap(), Weight::from_basis_points(*bp).unwrap())
        };
        basis_points.iter().enumerate().map(one).collect()
    }

    /// Up to four shares that sum to 10,000.
    fn shares() -> impl Strategy<Value = Vec<u16>> {
        proptest::collection::vec(0..=10_000_u16, 0..4).prop_map(|mut cuts| {
            cuts.extend([0, 10_000]);
            cuts.sort_unstable();
            cuts.windows(2).map(|w| w[1] - w[0]).collect()
        })
    }

    fn count(route: &Route, version: &VersionName) -> usize {
        route.owners.iter().filter(|o| *o == version).count()
    }

    #[test]
    fn weights_that_do_not_sum_to_100_are_refused() {
        assert!(matches!(Route::first(weights(&[9_000])), Err(ReleaseError::SumNot100 { sum: 90.0 })));
        assert!(matches!(Route::first(BTreeMap::new()), Err(ReleaseError::SumNot100 { sum: 0.0 })));
    }

    #[test]
    fn a_canary_that_shrinks_keeps_the_users_that_it_had_when_it_was_small() {
        let small = Route::first(weights(&[9_500, 500])).unwrap();
        let large = small.reweighted(weights(&[5_000, 5_000])).unwrap();
        let small_again = large.reweighted(weights(&[9_500, 500])).unwrap();
        assert_eq!(small.owners, small_again.owners);
    }

    proptest! {
        #[test]
        fn shares_are_exact(first in shares(), then in shares()) {
            let route = Route::first(weights(&first)).unwrap().reweighted(weights(&then)).unwrap();
            for (version, weight) in weights(&then) {
                prop_assert_eq!(count(&route, &version), usize::from(weight.basis_points()));
            }
        }

        #[test]
        fn a_key_moves_only_from_a_version_that_shrank_to_one_that_grew(all in proptest::collection::vec(shares(), 2..6)) {
            let mut route = Route::first(weights(&all[0])).unwrap();
            for shares in &all[1..] {
                let next = route.reweighted(weights(shares)).unwrap();
                let share = |route: &Route, version| route.weights.get(version).copied();
                for (old, new) in route.owners.iter().zip(next.owners.iter()).filter(|(old, new)| old != new) {
                    prop_assert!(share(&next, old) < share(&route, old));
                    prop_assert!(share(&next, new) > share(&route, new));
                }
                route = next;
            }
        }

        #[test]
        fn a_user_keeps_his_version_when_the_canary_grows(small in 1..5_000_u16, more in 1..5_000_u16) {
            let large = small + more;
            let before = Route::first(weights(&[10_000 - small, small])).unwrap();
            let after = before.reweighted(weights(&[10_000 - large, large])).unwrap();
            let canary: VersionName = "v1".parse().unwrap();
            for (old, new) in before.owners.iter().zip(after.owners.iter()) {
                prop_assert!(old != &canary || new == &canary);
            }
        }

        #[test]
        fn a_restart_gives_the_same_owners(first in shares(), then in shares()) {
            let route = Route::first(weights(&first)).unwrap().reweighted(weights(&then)).unwrap();
            let runs = route.bucket_runs();
            let again = Route::restored(2, route.weights.clone(), &runs, route.rollback_points.clone());
            prop_assert_eq!(Some(route), again);
        }
    }
}
