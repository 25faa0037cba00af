//! `policies.<name>`: from the tree to a [`Policy`].

use std::collections::BTreeMap;

use super::guardrails::Guardrails;
use super::policy::{
    Approval, EarlyPromote, OnInconclusive, Pause, PercentagePoints, Policy, ReadyMade, Step,
};
use super::raw::{Node, Value};
use super::read_guardrails::read_guardrails;
use super::reader::{Problem, Reader, Section, boolean, count, text};
use super::values::{chance, duration, number, percentage, word};
use crate::ids::Weight;

const POLICY: &[&str] = &[
    "steps",
    "margin_pp",
    "alpha",
    "power",
    "min_samples",
    "on_inconclusive",
    "approval",
    "early_promote",
    "guardrails",
];

/// Reads `policies`.
pub(super) fn read_policies(r: &mut Reader, node: &Node) -> BTreeMap<String, Policy> {
    let section = r.map(node, "policies".to_owned());
    let mut policies = BTreeMap::new();
    for (key, node) in &section.entries {
        let path = section.path_of(&key.name);
        if ReadyMade::named(&key.name).is_some() {
            let problem = Problem::new("a ready-made policy has this name", "choose another name");
            r.push(key.line, path.clone(), problem);
        }
        policies.insert(key.name.clone(), policy(r, node, &path, key.line));
    }
    policies
}

/// Reads `policy` of a model: the name of one that there is.
pub(super) fn read_policy_name(
    r: &mut Reader,
    model: &Section<'_>,
    own: &BTreeMap<String, Policy>,
) -> Option<Policy> {
    let node = model.get("policy")?;
    let named = text(&node.value).map_err(|problem| problem.found);
    let named = named.and_then(|name| Policy::named(name, own).map_err(|unknown| unknown.to_string()));
    let refuse = |found| {
        let fix = "name a ready-made policy, or one of `policies`";
        r.push(node.line, model.path_of("policy"), Problem::new(found, fix));
    };
    named.map_err(refuse).ok()
}

/// Reads one policy; its key stands on `line`.
fn policy(r: &mut Reader, node: &Node, path: &str, line: u64) -> Policy {
    let s = r.section(node, path.to_owned(), POLICY);
    let base = Policy::default();
    let inconclusive = [
        ("hold", OnInconclusive::Hold),
        ("promote", OnInconclusive::Promote),
        ("abort", OnInconclusive::Abort),
    ];
    let early =
        |value: &Value| boolean(value).map(|yes| if yes { EarlyPromote::Yes } else { EarlyPromote::No });
    let steps_path = s.path_of("steps");
    let steps = match s.get("steps").map(|node| (node.line, &node.value)) {
        Some((line, Value::List(items))) if !items.is_empty() => steps(r, items, &steps_path, line),
        Some((line, Value::Null)) => missing_steps(r, &steps_path, line),
        Some((line, other)) => {
            let fix = "write a list: [{setWeight: 5}, {pause: {duration: 20m}}, {setWeight: 100}]";
            r.push(line, steps_path, Problem::new(format!("found {}", other.describe()), fix));
            Vec::new()
        }
        None => missing_steps(r, &steps_path, line),
    };
    let (alpha, power) = (
        r.field(&s, "alpha", chance).unwrap_or(base.alpha),
        r.field(&s, "power", chance).unwrap_or(base.power),
    );
    if alpha >= power {
        let found = format!("alpha {} is not below power {}", alpha.get(), power.get());
        let fix = "give a small alpha, such as 0.01, and a power such as 0.95";
        r.push(s.line_of("alpha"), s.path_of("alpha"), Problem::new(found, fix));
    }
    Policy {
        steps,
        margin: r.field(&s, "margin_pp", points).unwrap_or(base.margin),
        alpha,
        power,
        min_samples: r
            .field(&s, "min_samples", count(1_000_000))
            .map_or(base.min_samples, |least| least.get() as u64),
        on_inconclusive: r
            .field(&s, "on_inconclusive", |v| word(v, &inconclusive))
            .unwrap_or(base.on_inconclusive),
        approval: r
            .field(&s, "approval", |v| word(v, &[("auto", Approval::Auto), ("manual", Approval::Manual)]))
            .unwrap_or(base.approval),
        early_promote: r.field(&s, "early_promote", early).unwrap_or(base.early_promote),
        guardrails: s
            .get("guardrails")
            .map_or_else(Guardrails::none, |node| read_guardrails(r, node, &s.path_of("guardrails"))),
    }
}

