//! A regression suite as plain data: hand-written cases with assertions, in promptfoo's format, so that people's files work
//! here and there. `quality::suite` runs it.
//!
//! What is read: `prompts`, `providers`, `defaultTest`, `tests`, `evaluateOptions`. What decides no verdict (`sharing`,
//! `outputPath`, ...) is left unread; what would change one and is not known (`scenarios`, `transform`, ...) is refused with
//! its line. An assertion that only promptfoo can compute is kept as [`AssertionKind::Foreign`], for who runs the suite to
//! refuse or to leave out.

mod append;
mod assertion;
mod cases;
mod read;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::{Map, Value as Json};

use super::checks::Expect;

pub use append::{AppendError, NewCase, with_case};
pub use read::{parse_suite, read_suite};

/// A suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// Where it was read.
    pub file: PathBuf,
    /// For people.
    pub description: Option<String>,
    /// What the cases' variables are put into; at least one.
    pub prompts: Vec<SuitePrompt>,
    /// Who is asked. None leaves it to who runs the suite.
    pub providers: Vec<SuiteProvider>,
    /// In the order of the file; at least one.
    pub cases: Vec<CaseSpec>,
    /// Requests at once, where the file says so.
    pub concurrency: Option<NonZeroUsize>,
}

/// A template of a request's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuitePrompt {
    /// Its name in reports.
    pub label: String,
    /// Text for one message, or, in JSON or YAML, a list of messages.
    pub template: String,
}

/// Who is asked, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct SuiteProvider {
    /// As it is written, such as `openai:chat:support@v7`.
    pub id: String,
    /// Its name in reports and in the cases' `providers`.
    pub label: String,
    /// Parameters of the request.
    pub parameters: Map<String, Json>,
}

/// One case.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseSpec {
    /// Its line in the file.
    pub line: u64,
    /// For people, and to find it again.
    pub description: Option<String>,
    /// What the prompts and the assertions name.
    pub vars: Map<String, Json>,
    /// What must hold of the answer, those of `defaultTest` first.
    pub assertions: Vec<AssertionSpec>,
    /// The least score that passes; without one, each assertion must hold.
    pub threshold: Option<f64>,
    /// `metadata.tags`: what it is about, to see where a version is weak.
    pub tags: Vec<String>,
    /// `metadata.conversationId`: cases with the same come one after the other, and know what was said before.
    pub conversation: Option<String>,
    /// `options.storeOutputAs`: the answer is a variable of later cases.
    pub store_as: Option<String>,
    /// The labels of the providers that are asked; all, if there are none.
    pub providers: Vec<String>,
}

/// What must hold of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AssertionSpec {
    /// Its line in the file.
    pub line: u64,
    /// As it is written, such as `not-contains`.
    pub written: String,
    /// What is looked at.
    pub kind: AssertionKind,
    /// Whether it is to hold.
    pub expect: Expect,
    /// What is looked for; the variables of the case are put into its texts.
    pub value: Json,
    /// What the number that is measured must reach.
    pub threshold: Option<f64>,
    /// What it counts in the case's score; one of 0 decides nothing.
    pub weight: f64,
    /// A name under which scores are added up.
    pub metric: Option<String>,
    /// Who judges, where that is a model.
    pub provider: Option<String>,
    /// Of a set, what it is of.
    pub set: Vec<AssertionSpec>,
}

/// What an assertion looks at, by promptfoo's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssertionKind {
    /// `equals`.
    Equals,
    /// `contains`, and with `i` whatever the capitals.
    Contains,
    /// `icontains`.
    IContains,
    /// `contains-any`.
    ContainsAny,
    /// `icontains-any`.
    IContainsAny,
    /// `contains-all`.
    ContainsAll,
    /// `icontains-all`.
    IContainsAll,
    /// `starts-with`.
    StartsWith,
    /// `regex`.
    Regex,
    /// `is-json`, with a schema where there is a value.
    IsJson,
    /// `contains-json`: some part is JSON, which a schema allows where there is a value.
    ContainsJson,
    /// `is-refusal`.
    IsRefusal,
    /// `word-count`.
    WordCount,
    /// `levenshtein`: at most so many edits from the value.
    Levenshtein,
    /// `latency`: at most so many milliseconds.
    Latency,
    /// `finish-reason`.
    FinishReason,
    /// `is-valid-openai-tools-call`.
    ToolCalls,
    /// `similar`: the cosine of embeddings.
    Similar,
    /// `llm-rubric`: a model judges by a rubric.
    LlmRubric,
    /// `factuality`: a model compares with what is true.
    Factuality,
    /// `assert-set`: some of several hold.
    Set,
    /// `language`: of this project, not of promptfoo.
    Language,
    /// What promptfoo knows and this project does not, such as `javascript`.
    Foreign,
}

impl AssertionKind {
    /// Those that are computed or judged here, by their names.
    pub const KNOWN: [(&str, Self); 22] = [
        ("equals", Self::Equals),
        ("contains", Self::Contains),
        ("icontains", Self::IContains),
        ("contains-any", Self::ContainsAny),
        ("icontains-any", Self::IContainsAny),
        ("contains-all", Self::ContainsAll),
        ("icontains-all", Self::IContainsAll),
        ("starts-with", Self::StartsWith),
        ("regex", Self::Regex),
        ("is-json", Self::IsJson),
        ("contains-json", Self::ContainsJson),
        ("is-refusal", Self::IsRefusal),
        ("word-count", Self::WordCount),
        ("levenshtein", Self::Levenshtein),
        ("latency", Self::Latency),
        ("finish-reason", Self::FinishReason),
        ("is-valid-openai-tools-call", Self::ToolCalls),
        ("similar", Self::Similar),
        ("llm-rubric", Self::LlmRubric),
        ("factuality", Self::Factuality),
        ("assert-set", Self::Set),
        ("language", Self::Language),
    ];
}
