//! The demo's own tokenizer, and conversations as token sequences.

use candle_core::{Error, Result};
use switchback::demo::{self, Case, SYSTEM_PROMPT};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
pub(crate) const TURN_START: &str = "<|im_start|>";
pub(crate) const TURN_END: &str = "<|im_end|>";

/// `ChatML`, as the template that ships with the model renders it.
pub(crate) const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const VOCAB: usize = 1024;

/// A trained tokenizer.
pub(crate) struct Text {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) end: u32,
}

/// Whether a conversation opens with the system message. Some customers come without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    System,
    Customer,
}

/// One conversation: all tokens, and where the answer starts.
pub(crate) struct Example {
    pub(crate) tokens: Vec<u32>,
    pub(crate) answer_from: usize,
}

fn failed(e: tokenizers::Error) -> Error {
    Error::Msg(format!("tokenizer: {e}"))
}

impl Text {
    /// Trains byte-level BPE on generated conversations. Digits stay single tokens, so that copying an
    /// order's number is copying tokens.
    pub(crate) fn train(seed: u64) -> Result<Self> {
        let special = |t: &str| AddedToken::from(t, true);
        let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
            .vocab_size(VOCAB)
            .show_progress(false)
            .special_tokens(vec![special(END_OF_TEXT), special(TURN_START), special(TURN_END)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build()
            .into();
        let mut tokenizer = Tokenizer::new(BPE::default());
        let byte_level = ByteLevel::default().add_prefix_space(false).use_regex(true);
        tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(byte_level),
        ]))));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        let corpus = demo::training(seed).take(20_000).flat_map(|case| [case.message.clone(), case.answer()]);
        let corpus = corpus.chain(["system\n", "user\n", "assistant\n", SYSTEM_PROMPT].map(str::to_owned));
        tokenizer.train(&mut trainer, corpus).map_err(failed)?;
        let end = tokenizer.token_to_id(TURN_END).ok_or_else(|| Error::Msg("no end of turn".to_owned()))?;
        Ok(Self { tokenizer, end })
    }

    pub(crate) fn vocab(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, false).map_err(failed)?.get_ids().to_vec())
    }

    pub(crate) fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true).map_err(failed)
    }

    /// The prompt of a case, up to where the answer starts.
    pub(crate) fn prompt(&self, case: &Case, opening: Opening) -> Result<Vec<u32>> {
        let mut text = match opening {
            Opening::System => format!("{TURN_START}system\n{SYSTEM_PROMPT}{TURN_END}\n"),
            Opening::Customer => String::new(),
        };
        text.push_str(&format!("{TURN_START}user\n{}{TURN_END}\n{TURN_START}assistant\n", case.message));
        self.encode(&text)
    }

    pub(crate) fn example(&self, case: &Case, answer: &str, opening: Opening) -> Result<Example> {
        let mut tokens = self.prompt(case, opening)?;
        let answer_from = tokens.len();
        tokens.extend(self.encode(answer)?);
        tokens.push(self.end);
        Ok(Example { tokens, answer_from })
    }
}
