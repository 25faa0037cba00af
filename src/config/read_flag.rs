//! `flag` of a model or a version: from the tree to a [`Flag`].

use std::collections::BTreeSet;

use super::flag::{Cohort, Flag, FlagOf, HeaderIs, Otherwise, UserPrefix, Users};
use super::raw::{Node, Value};
use super::reader::{Problem, Reader, Section, boolean, nearest, text};
use super::values::{header_name, percentage};

const FLAG: &[&str] = &["enabled", "percentage", "cohorts", "otherwise"];

/// Reads the `flag` of a section; `versions` are those of the model, `own` is the one whose flag it is.
pub(super) fn read_flag(
    r: &mut Reader,
    section: &Section<'_>,
    versions: &[&str],
    own: Option<&str>,
) -> Option<Flag> {
    let node = section.get("flag").filter(|node| !matches!(node.value, Value::Null))?;
    let of = if own.is_some() { FlagOf::Version } else { FlagOf::Model };
    let s = r.section(node, section.path_of("flag"), FLAG);
    let open = Flag::open(of);
    let before = r.errors.len();
    let enabled = r.field(&s, "enabled", boolean).unwrap_or(open.enabled);
    let percentage = r.field(&s, "percentage", percentage).unwrap_or(open.percentage);
    let otherwise = r.field(&s, "otherwise", |value| otherwise(value, versions, own));
    let cohorts = cohorts(r, &s);
    let flag = Flag { enabled, percentage, cohorts, otherwise: otherwise.unwrap_or(open.otherwise) };
    // what was wrong in itself has been told
    if r.errors.len() == before
        && let Err(fault) = flag.check(of)
    {
        r.push(s.line_of(fault.field), s.path_of(fault.field), Problem::new(fault.found, fault.fix));
    }
    Some(flag)
}

fn otherwise(value: &Value, versions: &[&str], own: Option<&str>) -> Result<Otherwise, Problem> {
    if let Value::Map(entries) = value {
        return match entries.as_slice() {
            [(key, node)] if key.name == "answer" => Ok(Otherwise::Answer(text(&node.value)?.into())),
            _ => Err(Problem::new(
                "a mapping that is no answer",
                "write {answer: \"We are back at noon.\"}, or a word",
            )),
        };
    }
    let written = text(value)?;
    let named = written.parse().ok();
    match named {
        Some(Otherwise::Version(_)) if own == Some(written) => {
            Err(Problem::new("the version whose flag it is", "name another version, `rest` or `refuse`"))
        }
        Some(Otherwise::Version(_)) | None if !versions.contains(&written) => {
            let fix = match nearest(written, versions) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("declared: {}", versions.join(", ")),
            };
            Err(Problem::new(format!("the model has no version {written:?}"), fix))
        }
        Some(otherwise) => Ok(otherwise),
        // a name that cannot be one was told where the version is declared
        None => Ok(Otherwise::Refuse),
    }
}

fn cohorts(r: &mut Reader, s: &Section<'_>) -> Vec<Cohort> {
    let path = s.path_of("cohorts");
    let items = match s.get("cohorts").map(|node| (node.line, &node.value)) {
        None | Some((_, Value::Null)) => return Vec::new(),
        Some((_, Value::List(items))) => items,
        Some((line, other)) => {
            let fix = "write a list: [{header: x-plan, is: [beta]}, {user_prefix: staff-}, {users: [ada]}]";
            r.push(line, path, Problem::new(format!("found {}", other.describe()), fix));
            return Vec::new();
        }
    };
    let read = |(i, item): (usize, &Node)| cohort(r, item, format!("{path}[{i}]"));
    items.iter().enumerate().filter_map(read).collect()
}

fn cohort(r: &mut Reader, node: &Node, path: String) -> Option<Cohort> {
    let s = r.section(node, path.clone(), &["header", "is", "user_prefix", "users"]);
    let kinds = ["header", "user_prefix", "users"].map(|key| s.get(key).is_some());
    match kinds {
        [true, false, false] => {
            let header = r.needed(&s, "header", "name a header: `header: x-plan`", header_name);
            if s.get("is").is_none() {
                let fix = "add the values that count: `is: [beta]`";
                r.push(s.line, s.path_of("is"), Problem::new("missing", fix));
            }
            let is = names(r, &s, "is");
            Some(Cohort::Header(HeaderIs { header: header?, is: is? }))
        }
        [false, true, false] if s.get("is").is_none() => {
            let fix = "say how their names begin: `user_prefix: staff-`";
            let user_prefix = r.needed(&s, "user_prefix", fix, |value| text(value).map(str::to_owned))?;
            Some(Cohort::UserPrefix(UserPrefix { user_prefix }))
        }
        [false, false, true] if s.get("is").is_none() => {
            Some(Cohort::Users(Users { users: names(r, &s, "users")? }))
        }
        _ => {
            let fix = "write one of {header: x-plan, is: [beta]}, {user_prefix: staff-} and {users: [ada]}";
            r.push(s.line, path, Problem::new("not one kind of cohort", fix));
            None
        }
    }
}

fn names(r: &mut Reader, s: &Section<'_>, key: &str) -> Option<BTreeSet<String>> {
    let node = s.get(key)?;
    let path = s.path_of(key);
    let Value::List(items) = &node.value else {
        let fix = "write a list of texts: [beta]";
        r.push(node.line, path, Problem::new(format!("found {}", node.value.describe()), fix));
        return None;
    };
    let mut names = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        match text(&item.value) {
            Ok(name) => drop(names.insert(name.to_owned())),
            Err(problem) => r.push(item.line, format!("{path}[{i}]"), problem),
        }
    }
    Some(names)
}
