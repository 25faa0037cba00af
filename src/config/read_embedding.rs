//! `embedding`: the model that `similar` checks compare with, which must be there if a check needs it.

use std::collections::BTreeMap;
use std::path::Path;

use super::checks::CheckKind;
use super::raw::{Node, Value};
use super::read_version::read_image;
use super::reader::{Problem, Reader};
use super::valid::{EmbeddingConfig, Mode, ModelConfig};
use crate::ids::ModelName;

pub(super) fn read_embedding(
    r: &mut Reader,
    node: &Node,
    models: &BTreeMap<ModelName, ModelConfig>,
    base: &Path,
    mode: Mode,
) -> Option<EmbeddingConfig> {
    let mut needs = models.iter().flat_map(|(model, settings)| {
        let similar = settings.checks.iter().enumerate();
        let similar = similar.filter(|(_, check)| matches!(check.kind, CheckKind::Similar { .. }));
        similar.map(move |(i, check)| (check.line, format!("models.{model}.checks[{i}]")))
    });
    if matches!(node.value, Value::Null) {
        for (line, path) in needs {
            let found = "the check compares by meaning, and no embedding model is configured";
            let fix =
                "add one at the top level: `embedding: { image: .., digest: .. }`, or use contains or regex";
            r.push(line, path, Problem::new(found, fix));
        }
        return None;
    }
    // A check that is itself wrong has been reported, and is missing here.
    if needs.next().is_none() && r.errors.is_empty() {
        let fix = "add a check of type `similar` or `not-similar` to a model, or remove this";
        r.push(node.line, "embedding", Problem::new("no check compares by meaning", fix));
    }
    let s = r.section(node, "embedding".to_owned(), &["image", "digest"]);
    let (image, digest) = read_image(r, &s, node.line, base, mode);
    Some(EmbeddingConfig { image: image?, digest, line: node.line })
}
