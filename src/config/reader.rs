//! Walks the tree and collects mistakes instead of stopping at the first.

use std::num::NonZeroUsize;

use super::error::ConfigError;
use super::raw::{Key, Node, Value};

/// What is wrong with one value, before its place is known.
pub(super) struct Problem {
    pub(super) found: String,
    pub(super) fix: String,
}

impl Problem {
    pub(super) fn new(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { found: found.into(), fix: fix.into() }
    }
}

/// A mapping at a known place.
pub(super) struct Section<'t> {
    pub(super) path: String,
    pub(super) line: u64,
    pub(super) entries: Vec<(&'t Key, &'t Node)>,
}

impl<'t> Section<'t> {
    pub(super) fn get(&self, key: &str) -> Option<&'t Node> {
        self.entries.iter().find(|(k, _)| k.name == key).map(|(_, node)| *node)
    }

    /// Whether there is no value for `key`, or a null.
    pub(super) fn lacks(&self, key: &str) -> bool {
        self.get(key).is_none_or(|node| matches!(node.value, Value::Null))
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The line of `key`, or of the section where the key is absent.
    pub(super) fn line_of(&self, key: &str) -> u64 {
        self.get(key).map_or(self.line, |node| node.line)
    }
}

/// The collector of mistakes.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) errors: Vec<ConfigError>,
}

impl Reader {
    pub(super) fn push(&mut self, line: u64, path: impl Into<String>, problem: Problem) {
        let Problem { found, fix } = problem;
        self.errors.push(ConfigError { line, path: path.into(), found, fix });
    }

    /// The entries of a mapping with free keys; a repeated key is a mistake, and its first value stays.
    pub(super) fn map<'t>(&mut self, node: &'t Node, path: String) -> Section<'t> {
        let mut section = Section { path, line: node.line, entries: Vec::new() };
        match &node.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    if let Some((first, _)) = section.entries.iter().find(|(k, _)| k.name == key.name) {
                        let problem = Problem::new(
                            format!("the key is written twice, first on line {}", first.line),
                            "keep one of the two",
                        );
                        self.push(key.line, section.path_of(&key.name), problem);
                    } else {
                        section.entries.push((key, value));
                    }
                }
            }
            Value::Null => {}
            other => self.push(
                node.line,
                section.path.clone(),
                Problem::new(format!("found {}", other.describe()), "write a mapping of `key: value` lines"),
            ),
        }
        section
    }

    /// A mapping whose keys are known; any other key is a mistake, answered with the nearest known one.
    pub(super) fn section<'t>(&mut self, node: &'t Node, path: String, known: &[&str]) -> Section<'t> {
        let mut section = self.map(node, path);
        let unknown: Vec<_> = section
            .entries
            .extract_if(.., |(key, _)| !known.contains(&key.name.as_str()))
            .map(|(key, _)| key)
            .collect();
        for key in unknown {
            let fix = match nearest(&key.name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.push(key.line, section.path_of(&key.name), Problem::new("unknown key", fix));
        }
        section
    }

    /// Reads `key` with `read`. Absent, null or wrong gives `None`; wrong is recorded.
    pub(super) fn field<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        read: impl FnOnce(&Value) -> Result<T, Problem>,
    ) -> Option<T> {
        let node = section.get(key)?;
        if matches!(node.value, Value::Null) {
            return None;
        }
        match read(&node.value) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.push(node.line, section.path_of(key), problem);
                None
            }
        }
    }
}

impl Reader {
    /// A key that must be there. One without a value is not.
    pub(super) fn needed<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        fix: &str,
        read: impl FnOnce(&Value) -> Result<T, Problem>,
    ) -> Option<T> {
        if section.get(key).is_none_or(|node| matches!(node.value, Value::Null)) {
            self.push(section.line_of(key), section.path_of(key), Problem::new("missing", fix));
            return None;
        }
        self.field(section, key, read)
    }
}

pub(super) fn text(value: &Value) -> Result<&str, Problem> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(Problem::new(format!("found {}", other.describe()), "write a text, in quotes")),
    }
}

pub(super) fn boolean(value: &Value) -> Result<bool, Problem> {
    match value {
        Value::Bool(b) => Ok(*b),
        other => Err(Problem::new(format!("found {}", other.describe()), "write true or false")),
    }
}

/// A whole number from 1 to `most`.
pub(super) fn count(most: usize) -> impl Fn(&Value) -> Result<NonZeroUsize, Problem> {
    move |value| {
        let read = match value {
            Value::Integer(i) => usize::try_from(*i).ok().and_then(NonZeroUsize::new),
            _ => None,
        };
        read.filter(|n| n.get() <= most).ok_or_else(|| {
            Problem::new(
                format!("found {}", value.describe()),
                format!("give a whole number from 1 to {most}"),
            )
        })
    }
}

/// A whole number from 0 to `most`.
pub(super) fn up_to(most: usize) -> impl Fn(&Value) -> Result<usize, Problem> {
    move |value| {
        let read = match value {
            Value::Integer(i) => usize::try_from(*i).ok(),
            _ => None,
        };
        read.filter(|n| *n <= most).ok_or_else(|| {
            let fix = format!("give a whole number from 0 to {most}");
            Problem::new(format!("found {}", value.describe()), fix)
        })
    }
}

/// The known word nearest to `word`, where it is near enough to be a slip.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = |k: &str| (word.len().min(k.len()) / 3).clamp(1, 3);
    known
        .iter()
        .map(|k| (distance(word, k), *k))
        .filter(|(d, k)| *d <= allowed(k))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edits (insert, delete, replace) from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
