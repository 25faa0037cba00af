//! Chat and completion: from a command to an [`Answer`].

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Value as Json;

use super::answer::{Admission, Answer, AnswerStream, PromptEcho};
use super::backend::Backend;
use super::command::{
    Address, ChatCommand, CompletionCommand, Conversation, Decoding, Echo, EndOfText, PromptInput, StopText,
    Target,
};
use super::mirror::Copy;
use super::resolve::Chosen;
use super::start::random_u128;
use super::tokens::{LONG_TEXT, blocking, decode, encode, in_vocabulary, render};
use super::{Gateway, GatewayError};
use crate::config::ModelConfig;
use crate::config::sampling::TopK;
use crate::engine::{
    EosPolicy, GenerateRequest, Generation, Priority, SamplingParams, StopInclusion, StopParams, SubmitError,
};
use crate::ids::{ResponseId, VersionRef, Weight};
use crate::model::SpecialTokens;
use crate::prompt::Prompt;
use crate::quality::{Watch, Way};
use crate::release::{Answered, ChosenBy, Message, user_number};
use crate::telemetry::Outcome;

/// How often a request may meet a version that is just closing before it is told to come back. Each time the route
/// is read anew, so that twice is already rare.
const ATTEMPTS: usize = 8;

/// What a message costs beyond its text, in bytes of text: the template's own words, and its instructions.
const MESSAGE_BYTES: usize = 32;

pub(super) enum Work {
    Chat(ChatCommand),
    Completion(CompletionCommand),
}

pub(super) struct PromptTokens {
    tokens: Vec<u32>,
    text: Option<String>,
}

impl Gateway {
    /// Answers a conversation.
    pub async fn chat(&self, command: ChatCommand) -> Result<Answer, GatewayError> {
        self.answer(Work::Chat(command)).await
    }

    /// Goes on with one or more texts.
    pub async fn complete(&self, command: CompletionCommand) -> Result<Answer, GatewayError> {
        self.answer(Work::Completion(command)).await
    }

    async fn answer(&self, work: Work) -> Result<Answer, GatewayError> {
        let work = Arc::new(work);
        let result = self.admit(&work).await;
        if let Err(error) = &result {
            self.count_refusal(work.address(), error);
        }
        result
    }

    async fn admit(&self, work: &Arc<Work>) -> Result<Answer, GatewayError> {
        let admitted = Instant::now();
        let decoding = work.decoding();
        let seed = decoding.seed.unwrap_or_else(super::start::random_u64);
        for _ in 0..ATTEMPTS {
            if self.inner().closed.load(Ordering::Acquire) {
                return Err(GatewayError::ShuttingDown);
            }
            let Chosen { backend, by } = self.resolve(work.address())?;
            let prompts = prompts(&backend, work).await?;
            let requests = requests(&backend, work, &prompts, seed, Priority::Foreground)?;
            // All choices or none: a generation that is dropped here is cancelled.
            let submitted: Result<Vec<Generation>, SubmitError> =
                requests.into_iter().map(|request| backend.engine.submit(request)).collect();
            match submitted {
                Ok(generations) => {
                    let prompt_tokens = prompts.iter().map(|p| p.tokens.len()).sum();
                    let way = self.way(work.address(), by);
                    let watch = self.watch(&backend, work, way);
                    self.mirror(&backend, work, way, seed);
                    let id = ResponseId::new(random_u128());
                    self.remember(id, &backend, work.address(), way);
                    return Ok(Answer {
                        id,
                        version: backend.version.clone(),
                        fingerprint: backend.fingerprint(),
                        choices_per_prompt: decoding.choices.get(),
                        prompts: prompts
                            .into_iter()
                            .map(|p| PromptEcho { tokens: p.tokens.len(), text: p.text })
                            .collect(),
                        stream: AnswerStream::new(Admission {
                            backend,
                            generations,
                            choices_per_prompt: decoding.choices.get(),
                            prompt_tokens,
                            keep_tokens: decoding.max_tokens != Some(0),
                            admitted,
                            allowed: self.inner().request_timeout,
                            metrics: self.inner().metrics.clone(),
                            watch,
                        }),
                    });
                }
                // The version is being unloaded: the route or the residency already says so.
                Err(SubmitError::Closed) => tokio::task::yield_now().await,
                Err(SubmitError::QueueFull { retry_after }) => {
                    return Err(GatewayError::QueueFull { retry_after });
                }
                Err(SubmitError::TooLong { tokens, limit }) => {
                    return Err(GatewayError::TooLong {
                        param: work.param(),
                        prompt: tokens,
                        asked: 0,
                        limit,
                    });
                }
            }
        }
        Err(GatewayError::no_version(work.address().target.model()))
    }

