//! Which parameters an endpoint takes, and which fields a message and a part of one. None is ignored in silence: one
//! that we do not know is refused, and so is one that OpenAI or vLLM knows and we do not support, unless its value asks
//! for nothing.

use serde_json::{Map, Value as Json};

use super::error::{ApiError, shown};

/// The fields of one kind of object: of an endpoint's body, of a message, of a part.
pub(super) struct Fields {
    /// What the object is, after "is not".
    what: &'static str,
    /// What it takes, in groups.
    taken: &'static [&'static [&'static str]],
    /// What its models elsewhere take and it does not, in groups.
    unsupported: &'static [&'static [Unsupported]],
}

/// A field that is known and not supported.
struct Unsupported {
    name: &'static str,
    /// The values that ask for nothing and so do no harm; `null` always is one.
    harmless: fn(&Json) -> bool,
}

const fn never(name: &'static str) -> Unsupported {
    Unsupported { name, harmless: |_| false }
}

const fn unless_empty(name: &'static str) -> Unsupported {
    Unsupported { name, harmless: is_empty }
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::String(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(members) => members.is_empty(),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

const PARAMETER: &str = "a parameter of this endpoint";

/// How text is decoded: the same for chat and completions.
const DECODING: &[&str] = &[
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "max_tokens",
    "skip_special_tokens",
    "n",
    "stream",
    "stream_options",
    "user",
    "safety_identifier",
    "logprobs",
    "priority",
];

/// What the answer is to look like.
pub(super) const STRUCTURE: &[&str] = &[
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "guided_whitespace_pattern",
];

/// What the answer may call.
pub(super) const TOOLS: &[&str] = &["tools", "tool_choice", "parallel_tool_calls"];

/// What vLLM takes on chat and on completions, and we do not.
const VLLM: &[Unsupported] = &[
    never("prompt_logprobs"),
    never("use_beam_search"),
    never("length_penalty"),
    never("early_stopping"),
    never("spaces_between_special_tokens"),
    never("truncate_prompt_tokens"),
    never("allowed_token_ids"),
    never("bad_words"),
    never("logits_processors"),
    never("request_id"),
];

/// Parameters of POST /v1/chat/completions.
pub(super) const CHAT: Fields = Fields {
    what: PARAMETER,
    taken: &[
        DECODING,
        STRUCTURE,
        TOOLS,
        &[
            "messages",
            "max_completion_tokens",
            "top_logprobs",
            "add_generation_prompt",
            "chat_template_kwargs",
            "prompt_variables",
            "reasoning_effort",
            "metadata",
        ],
    ],
    unsupported: &[
        VLLM,
        &[
            Unsupported { name: "store", harmless: |v| v == false },
            Unsupported {
                name: "modalities",
                harmless: |v| v.as_array().is_some_and(|a| a.iter().all(|m| m == "text")),
            },
            Unsupported { name: "service_tier", harmless: |v| v == "auto" || v == "default" },
            unless_empty("functions"),
            Unsupported { name: "function_call", harmless: |v| v == "none" },
            never("audio"),
            never("prediction"),
            Unsupported { name: "verbosity", harmless: |v| v == "medium" },
            never("moderation"),
            never("prompt_cache_options"),
            never("web_search_options"),
            // The prefix cache works by itself: equal beginnings are found without a key.
            Unsupported { name: "prompt_cache_key", harmless: Json::is_string },
            never("prompt_cache_retention"),
            never("best_of"),
            never("echo"),
            never("continue_final_message"),
            never("documents"),
            never("chat_template"),
            never("mm_processor_kwargs"),
        ],
    ],
};

/// Parameters of POST /v1/completions.
pub(super) const COMPLETION: Fields = Fields {
    what: PARAMETER,
    taken: &[DECODING, STRUCTURE, &["prompt", "echo", "best_of"]],
    unsupported: &[
        VLLM,
        &[
            Unsupported { name: "suffix", harmless: |v| v == "" },
            never("add_special_tokens"),
            never("prompt_embeds"),
        ],
    ],
};

/// Parameters of POST /tokenize.
pub(super) const TOKENIZE: Fields = Fields {
    what: PARAMETER,
    taken: &[&[
        "model",
        "prompt",
        "messages",
        "add_special_tokens",
        "add_generation_prompt",
        "return_token_strs",
        "chat_template_kwargs",
        "prompt_variables",
    ]],
    unsupported: &[&[unless_empty("tools"), never("continue_final_message"), never("chat_template")]],
};

/// Parameters of POST /detokenize.
pub(super) const DETOKENIZE: Fields =
    Fields { what: PARAMETER, taken: &[&["model", "tokens"]], unsupported: &[] };

/// What would need a memory of former answers: this server keeps none.
const STATELESS: &[Unsupported] = &[
    Unsupported { name: "store", harmless: |v| v == false },
    never("previous_response_id"),
    never("conversation"),
    Unsupported { name: "background", harmless: |v| v == false },
];

/// Parameters of POST /v1/responses.
pub(super) const RESPONSES: Fields = Fields {
    what: PARAMETER,
    taken: &[&[
        "model",
        "input",
        "instructions",
        "max_output_tokens",
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "metadata",
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
    ]],
    unsupported: &[
        STATELESS,
        &[
            unless_empty("include"),
            never("max_tool_calls"),
            never("prompt"),
            Unsupported { name: "prompt_cache_key", harmless: Json::is_string },
            never("prompt_cache_retention"),
            Unsupported { name: "service_tier", harmless: |v| v == "auto" || v == "default" },
            Unsupported { name: "top_logprobs", harmless: |v| v == 0 },
            Unsupported { name: "truncation", harmless: |v| v == "disabled" },
        ],
    ],
};

/// Parameters of POST /v1/messages.
pub(super) const MESSAGES: Fields = Fields {
    what: PARAMETER,
    taken: &[&[
        "model",
        "messages",
        "max_tokens",
        "system",
        "stop_sequences",
        "temperature",
        "top_p",
        "top_k",
        "stream",
        "tools",
        "tool_choice",
        "metadata",
        "thinking",
    ]],
    unsupported: &[&[
        never("container"),
        never("context_management"),
        unless_empty("mcp_servers"),
        never("output_config"),
        never("output_format"),
        Unsupported { name: "service_tier", harmless: |v| v == "auto" || v == "standard_only" },
    ]],
};

/// Parameters of POST /v1/embeddings.
pub(super) const EMBEDDINGS: Fields = Fields {
    what: PARAMETER,
    taken: &[&["model", "input", "encoding_format", "dimensions", "truncate_prompt_tokens", "user"]],
    unsupported: &[&[never("priority"), never("add_special_tokens"), never("normalize"), never("messages")]],
};

/// Parameters of POST /v1/rerank.
pub(super) const RERANK: Fields = Fields {
    what: PARAMETER,
    taken: &[&["model", "query", "documents", "top_n", "return_documents", "truncate_prompt_tokens", "user"]],
    unsupported: &[&[
        never("priority"),
        never("max_tokens_per_doc"),
        never("max_chunks_per_doc"),
        never("rank_fields"),
    ]],
};

/// Parameters of POST /v1/feedback.
pub(super) const FEEDBACK: Fields =
    Fields { what: PARAMETER, taken: &[&["response_id", "score"]], unsupported: &[] };

/// Fields of a message beyond those that [`Message`](super::openai::Message) has. Clients send an answer back as they
/// got it, so what an answer of ours or of another server holds without meaning is harmless.
pub(super) const MESSAGE: Fields = Fields {
    what: "a field of a message",
    taken: &[],
    unsupported: &[&[
        unless_empty("refusal"),
        unless_empty("annotations"),
        unless_empty("reasoning"),
        never("audio"),
        never("function_call"),
    ]],
};

/// Fields of a part of text beyond those that [`Part`](super::openai::Part) has.
pub(super) const PART: Fields =
    Fields { what: "a field of a part of text", taken: &[], unsupported: &[&[unless_empty("annotations")]] };

impl Fields {
    /// Refuses the first parameter of a body that this endpoint does not take.
    pub(super) fn check(&self, map: &Map<String, Json>) -> Result<(), ApiError> {
        self.check_within(map, "")
    }

    /// Refuses the first field that the object at `place` does not take. `place` is a path, such as `messages[0].`.
    pub(super) fn check_within(&self, map: &Map<String, Json>, place: &str) -> Result<(), ApiError> {
        map.iter().try_for_each(|(name, value)| self.check_one(name, value, place))
    }

    /// Whether the endpoint is one whose model elsewhere remembers its answers.
    fn keeps_nothing(&self) -> bool {
        self.unsupported.iter().copied().flatten().any(|u| u.name == "previous_response_id")
    }

    fn check_one(&self, name: &str, value: &Json, place: &str) -> Result<(), ApiError> {
        if self.taken.iter().any(|group| group.contains(&name)) {
            return Ok(());
        }
        match self.unsupported.iter().copied().flatten().find(|u| u.name == name) {
            Some(u) if value.is_null() || (u.harmless)(value) => Ok(()),
            Some(u) => {
                let param = format!("{place}{}", u.name);
                if STATELESS.iter().any(|other| other.name == u.name) && self.keeps_nothing() {
                    let message = format!(
                        "this server is stateless, so that `{param}` cannot have this value: send the whole conversation in `input`"
                    );
                    return Err(ApiError::parameter("unsupported_parameter", param, message));
                }
                let message = format!("this server does not support this value of `{param}`; leave it out");
                Err(ApiError::parameter("unsupported_parameter", param, message))
            }
            None => {
                let name: String = name.chars().take(80).collect();
                let param = format!("{place}{name}");
                let message = format!("{} is not {}; leave it out", shown(&param), self.what);
                Err(ApiError::parameter("unknown_parameter", param, message))
            }
        }
    }
}
