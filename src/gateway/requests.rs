//! From what a client asks for to what an engine is asked: one request for each choice.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use super::GatewayError;
use super::backend::{Backend, Decoder};
use super::command::{Decoding, Echo, EndOfText, StopText};
use super::tokens::in_vocabulary;
use super::work::{PromptTokens, Work};
use crate::config::sampling::TopK;
use crate::engine::{
    Constraint, EosPolicy, GenerateRequest, Priority, SamplingParams, SchedulingPolicy, StopInclusion,
    StopParams,
};

/// How to decode on this version: the client's word, and in a conversation then the prompt's. A completion's text is
/// all the client's own, and a prompt has no say in it.
fn settled<'a>(backend: &Backend, decoder: &Decoder, work: &'a Work) -> Settled<'a> {
    let most = decoder.model.generation.max_new_tokens;
    match (work, &backend.prepared.prompt) {
        (Work::Chat(chat), Some(prompt)) => {
            let sampling = &prompt.spec().sampling;
            Settled { decoding: Cow::Owned(chat.decoding.or(sampling)), most: sampling.max_tokens.or(most) }
        }
        _ => Settled { decoding: Cow::Borrowed(work.decoding()), most },
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
    constraint: Option<&Constraint>,
    seed: u64,
    priority: Priority,
) -> Result<Vec<GenerateRequest>, GatewayError> {
    let decoder = backend.prepared.decoder()?;
    let Settled { decoding, most } = settled(backend, decoder, work);
    let decoding = &*decoding;
    let biased: Vec<u32> = decoding.logit_bias.iter().map(|(token, _)| *token).collect();
    in_vocabulary(backend, &biased, "logit_bias")?;
    in_vocabulary(backend, &decoding.stop_token_ids, "stop_token_ids")?;
    if decoding.priority != 0 && backend.engine()?.limits().scheduling_policy == SchedulingPolicy::Fcfs {
        let message = "this model serves who came first: leave `priority` out, or have its operators set \
                       `engine.scheduling_policy` to `priority`";
        return Err(GatewayError::invalid("priority", message));
    }
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
                sampling: sampling(decoder, decoding, seed.wrapping_add(choice)),
                stop: stop(decoder, decoding),
                max_tokens,
                min_tokens: decoding.min_tokens.min(max_tokens),
                logprobs: decoding.logprobs,
                prompt_logprobs: if work.echo() == Echo::Repeat { decoding.logprobs } else { None },
                constraint: constraint.cloned(),
                special_text: decoding.special_text,
                shown: prompt.speech.marks(&decoder.model.tokenizer),
                priority,
                rank: decoding.priority,
            });
        }
    }
    Ok(requests)
}

/// The client's word first, or the prompt's, then the image's own defaults, then the neutral value.
fn sampling(decoder: &Decoder, decoding: &Decoding, seed: u64) -> SamplingParams {
    let defaults = &decoder.model.generation;
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

fn stop(decoder: &Decoder, decoding: &Decoding) -> StopParams {
    // where a grammar says where the end is, there it is
    let is_ignored = decoding.end_of_text == EndOfText::Ignore && decoding.structure.is_none();
    StopParams {
        strings: decoding.stop.clone().unwrap_or_default(),
        token_ids: decoding.stop_token_ids.clone(),
        eos: if is_ignored { EosPolicy::Ignore } else { EosPolicy::Stop(decoder.model.eos.clone()) },
        include_stop: match decoding.stop_text {
            StopText::Cut => StopInclusion::Exclude,
            StopText::Include => StopInclusion::Include,
        },
    }
}

/// What keeps answers to the shape that was asked for, if one was, or its calls to their tools.
pub(super) async fn constraint(
    backend: &Backend,
    work: &Work,
    prompts: &[PromptTokens],
) -> Result<Option<Constraint>, GatewayError> {
    let Decoder { structures, model, .. } = backend.prepared.decoder()?;
    if let Some(structure) = &work.decoding().structure {
        return structures.constraint(model, structure).await.map(Some);
    }
    let mut result = Ok(None);
    for calls in prompts.iter().flat_map(|prompt| &prompt.speech.calls) {
        result = structures.constraint(model, calls).await.map(Some);
        if result.is_ok() {
            break;
        }
    }
    result
}
