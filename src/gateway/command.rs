//! What a client asks for, after the edge has checked it and before a version has been chosen.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::GatewayError;
use super::structured::Structure;
use crate::config::PromptSampling;
use crate::config::sampling::TopK;
use crate::ids::{ModelName, VersionRef};
use crate::model::SpecialText;
use crate::prompt::GenerationPrompt;
use crate::quality::Tool;
use crate::release::{StickyKey, Traits};

/// What the `model` parameter names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A model: its route chooses the version.
    Routed(ModelName),
    /// One version, `model@version`, whatever the route says.
    Pinned(VersionRef),
}

impl Target {
    /// The model in either case.
    pub fn model(&self) -> &ModelName {
        match self {
            Self::Routed(model) => model,
            Self::Pinned(version) => &version.model,
        }
    }
}

impl FromStr for Target {
    type Err = GatewayError;
    fn from_str(text: &str) -> Result<Self, GatewayError> {
        let unknown = |_| GatewayError::unknown_model(text);
        match text.split_once('@') {
            None => Ok(Self::Routed(text.parse().map_err(unknown)?)),
            Some((model, version)) => Ok(Self::Pinned(VersionRef {
                model: model.parse().map_err(unknown)?,
                version: version.parse().map_err(unknown)?,
            })),
        }
    }
}

/// Which model, and for whom.
#[derive(Debug, Clone)]
pub struct Address {
    /// The model or version.
    pub target: Target,
    /// What keeps this client on one version.
    pub sticky: StickyKey,
    /// What flags may know besides.
    pub traits: Traits,
}

/// What to do with a stop string that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopText {
    /// Cut it off.
    #[default]
    Cut,
    /// Leave it in the answer.
    Include,
}

/// Whether the model's own end-of-text tokens end an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndOfText {
    /// They do.
    #[default]
    Obey,
    /// They are tokens like others.
    Ignore,
}

/// How tokens are chosen and when to stop. `None` leaves a value to the version's own defaults.
#[derive(Debug, Clone)]
pub struct Decoding {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    pub top_p: Option<f32>,
    /// Sampling from the k likeliest.
    pub top_k: Option<TopK>,
    /// Least probability, relative to the likeliest token's.
    pub min_p: Option<f32>,
    /// Above 1 discourages tokens seen before.
    pub repetition_penalty: Option<f32>,
    /// Subtracted once from tokens generated before.
    pub presence_penalty: Option<f32>,
    /// Subtracted for each time that a token was generated before.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same answer from the same version; none draws one.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Option<Vec<String>>,
    /// Tokens that end the answer.
    pub stop_token_ids: Vec<u32>,
    /// Whether a found stop text stays.
    pub stop_text: StopText,
    /// Whether the model's own end counts.
    pub end_of_text: EndOfText,
    /// At most this many tokens; none lets the gateway choose.
    pub max_tokens: Option<usize>,
    /// At least this many tokens.
    pub min_tokens: usize,
    /// Whether special tokens show in the text.
    pub special_text: SpecialText,
    /// What the answer is to look like.
    pub structure: Option<Arc<Structure>>,
    /// How many answers to each prompt.
    pub choices: NonZeroUsize,
    /// Report the log-probability of each token, and of this many of the likeliest.
    pub logprobs: Option<u8>,
    /// Of requests that wait, the lower goes first; only where the model is scheduled so.
    pub priority: i32,
}

/// Nothing is asked for.
impl Default for Decoding {
    fn default() -> Self {
        Self {
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            repetition_penalty: None,
            presence_penalty: None,
            frequency_penalty: None,
            logit_bias: Vec::new(),
            seed: None,
            stop: None,
            stop_token_ids: Vec::new(),
            stop_text: StopText::default(),
            end_of_text: EndOfText::default(),
            max_tokens: None,
            min_tokens: 0,
            special_text: SpecialText::Skip,
            structure: None,
            choices: NonZeroUsize::MIN,
            logprobs: None,
            priority: 0,
        }
    }
}

impl Decoding {
    /// The client's word, and where there is none, that of the version's prompt. `max_tokens` stays the client's: a
    /// prompt's limit gives way where the context is shorter, and his does not.
    pub(super) fn or(&self, prompt: &PromptSampling) -> Self {
        Self {
            temperature: self.temperature.or(prompt.temperature),
            top_p: self.top_p.or(prompt.top_p),
            top_k: self.top_k.or(prompt.top_k),
            min_p: self.min_p.or(prompt.min_p),
            repetition_penalty: self.repetition_penalty.or(prompt.repetition_penalty),
            presence_penalty: self.presence_penalty.or(prompt.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(prompt.frequency_penalty),
            stop: self.stop.clone().or_else(|| prompt.stop.clone()),
            ..self.clone()
        }
    }
}

/// Messages, and what the templates around them read.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// The messages as the template reads them.
    pub messages: Vec<Json>,
    /// Variables of the version's prompt.
    pub variables: Map<String, Json>,
    /// Further variables for the chat template.
    pub template: Map<String, Json>,
    /// Whether the assistant's turn is opened.
    pub generation: GenerationPrompt,
}

/// Whether tools are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    Auto,
    /// One at least.
    Required,
    /// This one.
    Named(String),
}

/// How many calls an answer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MostCalls {
    /// As many as the model makes.
    #[default]
    Any,
    /// The first; what comes after it is left out.
    One,
}

/// Tools, and what may be done with them.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    /// The tools; at least one.
    pub tools: Arc<[Tool]>,
    /// Names of those whose arguments must keep to their schema.
    pub strict: Vec<String>,
    /// Whether they are called.
    pub choice: ToolChoice,
    /// How many calls there may be.
    pub most: MostCalls,
}

/// A conversation to go on with.
#[derive(Debug, Clone)]
pub struct ChatCommand {
    /// Which model, for whom.
    pub address: Address,
    /// What is said so far.
    pub conversation: Conversation,
    /// The tools that the answer may call, if there are any. The template reads them from the conversation.
    pub tools: Option<ToolUse>,
    /// How to answer.
    pub decoding: Decoding,
}

/// A prompt of a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptInput {
    /// Text, to be tokenized.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// Whether an answer repeats its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Echo {
    /// It does not.
    #[default]
    Omit,
    /// It starts with the prompt; its tokens' log-probabilities are reported if asked for.
    Repeat,
}

/// Texts to go on with; each prompt has `decoding.choices` answers, numbered prompt by prompt.
#[derive(Debug, Clone)]
pub struct CompletionCommand {
    /// Which model, for whom.
    pub address: Address,
    /// One or more prompts.
    pub prompts: Vec<PromptInput>,
    /// Whether answers repeat their prompt.
    pub echo: Echo,
    /// How to answer.
    pub decoding: Decoding,
}
