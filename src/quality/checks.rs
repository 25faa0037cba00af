//! A model's checks, ready to judge.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::response::{Response, Subject};
use super::verdict::Judgement;
use crate::config::Judges;
use crate::ids::CheckName;

/// One working check. Pure: the same response gives the same judgement.
pub(super) trait Check: Send + Sync {
    fn judge(&self, subject: &Subject<'_>) -> Judgement;
}

pub(super) struct Named {
    pub(super) name: CheckName,
    pub(super) judges: Judges,
    pub(super) check: Box<dyn Check>,
}

/// A model's checks in the order of the config. Made by [`Checks::compile`].
pub struct Checks(pub(super) Vec<Named>);

/// A check broke while it judged: a fault of ours, not of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckPanic;

/// What a check says of a response.
pub type Judged<'c> = (&'c CheckName, Result<Judgement, CheckPanic>);

impl Checks {
    /// The checks' names, in the order of the config.
    pub fn names(&self) -> impl Iterator<Item = &CheckName> {
        self.0.iter().map(|named| &named.name)
    }

    /// Judges one response, check by check. A check that panics is [`CheckPanic`]; the others go on.
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
            // What a panic may leave half done is the subject's cached JSON, which is set whole or not at all.
            let judged = catch_unwind(AssertUnwindSafe(|| check.judge(&subject)));
            (name, judged.map_err(|_| CheckPanic))
        })
    }
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
