//! The endpoints that OpenAI's and vLLM's clients know: chat, completions, embeddings, rerank, models, tokenize.
//!
//! A handler parses (`*_request`), calls the gateway, and writes (`*_response`, whole or as events).

mod best_of;
mod chat;
mod chat_request;
mod chat_response;
mod completion;
mod completion_request;
mod completion_response;
mod decoding;
mod embeddings;
mod models;
mod rerank;
mod stream;
mod structured;
mod tokens;
mod tools;

pub(super) use chat::__path_chat_completions;
pub(super) use chat::{ask, chat_completions, count};
pub(super) use completion::{__path_completions, completions};
pub(super) use embeddings::{__path_embeddings, embeddings};
pub(super) use models::{__path_list_models, __path_retrieve_model, list_models, retrieve_model};
pub(super) use rerank::{__path_rerank, rerank};
pub(super) use stream::{Adding, Chunks, Envelope, typed_event};
pub(super) use tokens::{__path_detokenize, __path_tokenize, detokenize, tokenize};

pub use chat_request::{ChatBody, Content, Message, Part};
pub use chat_response::{
    CalledDelta, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs,
    ChatMessage, ChatToken, ChatTopToken, ToolCallDelta,
};
pub use completion_request::{CompletionBody, Prompt, PromptItem};
pub use completion_response::{Completion, CompletionChoice, CompletionLogprobs};
pub use decoding::{DecodingBody, Stop, StreamOptions};
pub use embeddings::{EmbeddingInput, EmbeddingItem, EmbeddingList, EmbeddingUsage, EmbeddingsBody, Vector};
pub use models::{ModelCard, ModelList};
pub use rerank::{Document, DocumentText, RerankBody, RerankList, RerankResult};
pub use stream::{CompletionDetails, PromptDetails, UsageBody};
pub use structured::{NamedSchema, ResponseFormat, StructuredBody, StructuredOutputs};
pub use tokens::{DetokenizeBody, Detokenized, TokenizeBody, Tokenized};
pub use tools::{CalledBody, FunctionBody, ToolBody, ToolCallBody, ToolsBody};
