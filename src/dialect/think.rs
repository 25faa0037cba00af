//! What a model thinks before it answers, between `<think>` and `</think>`.

use super::pieces::Pieces;

pub(super) const OPEN: &str = "<think>";
pub(super) const CLOSE: &str = "</think>";

/// Where a text is, as to its reasoning. The marks, and whitespace next to them, belong to neither side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thinking {
    /// Nothing but whitespace, and perhaps the beginning of the mark, so far.
    NotYet(String),
    /// In the reasoning. What is held may be its last whitespace and the mark.
    Under(String, Said),
    /// Behind it, and before the answer.
    JustOver,
    /// In the answer.
    Over,
}

/// Whether anything was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nothing but whitespace.
    Nothing,
    /// Something.
    Something,
}

/// Whether a prompt ends within a reasoning that its template has opened, so that the answer begins there.
pub fn thinks_at_the_end(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

impl Thinking {
    /// Of an answer to this prompt.
    pub fn after(prompt: &str) -> Self {
        if thinks_at_the_end(prompt) { Self::begun() } else { Self::NotYet(String::new()) }
    }

    const fn begun() -> Self {
        Self::Under(String::new(), Said::Nothing)
    }

    /// Whether what comes is reasoning.
    pub(super) const fn is_under_way(&self) -> bool {
        matches!(self, Self::Under(..))
    }

    /// Takes a character. What is no reasoning is given back.
    pub(super) fn push(&mut self, c: char, out: &mut Pieces) -> Option<String> {
        match self {
            Self::Over => Some(c.into()),
            Self::JustOver if c.is_whitespace() => None,
            Self::JustOver => {
                *self = Self::Over;
                Some(c.into())
            }
            Self::NotYet(held) => {
                held.push(c);
                let so_far = held.trim_start();
                if so_far == OPEN {
                    *self = Self::begun();
                    None
                } else if OPEN.starts_with(so_far) {
                    None
                } else {
                    let text = std::mem::take(held);
                    *self = Self::Over;
                    Some(text)
                }
            }
            Self::Under(held, said) => {
                held.push(c);
                loop {
                    let candidate = held.trim_start();
                    if candidate == CLOSE {
                        *self = Self::JustOver;
                        return None;
                    }
                    let first = candidate.chars().next()?;
                    if CLOSE.starts_with(candidate) {
                        return None;
                    }
                    let blank = held.len() - candidate.len();
                    let certain: String = held.drain(..blank + first.len_utf8()).collect();
                    out.reasoning(if *said == Said::Nothing { &certain[blank..] } else { &certain });
                    *said = Said::Something;
                }
            }
        }
    }

    /// What is held back when no more comes, where it is no reasoning.
    pub(super) fn finish(&mut self, out: &mut Pieces) -> String {
        match std::mem::replace(self, Self::Over) {
            Self::NotYet(held) => held,
            Self::Under(held, _) => {
                out.reasoning(held.trim());
                String::new()
            }
            Self::JustOver | Self::Over => String::new(),
        }
    }
}
