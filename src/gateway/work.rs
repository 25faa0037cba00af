//! What a client asks for, and the tokens that a version makes of its prompts.

use std::sync::Arc;

use super::GatewayError;
use super::backend::Backend;
use super::command::{Address, ChatCommand, CompletionCommand, Decoding, Echo, PromptInput};
use super::speech::Speech;
use super::tokens::{LONG_TEXT, blocking, decode, encode, in_vocabulary, render};
use crate::model::SpecialTokens;

/// What a client asks for.
#[expect(clippy::large_enum_variant, reason = "there is one for a request, and most are the larger")]
pub(super) enum Work {
    Chat(ChatCommand),
    Completion(CompletionCommand),
}

/// A prompt as a version reads it.
pub(super) struct PromptTokens {
    pub(super) tokens: Vec<u32>,
    /// To be repeated in the answer, if that was asked for.
    pub(super) text: Option<String>,
    /// How its answers are read.
    pub(super) speech: Speech,
}

impl Work {
    pub(super) fn address(&self) -> &Address {
        match self {
            Self::Chat(chat) => &chat.address,
            Self::Completion(completion) => &completion.address,
        }
    }

    pub(super) fn decoding(&self) -> &Decoding {
        match self {
            Self::Chat(chat) => &chat.decoding,
            Self::Completion(completion) => &completion.decoding,
        }
    }

    /// The parameter that holds the prompt.
    pub(super) fn param(&self) -> &'static str {
        match self {
            Self::Chat(_) => "messages",
            Self::Completion(_) => "prompt",
        }
    }

    pub(super) fn echo(&self) -> Echo {
        match self {
            Self::Chat(_) => Echo::Omit,
            Self::Completion(completion) => completion.echo,
        }
    }

    /// Its tokens, and of a chat those of the text that the version's templates have made of it.
    fn prompts(
        &self,
        backend: &Backend,
        rendered: Option<String>,
    ) -> Result<Vec<PromptTokens>, GatewayError> {
        match self {
            Self::Chat(chat) => {
                let mut text = rendered.unwrap_or_default();
                let decoder = backend.prepared.decoder()?;
                let speech = Speech::of(backend.version(), decoder, chat, &mut text)?;
                let tokens = encode(backend, &text, SpecialTokens::Parse, "messages")?;
                Ok(vec![PromptTokens { tokens, text: None, speech }])
            }
            Self::Completion(completion) => {
                let several = completion.prompts.len() > 1;
                let param = |i: usize| if several { format!("prompt[{i}]") } else { "prompt".into() };
                completion
                    .prompts
                    .iter()
                    .enumerate()
                    .map(|(i, input)| completion_prompt(backend, input, completion.echo, &param(i)))
                    .collect()
            }
        }
    }
}

fn completion_prompt(
    backend: &Backend,
    input: &PromptInput,
    echo: Echo,
    param: &str,
) -> Result<PromptTokens, GatewayError> {
    let tokens = match input {
        PromptInput::Text(text) => encode(backend, text, SpecialTokens::Add, param)?,
        PromptInput::Tokens(tokens) => {
            in_vocabulary(backend, tokens, param)?;
            tokens.clone()
        }
    };
    let text = match (echo, input) {
        (Echo::Omit, _) => None,
        (Echo::Repeat, PromptInput::Text(text)) => Some(text.clone()),
        (Echo::Repeat, PromptInput::Tokens(tokens)) => Some(decode(backend, tokens, param)?),
    };
    Ok(PromptTokens { tokens, text, speech: Speech::default() })
}

/// The prompts of a request for a version; long ones are read where nobody waits for a thread.
pub(super) async fn prompts(
    backend: &Arc<Backend>,
    work: &Arc<Work>,
) -> Result<Vec<PromptTokens>, GatewayError> {
    let (rendered, bytes) = match &**work {
        Work::Chat(chat) => {
            let text = render(backend, &chat.conversation).await?;
            let bytes = text.len();
            (Some(text), bytes)
        }
        Work::Completion(completion) => (None, completion.prompts.iter().map(bytes_of).sum()),
    };
    if bytes < LONG_TEXT {
        return work.prompts(backend, rendered);
    }
    let (backend, work) = (Arc::clone(backend), Arc::clone(work));
    blocking(move || work.prompts(&backend, rendered)).await
}

/// A measure of the work that reading it is.
fn bytes_of(prompt: &PromptInput) -> usize {
    match prompt {
        PromptInput::Text(text) => text.len(),
        PromptInput::Tokens(tokens) => tokens.len(),
    }
}
