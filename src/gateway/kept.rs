//! The last answers of a model with what was asked, for an operator who makes a case of a bad one. They hold users' words:
//! a model keeps none unless its `keep_answers` says how many, they are in memory only, and who reads one is written down.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value as Json, json};

use super::answer::Ending;
use super::backend::Backend;
use super::command::{ChatCommand, Decoding};
use super::work::Work;
use super::{AdminError, Gateway};
use crate::config::sampling::TopK;
use crate::dialect::Piece;
use crate::ids::{ModelName, ResponseId, VersionRef};
use crate::release::{AuditAction, Change, Who};

/// What the answers of one model may hold together.
const MOST_BYTES: usize = 64 << 20;

/// An answer, and what was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptAnswer {
    /// Names it.
    pub id: ResponseId,
    /// Who answered.
    pub version: VersionRef,
    /// Names what decided the answer.
    pub fingerprint: String,
    /// When it was asked.
    pub at: Timestamp,
    /// What was said, without the version's prompt.
    pub messages: Vec<Json>,
    /// Variables of the version's prompt.
    pub variables: Map<String, Json>,
    /// What else the request said that decides an answer, by the names that it has in a request.
    pub parameters: Map<String, Json>,
    /// What came.
    pub choices: Vec<KeptChoice>,
}

/// A choice of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptChoice {
    /// Its text.
    pub text: String,
    /// What was thought before, where that is told from the text.
    pub reasoning: String,
    /// The tools that it called: names, and arguments as they were written.
    pub calls: Vec<(String, String)>,
    /// Why it ended; nothing where it was cut off.
    pub ending: Option<Ending>,
}

/// The kept answers of all models.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    /// Held to put one answer in, or to take a handle of one out. It is taken when an answer of a model that keeps them ends,
    /// which no request waits for.
    shelves: Mutex<BTreeMap<ModelName, Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// The oldest first, each with its bytes.
    answers: VecDeque<(Arc<KeptAnswer>, usize)>,
    bytes: usize,
}

impl Shelf {
    fn trim(&mut self, most: usize) {
        while self.answers.len() > most || self.bytes > MOST_BYTES {
            let Some((_, bytes)) = self.answers.pop_front() else { break };
            self.bytes -= bytes;
        }
    }
}

impl Shelves {
    fn put(&self, answer: KeptAnswer, most: usize) {
        let bytes = bytes(&answer);
        let mut shelves = self.shelves.lock();
        let shelf = shelves.entry(answer.version.model.clone()).or_default();
        shelf.answers.push_back((Arc::new(answer), bytes));
        shelf.bytes += bytes;
        shelf.trim(most);
    }

    /// Throws away what models hold that keep none any more, and of the others what is too much.
    fn trim(&self, most: impl Fn(&ModelName) -> usize) {
        self.shelves.lock().retain(|model, shelf| {
            shelf.trim(most(model));
            !shelf.answers.is_empty()
        });
    }

    /// The answer of this id.
    fn get(&self, id: ResponseId) -> Option<Arc<KeptAnswer>> {
        let shelves = self.shelves.lock();
        let mut answers = shelves.values().flat_map(|shelf| &shelf.answers);
        answers.find(|(answer, _)| answer.id == id).map(|(answer, _)| Arc::clone(answer))
    }
}

/// About the bytes that an answer holds.
fn bytes(answer: &KeptAnswer) -> usize {
    let said = answer.messages.iter().chain(answer.variables.values()).chain(answer.parameters.values());
    let called = |(name, arguments): &(String, String)| name.len() + arguments.len();
    let choice = |choice: &KeptChoice| {
        choice.text.len() + choice.reasoning.len() + choice.calls.iter().map(called).sum::<usize>()
    };
    size_of::<KeptAnswer>()
        + said.map(json_bytes).sum::<usize>()
        + answer.choices.iter().map(|each| size_of::<KeptChoice>() + choice(each)).sum::<usize>()
}

/// About the bytes of a value.
fn json_bytes(value: &Json) -> usize {
    let inside = match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(json_bytes).sum(),
        Json::Object(members) => members.iter().map(|(name, value)| name.len() + json_bytes(value)).sum(),
    };
    size_of::<Json>() + inside
}

/// An answer that is to be kept, as it comes. It is put away when it is over.
pub(super) struct Keeping {
    gateway: Gateway,
    work: Arc<Work>,
    answer: KeptAnswer,
}

impl Keeping {
    /// A piece of a choice.
    pub(super) fn piece(&mut self, choice: usize, piece: &Piece) {
        let Some(choice) = self.answer.choices.get_mut(choice) else { return };
        match piece {
            Piece::Text(text) => choice.text.push_str(text),
            Piece::Reasoning(text) => choice.reasoning.push_str(text),
            Piece::Call(name) => choice.calls.push((name.clone(), String::new())),
            Piece::Arguments(text) => {
                if let Some((_, arguments)) = choice.calls.last_mut() {
                    arguments.push_str(text);
                }
            }
        }
    }

    /// A choice has ended.
    pub(super) fn finished(&mut self, choice: usize, ending: Ending) {
        if let Some(choice) = self.answer.choices.get_mut(choice) {
            choice.ending = Some(ending);
        }
    }

    /// The answer is over, well or not.
    pub(super) fn over(self) {
        let Self { gateway, work, mut answer } = self;
        let (Some(most), Work::Chat(chat)) = (gateway.keeps(&answer.version.model), &*work) else { return };
        answer.messages.clone_from(&chat.conversation.messages);
        answer.variables.clone_from(&chat.conversation.variables);
        answer.parameters = parameters(chat);
        gateway.inner().kept.put(answer, most);
    }
}

