//! From specs to working checks: what only a library can find wrong is found here, once, at start.

use super::checks::{Check, Checks, Named};
use super::embedding::Embedder;
use super::json::{IsJson, JsonSchema};
use super::language::Language;
use super::limits::{EndedFor, Latency, Length};
use super::refusal::Refusal;
use super::similar::Similar;
use super::text::Text;
use super::tool_calls::ToolCallsValid;
use crate::config::{CheckKind, CheckSpec};
use crate::ids::CheckName;

/// A check that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("check `{check}`, {field}: {found}; {fix}")]
pub struct CompileError {
    /// Which check.
    pub check: CheckName,
    /// Its place in the list, from 0.
    pub index: usize,
    /// Its line in the config file.
    pub line: u64,
    /// The option at fault.
    pub field: &'static str,
    /// What was found.
    pub found: String,
    /// What would do instead.
    pub fix: String,
}

/// What is wrong with one check's option, before its place is known.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) found: String,
    pub(super) fix: String,
}

impl Checks {
    /// Makes the checks of a model ready, or says all that is wrong with them. `embedder` is needed where a check
    /// compares by meaning; the references are embedded here.
    pub fn compile(specs: &[CheckSpec], embedder: Option<&Embedder>) -> Result<Self, Vec<CompileError>> {
        let mut checks = Vec::with_capacity(specs.len());
        let mut errors = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            match working(&spec.kind, embedder) {
                Ok(None) => {}
                Ok(Some(check)) => {
                    let (name, judges) = (spec.name.clone(), spec.kind.judges());
                    checks.push(Named { name, judges, check });
                }
                Err(Fault { field, found, fix }) => {
                    let (check, line) = (spec.name.clone(), spec.line);
                    errors.push(CompileError { check, index, line, field, found, fix });
                }
            }
        }
        if errors.is_empty() { Ok(Self(checks)) } else { Err(errors) }
    }
}

/// A check that judges the answer as it ends; none where its reader does.
pub(super) fn working(
    kind: &CheckKind,
    embedder: Option<&Embedder>,
) -> Result<Option<Box<dyn Check>>, Fault> {
    let check: Box<dyn Check> = match kind {
        CheckKind::Feedback { .. } => return Ok(None),
        CheckKind::IsJson => Box::new(IsJson),
        CheckKind::JsonSchema { schema } => Box::new(JsonSchema::new(schema)?),
        CheckKind::Text { rule, expect } => Box::new(Text::new(rule, *expect)?),
        CheckKind::Similar { references, threshold, expect } => {
            Box::new(Similar::new(references, *threshold, *expect, embedder)?)
        }
        CheckKind::Length { unit, min, max } => Box::new(Length { unit: *unit, min: *min, max: *max }),
        CheckKind::Refusal { phrases, list } => Box::new(Refusal::new(phrases, *list)?),
        CheckKind::Language { codes } => Box::new(Language::new(codes)?),
        CheckKind::Latency { of, max } => Box::new(Latency { of: *of, max: *max }),
        CheckKind::FinishReason { allowed } => Box::new(EndedFor { allowed: allowed.clone() }),
        CheckKind::ToolCallValid => Box::new(ToolCallsValid),
    };
    Ok(Some(check))
}
