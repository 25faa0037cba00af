//! Text to tokens and back, with the bytes of each token.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::ModelError;

/// What becomes of special tokens when a text is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Those written in the text are recognised; none is added.
    Parse,
    /// Those written in the text are recognised, and the model's own are put around it.
    Add,
}

/// Whether special tokens show in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// They show.
    Keep,
    /// They are left out.
    Skip,
}

/// A tokenizer; clones share it.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    special: HashSet<u32>,
    added: HashMap<u32, String>,
    byte_of_char: HashMap<char, u8>,
    byte_level: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let wrong = |why: String| ModelError::TokenizerFile { path: path.to_owned(), why };
        let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(|e| wrong(e.to_string()))?;
        let decoder = serde_json::to_string(&tokenizer.get_decoder()).map_err(|e| wrong(e.to_string()))?;
        let added = tokenizer.get_added_tokens_decoder();
        Ok(Self(Arc::new(Inner {
            special: added.iter().filter(|(_, t)| t.special).map(|(id, _)| *id).collect(),
            added: added.iter().map(|(id, t)| (*id, t.content.clone())).collect(),
            byte_of_char: byte_of_char(),
            byte_level: decoder.contains("ByteLevel"),
            tokenizer,
        })))
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, ModelError> {
        let encoding = self.0.tokenizer.encode(text, special == SpecialTokens::Add);
        Ok(encoding.map_err(|e| ModelError::Tokenize(e.to_string()))?.get_ids().to_vec())
    }

    /// The text of tokens.
    pub fn decode(&self, tokens: &[u32], special: SpecialText) -> Result<String, ModelError> {
        let text = self.0.tokenizer.decode(tokens, special == SpecialText::Skip);
        text.map_err(|e| ModelError::Tokenize(e.to_string()))
    }

    /// The bytes that a token stands for; alone they need not be UTF-8. None for an unknown token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        if let Some(text) = self.0.added.get(&id) {
            return Some(text.clone().into_bytes());
        }
        let text = self.0.tokenizer.id_to_token(id)?;
        if self.0.byte_level
            && let Some(bytes) = text.chars().map(|c| self.0.byte_of_char.get(&c).copied()).collect()
        {
            return Some(bytes);
        }
        let byte = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
        if let Some(byte) = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            return Some(vec![byte]);
        }
        Some(text.replace('\u{2581}', " ").into_bytes())
    }

    /// A count of the vocabulary, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.0.tokenizer.get_vocab_size(true)
    }

    /// The token that is written so.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(token)
    }

    /// Whether a token is special.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.special.contains(&id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// The printable stand-ins that byte-level BPE writes for bytes (GPT-2's table), inverted.
fn byte_of_char() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256;
    let mut table = HashMap::new();
    for byte in 0..=u8::MAX {
        let code = if printable(byte) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        table.extend(char::from_u32(code).map(|c| (c, byte)));
    }
    table
}
