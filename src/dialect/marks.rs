//! Text that is looked through for a mark.

use super::pieces::Pieces;

/// Whether the mark is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Mark,
    NotYet,
}

/// Looks for a mark. Holds back what may be its beginning, and the whitespace before it.
#[derive(Debug)]
pub(super) struct Search {
    mark: &'static str,
    held: String,
}

impl Search {
    pub(super) const fn new(mark: &'static str) -> Self {
        Self { mark, held: String::new() }
    }

    /// Takes a character, and gives on what is certain to be text.
    pub(super) fn push(&mut self, c: char, out: &mut Pieces) -> Found {
        self.held.push(c);
        loop {
            let candidate = self.held.trim_start();
            if candidate == self.mark {
                return Found::Mark;
            }
            let Some(first) = candidate.chars().next() else { return Found::NotYet };
            if self.mark.starts_with(candidate) {
                return Found::NotYet;
            }
            let certain = self.held.len() - candidate.len() + first.len_utf8();
            out.text(self.held.drain(..certain).collect::<String>());
        }
    }

    /// The mark that was found, with the whitespace before it; or what is held back when no more comes.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
