//! Hermes and Qwen: each call is a JSON object between `<tool_call>` and `</tool_call>`.

use super::marks::{Found, Search};
use super::object::{CallObject, Names, Step};
use super::pieces::Pieces;

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";

#[derive(Debug)]
pub(super) enum Hermes {
    Text(Search),
    Call(CallObject),
    /// Behind the arguments. Whatever stands before the end mark, or before the next call where that is missing, means
    /// nothing.
    Tail(String),
}

impl Hermes {
    pub(super) const fn new() -> Self {
        Self::Text(Search::new(OPEN))
    }

    pub(super) fn push(&mut self, c: char, out: &mut Pieces) {
        match self {
            Self::Text(search) => {
                if search.push(c, out) == Found::Mark {
                    *self = Self::Call(CallObject::new(Names::Any, search.take()));
                }
            }
            Self::Call(object) => match object.push(c, out) {
                Step::More => {}
                Step::Done => *self = Self::Tail(String::new()),
                Step::Broken if object.has_begun() => {
                    *self = Self::Tail(String::new());
                    self.push(c, out);
                }
                Step::Broken => {
                    if let Self::Call(object) = std::mem::replace(self, Self::new()) {
                        out.text(object.into_text());
                    }
                    self.push(c, out);
                }
            },
            Self::Tail(held) => {
                held.push(c);
                while !held.is_empty() {
                    if held == CLOSE {
                        *self = Self::new();
                        return;
                    }
                    if held == OPEN {
                        *self = Self::Call(CallObject::new(Names::Any, std::mem::take(held)));
                        return;
                    }
                    if CLOSE.starts_with(held.as_str()) || OPEN.starts_with(held.as_str()) {
                        return;
                    }
                    held.remove(0);
                }
            }
        }
    }

    /// What is held back when no more comes.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Text(mut search) => search.take(),
            Self::Call(object) => object.into_text(),
            Self::Tail(_) => String::new(),
        }
    }
}
