//! What a client asks for, and the tokens that a version makes of its prompts.

use std::sync::Arc;

use serde_json::Value as Json;

use super::GatewayError;
use super::backend::Backend;
use super::command::{Address, ChatCommand, CompletionCommand, Conversation, Decoding, Echo, PromptInput};
use super::speech::Speech;
use super::tokens::{LONG_TEXT, blocking, decode, encode, in_vocabulary, render};
use crate::model::SpecialTokens;
use crate::prompt::Prompt;

/// What a message costs beyond its text, in bytes of text: the template's own words, and its instructions.
const MESSAGE_BYTES: usize = 32;

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

    /// A measure of the work that rendering and tokenizing will be: about the bytes of the prompt.
    fn text_bytes(&self) -> usize {
        match self {
            Self::Chat(chat) => chat_bytes(&chat.conversation),
            Self::Completion(completion) => completion
                .prompts
                .iter()
                .map(|p| match p {
                    PromptInput::Text(text) => text.len(),
                    PromptInput::Tokens(tokens) => tokens.len(),
                })
                .sum(),
        }
    }

    fn prompts(&self, backend: &Backend) -> Result<Vec<PromptTokens>, GatewayError> {
        match self {
            Self::Chat(chat) => {
                let mut text = render(backend, &chat.conversation)?;
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
    let around = backend.prepared.prompt.as_ref().map_or(0, Prompt::bytes);
    if work.text_bytes() + around < LONG_TEXT {
        return work.prompts(backend);
    }
    let (backend, work) = (Arc::clone(backend), Arc::clone(work));
    blocking(move || work.prompts(&backend)).await
}

/// About the bytes that templates make of a conversation.
fn chat_bytes(conversation: &Conversation) -> usize {
    let Conversation { messages, variables, template, .. } = conversation;
    let messages: usize = messages.iter().map(|message| MESSAGE_BYTES + json_bytes(message)).sum();
    messages + variables.values().chain(template.values()).map(json_bytes).sum::<usize>()
}

/// About the bytes that a template may make of a value.
fn json_bytes(value: &Json) -> usize {
    let inside = match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(json_bytes).sum(),
        Json::Object(members) => members.iter().map(|(name, value)| name.len() + json_bytes(value)).sum(),
    };
    8 + inside
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::prompt::GenerationPrompt;

    #[test]
    fn a_chat_is_long_by_text_by_many_messages_or_by_variables() {
        let user = |text: &str| json!({"role": "user", "content": text});
        let chat = |messages| Conversation {
            messages,
            variables: Map::new(),
            template: Map::new(),
            generation: GenerationPrompt::Add,
        };
        assert!(chat_bytes(&chat(vec![user("hello")])) < LONG_TEXT / 100);
        assert!(chat_bytes(&chat(vec![user(&"x".repeat(LONG_TEXT))])) > LONG_TEXT);
        assert!(chat_bytes(&chat(vec![user(""); 1000])) > LONG_TEXT);
        let documents = json!({"documents": vec![json!({"text": "x".repeat(100)}); 200]});
        let documents = documents.as_object().unwrap();
        assert!(
            chat_bytes(&Conversation { template: documents.clone(), ..chat(vec![user("hello")]) })
                > LONG_TEXT
        );
        assert!(
            chat_bytes(&Conversation { variables: documents.clone(), ..chat(vec![user("hello")]) })
                > LONG_TEXT
        );
    }
}
