//! A file's tokenizer: merges of bytes as GPT-2 has them, or a `SentencePiece` model.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Library};

use super::config::architecture;
use super::header::Header;
use super::pieces::{self, Merge};
use super::splitting::Splitting;
use super::value::Metadata;
use super::words::{MODEL, TOKENS, TokenKind, kinds, named, tokens};
use crate::model::tokenizer::Tokenizer;

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
/// What stands for a space in a `SentencePiece`.
const SPACE: &str = "▁";

/// The tokenizer that a file describes.
pub(super) fn tokenizer(header: &Header<'_>) -> Result<Tokenizer, String> {
    // the library panics on some contents that no tokenizer has
    let built = catch_unwind(AssertUnwindSafe(|| built(header)));
    built.unwrap_or_else(|_| Err("tokenizer: its contents describe no tokenizer".to_owned()))
}

fn built(header: &Header<'_>) -> Result<Tokenizer, String> {
    let metadata = &header.metadata;
    let vocabulary = Vocabulary::read(header)?;
    let library = match metadata.text(MODEL)? {
        Some("gpt2") => bytes(metadata, &vocabulary)?,
        Some("llama") => sentence_piece(metadata, &vocabulary)?,
        Some(other) => {
            return Err(format!("{MODEL}: {other:?} is not supported: only \"gpt2\" and \"llama\""));
        }
        None => return Err(format!("{MODEL}: missing")),
    };
    Ok(Tokenizer::new(library))
}

/// The tokens of a file.
struct Vocabulary<'h, 'a> {
    texts: &'h [&'a str],
    kinds: Vec<TokenKind>,
    /// Those that are there, by their texts.
    ids: HashMap<&'a str, u32>,
    /// Whether special tokens take the spaces after them along, as those of Phi-3 do.
    strips: bool,
}

impl<'h, 'a> Vocabulary<'h, 'a> {
    fn read(header: &'h Header<'a>) -> Result<Self, String> {
        let metadata = &header.metadata;
        let texts = tokens(metadata)?;
        let kinds = kinds(metadata, texts.len())?;
        let mut ids = HashMap::new();
        for (id, text) in texts.iter().enumerate() {
            // places that fill the embedding up to a round number
            if kinds[id] == TokenKind::Unused && *text == format!("[PAD{id}]") {
                continue;
            }
            if let Some(first) = ids.insert(*text, id as u32) {
                return Err(format!("{TOKENS}: {first} and {id} are both {text:?}"));
            }
        }
        Ok(Self { texts, kinds, ids, strips: architecture(metadata)? == "phi3" })
    }

    fn owned(&self) -> Vocab {
        self.ids.iter().map(|(text, id)| ((*text).to_owned(), *id)).collect()
    }

    /// Merges all of which make tokens of tokens.
    fn checked(&self, merges: Vec<Merge>) -> Result<Vec<Merge>, String> {
        for (i, (left, right)) in merges.iter().enumerate() {
            for part in [left.as_str(), right, &format!("{left}{right}")] {
                if !self.ids.contains_key(part) {
                    return Err(format!("{MERGES}: merge {i}: {part:?} is not a token"));
                }
            }
        }
        Ok(merges)
    }

    /// Makes tokens of their own of those that are structure, or one token wherever they stand.
    fn mark(&self, library: &mut Library) -> Result<(), String> {
        let mut marks = Vec::new();
        for (text, kind) in self.texts.iter().zip(&self.kinds) {
            let special = match kind {
                TokenKind::Control | TokenKind::Unknown => true,
                TokenKind::UserDefined => false,
                TokenKind::Plain | TokenKind::Unused => continue,
            };
            let strips = self.strips && !matches!(*text, "<unk>" | "<s>" | "<|endoftext|>");
            marks.push(AddedToken::from(*text, special).normalized(false).rstrip(strips));
        }
        library.add_tokens(marks).map(drop).map_err(|e| format!("{TOKENS}: {e}"))
    }
}

/// The merges that a file lists.
fn listed(metadata: &Metadata<'_>) -> Result<Option<Vec<Merge>>, String> {
    let Some(texts) = metadata.texts(MERGES)? else { return Ok(None) };
    let merge = |(i, text): (usize, &&str)| {
        // the first part may begin with a space
        let at = text.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let parts = at.map(|at| (text[..at].to_owned(), text[at + 1..].to_owned()));
        parts.ok_or_else(|| format!("{MERGES}: merge {i}: {text:?} are not two tokens with a space between"))
    };
    texts.iter().enumerate().map(merge).collect::<Result<_, _>>().map(Some)
}