    /// How a request came to its version; only what was routed is evidence for a rollout.
    pub(super) fn way(&self, address: &Address, by: Option<ChosenBy>) -> Way {
        match (&address.target, by) {
            (Target::Pinned(_), _) => Way::Pinned,
            (Target::Routed(_), Some(ChosenBy::Route)) if self.could_get_either(address) => Way::Routed,
            (Target::Routed(_), _) => Way::Flagged,
        }
    }

    /// The way to the checks, where this answer is to be checked. One of no tokens has nothing to check.
    pub(super) fn watch(&self, backend: &Backend, work: &Work, way: Way) -> Option<Watch> {
        if work.decoding().max_tokens == Some(0) {
            return None;
        }
        let Address { target, sticky, .. } = work.address();
        self.inner().checks.watch(&backend.version, way, || user_number(sticky, target.model()))
    }

    /// Lets the answer be found again where its reader may have a word about it. What finds no room is not found then.
    pub(super) fn remember(&self, response: ResponseId, backend: &Backend, address: &Address, way: Way) {
        let Address { target, sticky, .. } = address;
        let model = target.model();
        if self.inner().models.get(model).and_then(ModelConfig::feedback_check).is_none() {
            return;
        }
        let user = (way == Way::Routed).then(|| user_number(sticky, model));
        let answered = Answered { response, version: backend.version.clone(), user };
        if self.inner().watcher.try_send(Message::Answered(answered)).is_err() {
            self.inner().metrics.observation_dropped(model);
        }
    }

    /// Leaves a copy of a request that stable answers, where a canary is watched on copies.
    pub(super) fn mirror(&self, backend: &Backend, work: &Arc<Work>, way: Way, seed: u64) {
        if way != Way::Routed {
            return;
        }
        let model = work.address().target.model();
        let Some(rollout) = self.inner().releases.rollouts().get(model) else { return };
        let share = rollout.mirror();
        if share == Weight::ZERO || backend.version.version != rollout.stable {
            return;
        }
        self.inner().mirror.offer(share, || {
            let canary = VersionRef { model: model.clone(), version: rollout.canary.clone() };
            Copy { work: Arc::clone(work), canary, seed }
        });
    }

    fn count_refusal(&self, address: &Address, error: &GatewayError) {
        let outcome = match error {
            GatewayError::QueueFull { .. } => Outcome::QueueFull,
            GatewayError::NotReady { .. } | GatewayError::ShuttingDown | GatewayError::CutOff => {
                Outcome::Unavailable
            }
            GatewayError::Deadline { .. } => Outcome::Timeout,
            GatewayError::Engine(_) | GatewayError::Internal { .. } => Outcome::Failed,
            _ => Outcome::Invalid,
        };
        let model = address.target.model();
        let known = self.inner().models.contains_key(model);
        self.inner().metrics.request_refused(if known { model.as_str() } else { "" }, "", outcome);
    }
}

impl Work {
    pub(super) fn address(&self) -> &Address {
        match self {
            Self::Chat(chat) => &chat.address,
            Self::Completion(completion) => &completion.address,
        }
    }

    fn decoding(&self) -> &Decoding {
        match self {
            Self::Chat(chat) => &chat.decoding,
            Self::Completion(completion) => &completion.decoding,
        }
    }

    /// The parameter that holds the prompt.
    fn param(&self) -> &'static str {
        match self {
            Self::Chat(_) => "messages",
            Self::Completion(_) => "prompt",
        }
    }

    fn echo(&self) -> Echo {
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
                let text = render(backend, &chat.conversation)?;
                let tokens = encode(backend, &text, SpecialTokens::Parse, "messages")?;
                Ok(vec![PromptTokens { tokens, text: None }])
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
    Ok(PromptTokens { tokens, text })
}

