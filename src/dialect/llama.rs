//! Llama 3: the answer is nothing but calls, JSON objects with `;` between them, perhaps after `<|python_tag|>`. No mark
//! tells them from an answer in JSON, so only names of tools that were offered do.

use super::object::{CallObject, Names, Step};
use super::pieces::Pieces;

pub(super) const TAG: &str = "<|python_tag|>";

#[derive(Debug)]
pub(super) struct Llama {
    names: Names,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing but whitespace and perhaps the tag so far.
    Start(String),
    Call(CallObject),
    /// Behind a call: whitespace, and perhaps a semicolon.
    Between(String),
    /// No call comes any more.
    Text,
}

impl Llama {
    pub(super) const fn new(names: Names) -> Self {
        Self { names, state: State::Start(String::new()) }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Pieces) {
        match &mut self.state {
            State::Text => out.text(c),
            State::Start(held) => {
                if c == '{' && (held.trim().is_empty() || held.trim() == TAG) {
                    let before = std::mem::take(held);
                    self.call(before, out);
                    return;
                }
                held.push(c);
                let so_far = held.trim_start();
                let is_tagged = so_far.strip_prefix(TAG).is_some_and(|rest| rest.trim().is_empty());
                if !(TAG.starts_with(so_far) || is_tagged) {
                    self.turn_to_text(out);
                }
            }
            State::Between(held) => {
                let separated = held.contains(';');
                if c == '{' && separated {
                    let before = std::mem::take(held);
                    self.call(before, out);
                    return;
                }
                held.push(c);
                if !(c.is_whitespace() || (c == ';' && !separated)) {
                    self.turn_to_text(out);
                }
            }
            State::Call(object) => match object.push(c, out) {
                Step::More => {}
                Step::Done => self.state = State::Between(String::new()),
                Step::Broken => {
                    self.turn_to_text(out);
                    out.text(c);
                }
            },
        }
    }

    fn call(&mut self, before: String, out: &mut Pieces) {
        let mut object = CallObject::new(self.names.clone(), before);
        object.push('{', out);
        self.state = State::Call(object);
    }

    fn turn_to_text(&mut self, out: &mut Pieces) {
        out.text(std::mem::replace(&mut self.state, State::Text).held());
    }

    /// What is held back when no more comes.
    pub(super) fn finish(self) -> String {
        match self.state {
            State::Between(_) => String::new(),
            other => other.held(),
        }
    }
}

impl State {
    fn held(self) -> String {
        match self {
            Self::Start(held) | Self::Between(held) => held,
            Self::Call(object) => object.into_text(),
            Self::Text => String::new(),
        }
    }
}
