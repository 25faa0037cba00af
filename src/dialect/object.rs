//! A call as a JSON object: `{"name": .., "arguments": ..}`, in either order, the arguments also as `parameters`.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::follow::{At, Follow, Quoted, Text, is_blank};
use super::pieces::{Piece, Pieces};

/// How an object stands after a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    More,
    /// The character ends it.
    Done,
    /// The character has no place in it, and was not taken.
    Broken,
}

/// Which names are names of tools.
#[derive(Debug, Clone)]
pub(super) enum Names {
    /// A mark says that it is a call, whatever its name.
    Any,
    /// These: nothing else tells a call from an answer in JSON.
    Of(Arc<[String]>),
}

impl Names {
    pub(super) fn hold(&self, name: &str) -> bool {
        match self {
            Self::Any => !name.is_empty(),
            Self::Of(names) => names.iter().any(|known| known == name),
        }
    }
}

#[derive(Debug)]
enum State {
    Open,
    /// Before the first key, or the end.
    First,
    /// Before another key.
    Next,
    Key(Quoted),
    Colon,
    Value,
    Name(Quoted),
    Arguments(Follow),
    /// Arguments in a string, as some models write them.
    Encoded(Quoted),
    /// The value of a key that means nothing.
    Other(Follow),
    After,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Key {
    Name,
    Arguments,
    #[default]
    Other,
}

#[derive(Debug)]
pub(super) struct CallObject {
    names: Names,
    state: State,
    key: Key,
    name: Option<String>,
    /// Arguments that came before the name.
    arguments: Option<String>,
    began: bool,
    /// All characters so far, while it may be text.
    raw: String,
}

impl CallObject {
    /// One that is to begin after whitespace; what stands `before` it is text if it is.
    pub(super) fn new(names: Names, before: String) -> Self {
        let (state, key) = (State::Open, Key::Other);
        Self { names, state, key, name: None, arguments: None, began: false, raw: before }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Pieces) -> Step {
        let step = self.step(c, out);
        if !self.began && step != Step::Broken {
            self.raw.push(c);
        }
        step
    }

    /// Whether it is a call for certain.
    pub(super) const fn has_begun(&self) -> bool {
        self.began
    }

    /// The text that it turned out to be; nothing where it is a call.
    pub(super) fn into_text(self) -> String {
        self.raw
    }

    fn step(&mut self, c: char, out: &mut Pieces) -> Step {
        match &mut self.state {
            State::Open | State::First | State::Next | State::Colon | State::Value | State::After
                if is_blank(c) =>
            {
                Step::More
            }
            State::Open if c == '{' => self.go(State::First),
            State::First | State::Next if c == '"' => self.go(State::Key(Quoted::default())),
            State::First | State::After if c == '}' => self.close(out),
            State::Colon if c == ':' => self.go(State::Value),
            State::After if c == ',' => self.go(State::Next),
            State::Value => self.value(c, out),
            State::Key(key) => match key.push(c) {
                Text::More => Step::More,
                Text::Wrong => Step::Broken,
                Text::Closed(key) => {
                    self.key = self.meaning(&key);
                    self.go(State::Colon)
                }
            },
            State::Name(name) => match name.push(c) {
                Text::More => Step::More,
                Text::Closed(name) if self.names.hold(&name) => {
                    self.name = Some(name);
                    if self.arguments.is_some() {
                        self.begin(out);
                    }
                    self.go(State::After)
                }
                Text::Closed(_) | Text::Wrong => Step::Broken,
            },
            State::Encoded(arguments) => match arguments.push(c) {
                Text::More => Step::More,
                Text::Closed(text) if serde_json::from_str::<Map<String, Json>>(&text).is_ok() => {
                    self.argue(&text, out);
                    self.go(State::After)
                }
                Text::Closed(_) | Text::Wrong => Step::Broken,
            },
            // No JSON has it there, and an end mark begins with it.
            State::Arguments(follow) if c == '<' && !follow.in_string() => Step::Broken,
            State::Arguments(follow) => {
                let at = follow.push(c);
                self.argue(c.encode_utf8(&mut [0; 4]), out);
                if at == At::End { self.go(State::After) } else { Step::More }
            }
            State::Other(follow) => match follow.push(c) {
                At::Inside => Step::More,
                At::End => self.go(State::After),
                At::Past => {
                    self.state = State::After;
                    self.step(c, out)
                }
            },
            State::Open | State::First | State::Next | State::Colon | State::After => Step::Broken,
        }
    }

    fn go(&mut self, state: State) -> Step {
        self.state = state;
        Step::More
    }

    /// A key that comes again means nothing.
    fn meaning(&self, key: &str) -> Key {
        match key {
            "name" if self.name.is_none() => Key::Name,
            "arguments" | "parameters" if self.arguments.is_none() && !self.began => Key::Arguments,
            _ => Key::Other,
        }
    }

    fn value(&mut self, c: char, out: &mut Pieces) -> Step {
        match (self.key, c) {
            (Key::Name, '"') => self.go(State::Name(Quoted::default())),
            (Key::Arguments, '"') => self.go(State::Encoded(Quoted::default())),
            (Key::Arguments, '{') => {
                let mut follow = Follow::default();
                follow.push(c);
                self.argue("{", out);
                self.go(State::Arguments(follow))
            }
            (Key::Name | Key::Arguments, _) | (Key::Other, ',' | '}' | ']' | ':') => Step::Broken,
            (Key::Other, _) => {
                let mut follow = Follow::default();
                follow.push(c);
                self.go(State::Other(follow))
            }
        }
    }

    /// More of the arguments.
    fn argue(&mut self, text: &str, out: &mut Pieces) {
        if self.began {
            out.arguments(text);
        } else {
            self.arguments.get_or_insert_default().push_str(text);
            self.begin(out);
        }
    }

    /// Tells of the call, once its name is known.
    fn begin(&mut self, out: &mut Pieces) {
        let Some(name) = self.name.clone() else { return };
        self.began = true;
        self.raw.clear();
        out.add(Piece::Call(name));
        out.arguments(self.arguments.take().unwrap_or_default());
    }

    fn close(&mut self, out: &mut Pieces) -> Step {
        if self.name.is_none() {
            return Step::Broken;
        }
        if !self.began {
            // a tool without parameters
            self.argue("{}", out);
        }
        Step::Done
    }
}
