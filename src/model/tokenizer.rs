//! Text to tokens and back.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokenizers::{PostProcessor, TruncationParams};

use super::error::ModelError;

/// What encoding does about special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Special tokens written out in the text are taken as such; none is added. For rendered chat templates.
    Parse,
    /// As `Parse`, and the tokenizer adds those that begin or end a text. For plain prompts.
    Add,
}

/// What decoding does about special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// Writes them out.
    Keep,
    /// Leaves them out.
    Skip,
}

/// What a tokenizer is given at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    One,
    Pair,
}

/// The tokens of a pair of texts, with those that the tokenizer adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairTokens {
    /// All of them.
    pub ids: Vec<u32>,
    /// Of each which text it belongs to, as the model is told: 0 or 1.
    pub(super) segments: Vec<u32>,
}

/// A version's tokenizer. Cloning it clones a pointer.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    spelling: Spelling,
    /// Tokens that stand for themselves, whatever the spelling.
    added: HashMap<u32, String>,
    special: HashSet<u32>,
    size: usize,
}

/// How a token's text spells its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Each byte is one printable character (GPT-2).
    ByteLevel,
    /// A space is `▁`, and a byte without a token of its own is `<0xAB>` (`SentencePiece`).
    SentencePiece,
    /// As it is.
    Plain,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        Ok(Self::new(read(path)?))
    }

    /// The same, read from `path`, for texts that may be longer than the model: of each, only the first tokens are taken,
    /// `most` of them together with those that are added; of a pair, so many of both, the longer one being cut first.
    pub(super) fn cut_to(&self, path: &Path, most: usize, texts: Texts) -> Result<Self, ModelError> {
        let wrong = |what: String| ModelError::Tokenizer { path: path.into(), what };
        let mut tokenizer = self.0.tokenizer.clone();
        let added = tokenizer
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(texts == Texts::Pair));
        // the library subtracts one from the other
        if added >= most {
            return Err(wrong(format!(
                "it adds {added} tokens to a text, and the longest text of the model is {most}"
            )));
        }
        let cut = TruncationParams { max_length: most, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(|e| wrong(e.to_string()))?;
        Ok(Self::new(tokenizer))
    }

    /// Asks the library for everything once that is asked for a token.
    pub(super) fn new(tokenizer: tokenizers::Tokenizer) -> Self {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
        let spelling = if names(&decoder, &["ByteLevel"]) {
            Spelling::ByteLevel
        } else if names(&decoder, &["ByteFallback", "Metaspace"]) {
            Spelling::SentencePiece
        } else {
            Spelling::Plain
        };
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let added = added.into_iter().map(|(id, token)| (id, token.content)).collect();
        let size = tokenizer.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        Self(Arc::new(Inner { tokenizer, spelling, added, special, size }))
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, ModelError> {
        let add = special == SpecialTokens::Add;
        let encoding =
            self.0.tokenizer.encode_fast(text, add).map_err(|e| ModelError::Text(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a pair of texts, and those that the tokenizer adds around them.
    pub(super) fn encode_pair(&self, first: &str, second: &str) -> Result<PairTokens, ModelError> {
        let encoding = self
            .0
            .tokenizer
            .encode_fast((first, second), true)
            .map_err(|e| ModelError::Text(e.to_string()))?;
        Ok(PairTokens { ids: encoding.get_ids().to_vec(), segments: encoding.get_type_ids().to_vec() })
    }

    /// The text of tokens; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32], special: SpecialText) -> Result<String, ModelError> {
        let skip = special == SpecialText::Skip;
        self.0.tokenizer.decode(tokens, skip).map_err(|e| ModelError::Text(e.to_string()))
    }

    /// The bytes that a token stands for within a text; `None` if there is no such token.
    pub fn token_bytes(&self, token: u32) -> Option<Vec<u8>> {
        if let Some(text) = self.0.added.get(&token) {
            return Some(text.clone().into_bytes());
        }
        let text = self.0.tokenizer.id_to_token(token)?;
        Some(match self.0.spelling {
            Spelling::ByteLevel => byte_level(&text),
            Spelling::SentencePiece => sentence_piece(&text),
            Spelling::Plain => text.into_bytes(),
        })
    }

    /// The highest token and one; a token between may still be missing.
    pub fn vocab_size(&self) -> usize {
        self.0.size
    }

    /// The first token that does not stand for the same in another; none where all do.
    pub fn first_difference(&self, other: &Self) -> Option<u32> {
        let tokens = self.0.size.max(other.0.size) as u32;
        (0..tokens).find(|token| self.token_bytes(*token) != other.token_bytes(*token))
    }

    /// How its tokens spell bytes.
    pub fn spelling(&self) -> Spelling {
        self.0.spelling
    }

    /// The token that a text is as a whole.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(text)
    }

    /// Whether a token is special: structure, not text.
    pub fn is_special(&self, token: u32) -> bool {
        self.0.special.contains(&token)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens, {:?})", self.0.size, self.0.spelling)
    }
}

fn read(path: &Path) -> Result<tokenizers::Tokenizer, ModelError> {
    let text = std::fs::read(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
    let wrong = |e: tokenizers::Error| ModelError::Tokenizer { path: path.into(), what: e.to_string() };
    serde_json::from_slice::<serde::de::IgnoredAny>(&text)
        .map_err(|e| ModelError::Json { path: path.into(), what: e.to_string() })?;
    // the library panics on some contents that are JSON but no tokenizer
    let read = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(&text));
    let unreadable = |_| wrong("its contents describe no tokenizer".into());
    let mut tokenizer = read.map_err(unreadable)?.map_err(wrong)?;
    // training leaves these behind; a server that cut or padded a prompt in silence would be wrong
    tokenizer.with_truncation(None).map_err(wrong)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// Whether a decoder, or one in its sequence, is of one of these types.
fn names(decoder: &Value, types: &[&str]) -> bool {
    let own = decoder["type"].as_str().is_some_and(|t| types.contains(&t));
    own || decoder["decoders"].as_array().is_some_and(|all| all.iter().any(|d| names(d, types)))
}

/// GPT-2's alphabet: printable characters of Latin-1 stand for themselves, the other bytes follow from U+0100.
fn byte_level(text: &str) -> Vec<u8> {
    static BYTES: OnceLock<HashMap<char, u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut others = 0x100..;
        let letter = |byte: u8| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => Some(char::from(byte)),
            _ => others.next().and_then(char::from_u32),
        };
        let letters: Vec<Option<char>> = (0..=u8::MAX).map(letter).collect();
        (0..=u8::MAX).zip(letters).filter_map(|(byte, letter)| Some((letter?, byte))).collect()
    });
    let mut out = Vec::new();
    for c in text.chars() {
        match bytes.get(&c) {
            Some(byte) => out.push(*byte),
            None => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    out
}

fn sentence_piece(text: &str) -> Vec<u8> {
    let byte = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
    match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('▁', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_gives_the_bytes_that_the_text_has() {
        assert_eq!(byte_level("Ġhi"), b" hi");
        assert_eq!(byte_level("ÃŃ"), [0xc3, 0xad], "the bytes of í: 0xad is one without a letter of its own");
        assert_eq!(byte_level("Ċ"), b"\n");
        assert_eq!(sentence_piece("▁hi"), b" hi");
        assert_eq!(sentence_piece("<0xE2>"), [0xe2]);
        assert_eq!(sentence_piece("<0xE2"), b"<0xE2");
    }
}
