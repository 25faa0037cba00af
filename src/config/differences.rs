//! What sets a configuration apart from the one before it, and when each difference takes effect in a server that runs.

use std::collections::BTreeSet;
use std::fmt;

use super::checks::CheckSpec;
use super::valid::{Config, ModelConfig, Residency, VersionConfig};
use crate::ids::{ModelName, VersionName, VersionRef};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Another version is to have all traffic.
    Wanted {
        /// The model.
        model: ModelName,
        /// Which was, if the file said so.
        from: Option<VersionName>,
        /// Which is.
        to: Option<VersionName>,
    },
    /// A new version.
    Added {
        /// The version.
        version: VersionRef,
        /// Where it is to be.
        residency: Residency,
    },
    /// A version is no longer declared.
    Removed {
        /// The version.
        version: VersionRef,
    },
    /// What decides a version's answers is other than it was, under the same name.
    Redefined {
        /// The version.
        version: VersionRef,
        /// The keys that say so.
        keys: Vec<&'static str>,
    },
    /// How a version is computed and read is other than it was.
    Retuned {
        /// The version.
        version: VersionRef,
        /// The keys that say so.
        keys: Vec<&'static str>,
    },
    /// A version is to be elsewhere.
    Moved {
        /// The version.
        version: VersionRef,
        /// Where it is to be.
        to: Residency,
    },
    /// A setting of a model, or of a version's flag.
    Setting {
        /// The model, where it is a model's.
        model: Option<ModelName>,
        /// The key, from the top of the file.
        path: String,
    },
    /// The route that a model begins with. One that has a route keeps it.
    FirstRoute {
        /// The model.
        model: ModelName,
    },
    /// Something that is settled when the server starts.
    Fixed {
        /// The key, from the top of the file.
        path: String,
    },
}

impl Difference {
    fn setting(model: &ModelName, key: &str) -> Self {
        Self::Setting { model: Some(model.clone()), path: format!("models.{model}.{key}") }
    }

    fn fixed(path: impl Into<String>) -> Self {
        Self::Fixed { path: path.into() }
    }
}

/// In one line, as far as files tell.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wanted { model, from: Some(from), to: Some(to) } => {
                write!(f, "{model}: version {from} -> {to}")
            }
            Self::Wanted { model, from: None, to: Some(to) } => {
                write!(f, "{model}: version {to}, named for the first time")
            }
            Self::Wanted { model, to: None, .. } => {
                write!(f, "{model}: no version is named any more; its route stays as it is")
            }
            Self::Added { version, residency } => write!(f, "{version}: added, {}", residency.as_str()),
            Self::Removed { version } => write!(f, "{version}: removed"),
            Self::Redefined { version, keys } => {
                write!(f, "{version}: {} changed under the same name", keys.join(", "))
            }
            Self::Retuned { version, keys } => {
                write!(f, "{version}: {} changed, which counts when it is loaded next", keys.join(", "))
            }
            Self::Moved { version, to } => write!(f, "{version}: {}", to.as_str()),
            Self::Setting { path, .. } => write!(f, "{path}: changed"),
            Self::FirstRoute { model } => write!(
                f,
                "models.{model}.route: changed, which is where a model begins; one that has a route keeps it"
            ),
            Self::Fixed { path } => write!(f, "{path}: changed, which takes a restart"),
        }
    }
}

/// All that sets `new` apart from `old`: what is whole processes' first, then model by model.
pub fn differences(old: &Config, new: &Config) -> Vec<Difference> {
    let mut all = fixed(old, new);
    let names: BTreeSet<_> = old.policies.keys().chain(new.policies.keys()).collect();
    let changed = names.into_iter().filter(|name| old.policies.get(*name) != new.policies.get(*name));
    all.extend(changed.map(|name| Difference::Setting { model: None, path: format!("policies.{name}") }));
    let models: BTreeSet<_> = old.models.keys().chain(new.models.keys()).collect();
    for model in models {
        match (old.models.get(model), new.models.get(model)) {
            (Some(old), Some(new)) => of_model(model, old, new, &mut all),
            _ => all.push(Difference::fixed(format!("models.{model}"))),
        }
    }
    all
}

