//! What users think of the answers they got: which answer a word is about, and whom it counts for.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;

use crate::ids::{CheckName, ResponseId, Score, VersionRef};

/// Answers that are remembered, so that a word about one of them finds its version and its user: about 10 MB.
pub const REMEMBERED: usize = 65_536;

/// What becomes of users' words about a model.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackCheck {
    /// The name of its test.
    pub name: CheckName,
    /// The least score that passes.
    pub threshold: Score,
}

/// An answer that a user may have a word about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Names it.
    pub response: ResponseId,
    /// Who gave it.
    pub version: VersionRef,
    /// A hash of the user's sticky key; none where the client named the version, or where a flag makes him unlike others:
    /// it says nothing of the route then.
    pub user: Option<u64>,
}

/// What a word was counted as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rated {
    /// Who had answered.
    pub version: VersionRef,
    /// Whether it passes.
    pub passed: bool,
}

/// Why a word was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// No such answer is remembered.
    #[error(
        "no answer with this id is known: those of models with a `feedback` check are, the last {REMEMBERED}, until the server stops"
    )]
    Unknown,
    /// One answer, one word.
    #[error("this answer has had its feedback; the first word counts")]
    Given,
    /// The server is stopping, or too much came at once.
    #[error("feedback cannot be taken at the moment; try again")]
    Busy,
}

/// An answer that is remembered.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub(super) version: VersionRef,
    pub(super) user: Option<u64>,
    pub(super) at: Timestamp,
}

#[derive(Debug)]
enum Entry {
    Open(Remembered),
    Rated,
}

/// The last answers, by their ids.
#[derive(Debug, Default)]
pub(super) struct Memory {
    answers: HashMap<ResponseId, Entry>,
    /// Oldest first.
    order: VecDeque<ResponseId>,
}

impl Memory {
    /// Remembers an answer, and forgets the oldest where there is no room.
    pub(super) fn remember(&mut self, answered: Answered, at: Timestamp) {
        let Answered { response, version, user } = answered;
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
        if self.answers.insert(response, Entry::Open(Remembered { version, user, at })).is_none() {
            self.order.push_back(response);
        }
    }

    /// Another replica, or this one, has had the word about an answer.
    pub(super) fn forget(&mut self, response: ResponseId) {
        if let Some(entry) = self.answers.get_mut(&response) {
            *entry = Entry::Rated;
        }
    }

    /// The answer that a word is about; only the first word finds it.
    pub(super) fn rate(&mut self, response: ResponseId) -> Result<Remembered, FeedbackError> {
        let entry = self.answers.get_mut(&response).ok_or(FeedbackError::Unknown)?;
        match std::mem::replace(entry, Entry::Rated) {
            Entry::Open(remembered) => Ok(remembered),
            Entry::Rated => Err(FeedbackError::Given),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(number: u128) -> Answered {
        let version = VersionRef { model: "m".parse().unwrap(), version: "v1".parse().unwrap() };
        Answered { response: ResponseId::new(number), version, user: Some(7) }
    }

    #[test]
    fn an_answer_has_one_word_and_is_forgotten_when_many_came_after_it() {
        let mut memory = Memory::default();
        for number in 0..=REMEMBERED as u128 {
            memory.remember(answered(number), Timestamp::UNIX_EPOCH);
        }
        let rate = |memory: &mut Memory, number| memory.rate(ResponseId::new(number)).map(|found| found.user);
        assert_eq!(rate(&mut memory, 0), Err(FeedbackError::Unknown));
        assert_eq!(rate(&mut memory, 1), Ok(Some(7)));
        assert_eq!(rate(&mut memory, 1), Err(FeedbackError::Given));
        memory.remember(answered(REMEMBERED as u128 + 1), Timestamp::UNIX_EPOCH);
        assert_eq!(rate(&mut memory, 1), Err(FeedbackError::Unknown));
        assert_eq!((memory.answers.len(), memory.order.len()), (REMEMBERED, REMEMBERED));
    }
}
