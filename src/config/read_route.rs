//! Which version of a model answers: `version`, the one that is to have all traffic, or `route`, the first shares.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::raw::Value;
use super::reader::{Problem, Reader, Section, nearest, text};
use super::valid::{Residency, VersionConfig};
use super::values::percentage;
use crate::ids::{VersionName, Weight};

/// `version` of a model: the version that is to have all traffic. Where it changes, a server rolls it out.
pub(super) fn read_wanted(
    r: &mut Reader,
    model: &Section<'_>,
    declared: &[&str],
    versions: &BTreeMap<VersionName, VersionConfig>,
) -> Option<VersionName> {
    let wanted = r.field(model, "version", |value| {
        let wanted = text(value)?;
        if declared.contains(&wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(no_such_version(wanted, declared))
        }
    })?;
    // a name that cannot be one was reported where the version is declared
    let wanted = VersionName::from_str(&wanted).ok()?;
    if versions.get(&wanted).is_some_and(|version| version.residency != Residency::Hot) {
        let problem = Problem::new("only a hot version can take traffic", "set its residency to hot");
        r.push(model.line_of("version"), model.path_of("version"), problem);
        return None;
    }
    Some(wanted)
}

fn no_such_version(name: &str, declared: &[&str]) -> Problem {
    let fix = match nearest(name, declared) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("declared: {}", declared.join(", ")),
    };
    Problem::new("the model has no such version", fix)
}

/// `route` of a model: the shares that it begins with; all for the version that is wanted, if one is.
pub(super) fn read_route(
    r: &mut Reader,
    model: &Section<'_>,
    line: u64,
    declared: &[&str],
    versions: &BTreeMap<VersionName, VersionConfig>,
    wanted: Option<&VersionName>,
) -> BTreeMap<VersionName, Weight> {
    let path = model.path_of("route");
    let Some(node) = model.get("route").filter(|n| !matches!(n.value, Value::Null)) else {
        if let Some(wanted) = wanted {
            return BTreeMap::from([(wanted.clone(), Weight::FULL)]);
        }
        // a wrong `version` has been reported
        if !model.lacks("version") {
            return BTreeMap::new();
        }
        // One version leaves no choice to write down.
        let only =
            versions.first_key_value().filter(|(_, v)| declared.len() == 1 && v.residency == Residency::Hot);
        if let Some((name, _)) = only {
            return BTreeMap::from([(name.clone(), Weight::FULL)]);
        }
        // A lone version that is itself wrong has been reported.
        if declared.len() > 1 || versions.len() == 1 {
            r.push(line, path, Problem::new("missing", format!("write `route: {{ {}: 100 }}`", declared[0])));
        }
        return BTreeMap::new();
    };
    if !model.lacks("version") {
        let problem = Problem::new(
            "the model has `version`, too",
            "keep `version`, which rolls out by itself, or `route`",
        );
        r.push(node.line, path, problem);
        return BTreeMap::new();
    }
    let s = r.map(node, path);
    let before = r.errors.len();
    let mut route = BTreeMap::new();
    for (key, node) in &s.entries {
        let path = s.path_of(&key.name);
        if !declared.contains(&key.name.as_str()) {
            r.push(key.line, path, no_such_version(&key.name, declared));
            continue;
        }
        let weight = match percentage(&node.value) {
            Ok(weight) => weight,
            Err(problem) => {
                r.push(node.line, path, problem);
                continue;
            }
        };
        // A wrong name was reported where the version is declared.
        let Ok(name) = VersionName::from_str(&key.name) else { continue };
        if weight > Weight::ZERO && versions.get(&name).is_some_and(|v| v.residency != Residency::Hot) {
            let problem =
                Problem::new("only a hot version can take traffic", "set its residency to hot, or give it 0");
            r.push(node.line, path, problem);
        }
        route.insert(name, weight);
    }
    // With a weight missing the sum would only repeat that mistake.
    let sum: u32 = route.values().map(|w| u32::from(w.basis_points())).sum();
    if r.errors.len() == before && sum != u32::from(Weight::FULL.basis_points()) {
        let problem =
            Problem::new(format!("the weights sum to {}", f64::from(sum) / 100.0), "make them sum to 100");
        r.push(node.line, s.path.clone(), problem);
    }
    route
}
