//! A model's checks, ready to judge.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::response::{Response, Subject};
use super::verdict::Judgement;
use crate::config::Judges;
use crate::ids::CheckName;

/// One working check. Pure: the same response gives the same judgement.
pub(super) trait Check: Send + Sync {
    /// Fails only where a check needs something that may fail; a response says nothing about that.
    fn judge(&self, subject: &Subject<'_>) -> Finding;
}

/// A judgement, or why there is none.
pub(super) type Finding = Result<Judgement, CheckBroken>;

pub(super) struct Named {
    pub(super) name: CheckName,
    pub(super) judges: Judges,
    pub(super) check: Box<dyn Check>,
}

/// A model's checks in the order of the config. Made by [`Checks::compile`].
pub struct Checks(pub(super) Vec<Named>);

/// A check broke while it judged: a fault of ours, not of the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckBroken {
    /// It panicked.
    #[error("it panicked")]
    Panicked,
    /// The embedding model failed.
    #[error("the answer could not be embedded: {0}")]
    Embedding(String),
}

/// What a check says of a response.
pub type Judged<'c> = (&'c CheckName, Result<Judgement, CheckBroken>);

impl Checks {
    /// The checks' names, in the order of the config.
    pub fn names(&self) -> impl Iterator<Item = &CheckName> {
        self.0.iter().map(|named| &named.name)
    }

    /// Judges one response, check by check. A check that breaks is [`CheckBroken`]; the others go on.
    pub fn judge(&self, response: &Response) -> impl Iterator<Item = Judged<'_>> {
        self.judge_aspects(response, &[Judges::Content, Judges::Time])
    }

    /// The same by those checks alone that judge what it says, not when it came.
    pub fn judge_content(&self, response: &Response) -> impl Iterator<Item = Judged<'_>> {
        self.judge_aspects(response, &[Judges::Content])
    }

    fn judge_aspects(&self, response: &Response, aspects: &[Judges]) -> impl Iterator<Item = Judged<'_>> {
        let subject = Subject::new(response);
        let wanted = self.0.iter().filter(|named| aspects.contains(&named.judges));
        wanted.map(move |Named { name, check, .. }| {
            // What a panic may leave half done is what the subject caches, which is set whole or not at all.
            let judged = catch_unwind(AssertUnwindSafe(|| check.judge(&subject)));
            (name, judged.unwrap_or(Err(CheckBroken::Panicked)))
        })
    }
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
