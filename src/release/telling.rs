//! Answers that users may have a word about, on their way to the store that replicas share: the word comes to any replica.

use jiff::Timestamp;

use super::changes::Releases;
use super::feedback::{Answered, FeedbackError, REMEMBERED};
use crate::ids::ResponseId;
use crate::store::{AnswerFound, AnswerRow, Role};

/// What may wait to be told. An answer that finds no room is known to its own replica alone.
const ROOM: usize = 4096;

/// How many are told by one transaction, which must end in time.
const AT_ONCE: usize = 200;

/// How many looks there are before the leader looks for what is to be forgotten.
const TELLINGS: u32 = 60;

/// What waits to be told.
#[derive(Default)]
pub(super) struct Telling {
    waiting: Vec<AnswerRow>,
    told: u32,
}

impl Telling {
    pub(super) fn remember(&mut self, answered: &Answered, at: Timestamp) {
        if self.waiting.len() < ROOM {
            let Answered { response, version, user } = answered.clone();
            self.waiting.push(AnswerRow { response, version, user, at });
        }
    }

    pub(super) fn forget(&mut self, response: ResponseId) {
        self.waiting.retain(|answer| answer.response != response);
    }

    /// Tells what waits, some at a time; what cannot be told now waits on.
    pub(super) async fn tell(&mut self, releases: &Releases, role: Role) {
        while !self.waiting.is_empty() {
            let some = self.waiting.len().min(AT_ONCE);
            if let Err(error) = releases.store().remember_answers(&self.waiting[..some]).await {
                tracing::debug!(%error, "answers could not be told to other replicas");
                break;
            }
            self.waiting.drain(..some);
        }
        self.told = (self.told + 1) % TELLINGS;
        if self.told == 0
            && matches!(role, Role::Leads { .. })
            && let Err(error) = releases.store().forget_answers(REMEMBERED).await
        {
            tracing::debug!(%error, "old answers could not be forgotten");
        }
    }
}

impl Releases {
    /// The answer that a word is about, where replicas share the store: only the first word finds it. Nothing where no
    /// replica told of it, or the store is one server's own; then who gave it may know it.
    pub async fn rate_answer(&self, response: ResponseId) -> Result<Option<AnswerRow>, FeedbackError> {
        if !self.store().is_shared() {
            return Ok(None);
        }
        match self.store().rate_answer(response).await {
            Ok(AnswerFound::Open(answer)) => Ok(Some(answer)),
            Ok(AnswerFound::Rated) => Err(FeedbackError::Given),
            Ok(AnswerFound::Unknown) => Ok(None),
            Err(error) => {
                tracing::debug!(%error, "feedback cannot be taken");
                Err(FeedbackError::Busy)
            }
        }
    }
}