pub(super) async fn prompts(
    backend: &Arc<Backend>,
    work: &Arc<Work>,
) -> Result<Vec<PromptTokens>, GatewayError> {
    let around = backend.prompt.as_ref().map_or(0, Prompt::bytes);
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

/// How to decode on this version: the client's word, and in a conversation then the prompt's. A completion's text is
/// all the client's own, and a prompt has no say in it.
fn settled<'a>(backend: &Backend, work: &'a Work) -> Settled<'a> {
    match (work, &backend.prompt) {
        (Work::Chat(chat), Some(prompt)) => {
            let sampling = &prompt.spec().sampling;
            Settled {
                decoding: Cow::Owned(chat.decoding.or(sampling)),
                most: sampling.max_tokens.or(backend.defaults.max_new_tokens),
            }
        }
        _ => Settled { decoding: Cow::Borrowed(work.decoding()), most: backend.defaults.max_new_tokens },
    }
}

/// How to decode, once the version is known.
struct Settled<'a> {
    decoding: Cow<'a, Decoding>,
    /// The most tokens of an answer whose client names no end.
    most: Option<NonZeroUsize>,
}

/// The engine requests of all choices, prompt by prompt.
pub(super) fn requests(
    backend: &Backend,
    work: &Work,
    prompts: &[PromptTokens],
    seed: u64,
    priority: Priority,
) -> Result<Vec<GenerateRequest>, GatewayError> {
    let Settled { decoding, most } = settled(backend, work);
    let decoding = &*decoding;
    let biased: Vec<u32> = decoding.logit_bias.iter().map(|(token, _)| *token).collect();
    in_vocabulary(backend, &biased, "logit_bias")?;
    in_vocabulary(backend, &decoding.stop_token_ids, "stop_token_ids")?;
    let limit = backend.max_context();
    let mut requests = Vec::with_capacity(prompts.len() * decoding.choices.get());
    for prompt in prompts {
        let length = prompt.tokens.len();
        if length == 0 {
            let param = work.param();
            return Err(GatewayError::invalid(param, format!("`{param}` gives a prompt of no tokens")));
        }
        // A request for no tokens makes one and throws it away.
        let asked = decoding.max_tokens.map(|max| max.max(1));
        let room = limit.saturating_sub(length);
        let max_tokens = asked.unwrap_or_else(|| match most {
            // the client's least is his word, too, and goes before the version's most
            Some(most) => most.get().max(decoding.min_tokens).min(room),
            None => room,
        });
        if max_tokens == 0 || length.saturating_add(max_tokens) > limit {
            let asked = asked.unwrap_or(1);
            return Err(GatewayError::TooLong { param: work.param(), prompt: length, asked, limit });
        }
        for choice in 0..decoding.choices.get() as u64 {
            requests.push(GenerateRequest {
                prompt: prompt.tokens.clone(),
                sampling: sampling(backend, decoding, seed.wrapping_add(choice)),
                stop: stop(backend, decoding),
                max_tokens,
                min_tokens: decoding.min_tokens.min(max_tokens),
                logprobs: decoding.logprobs,
                prompt_logprobs: if work.echo() == Echo::Repeat { decoding.logprobs } else { None },
                special_text: decoding.special_text,
                priority,
            });
        }
    }
    Ok(requests)
}

/// The client's word first, or the prompt's, then the image's own defaults, then the neutral value.
fn sampling(backend: &Backend, decoding: &Decoding, seed: u64) -> SamplingParams {
    let defaults = &backend.defaults;
    SamplingParams {
        temperature: decoding.temperature.or(defaults.temperature).unwrap_or(1.0),
        top_k: match decoding.top_k {
            Some(TopK::Best(k)) => Some(k),
            Some(TopK::All) => None,
            None => defaults.top_k,
        },
        top_p: decoding.top_p.or(defaults.top_p).unwrap_or(1.0),
        min_p: decoding.min_p.or(defaults.min_p).unwrap_or(0.0),
        repetition_penalty: decoding.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
        presence_penalty: decoding.presence_penalty.unwrap_or(0.0),
        frequency_penalty: decoding.frequency_penalty.unwrap_or(0.0),
        logit_bias: decoding.logit_bias.clone(),
        seed,
    }
}

fn stop(backend: &Backend, decoding: &Decoding) -> StopParams {
    StopParams {
        strings: decoding.stop.clone().unwrap_or_default(),
        token_ids: decoding.stop_token_ids.clone(),
        eos: match decoding.end_of_text {
            EndOfText::Obey => EosPolicy::Stop(backend.eos.clone()),
            EndOfText::Ignore => EosPolicy::Ignore,
        },
        include_stop: match decoding.stop_text {
            StopText::Cut => StopInclusion::Exclude,
            StopText::Include => StopInclusion::Include,
        },
    }
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
