//! `refusal`: the answer does not decline to help.

use super::checks::{Check, Finding};
use super::compile::Fault;
use super::response::Subject;
use super::verdict::{Judgement, shown};
use crate::config::PhraseList;

/// The maintained phrases.
const BUILT_IN: &str = include_str!("refusals.txt");

/// A refusal comes at once: a phrase counts within so many characters of the beginning, as a long answer may quote one
/// or decline a detail.
const BEGINNING: usize = 240;

/// No phrase of a refusal near the beginning of the answer, or of a string inside it where it is JSON.
pub(super) struct Refusal {
    phrases: Vec<String>,
}

impl Refusal {
    pub(super) fn new(extra: &[String], list: PhraseList) -> Result<Self, Fault> {
        let built_in = match list {
            PhraseList::Extend => BUILT_IN,
            PhraseList::Replace => "",
        };
        let mut phrases: Vec<String> = built_in
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| normal(line, usize::MAX))
            .collect();
        for phrase in extra {
            let phrase = normal(phrase, usize::MAX);
            if phrase.is_empty() || phrase.chars().count() > BEGINNING {
                return Err(Fault {
                    field: "phrases",
                    found: format!("{} is blank, or longer than {BEGINNING} characters", shown(&phrase)),
                    fix: "write a few words that a refusal has near its beginning".to_owned(),
                });
            }
            phrases.push(phrase);
        }
        Ok(Self { phrases })
    }

    fn declines(&self, text: &str) -> Option<&str> {
        let beginning = normal(text, BEGINNING);
        self.phrases.iter().map(String::as_str).find(|phrase| occurs(&beginning, phrase))
    }
}

impl Check for Refusal {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        let found = subject.prose().into_iter().find_map(|text| Some((self.declines(text)?, text)));
        Ok(match found {
            None => Judgement::pass("no phrase of a refusal"),
            Some((phrase, text)) => Judgement::fail(format!("declines ({}): {}", shown(phrase), shown(text))),
        })
    }
}

/// Small letters, one kind of apostrophe, single spaces; at most `most` characters.
fn normal(text: &str, most: usize) -> String {
    let mut normal = String::new();
    let mut gap = false;
    for c in text.chars().take(most) {
        if c.is_whitespace() {
            gap = !normal.is_empty();
            continue;
        }
        if std::mem::take(&mut gap) {
            normal.push(' ');
        }
        match c {
            '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{2bc}' | '\u{ff07}' | '\u{b4}' | '`' => {
                normal.push('\'');
            }
            c => normal.extend(c.to_lowercase()),
        }
    }
    normal
}

/// Whether a phrase occurs at the borders of words.
fn occurs(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(start, found)| {
        let before = text[..start].chars().next_back();
        let after = text[start + found.len()..].chars().next();
        [before, after].into_iter().flatten().all(|c| !c.is_alphanumeric())
    })
}
