//! The formats in which models write calls.

use super::{hermes, llama, mistral, think};

/// How a model writes calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": .., "arguments": ..}</tool_call>`: Hermes, Qwen.
    Hermes,
    /// `{"name": .., "parameters": ..}` and nothing else: Llama 3.
    Llama3Json,
    /// `[TOOL_CALLS][{"name": .., "arguments": ..}]`: Mistral's older tokenizers.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{..}`: Mistral's newer ones.
    MistralArgs,
}

/// Whom a request wants called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forced<'a> {
    /// Some tool.
    Any,
    /// This one.
    Named(&'a str),
}

/// How one call is written, around its name and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallShape {
    /// Before the name.
    pub before_name: &'static str,
    /// Between the name and the arguments.
    pub before_arguments: &'static str,
    /// Between the arguments of a call and the name of the next.
    pub joint: &'static str,
    /// Behind the arguments of the last.
    pub end: &'static str,
}

impl ToolFormat {
    /// How a call is written.
    pub const fn shape(self) -> CallShape {
        match self {
            Self::Hermes => CallShape {
                before_name: "<tool_call>\n{\"name\": \"",
                before_arguments: "\", \"arguments\": ",
                joint: "}\n</tool_call>\n<tool_call>\n{\"name\": \"",
                end: "}\n</tool_call>",
            },
            Self::Llama3Json => CallShape {
                before_name: "{\"name\": \"",
                before_arguments: "\", \"parameters\": ",
                joint: "}; {\"name\": \"",
                end: "}",
            },
            Self::Mistral => CallShape {
                before_name: "[TOOL_CALLS][{\"name\": \"",
                before_arguments: "\", \"arguments\": ",
                joint: "}, {\"name\": \"",
                end: "}]",
            },
            Self::MistralArgs => CallShape {
                before_name: "[TOOL_CALLS]",
                before_arguments: "[ARGS]",
                joint: "[TOOL_CALLS]",
                end: "",
            },
        }
    }

    /// Texts that the format reads and that may be special tokens, which are otherwise left out of an answer.
    pub const fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[hermes::OPEN, hermes::CLOSE],
            Self::Llama3Json => &[llama::TAG],
            Self::Mistral | Self::MistralArgs => &[mistral::OPEN, mistral::ARGUMENTS, "[CALL_ID]"],
        }
    }

    /// What text cannot have without a call; none where calls are told from text by nothing but their names.
    pub const fn call_mark(self) -> Option<&'static str> {
        match self {
            Self::Hermes => Some(hermes::OPEN),
            Self::Llama3Json => None,
            Self::Mistral | Self::MistralArgs => Some(mistral::OPEN),
        }
    }

    /// What an answer begins with that must call: written for the model, which goes on from there. A model that would think
    /// first does not.
    pub fn opening(self, forced: Forced<'_>, prompt_thinks: bool) -> String {
        let CallShape { before_name, before_arguments, .. } = self.shape();
        let thought = if prompt_thinks { format!("\n{}\n\n", think::CLOSE) } else { String::new() };
        match forced {
            Forced::Any => format!("{thought}{before_name}"),
            // no space at the end: a tokenizer joins it to what follows
            Forced::Named(name) => format!("{thought}{before_name}{name}{}", before_arguments.trim_end()),
        }
    }

    /// Whether ids of calls must be of nine letters and digits.
    pub const fn has_short_ids(self) -> bool {
        matches!(self, Self::Mistral | Self::MistralArgs)
    }
}

/// Texts that the reasoning's reader reads and that may be special tokens.
pub const THINK_MARKS: [&str; 2] = [think::OPEN, think::CLOSE];