fn fixed(old: &Config, new: &Config) -> Vec<Difference> {
    // all of it: what is new here must be thought of
    let Config {
        file: _,
        overlay: _,
        digest: _,
        server,
        threads,
        device,
        models: _,
        embedding: _,
        policies: _,
        webhooks,
    } = old;
    // where a thing stands in the file is no part of it
    let embedding = |config: &Config| config.embedding.as_ref().map(|it| (it.image.clone(), it.digest));
    let changed = [
        ("server", *server != new.server),
        ("engine.threads", *threads != new.threads),
        ("engine.device", *device != new.device),
        ("embedding", embedding(old) != embedding(new)),
        ("webhooks", *webhooks != new.webhooks),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(path, _)| Difference::fixed(path)).collect()
}

fn of_model(model: &ModelName, old: &ModelConfig, new: &ModelConfig, all: &mut Vec<Difference>) {
    let ModelConfig {
        sticky_header,
        flag,
        versions: _,
        version: _,
        route: _,
        engine,
        checks: _,
        check_sample,
        policy,
        suite,
        keep_answers,
    } = old;
    let checks = |config: &ModelConfig| {
        let anywhere = |check: &CheckSpec| CheckSpec { line: 0, ..check.clone() };
        config.checks.iter().map(anywhere).collect::<Vec<_>>()
    };
    for (key, changed) in [
        ("engine", *engine != new.engine),
        ("checks", checks(old) != checks(new)),
        ("check_sample", *check_sample != new.check_sample),
    ] {
        all.extend(changed.then(|| Difference::fixed(format!("models.{model}.{key}"))));
    }
    for (key, changed) in [
        ("sticky_header", *sticky_header != new.sticky_header),
        ("flag", *flag != new.flag),
        ("policy", *policy != new.policy),
        ("suite", *suite != new.suite),
        ("keep_answers", *keep_answers != new.keep_answers),
    ] {
        all.extend(changed.then(|| Difference::setting(model, key)));
    }
    let names: BTreeSet<_> = old.versions.keys().chain(new.versions.keys()).collect();
    for name in names {
        let version = VersionRef { model: model.clone(), version: name.clone() };
        match (old.versions.get(name), new.versions.get(name)) {
            (Some(old), Some(new)) => of_version(&version, old, new, all),
            (None, Some(new)) => all.push(Difference::Added { version, residency: new.residency }),
            (_, None) => all.push(Difference::Removed { version }),
        }
    }
    if old.version != new.version {
        all.push(Difference::Wanted {
            model: model.clone(),
            from: old.version.clone(),
            to: new.version.clone(),
        });
    } else if old.route != new.route {
        all.push(Difference::FirstRoute { model: model.clone() });
    }
}

fn of_version(version: &VersionRef, old: &VersionConfig, new: &VersionConfig, all: &mut Vec<Difference>) {
    let (version, redefined) = (version.clone(), redefined(old, new));
    if !redefined.is_empty() {
        all.push(Difference::Redefined { version: version.clone(), keys: redefined });
    }
    let draft = |config: &VersionConfig| config.draft.as_ref().map(|draft| draft.version.clone());
    let retuned = changed(&[
        ("draft", draft(old) != draft(new)),
        ("kv_tokens", old.kv_tokens != new.kv_tokens),
        ("tool_parser", old.tool_parser != new.tool_parser),
        ("reasoning_parser", old.reasoning_parser != new.reasoning_parser),
    ]);
    if !retuned.is_empty() {
        all.push(Difference::Retuned { version: version.clone(), keys: retuned });
    }
    if old.flag != new.flag {
        all.push(Difference::setting(&version.model, &format!("versions.{}.flag", version.version)));
    }
    if old.residency != new.residency {
        all.push(Difference::Moved { version, to: new.residency });
    }
}

/// The keys of what decides a version's answers that differ.
fn redefined(old: &VersionConfig, new: &VersionConfig) -> Vec<&'static str> {
    // all of it: what is new here must be thought of
    let VersionConfig {
        image,
        digest,
        quantize,
        adapter,
        prompt,
        draft: _,
        residency: _,
        kv_tokens: _,
        tool_parser: _,
        reasoning_parser: _,
        flag: _,
    } = old;
    changed(&[
        ("image", *image != new.image),
        ("digest", *digest != new.digest),
        ("quantize", *quantize != new.quantize),
        ("adapter", *adapter != new.adapter),
        ("prompt", *prompt != new.prompt),
    ])
}

fn changed(pairs: &[(&'static str, bool)]) -> Vec<&'static str> {
    pairs.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key).collect()
}

impl VersionConfig {
    /// Whether its answers are those of another, as far as the file tells.
    pub fn is_as(&self, other: &Self) -> bool {
        redefined(self, other).is_empty()
    }
}
