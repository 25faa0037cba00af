//! JSON that is followed to its end, character by character.

/// Whether whitespace, as JSON knows it.
pub(super) const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\r' | '\t')
}

/// Where a character stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// In the value.
    Inside,
    /// It ends the value.
    End,
    /// Behind the value: of a number or a word, only what follows tells the end.
    Past,
}

/// Follows one value by its brackets and quotes. What else is wrong with it is not looked at.
#[derive(Debug, Default)]
pub(super) struct Follow {
    depth: usize,
    string: bool,
    escaped: bool,
    word: bool,
}

impl Follow {
    /// Takes a character of the value, its first at first.
    pub(super) fn push(&mut self, c: char) -> At {
        if self.string {
            if self.escaped {
                self.escaped = false;
            } else if c == '\\' {
                self.escaped = true;
            } else if c == '"' {
                self.string = false;
                return self.ended();
            }
            return At::Inside;
        }
        match c {
            ',' | '}' | ']' if self.word && self.depth == 0 => At::Past,
            _ if self.word && self.depth == 0 && is_blank(c) => At::Past,
            '"' => {
                self.string = true;
                At::Inside
            }
            '{' | '[' => {
                self.depth += 1;
                At::Inside
            }
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                self.ended()
            }
            _ => {
                self.word = self.depth == 0;
                At::Inside
            }
        }
    }

    /// Whether a character that comes now is in a string.
    pub(super) const fn in_string(&self) -> bool {
        self.string
    }

    const fn ended(&self) -> At {
        if self.depth == 0 { At::End } else { At::Inside }
    }
}

/// A string between its quotes, the first of which has been read.
#[derive(Debug, Default)]
pub(super) struct Quoted {
    written: String,
    escaped: bool,
}

/// How a string stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text {
    More,
    /// What it says.
    Closed(String),
    /// It is closed, and says nothing that JSON allows.
    Wrong,
}

impl Quoted {
    pub(super) fn push(&mut self, c: char) -> Text {
        if c == '"' && !self.escaped {
            let written = format!("\"{}\"", self.written);
            return serde_json::from_str(&written).map_or(Text::Wrong, Text::Closed);
        }
        self.escaped = c == '\\' && !self.escaped;
        self.written.push(c);
        Text::More
    }
}
