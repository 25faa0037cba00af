//! What came of a suite.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value as Json};

/// A suite's results against one version, in the order of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Of all cases, by provider and by prompt.
    pub cases: Vec<CaseResult>,
    /// Assertions that were left out, as they are not computed here.
    pub left_out: usize,
}

/// One case's result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseResult {
    /// Its place among the suite's cases, from 0.
    pub index: usize,
    /// Its line in the suite.
    pub line: u64,
    /// Of the case; without a description, its variables.
    pub title: String,
    /// What it is about.
    pub tags: Vec<String>,
    /// The label of its prompt.
    pub prompt: String,
    /// The label of its provider.
    pub provider: String,
    /// Who was asked.
    pub model: String,
    /// Its variables.
    pub vars: Map<String, Json>,
    /// What was sent.
    pub messages: Vec<Json>,
    /// What came back.
    pub output: String,
    /// What the answer is called by the server.
    pub response_id: Option<String>,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// From 0 to 1.
    pub score: f64,
    /// Tokens of the answer.
    pub output_tokens: usize,
    /// Milliseconds from asking to the whole answer.
    #[serde(rename = "latency_ms", serialize_with = "milliseconds")]
    pub latency: Duration,
    /// What each assertion found.
    pub assertions: Vec<AssertionResult>,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

/// How a case went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// What is asserted holds.
    Passed,
    /// It does not.
    Failed,
    /// There is no answer, or none could be judged.
    Error {
        /// Why.
        why: String,
    },
}

/// What an assertion found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AssertionResult {
    /// As it is written, such as `not-contains`.
    pub assertion: String,
    /// Its line in the suite.
    pub line: u64,
    /// Whether it holds.
    pub passed: bool,
    /// From 0 to 1.
    pub score: f64,
    /// What it counts in its case.
    pub weight: f64,
    /// The name under which its scores are added up.
    pub metric: Option<String>,
    /// What was found.
    pub reason: String,
}

/// How many cases went how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// All.
    pub cases: usize,
    /// Those that passed.
    pub passed: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that could not be asked or judged.
    pub errors: usize,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.cases += 1;
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Error { .. } => self.errors += 1,
        }
    }

    /// The share that passed, in percent.
    pub fn percent(&self) -> f64 {
        if self.cases == 0 { 0.0 } else { 100.0 * self.passed as f64 / self.cases as f64 }
    }
}

impl Report {
    /// All cases.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.cases.iter().for_each(|case| tally.add(&case.outcome));
        tally
    }

    /// By tag. A case with several counts in each.
    pub fn by_tag(&self) -> BTreeMap<&str, Tally> {
        let mut tags: BTreeMap<&str, Tally> = BTreeMap::new();
        for case in &self.cases {
            for tag in &case.tags {
                tags.entry(tag).or_default().add(&case.outcome);
            }
        }
        tags
    }

    /// The mean score of each metric that assertions name.
    pub fn by_metric(&self) -> BTreeMap<&str, f64> {
        let mut metrics: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        for assertion in self.cases.iter().flat_map(|case| &case.assertions) {
            if let Some(metric) = &assertion.metric {
                let (sum, count) = metrics.entry(metric).or_default();
                *sum += assertion.score;
                *count += 1;
            }
        }
        metrics.into_iter().map(|(metric, (sum, count))| (metric, sum / count as f64)).collect()
    }
}
