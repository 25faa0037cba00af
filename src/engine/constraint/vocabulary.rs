//! A tokenizer as the grammar library sees it: the bytes of each token, and tokens for bytes.

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::ConstraintError;
use crate::model::{SpecialTokens, Spelling, Tokenizer};

/// The vocabulary of one model.
pub(super) struct Vocabulary {
    trie: TokTrie,
    tokenizer: Tokenizer,
}

impl Vocabulary {
    /// Of `size` tokens, of which `eos` end a text.
    pub(super) fn new(tokenizer: Tokenizer, size: usize, eos: &[u32]) -> Result<Self, ConstraintError> {
        let eos: Vec<u32> = eos.iter().copied().filter(|token| (*token as usize) < size).collect();
        let Some(first) = eos.first() else { return Err(ConstraintError::NoEnd) };
        let word = |token: u32| {
            let bytes = tokenizer.token_bytes(token).unwrap_or_default();
            if tokenizer.is_special(token) || eos.contains(&token) {
                // no text is spelled with it
                [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes.as_slice()].concat()
            } else {
                bytes
            }
        };
        let words: Vec<Vec<u8>> = (0..size as u32).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, *first), &words).with_eos_tokens(&eos);
        Ok(Self { trie, tokenizer })
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// As the tokenizer cuts them, unless it would change them: by a normalizer, or by reading a special token in them.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let encode = |text: &str| self.tokenizer.encode(text, SpecialTokens::Parse).unwrap_or_default();
        let tokens = self.trie.tokenize_with_greedy_fallback(bytes, encode);
        let known = tokens.iter().all(|token| (*token as usize) < self.trie.vocab_size());
        if known && self.trie.decode_raw(&tokens) == bytes {
            tokens
        } else {
            self.trie.greedy_tokenize(bytes)
        }
    }

    /// Other tokenizers cut the beginning of a text otherwise than its middle, so a part of a text cannot be forced.
    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.spelling() == Spelling::ByteLevel
    }
}
