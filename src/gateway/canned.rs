//! Answers that a flag gives in the place of a version: a text that an operator wrote, in the shape of any other answer.
//!
//! No model has a part in one, so it has no tokens, is not checked, is no evidence for a rollout, and takes no feedback.

use std::collections::VecDeque;
use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use super::Gateway;
use super::answer::{Answer, AnswerStream, Delta, Ending, PromptEcho, Totals};
use super::command::{Echo, PromptInput};
use super::start::random_u128;
use super::work::Work;
use crate::ids::{ModelName, ResponseId, VersionName, VersionRef};
use crate::release::Canned;

/// Who has answered. Written `desk@v4`, or for a flag `flag:desk` and `flag:desk@v4`, which are names of no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnsweredBy {
    /// A version.
    Version(VersionRef),
    /// The flag of a model, or of a version of it.
    Flag {
        /// The model.
        model: ModelName,
        /// The version whose flag it is; none for the model's own.
        version: Option<VersionName>,
    },
}

impl fmt::Display for AnsweredBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => version.fmt(f),
            Self::Flag { model, version: None } => write!(f, "flag:{model}"),
            Self::Flag { model, version: Some(version) } => write!(f, "flag:{model}@{version}"),
        }
    }
}

impl Gateway {
    /// A flag's answer to a request: each of its choices is the text.
    pub(super) fn canned(&self, work: &Work, canned: Canned) -> Answer {
        let Canned { flag, text } = canned;
        let model = work.address().target.model();
        self.inner().metrics.flag_answered(model, flag.as_ref());
        let prompts: Vec<PromptEcho> = match work {
            Work::Chat(_) => vec![PromptEcho { text: None, tokens: 0 }],
            Work::Completion(completion) => {
                completion.prompts.iter().map(|p| echo(p, completion.echo)).collect()
            }
        };
        let choices = work.decoding().choices.get();
        let each = |choice: usize| {
            let said = Delta::Text { choice, text: text.to_string(), logprob: None };
            [said, Delta::Finished { choice, reason: Ending::Stop }]
        };
        let deltas: VecDeque<Delta> =
            (0..prompts.len() * choices).flat_map(each).chain([Delta::Done(Totals::default())]).collect();
        Answer {
            id: ResponseId::new(random_u128()),
            by: AnsweredBy::Flag { model: model.clone(), version: flag },
            // its text is all that decides it
            fingerprint: format!("fp_{:012x}", xxh3_64(text.as_bytes()) >> 16),
            prompts,
            choices_per_prompt: choices,
            stream: AnswerStream::Canned(deltas),
        }
    }
}

/// A prompt as it is repeated. Tokens are of a version, and there is none to turn them into text.
fn echo(prompt: &PromptInput, echo: Echo) -> PromptEcho {
    let text = match (echo, prompt) {
        (Echo::Repeat, PromptInput::Text(text)) => Some(text.clone()),
        (Echo::Repeat, PromptInput::Tokens(_)) | (Echo::Omit, _) => None,
    };
    PromptEcho { text, tokens: 0 }
}