fn missing_steps(r: &mut Reader, path: &str, line: u64) -> Vec<Step> {
    let fix = "write what happens in turn: [{setWeight: 5}, {pause: {duration: 20m}}, {setWeight: 100}]";
    r.push(line, path, Problem::new("missing", fix));
    Vec::new()
}

/// Reads the steps; copies come before any weight, weights may not fall, a pause needs something to watch, and all
/// traffic moves last.
fn steps(r: &mut Reader, items: &[Node], path: &str, line: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut last: Option<Weight> = None;
    let mut mirrors = false;
    for (i, item) in items.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(step) = step(r, item, &path) else { continue };
        match (step, last) {
            (Step::SetWeight(weight), Some(before)) if weight < before => {
                let found = format!("the weight falls from {before} to {weight}");
                r.push(
                    item.line,
                    path,
                    Problem::new(found, "let the canary's weight grow from step to step"),
                );
            }
            (_, Some(Weight::FULL)) => {
                let found = "a step after all traffic has moved, which is never reached";
                r.push(item.line, path, Problem::new(found, "let {setWeight: 100} be the last step"));
            }
            (Step::SetWeight(weight), None) if weight == Weight::ZERO => {
                let fix = "give the canary some traffic: {setWeight: 5}";
                r.push(item.line, path, Problem::new("the first weight is 0", fix));
            }
            (Step::Pause(_), None) if !mirrors => {
                let fix = "set a weight first: {setWeight: 5}";
                r.push(item.line, path, Problem::new("a pause before any weight", fix));
            }
            (Step::SetMirrorRoute(_), Some(_)) => {
                let found = "copies of requests for a canary that has traffic";
                let fix = "let {setMirrorRoute: {percentage: 100}} come before the first weight";
                r.push(item.line, path, Problem::new(found, fix));
            }
            (Step::SetMirrorRoute(share), None) if share == Weight::ZERO => {
                let fix = "give the canary copies of some requests: {setMirrorRoute: {percentage: 100}}";
                r.push(item.line, path, Problem::new("a mirror of 0 %", fix));
            }
            _ => {}
        }
        match step {
            Step::SetWeight(weight) => last = Some(weight),
            Step::SetMirrorRoute(_) => mirrors = true,
            Step::Pause(_) => {}
        }
        steps.push(step);
    }
    if steps.is_empty() && r.errors.is_empty() {
        missing_steps(r, path, line);
    }
    steps
}

fn step(r: &mut Reader, item: &Node, path: &str) -> Option<Step> {
    let s = r.section(item, path.to_owned(), &["setWeight", "setMirrorRoute", "pause"]);
    let mut steps = Vec::new();
    if s.get("setWeight").is_some() {
        steps.push(r.needed(&s, "setWeight", "give a percentage: 5", percentage).map(Step::SetWeight));
    }
    if let Some(node) = s.get("setMirrorRoute") {
        steps.push(mirror_route(r, node, &s.path_of("setMirrorRoute")));
    }
    if let Some(node) = s.get("pause") {
        steps.push(pause(r, node, &s.path_of("pause")));
    }
    match steps.as_slice() {
        // One that could not be read was reported where it stands.
        [step] => *step,
        [] => {
            let fix = "write {setWeight: 5}, {setMirrorRoute: {percentage: 100}} or {pause: {duration: 20m}}";
            r.push(item.line, path, Problem::new("a step that does nothing", fix));
            None
        }
        _ => {
            let fix = "write them as steps of their own, one after the other";
            r.push(item.line, path, Problem::new("several things in one step", fix));
            None
        }
    }
}

fn mirror_route(r: &mut Reader, node: &Node, path: &str) -> Option<Step> {
    let s = r.section(node, path.to_owned(), &["percentage"]);
    if s.get("percentage").is_none() {
        return Some(Step::SetMirrorRoute(Weight::FULL));
    }
    r.needed(&s, "percentage", "give a percentage: 100", percentage).map(Step::SetMirrorRoute)
}

/// `{}` waits for an operator, as in Argo Rollouts.
fn pause(r: &mut Reader, node: &Node, path: &str) -> Option<Step> {
    let s = r.section(node, path.to_owned(), &["duration"]);
    if s.get("duration").is_none() {
        return Some(Step::Pause(Pause::UntilResumed));
    }
    let fix = "say how long: 20m; or write `pause: {}` to wait for an operator";
    r.needed(&s, "duration", fix, duration).map(|time| Step::Pause(Pause::For(time)))
}

fn points(value: &Value) -> Result<PercentagePoints, Problem> {
    number(value).and_then(PercentagePoints::new).ok_or_else(|| {
        let found = format!("{} is not a margin", value.describe());
        Problem::new(found, "give percentage points above 0 and below 100, such as 3")
    })
}
