//! The endpoints that OpenAI's and vLLM's clients know: chat, completions, models, tokenize.
//!
//! A handler parses (`*_request`), calls the gateway, and writes (`*_response`, whole or as events).

mod chat;
mod chat_request;
mod chat_response;
mod completion;
mod completion_request;
mod completion_response;
mod decoding;
mod models;
mod stream;
mod structured;
mod tokens;

pub(super) use chat::__path_chat_completions;
pub(super) use chat::chat_completions;
pub(super) use completion::{__path_completions, completions};
pub(super) use models::{__path_list_models, __path_retrieve_model, list_models, retrieve_model};
pub(super) use tokens::{__path_detokenize, __path_tokenize, detokenize, tokenize};

pub use chat_request::{ChatBody, Content, Message, Part};
pub use chat_response::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatMessage, ChatToken,
    ChatTopToken,
};
pub use completion_request::{CompletionBody, Prompt, PromptItem};
pub use completion_response::{Completion, CompletionChoice, CompletionLogprobs};
pub use decoding::{DecodingBody, Stop, StreamOptions};
pub use models::{ModelCard, ModelList};
pub use stream::{PromptDetails, UsageBody};
pub use structured::{NamedSchema, ResponseFormat, StructuredBody, StructuredOutputs};
pub use tokens::{DetokenizeBody, Detokenized, TokenizeBody, Tokenized};
