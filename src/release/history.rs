//! Where a rollback goes: the last route at which one version had all traffic.
//!
//! Each route carries a stack of such points. A change pushes the route that it leaves, if that was stable;
//! points that would restore what already serves are dropped; a rollback takes the top and keeps the rest.
//! So a second rollback goes further back, and never forward to what was rolled away.

use super::route::Route;
use crate::ids::VersionName;
use crate::store::StableRoute;

/// Deeper history is forgotten: nobody rolls back thirty releases blindly.
const DEPTH: usize = 32;

/// The points of a route that follows `before`, given the version that then has all traffic, if one has.
pub(super) fn points_after(before: &Route, alone: Option<&VersionName>) -> Vec<StableRoute> {
    let mut points = before.rollback_points.clone();
    if let Some(version) = before.stable_alone() {
        points.push(StableRoute { revision: before.revision, version: version.clone() });
    }
    if let Some(version) = alone {
        drop_equal(&mut points, version);
    }
    if points.len() > DEPTH {
        points.drain(..points.len() - DEPTH);
    }
    points
}

/// The points of a route that restores the top of `points`.
pub(super) fn points_behind(points: &[StableRoute], restored: &VersionName) -> Vec<StableRoute> {
    let mut points = points.to_vec();
    drop_equal(&mut points, restored);
    points
}

fn drop_equal(points: &mut Vec<StableRoute>, version: &VersionName) {
    while points.last().is_some_and(|p| p.version == *version) {
        points.pop();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::Weight;

    /// Plays changes such as `v1=95 v2=5`, or `back`, and tells where each rollback landed.
    fn landings(script: &[&str]) -> Vec<Option<String>> {
        let parse = |text: &str| -> BTreeMap<VersionName, Weight> {
            let pair =
                |s: &str| s.split_once('=').map(|(v, w)| (v.parse().unwrap(), w.parse().unwrap())).unwrap();
            text.split(' ').map(pair).collect()
        };
        let mut route = Route::first(parse(script[0])).unwrap();
        let mut landed = Vec::new();
        for step in &script[1..] {
            if *step != "back" {
                route = route.reweighted(parse(step)).unwrap();
                continue;
            }
            let next = route.rollback_target().and_then(|target| route.rolled_back_to(&target.version));
            landed.push(next.as_ref().and_then(Route::stable_alone).map(ToString::to_string));
            route = next.unwrap_or(route);
        }
        landed
    }

    #[test]
    fn a_rollback_goes_to_the_last_stable_route_that_differs() {
        let at = |v: &str| Some(v.to_owned());
        let table: &[(&[&str], &[Option<String>])] = &[
            (&["v1=100", "back"], &[None]),
            (&["v1=100", "v1=95 v2=5", "back"], &[at("v1")]),
            (&["v1=100", "v1=95 v2=5", "v1=75 v2=25", "back"], &[at("v1")]),
            (&["v1=100", "v1=95 v2=5", "v2=100", "back", "back"], &[at("v1"), None]),
            (&["v1=100", "v2=100", "v3=100", "back", "back", "back"], &[at("v2"), at("v1"), None]),
            (&["v1=100", "v1=50 v2=50", "v1=100", "back"], &[None]),
            (&["v1=100", "v2=100", "v2=90 v3=10", "back", "back"], &[at("v2"), at("v1")]),
            (&["v1=50 v2=50", "back"], &[None]),
        ];
        for (script, expected) in table {
            assert_eq!(landings(script), *expected, "{script:?}");
        }
    }
}
