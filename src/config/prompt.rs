//! A prompt file as plain data. `prompt` makes a working prompt of it.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;

use serde_json::Value as Json;

use super::sampling::TopK;

/// What a prompt file says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PromptSpec {
    /// For people.
    pub description: Option<String>,
    /// What the template may name, and what a client may or must give.
    pub variables: BTreeMap<String, Variable>,
    /// What a client leaves unsaid.
    pub sampling: PromptSampling,
    /// Turns before the client's own.
    pub examples: Vec<Example>,
    /// The template of the system text; its lines end with line feeds.
    pub body: String,
    /// The line of the file at which the template starts, from 1.
    pub body_line: u64,
}

/// A variable of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// What it may be.
    pub kind: VariableKind,
    /// Its value where a client gives none; without one, each request must give it.
    pub default: Option<Json>,
    /// For people.
    pub description: Option<String>,
}

/// What a variable may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableKind {
    /// A text.
    String,
    /// A number, whole or not.
    Number,
    /// True or false.
    Boolean,
    /// A list of texts, numbers and truth values.
    List,
}

impl VariableKind {
    /// All of them, with the words that prompt files use.
    pub const ALL: [(&str, Self); 4] = [
        ("string", Self::String),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("list", Self::List),
    ];

    /// Whether a value is of this kind.
    pub fn takes(self, value: &Json) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::List => value
                .as_array()
                .is_some_and(|items| items.iter().all(|i| i.is_string() || i.is_number() || i.is_boolean())),
        }
    }
}

impl fmt::Display for VariableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::String => "a string",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::List => "a list of strings, numbers and booleans",
        })
    }
}

/// How tokens are chosen where the client does not say; `None` leaves it to the image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PromptSampling {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    pub top_p: Option<f32>,
    /// Sampling from the k likeliest.
    pub top_k: Option<TopK>,
    /// Least probability, relative to the likeliest token's.
    pub min_p: Option<f32>,
    /// Above 1 discourages tokens seen before.
    pub repetition_penalty: Option<f32>,
    /// Subtracted once from tokens generated before.
    pub presence_penalty: Option<f32>,
    /// Subtracted for each time that a token was generated before.
    pub frequency_penalty: Option<f32>,
    /// The most tokens of an answer.
    pub max_tokens: Option<NonZeroUsize>,
    /// Texts that end an answer.
    pub stop: Option<Vec<String>>,
}

/// One exchange that shows how to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What a user says.
    pub user: String,
    /// What the assistant answers.
    pub assistant: String,
}
