//! Text to tokens and back, as one version does it; and what is long goes to threads that may take their time.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value as Json;

use super::backend::Backend;
use super::command::{Address, Conversation};
use super::{Gateway, GatewayError};
use crate::model::{SpecialText, SpecialTokens};
use crate::prompt::{PromptError, WrapError};

/// Text from this size is tokenized off the request threads: it takes milliseconds.
pub(super) const LONG_TEXT: usize = 16 * 1024;

/// And so many tokens are turned into text there: one is some four bytes.
const LONG_TOKENS: usize = LONG_TEXT / 4;

/// As much of a variable's name as a message shows.
const LONGEST_NAME: usize = 80;

/// What to tokenize.
#[derive(Debug, Clone)]
pub enum TokenizeInput {
    /// A text.
    Text {
        /// The text.
        text: String,
        /// Whether the model's special tokens are put around it.
        special: SpecialTokens,
    },
    /// A conversation, through the version's prompt and template.
    Messages {
        /// The messages.
        conversation: Conversation,
        /// Whether the model's special tokens are put around what the template gave.
        special: SpecialTokens,
    },
}

impl Gateway {
    /// The tokens of a text or a conversation, with the backend that they are for.
    pub async fn tokenize(
        &self,
        address: &Address,
        input: TokenizeInput,
    ) -> Result<(Arc<Backend>, Vec<u32>), GatewayError> {
        let backend = self.resolve(address)?.backend;
        let (text, special, param) = match input {
            TokenizeInput::Text { text, special } => (text, special, "prompt"),
            TokenizeInput::Messages { conversation, special } => {
                (render(&backend, &conversation).await?, special, "messages")
            }
        };
        let on = Arc::clone(&backend);
        let tokens = blocking(move || encode(&on, &text, special, param)).await?;
        Ok((backend, tokens))
    }

    /// The text of each of `tokens` by itself.
    pub async fn token_texts(
        &self,
        backend: &Arc<Backend>,
        tokens: &[u32],
    ) -> Result<Vec<String>, GatewayError> {
        if tokens.len() < LONG_TOKENS {
            return Ok(backend.prepared.token_texts(tokens));
        }
        let (on, tokens) = (Arc::clone(backend), tokens.to_vec());
        blocking(move || Ok(on.prepared.token_texts(&tokens))).await
    }

    /// The text of tokens, with the backend that they are for. Special tokens show.
    pub async fn detokenize(
        &self,
        address: &Address,
        tokens: Vec<u32>,
    ) -> Result<(Arc<Backend>, String), GatewayError> {
        let backend = self.resolve(address)?.backend;
        in_vocabulary(&backend, &tokens, "tokens")?;
        if tokens.len() < LONG_TOKENS {
            let text = decode(&backend, &tokens, "tokens")?;
            return Ok((backend, text));
        }
        let on = Arc::clone(&backend);
        let text = blocking(move || decode(&on, &tokens, "tokens")).await?;
        Ok((backend, text))
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, GatewayError> + Send + 'static,
) -> Result<T, GatewayError> {
    tokio::task::spawn_blocking(job)
        .await
        .unwrap_or_else(|e| Err(GatewayError::Internal { why: format!("tokenizing failed: {e}") }))
}

/// The text of a conversation: the version's prompt around it, then its chat template.
pub(super) async fn render(backend: &Backend, conversation: &Conversation) -> Result<String, GatewayError> {
    let decoder = backend.prepared.decoder()?;
    let Some(template) = &decoder.template else {
        let message = format!("`{}` has no chat template; use /v1/completions", backend.version());
        return Err(GatewayError::invalid("messages", message));
    };
    let mut messages = wrapped(backend, conversation).await?;
    decoder.formats.fit(&mut messages);
    let rendered = template.render(&messages, &conversation.template, conversation.generation).await;
    rendered.map_err(|error| match error {
        // The messages are what varies: a template that no messages suit would not have been released.
        PromptError::Refused(why) => {
            GatewayError::invalid("messages", format!("the chat template refuses these messages: {why}"))
        }
        PromptError::Busy => GatewayError::crowded(),
        other => GatewayError::invalid("messages", other.to_string()),
    })
}

/// The messages with the version's prompt around them.
async fn wrapped<'a>(
    backend: &Backend,
    conversation: &'a Conversation,
) -> Result<Cow<'a, [Json]>, GatewayError> {
    let Conversation { messages, variables, .. } = conversation;
    let Some(prompt) = &backend.prepared.prompt else {
        if variables.is_empty() {
            return Ok(Cow::Borrowed(messages));
        }
        let message = format!("`prompt_variables`: `{}` has no prompt; leave them out", backend.version());
        return Err(GatewayError::invalid("prompt_variables", message));
    };
    prompt.wrap(messages, variables).await.map(Cow::Owned).map_err(|error| match error {
        WrapError::Variable { name, fault } => {
            let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
            GatewayError::Variable { version: backend.version().clone(), name, fault }
        }
        WrapError::Busy => GatewayError::crowded(),
        WrapError::Refused(_) | WrapError::Failed(_) => {
            GatewayError::invalid("prompt_variables", format!("`{}`: {error}", backend.version()))
        }
    })
}

pub(super) fn encode(
    backend: &Backend,
    text: &str,
    special: SpecialTokens,
    param: &str,
) -> Result<Vec<u32>, GatewayError> {
    backend
        .prepared
        .tokenizer()
        .encode(text, special)
        .map_err(|e| GatewayError::invalid(param, format!("`{param}` cannot be tokenized: {e}")))
}

pub(super) fn decode(backend: &Backend, tokens: &[u32], param: &str) -> Result<String, GatewayError> {
    backend
        .prepared
        .tokenizer()
        .decode(tokens, SpecialText::Keep)
        .map_err(|e| GatewayError::invalid(param, format!("`{param}` cannot be turned into text: {e}")))
}

pub(super) fn in_vocabulary(backend: &Backend, tokens: &[u32], param: &str) -> Result<(), GatewayError> {
    let size = backend.prepared.vocab_size();
    match tokens.iter().find(|token| **token as usize >= size) {
        None => Ok(()),
        Some(token) => Err(GatewayError::invalid(
            param,
            format!("`{param}` has the token {token}; this version's tokens are below {size}"),
        )),
    }
}