/// What a request says of how it is answered, by the names that it has there.
fn parameters(chat: &ChatCommand) -> Map<String, Json> {
    let Decoding {
        temperature,
        top_p,
        top_k,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        seed,
        stop,
        max_tokens,
        structure,
        ..
    } = &chat.decoding;
    // as a person would write it: 0.7, and not what its 32 bits are in 64
    let number =
        |value: &Option<f32>| value.and_then(|value| value.to_string().parse::<f64>().ok()).map(Json::from);
    let top_k = top_k.map(|k| match k {
        TopK::All => json!(-1),
        TopK::Best(k) => json!(k),
    });
    let said = [
        ("temperature", number(temperature)),
        ("top_p", number(top_p)),
        ("top_k", top_k),
        ("min_p", number(min_p)),
        ("repetition_penalty", number(repetition_penalty)),
        ("presence_penalty", number(presence_penalty)),
        ("frequency_penalty", number(frequency_penalty)),
        ("seed", seed.map(Json::from)),
        ("stop", stop.as_ref().map(|stop| json!(stop))),
        ("max_tokens", max_tokens.map(Json::from)),
    ];
    let said = said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let shape = structure.as_ref().map(|structure| structure.written());
    let read = chat.conversation.template.iter().map(|(name, value)| (name.clone(), value.clone()));
    said.chain(shape).chain(read.filter(|(_, value)| !value.is_null())).collect()
}

impl Gateway {
    /// Keeps an answer where its model does; of completions none, as a suite asks in conversations.
    pub(super) fn keep(
        &self,
        id: ResponseId,
        backend: &Backend,
        work: &Arc<Work>,
        choices: usize,
        at: Timestamp,
    ) -> Option<Keeping> {
        self.keeps(&backend.version().model)?;
        // the server's own questions are no users'
        let is_users = work.address().traits.who != Who::Server;
        (is_users && matches!(**work, Work::Chat(_))).then(|| Keeping {
            gateway: self.clone(),
            work: Arc::clone(work),
            answer: KeptAnswer {
                id,
                version: backend.version().clone(),
                fingerprint: backend.prepared.fingerprint(),
                at,
                messages: Vec::new(),
                variables: Map::new(),
                parameters: Map::new(),
                choices: vec![KeptChoice::default(); choices],
            },
        })
    }

    fn keeps(&self, model: &ModelName) -> Option<usize> {
        self.configured(model, |config| config.keep_answers)?.map(Into::into)
    }

    /// Lets go of what the configuration in force does not keep any more.
    pub(super) fn forget(&self) {
        self.inner().kept.trim(|model| self.keeps(model).unwrap_or(0));
    }

    /// A kept answer, for an operator to read. That he does is in the audit log before he has it.
    pub async fn read_answer(&self, id: ResponseId, change: Change) -> Result<Arc<KeptAnswer>, AdminError> {
        let found = self.inner().kept.get(id);
        // one that ended after the configuration had changed
        let found = found.filter(|answer| self.keeps(&answer.version.model).is_some());
        let answer = found.ok_or_else(|| {
            let settings = self.inner().settings.load();
            let is_kept = settings.config.models.values().any(|model| model.keep_answers.is_some());
            AdminError::NoAnswer {
                why: if is_kept {
                    "it is older than the `keep_answers` last ones of its model, came before the server started, or is of a model that keeps none"
                } else {
                    "no model keeps its answers; set `keep_answers` of one"
                },
            }
        })?;
        let detail = Some(format!("{id} of {}", answer.version.version));
        let recorded =
            self.inner().releases.record(answer.version.clone(), AuditAction::ReadAnswer, detail, change);
        recorded.await?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(number: u128, text: &str) -> KeptAnswer {
        KeptAnswer {
            id: ResponseId::new(number),
            version: VersionRef { model: "desk".parse().unwrap(), version: "v1".parse().unwrap() },
            fingerprint: "fp_1".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            messages: vec![json!({"role": "user", "content": text})],
            variables: Map::new(),
            parameters: Map::new(),
            choices: vec![KeptChoice::default()],
        }
    }

    #[test]
    fn the_last_are_kept_and_no_more_than_there_is_room_for() {
        let shelves = Shelves::default();
        let found = |number: u128| shelves.get(ResponseId::new(number)).is_some();
        for number in 0..5 {
            shelves.put(answer(number, "hi"), 3);
        }
        assert_eq!([0, 1, 2, 3, 4].map(found), [false, false, true, true, true]);
        // one that fills half of the room and more leaves none for another
        let large = "x".repeat(MOST_BYTES * 6 / 10);
        shelves.put(answer(5, &large), 3);
        assert_eq!([3, 4, 5].map(found), [true, true, true]);
        shelves.put(answer(6, &large), 3);
        assert_eq!([3, 4, 5, 6].map(found), [false, false, false, true]);
        shelves.put(answer(7, &"x".repeat(MOST_BYTES)), 3);
        assert_eq!(
            [6, 7].map(found),
            [false, false],
            "one that is too large is not kept, and the bound holds"
        );
    }

    #[test]
    fn what_the_configuration_does_not_keep_any_more_is_thrown_away() {
        let shelves = Shelves::default();
        for number in 0..3 {
            shelves.put(answer(number, "hi"), 3);
        }
        let found = |number: u128| shelves.get(ResponseId::new(number)).is_some();
        shelves.trim(|_| 1);
        assert_eq!([0, 1, 2].map(found), [false, false, true]);
        shelves.trim(|_| 0);
        assert!(!found(2) && shelves.shelves.lock().is_empty());
    }
}
