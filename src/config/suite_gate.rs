//! `models.<name>.suite`: the regression suite that a version must pass before a rollout gives it traffic.

use std::path::{Path, PathBuf};

use super::reader::{Problem, Reader, Section, text, up_to};
use super::suite::read_suite;
use super::values::{folder, number};

/// The suite, and when a version has passed it.
#[derive(Debug, Clone, PartialEq)]
pub struct SuiteGate {
    /// The suite's file. It is read anew for each rollout.
    pub file: PathBuf,
    /// When a version passes.
    pub terms: SuiteTerms,
    /// Who judges where an assertion names nobody, as `model@version`.
    pub judge: Option<String>,
    /// Who embeds, for `similar`.
    pub embeddings: Option<String>,
}

/// When a version passes a suite. A case that cannot be asked or judged fails it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SuiteTerms {
    /// The least share of cases that must pass, in percent. If nothing is said of a baseline either, all.
    pub min_pass: Option<f64>,
    /// The most cases that the baseline passes and the version does not.
    pub max_regressions: Option<usize>,
}

const SUITE: &[&str] = &["file", "min_pass", "max_regressions", "judge", "embeddings"];

/// `suite` of a model. That its file is a suite is found out here, so that no rollout finds it.
pub(super) fn read_suite_gate(r: &mut Reader, model: &Section<'_>, base: &Path) -> Option<SuiteGate> {
    let node = model.get("suite")?;
    let s = r.section(node, model.path_of("suite"), SUITE);
    let file = r.needed(&s, "file", "name the suite's file: `file: suites/support.yaml`", folder);
    let percent = |value: &_| {
        number(value).filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(|| {
            Problem::new(
                format!("found {}", super::raw::Value::describe(value)),
                "give a percentage from 0 to 100",
            )
        })
    };
    let terms = SuiteTerms {
        min_pass: r.field(&s, "min_pass", percent),
        max_regressions: r.field(&s, "max_regressions", up_to(1_000_000)),
    };
    let mut name = |key| r.field(&s, key, |value| text(value).map(str::to_owned));
    let (judge, embeddings) = (name("judge"), name("embeddings"));
    let file = base.join(file?);
    if let Err(errors) = read_suite(&file) {
        let first = errors.errors.first();
        let line = first.map_or(0, |error| error.line);
        let found = first.map_or_else(String::new, |error| format!("{}: {}", error.path, error.found));
        let problem = Problem::new(
            format!("{}:{line}: {}", file.display(), found.trim_start_matches(": ")),
            "`switchback check --suite` tells all that is wrong with it",
        );
        r.push(s.line_of("file"), s.path_of("file"), problem);
    }
    Some(SuiteGate { file, terms, judge, embeddings })
}
