//! An environment's overlay: `env/<name>.yaml` beside the configuration, laid over it before anything is checked. So one file
//! says what all environments have in common, and each overlay what it has of its own.
//!
//! Mappings are merged key by key, all else takes the place of what was there; an empty value takes it away. Relative paths
//! stay relative to the configuration.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::ConfigError;
use super::raw::{self, Key, Node, OVERLAY, Value};

/// The name of an environment, such as `prod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvName(String);

impl FromStr for EnvName {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
            return Ok(Self(name.to_owned()));
        }
        Err(format!("{name:?} is no name of an environment: use letters, digits, `-` and `_`, such as prod"))
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the overlay of an environment is.
pub fn file_of(config: &Path, env: &EnvName) -> PathBuf {
    config.with_file_name("env").join(format!("{env}.yaml"))
}

/// Reads an overlay. Where there is none of that name, the error tells which there are.
pub(super) fn read(config: &Path, env: &EnvName) -> Result<String, ConfigError> {
    let file = file_of(config, env);
    std::fs::read_to_string(&file).map_err(|error| {
        let folder = file.parent().and_then(|folder| folder.read_dir().ok());
        let names = folder.into_iter().flatten().filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".yaml").map(str::to_owned)
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        let fix = match names.as_slice() {
            [] => format!("write {}, or leave --env out", file.display()),
            names => format!("environments there are: {}", names.join(", ")),
        };
        let found = format!("cannot read the overlay {}: {error}", file.display());
        ConfigError { line: 0, path: String::new(), found, fix }
    })
}

/// Lays an overlay over a configuration.
pub(super) fn lay(base: Node, over: Node) -> Node {
    // an empty file takes nothing away
    if matches!(over.value, Value::Null) { base } else { merged(base, marked(over)) }
}

/// The same, whose lines are known to be the overlay's.
fn marked(Node { line, value }: Node) -> Node {
    let value = match value {
        Value::List(items) => Value::List(items.into_iter().map(marked).collect()),
        Value::Map(entries) => {
            let mark = |(key, value): (Key, Node)| (Key { line: key.line + OVERLAY, ..key }, marked(value));
            Value::Map(entries.into_iter().map(mark).collect())
        }
        other => other,
    };
    Node { line: line + OVERLAY, value }
}

fn merged(base: Node, over: Node) -> Node {
    match (base.value, over.value) {
        (Value::Map(mut entries), Value::Map(own)) => {
            for (key, value) in own {
                let Some((known, before)) = entries.iter_mut().find(|(known, _)| known.name == key.name)
                else {
                    entries.push((key, value));
                    continue;
                };
                // of a mapping that is merged, most may be the configuration's own
                if !matches!(value.value, Value::Map(_)) {
                    *known = key;
                }
                let base = std::mem::replace(before, raw::NOTHING);
                *before = merged(base, value);
            }
            Node { line: base.line, value: Value::Map(entries) }
        }
        (_, value) => Node { line: over.line, value },
    }
}
