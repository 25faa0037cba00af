//! What comes out of a text.

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// What is said to the user.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A call begins: of the tool of this name.
    Call(String),
    /// More of the arguments of the call that began last: JSON, if the model kept to it.
    Arguments(String),
}

/// Pieces in their order. Neighbours of one kind are one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces(Vec<Piece>);

impl Pieces {
    /// Adds a piece; one that says nothing is none.
    pub fn add(&mut self, piece: Piece) {
        match (self.0.last_mut(), piece) {
            (_, Piece::Text(new) | Piece::Reasoning(new) | Piece::Arguments(new)) if new.is_empty() => {}
            (Some(Piece::Text(text)), Piece::Text(new))
            | (Some(Piece::Reasoning(text)), Piece::Reasoning(new))
            | (Some(Piece::Arguments(text)), Piece::Arguments(new)) => text.push_str(&new),
            (_, piece) => self.0.push(piece),
        }
    }

    /// Whether a call begins in them.
    pub(super) fn has_call(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Call(_)))
    }

    pub(super) fn text(&mut self, text: impl Into<String>) {
        self.add(Piece::Text(text.into()));
    }

    pub(super) fn reasoning(&mut self, text: impl Into<String>) {
        self.add(Piece::Reasoning(text.into()));
    }

    pub(super) fn arguments(&mut self, text: impl Into<String>) {
        self.add(Piece::Arguments(text.into()));
    }
}

impl IntoIterator for Pieces {
    type Item = Piece;
    type IntoIter = std::vec::IntoIter<Piece>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
