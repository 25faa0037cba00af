//! A file's special tokens and its chat templates.

use std::collections::BTreeMap;

use super::value::Metadata;
use crate::model::templates::{ChatTemplateSources, SpecialTokenText, TokenizerWords};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const MODEL: &str = "tokenizer.ggml.model";

/// What ends a turn in the templates of the families that are read. Files name one token that ends, the converter's
/// choice, where `generation_config.json` had several.
const ENDS_OF_TURN: [&str; 7] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
];

/// What a token is, by its number in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Text.
    Plain,
    /// What no token is there for.
    Unknown,
    /// Structure.
    Control,
    /// Text that is one token wherever it stands.
    UserDefined,
    /// A place that nothing is at.
    Unused,
}

impl TokenKind {
    fn of(number: i128) -> Option<Self> {
        Some(match number {
            // 6 is a byte, which is text as far as this server cares
            0 | 1 | 6 => Self::Plain,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            _ => return None,
        })
    }
}

/// The texts of all tokens.
pub(super) fn tokens<'h, 'a>(metadata: &'h Metadata<'a>) -> Result<&'h [&'a str], String> {
    metadata.texts(TOKENS)?.ok_or_else(|| format!("{TOKENS}: missing"))
}

/// What each token is: one each.
pub(super) fn kinds(metadata: &Metadata<'_>, count: usize) -> Result<Vec<TokenKind>, String> {
    let Some(numbers) = metadata.wholes(TYPES)? else { return Ok(vec![TokenKind::Plain; count]) };
    if numbers.len() != count {
        return Err(format!("{TYPES}: {} of them for {count} tokens", numbers.len()));
    }
    let kind = |number: &i128| {
        TokenKind::of(*number).ok_or_else(|| format!("{TYPES}: {number} is the type of no token"))
    };
    numbers.iter().map(kind).collect()
}

/// The token that a key names, with its text.
pub(super) fn named<'a>(metadata: &Metadata<'a>, name: &str) -> Result<Option<(u32, &'a str)>, String> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let absent = match (metadata.text(MODEL)?, name) {
        (Some("llama"), "unknown") => Some(0),
        (Some("llama"), "bos") => Some(1),
        (Some("llama"), "eos") => Some(2),
        _ => None,
    };
    let Some(id) = metadata.size(&key)?.or(absent) else { return Ok(None) };
    let tokens = tokens(metadata)?;
    match tokens.get(id as usize) {
        Some(text) => Ok(Some((id, text))),
        None => Err(format!("{key}: {id} is not a token: there are {}, from 0", tokens.len())),
    }
}

/// The token that begins a text, and all that end an answer.
pub(super) fn marks(metadata: &Metadata<'_>) -> Result<(Option<u32>, Vec<u32>), String> {
    let begins = named(metadata, "bos")?.map(|(id, _)| id);
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(named(metadata, name)?.map(|(id, _)| id));
    }
    let texts = tokens(metadata)?;
    let kinds = kinds(metadata, texts.len())?;
    for (id, (text, kind)) in texts.iter().zip(kinds).enumerate() {
        let marks = matches!(kind, TokenKind::Control | TokenKind::UserDefined);
        if marks && ENDS_OF_TURN.contains(text) {
            ends.push(id as u32);
        }
    }
    ends.sort_unstable();
    ends.dedup();
    Ok((begins, ends))
}

/// What `tokenizer_config.json` would say.
pub(super) fn words(header: &super::header::Header<'_>) -> Result<TokenizerWords, String> {
    let metadata = &header.metadata;
    let text = |name: &str| Ok::<_, String>(named(metadata, name)?.map(|(_, text)| text.to_owned()));
    let mut others = BTreeMap::new();
    for (name, token) in [
        ("padding", "pad_token"),
        ("unknown", "unk_token"),
        ("seperator", "sep_token"),
        ("mask", "mask_token"),
    ] {
        others.extend(text(name)?.map(|text| (token.to_owned(), text)));
    }
    let special = SpecialTokenText { bos: text("bos")?, eos: text("eos")?, others };
    let template = |key: &str| Ok::<_, String>(metadata.text(key)?.map(str::to_owned));
    let tool_use = template("tokenizer.chat_template.tool_use")?;
    let default = template("tokenizer.chat_template")?;
    let templates = default.map(|default| ChatTemplateSources { default, tool_use });
    Ok(TokenizerWords { special, templates })
}
