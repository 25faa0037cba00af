//! Mistral: `[TOOL_CALLS]` before a list of JSON objects; since its 11th tokenizer, before each call as
//! `name[ARGS]{..}`, where `[CALL_ID]..` may stand between the two.

use super::follow::{At, Follow, is_blank};
use super::marks::{Found, Search};
use super::object::{CallObject, Names, Step};
use super::pieces::{Piece, Pieces};

pub(super) const OPEN: &str = "[TOOL_CALLS]";
pub(super) const ARGUMENTS: &str = "[ARGS]";
const ID: &str = "[CALL_ID]";

#[derive(Debug)]
pub(super) enum Mistral {
    Text(Search),
    /// Behind the mark, which is held.
    Head(String),
    /// In the list.
    Item(CallObject),
    /// In the list, behind a call.
    Between,
    /// A name, after what is held.
    Name {
        held: String,
        name: String,
    },
    /// Between the name and the arguments; `marks` is what stands there.
    Marks {
        held: String,
        name: String,
        marks: String,
    },
    Arguments(Follow),
}

impl Mistral {
    pub(super) const fn new() -> Self {
        Self::Text(Search::new(OPEN))
    }

    pub(super) fn push(&mut self, c: char, out: &mut Pieces) {
        match self {
            Self::Text(search) => {
                if search.push(c, out) == Found::Mark {
                    *self = Self::Head(search.take());
                }
            }
            Self::Head(held) if is_blank(c) => held.push(c),
            Self::Head(held) if c == '[' => {
                held.push(c);
                *self = Self::Item(CallObject::new(Names::Any, std::mem::take(held)));
            }
            Self::Head(held) if is_name(c) => {
                *self = Self::Name { held: std::mem::take(held), name: String::from(c) };
            }
            Self::Item(object) => match object.push(c, out) {
                Step::More => {}
                Step::Done => *self = Self::Between,
                Step::Broken => self.give_up(c, out),
            },
            Self::Between if is_blank(c) => {}
            Self::Between if c == ',' => *self = Self::Item(CallObject::new(Names::Any, String::new())),
            Self::Between if c == ']' => *self = Self::new(),
            Self::Name { name, .. } if is_name(c) => name.push(c),
            Self::Name { held, name } if c == '[' || c == '{' => {
                let (held, name) = (std::mem::take(held), std::mem::take(name));
                *self = Self::Marks { held, name, marks: String::new() };
                self.push(c, out);
            }
            Self::Marks { name, marks, .. } if c == '{' && may_precede_arguments(marks) => {
                out.add(Piece::Call(std::mem::take(name)));
                *self = Self::Arguments(Follow::default());
                self.push(c, out);
            }
            Self::Marks { marks, .. } if may_go_on(marks, c) => marks.push(c),
            Self::Arguments(follow) => {
                let at = follow.push(c);
                out.arguments(c);
                if at == At::End {
                    *self = Self::new();
                }
            }
            Self::Head(_) | Self::Between | Self::Name { .. } | Self::Marks { .. } => self.give_up(c, out),
        }
    }

    /// Takes what is held for text, and looks at the character again.
    fn give_up(&mut self, c: char, out: &mut Pieces) {
        out.text(std::mem::replace(self, Self::new()).finish());
        self.push(c, out);
    }

    /// What is held back when no more comes.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Text(mut search) => search.take(),
            Self::Head(held) => held,
            Self::Item(object) => object.into_text(),
            Self::Between | Self::Arguments(_) => String::new(),
            Self::Name { held, name } => held + &name,
            Self::Marks { held, name, marks } => held + &name + &marks,
        }
    }
}

const fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Whether arguments may follow what stands behind a name.
fn may_precede_arguments(marks: &str) -> bool {
    let marks = marks.trim_end();
    marks.is_empty() || marks == ARGUMENTS || (marks.starts_with(ID) && marks.ends_with(ARGUMENTS))
}

/// Whether a character may follow what stands behind a name.
fn may_go_on(marks: &str, c: char) -> bool {
    let next = format!("{marks}{c}");
    let is_beginning = |mark: &str| mark.starts_with(&next);
    is_beginning(ARGUMENTS)
        || is_beginning(ID)
        || (next.starts_with(ID) && !marks.ends_with(ARGUMENTS) && (is_name(c) || "[]".contains(c)))
        || (marks.trim_end().ends_with(ARGUMENTS) && is_blank(c))
}