/// A token at the beginning and one at the end of each text, where the file asks for them.
fn frame(metadata: &Metadata<'_>, library: &mut Library, begins: bool) -> Result<(), String> {
    let frame = |key: &str, token: &str, absent: bool| {
        let key = format!("tokenizer.ggml.{key}");
        if !metadata.flag(&key)?.unwrap_or(absent) {
            return Ok(None);
        }
        let missing = || format!("{key}: true, and tokenizer.ggml.{token}_token_id is missing");
        named(metadata, token)?.ok_or_else(missing).map(Some)
    };
    let (begin, end) = (frame("add_bos_token", "bos", begins)?, frame("add_eos_token", "eos", false)?);
    if begin.is_none() && end.is_none() {
        return Ok(());
    }
    let special = |text: &str| json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let around = |texts: &[&str]| {
        let begin = begin.iter().map(|(_, token)| special(token));
        let end = end.iter().map(|(_, token)| special(token));
        begin.chain(texts.iter().map(|id| text(id))).chain(end).collect::<Vec<_>>()
    };
    let named = begin.iter().chain(&end);
    let tokens: serde_json::Map<_, _> = named
        .map(|(id, token)| ((*token).to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] })))
        .collect();
    let template = json!({
        "type": "TemplateProcessing", "single": around(&["A"]), "pair": around(&["A", "B"]), "special_tokens": tokens,
    });
    let template: TemplateProcessing = serde_json::from_value(template).map_err(|e| e.to_string())?;
    library.with_post_processor(Some(template));
    Ok(())
}

fn built_model(builder: BpeBuilder) -> Result<BPE, String> {
    builder.build().map_err(|e| format!("{MERGES}: {e}"))
}

/// GPT-2's: each byte is a letter, and letters are merged.
fn bytes(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_, '_>) -> Result<Library, String> {
    let Some(name) = metadata.text(PRE)? else {
        return Err(format!(
            "{PRE}: missing, and how texts are cut before bytes are merged is not known: convert the model anew"
        ));
    };
    let splitting =
        Splitting::named(name).map_err(|known| format!("{PRE}: {name:?} is not supported: only {known}"))?;
    let merges = listed(metadata)?.ok_or_else(|| format!("{MERGES}: missing"))?;
    let builder = BPE::builder()
        .vocab_and_merges(vocabulary.owned(), vocabulary.checked(merges)?)
        .ignore_merges(splitting.whole_words);
    let mut library = Library::new(built_model(builder)?);
    let failed = |e: tokenizers::Error| format!("{PRE}: {e}");
    if splitting.composes {
        library.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    library.with_pre_tokenizer(Some(splitting.pre_tokenizer().map_err(failed)?));
    library.with_decoder(Some(ByteLevel::default()));
    vocabulary.mark(&mut library)?;
    frame(metadata, &mut library, splitting.begins)?;
    Ok(library)
}

/// Llama 2's: a space is a letter, and what no piece is there for falls back to bytes.
fn sentence_piece(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_, '_>) -> Result<Library, String> {
    let merges = match listed(metadata)?.filter(|merges| !merges.is_empty()) {
        Some(merges) => vocabulary.checked(merges)?,
        None => scored(metadata, vocabulary)?,
    };
    let has_bytes = (0..=u8::MAX).all(|byte| vocabulary.ids.contains_key(&*format!("<0x{byte:02X}>")));
    let mut builder =
        BPE::builder().vocab_and_merges(vocabulary.owned(), merges).byte_fallback(has_bytes).fuse_unk(true);
    if let Some((_, unknown)) = named(metadata, "unknown")? {
        builder = builder.unk_token(unknown.to_owned());
    }
    let mut library = Library::new(built_model(builder)?);
    let prefix = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let failed = |e: tokenizers::Error| format!("{MODEL}: {e}");
    let mut normalizers: Vec<NormalizerWrapper> = vec![Replace::new(" ", SPACE).map_err(failed)?.into()];
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(failed)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefix {
        normalizers.insert(0, Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    library.with_normalizer(Some(Normalizers::new(normalizers))).map_err(failed)?;
    library.with_decoder(Some(Decoders::new(decoders)));
    vocabulary.mark(&mut library)?;
    frame(metadata, &mut library, true)?;
    Ok(library)
}

/// The merges of pieces that are text, by their scores.
fn scored(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_, '_>) -> Result<Vec<Merge>, String> {
    let scores = metadata.floats(SCORES)?.ok_or_else(|| format!("{SCORES}: missing"))?;
    let count = vocabulary.texts.len();
    if scores.len() != count {
        return Err(format!("{SCORES}: {} of them for {count} tokens", scores.len()));
    }
    let plain = vocabulary.texts.iter().zip(&vocabulary.kinds).zip(0..);
    let plain = plain.filter(|((text, kind), id)| {
        // one that is left out of the vocabulary is none of its pieces
        matches!(kind, TokenKind::Plain | TokenKind::UserDefined) && vocabulary.ids.get(**text) == Some(id)
    });
    let ids = plain.map(|((text, _), id)| (*text, id)).collect();
    Ok(pieces::merges(vocabulary.texts, &scores, &ids))
}
