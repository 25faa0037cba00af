//! Which top-level parameters an endpoint takes. A parameter is never ignored in silence: one that we do not know
//! is refused, and so is one that OpenAI or vLLM knows and we do not support, unless its value asks for nothing.

use serde_json::{Map, Value as Json};

use super::error::{ApiError, shown};

/// The parameters of one endpoint.
pub(super) struct Fields {
    /// What it takes, in groups.
    pub(super) taken: &'static [&'static [&'static str]],
    /// What its models elsewhere take and it does not.
    pub(super) unsupported: &'static [Unsupported],
}

/// A parameter that is known and not supported.
pub(super) struct Unsupported {
    name: &'static str,
    /// The values that ask for nothing and so do no harm; `null` always is one.
    harmless: fn(&Json) -> bool,
}

const fn never(name: &'static str) -> Unsupported {
    Unsupported { name, harmless: |_| false }
}

/// How text is decoded: the same for chat and completions.
pub(super) const DECODING: &[&str] = &[
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
];

/// Parameters of POST /v1/chat/completions.
pub(super) const CHAT: Fields = Fields {
    taken: &[
        DECODING,
        &[
            "messages",
            "max_completion_tokens",
            "top_logprobs",
            "add_generation_prompt",
            "chat_template_kwargs",
        ],
    ],
    unsupported: &[
        Unsupported { name: "response_format", harmless: |v| v["type"] == "text" },
        Unsupported { name: "tool_choice", harmless: |v| v == "none" },
        Unsupported { name: "store", harmless: |v| v == false },
        Unsupported {
            name: "modalities",
            harmless: |v| v.as_array().is_some_and(|a| a.iter().all(|m| m == "text")),
        },
        Unsupported { name: "service_tier", harmless: |v| v == "auto" || v == "default" },
        never("tools"),
        never("functions"),
        never("function_call"),
        never("parallel_tool_calls"),
        never("audio"),
        never("metadata"),
        never("prediction"),
        never("reasoning_effort"),
        never("verbosity"),
        never("web_search_options"),
        never("prompt_cache_key"),
        never("prompt_cache_retention"),
        never("best_of"),
        never("echo"),
        never("continue_final_message"),
        never("documents"),
        never("chat_template"),
        never("mm_processor_kwargs"),
        never("guided_json"),
        never("guided_regex"),
        never("guided_choice"),
        never("guided_grammar"),
        never("structured_outputs"),
        never("prompt_logprobs"),
        never("use_beam_search"),
        never("length_penalty"),
        never("early_stopping"),
        never("spaces_between_special_tokens"),
        never("truncate_prompt_tokens"),
        never("allowed_token_ids"),
        never("bad_words"),
        never("logits_processors"),
        never("priority"),
        never("request_id"),
    ],
};

/// Parameters of POST /v1/completions.
pub(super) const COMPLETION: Fields = Fields {
    taken: &[DECODING, &["prompt", "echo", "best_of"]],
    unsupported: &[
        Unsupported { name: "response_format", harmless: |v| v["type"] == "text" },
        Unsupported { name: "suffix", harmless: |v| v == "" },
        never("add_special_tokens"),
        never("prompt_embeds"),
        never("guided_json"),
        never("guided_regex"),
        never("guided_choice"),
        never("guided_grammar"),
        never("structured_outputs"),
        never("prompt_logprobs"),
        never("use_beam_search"),
        never("length_penalty"),
        never("early_stopping"),
        never("spaces_between_special_tokens"),
        never("truncate_prompt_tokens"),
        never("allowed_token_ids"),
        never("bad_words"),
        never("logits_processors"),
        never("priority"),
        never("request_id"),
    ],
};

/// Parameters of POST /tokenize.
pub(super) const TOKENIZE: Fields = Fields {
    taken: &[&[
        "model",
        "prompt",
        "messages",
        "add_special_tokens",
        "add_generation_prompt",
        "return_token_strs",
        "chat_template_kwargs",
    ]],
    unsupported: &[never("tools"), never("continue_final_message"), never("chat_template")],
};

/// Parameters of POST /detokenize.
pub(super) const DETOKENIZE: Fields = Fields { taken: &[&["model", "tokens"]], unsupported: &[] };

impl Fields {
    /// Refuses the first parameter that this endpoint does not take.
    pub(super) fn check(&self, map: &Map<String, Json>) -> Result<(), ApiError> {
        for (name, value) in map {
            if self.taken.iter().any(|group| group.contains(&name.as_str())) {
                continue;
            }
            match self.unsupported.iter().find(|u| u.name == name) {
                Some(u) if value.is_null() || (u.harmless)(value) => {}
                Some(u) => {
                    return Err(ApiError::parameter(
                        "unsupported_parameter",
                        u.name,
                        format!("`{}` with this value is not supported by this server; leave it out", u.name),
                    ));
                }
                None => {
                    return Err(ApiError::parameter(
                        "unknown_parameter",
                        name.chars().take(80).collect::<String>(),
                        format!("{} is not a parameter of this endpoint", shown(name)),
                    ));
                }
            }
        }
        Ok(())
    }
}
