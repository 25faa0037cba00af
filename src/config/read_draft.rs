//! `draft` of a version: another that is declared, and small enough to say ahead what this one may say.

use std::collections::BTreeMap;

use super::reader::{Problem, Reader, Section, nearest, text};
use super::valid::{DraftRef, ModelConfig, VersionConfig};
use crate::ids::{ModelName, VersionRef};

/// `draft`: the version of a model.
pub(super) fn read_draft(r: &mut Reader, s: &Section<'_>) -> Option<DraftRef> {
    let version = r.field(s, "draft", |value| {
        let written = text(value)?;
        let parts = written.split_once('@').and_then(|(model, version)| {
            Some(VersionRef { model: model.parse().ok()?, version: version.parse().ok()? })
        });
        parts.ok_or_else(|| {
            Problem::new(format!("{written:?} names no version"), "write `model@version`, such as `small@v1`")
        })
    });
    Some(DraftRef { version: version?, line: s.line_of("draft") })
}

/// Refuses drafts that are not declared or cannot help. Drafts may be of models that are declared later, so all models have
/// been read.
pub(super) fn check_drafts(r: &mut Reader, models: &BTreeMap<ModelName, ModelConfig>) {
    let versions = models.iter().flat_map(|(model, settings)| {
        let versions = settings.versions.iter();
        versions.map(move |(name, version)| {
            (VersionRef { model: model.clone(), version: name.clone() }, version, settings)
        })
    });
    for (reference, version, settings) in versions {
        let Some(DraftRef { version: draft, line }) = &version.draft else { continue };
        // a version that is itself wrong has been reported, and is missing here
        let place = format!("models.{}.versions.{}", draft.model, draft.version);
        if r.errors.iter().any(|error| error.path.starts_with(&place)) {
            continue;
        }
        let problem = match declared(models, draft) {
            None => no_such_version(models, draft),
            Some(_) if *draft == reference => {
                Problem::new("a version is no draft of itself", "name a smaller one, or remove this")
            }
            Some(VersionConfig { adapter: Some(_), .. }) => Problem::new(
                format!("{draft} has an adapter, and a draft is an image alone"),
                "name a version without one",
            ),
            Some(other) if (&other.image, other.quantize) == (&version.image, version.quantize) => {
                Problem::new(
                    format!("{draft} has the very weights that it would guess for"),
                    "name a smaller version, or remove this",
                )
            }
            Some(_) if settings.engine.speculative_tokens == 0 => Problem::new(
                "the draft has nothing to guess: speculative_tokens is 0",
                "set speculative_tokens of `engine` to 1 to 7, or remove this",
            ),
            Some(_) => continue,
        };
        r.push(*line, format!("models.{}.versions.{}.draft", reference.model, reference.version), problem);
    }
}

fn declared<'m>(
    models: &'m BTreeMap<ModelName, ModelConfig>,
    version: &VersionRef,
) -> Option<&'m VersionConfig> {
    models.get(&version.model)?.versions.get(&version.version)
}

fn no_such_version(models: &BTreeMap<ModelName, ModelConfig>, draft: &VersionRef) -> Problem {
    let names = models.iter().flat_map(|(model, settings)| {
        settings.versions.keys().map(move |version| format!("{model}@{version}"))
    });
    let names: Vec<String> = names.collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fix = match nearest(&draft.to_string(), &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("declared: {}", names.join(", ")),
    };
    Problem::new(format!("there is no version {draft}"), fix)
}
