//! The tokens that begin and end a text, as files name them.

use serde::Deserialize;

use super::raw::Given;

/// The tokens that begin or end a text, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) enum Marks {
    /// `config.json` names these: none of them, if it says null or -1.
    Named(Vec<u32>),
    /// It has no such key. These are what `transformers` takes then; a tokenizer that names its own knows better.
    Assumed(Vec<u32>),
}

impl Marks {
    /// `absent` is what the family's configuration takes if the key is left out.
    pub(super) fn read(
        key: &str,
        given: Given<TokenIds>,
        absent: Option<u32>,
        vocab: u32,
    ) -> Result<Self, String> {
        match given {
            Given::Absent => Ok(Self::Assumed(absent.filter(|id| *id < vocab).into_iter().collect())),
            Given::Null => Ok(Self::Named(Vec::new())),
            Given::Value(ids) => Ok(Self::Named(ids.below(key, vocab as usize)?)),
        }
    }
}

/// One token or several, as `eos_token_id` may be.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(in crate::model) enum TokenIds {
    One(i64),
    Many(Vec<i64>),
}

impl TokenIds {
    /// The tokens, each of which the vocabulary must have; Hugging Face writes -1 for none. The error names `key`.
    pub(in crate::model) fn below(&self, key: &str, vocab: usize) -> Result<Vec<u32>, String> {
        let ids = match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        };
        let token = |id: &i64| {
            u32::try_from(*id).ok().filter(|token| (*token as usize) < vocab).ok_or_else(|| {
                format!("{key}: {id} is not a token: the vocabulary has {vocab}, from 0; -1 means none")
            })
        };
        ids.iter().filter(|id| **id != -1).map(token).collect()
    }
}
