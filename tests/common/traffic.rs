//! Requests at random, of all kinds at once, over a tiny base model, two adapters for it, the same weights quantised, a
//! prompt in front of them, and other weights; each names the version that answers it, and has a seed.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use reqwest::Client;
use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::{adapter, model};

pub const VERSIONS: [&str; 6] = ["base", "polite", "brief", "small", "prompted", "other"];

/// Some begin alike, so that the prefix cache has something to find, and to confuse.
const TEXTS: [&str; 6] = [
    "where is my order? it has been three weeks and nobody answers",
    "where is my order? it has been three weeks and I am glad",
    "where is my order? it has been one week",
    "refund, please",
    "größe 日付 \u{1f600}",
    "hello",
];

/// Writes the models, and a configuration of them whose `engine` section has these members.
pub fn configure(folder: &Path, engine: &str) -> PathBuf {
    let base = folder.join("base");
    model::write(&base, "base");
    model::write(&folder.join("other"), "other");
    for name in ["polite", "brief"] {
        adapter::write(&folder.join(name), &base, name);
    }
    std::fs::write(folder.join("kind.md"), "---\ntemperature: 1\n---\nBe kind.\n").unwrap();
    let path = folder.join("switchback.yaml");
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         engine: {{ {engine} }}\n\
         models:\n  desk:\n    versions:\n\
         \x20     base: {{ image: base }}\n\
         \x20     polite: {{ image: base, adapter: polite }}\n\
         \x20     brief: {{ image: base, adapter: brief }}\n\
         \x20     small: {{ image: base, quantize: q8_0 }}\n\
         \x20     prompted: {{ image: base, prompt: kind.md }}\n\
         \x20     other: {{ image: other }}\n\
         \x20   route: {{ base: 100 }}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// One request, and where it goes.
#[derive(Debug)]
pub struct Asked {
    pub path: &'static str,
    pub body: Value,
}

/// The request of a seed.
pub fn request(seed: u64) -> Asked {
    let mut maker = Maker { dice: Dice::of(seed) };
    let mut body = json!({"model": format!("desk@{}", maker.dice.pick(&VERSIONS)), "seed": seed, "max_tokens": 4 + maker.dice.below(36)});
    maker.sample(&mut body);
    maker.end(&mut body);
    maker.keep_to_a_shape(&mut body);
    if maker.dice.one_in(2) {
        body["stream"] = json!(true);
    }
    let text = maker.dice.pick(&TEXTS);
    if maker.dice.one_in(2) {
        body["messages"] = json!([{"role": "user", "content": text}]);
        if maker.dice.one_in(3) {
            body["logprobs"] = json!(true);
            body["top_logprobs"] = json!(maker.dice.below(4));
        }
        Asked { path: "/v1/chat/completions", body }
    } else {
        body["prompt"] = json!(text);
        if maker.dice.one_in(3) {
            body["logprobs"] = json!(maker.dice.below(4));
        }
        Asked { path: "/v1/completions", body }
    }
}

struct Maker {
    dice: Dice,
}

impl Maker {
    fn sample(&mut self, body: &mut Value) {
        body["temperature"] = json!(self.dice.pick(&[0.0, 0.5, 1.0, 1.5]));
        let knobs = [
            ("top_p", json!(0.9)),
            ("top_k", json!(20)),
            ("min_p", json!(0.05)),
            ("frequency_penalty", json!(0.7)),
            ("presence_penalty", json!(-0.4)),
            ("repetition_penalty", json!(1.2)),
            ("logit_bias", json!({"101": 3, "32": -5})),
            ("n", json!(2)),
        ];
        for (name, value) in knobs {
            if self.dice.one_in(4) {
                body[name] = value;
            }
        }
    }

    fn end(&mut self, body: &mut Value) {
        if self.dice.one_in(4) {
            body["stop"] = json!(["e", "\u{fffd}"]);
        }
        if self.dice.one_in(4) {
            body["min_tokens"] = json!(self.dice.below(4));
        }
    }

    fn keep_to_a_shape(&mut self, body: &mut Value) {
        let (name, shape) = match self.dice.below(8) {
            0 => ("guided_regex", json!("[a-z]{3,12} [0-9]{2,8}")),
            1 => ("guided_choice", json!(["yes", "no", "perhaps tomorrow"])),
            2 => (
                "guided_json",
                json!({"type": "object", "additionalProperties": false,
                "required": ["order", "late"], "properties": {
                    "order": {"type": "string", "pattern": "^A-[0-9]{5}$"}, "late": {"type": "boolean"}}}),
            ),
            3 => ("response_format", json!({"type": "json_object"})),
            _ => return,
        };
        body[name] = shape;
    }
}

/// What came of a request: for each choice its text, why it ended, and its log-probabilities.
pub type Choices = Vec<(String, String, Vec<Value>)>;

/// Asks, and reads the answer to its end, or until `events` of its stream have come; then it is dropped.
///
/// # Errors
/// What the server said instead.
pub async fn answer(
    client: &Client,
    url: &str,
    asked: &Asked,
    events: Option<usize>,
) -> Result<Option<Choices>, String> {
    let response = client.post(format!("{url}{}", asked.path)).json(&asked.body).send().await;
    let response = response.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("{}: {}", response.status(), response.text().await.unwrap_or_default()));
    }
    if asked.body["stream"] == true {
        return read(response, events).await;
    }
    let whole: Value = response.json().await.map_err(|error| error.to_string())?;
    let mut choices = Choices::new();
    for choice in whole["choices"].as_array().ok_or_else(|| whole.to_string())? {
        add(&mut choices, choice, &choice["message"]["content"]);
    }
    Ok(Some(choices))
}

async fn read(response: reqwest::Response, events: Option<usize>) -> Result<Option<Choices>, String> {
    let (mut choices, mut pending, mut seen) = (Choices::new(), Vec::new(), 0);
    let mut bytes = response.bytes_stream();
    while let Some(part) = bytes.next().await {
        pending.extend_from_slice(&part.map_err(|error| error.to_string())?);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            if data.trim_ascii() == b"[DONE]" {
                return Ok(Some(choices));
            }
            let chunk: Value = serde_json::from_slice(data).map_err(|error| error.to_string())?;
            for choice in chunk["choices"].as_array().ok_or_else(|| chunk.to_string())? {
                add(&mut choices, choice, &choice["delta"]["content"]);
            }
            seen += 1;
            if events == Some(seen) {
                return Ok(None);
            }
        }
    }
    Err("the stream broke off before [DONE]".to_owned())
}

/// Adds what a choice, whole or a part of a stream, says to what is known of it. `chat` is its text in a chat.
fn add(choices: &mut Choices, choice: &Value, chat: &Value) {
    let index = choice["index"].as_u64().unwrap() as usize;
    if choices.len() <= index {
        choices.resize_with(index + 1, Default::default);
    }
    let (text, finish, logprobs) = &mut choices[index];
    text.push_str(choice["text"].as_str().or_else(|| chat.as_str()).unwrap_or_default());
    finish.push_str(choice["finish_reason"].as_str().unwrap_or_default());
    let said = &choice["logprobs"];
    match said["content"].as_array() {
        Some(tokens) => logprobs.extend(tokens.iter().cloned()),
        None => logprobs.extend(of_completion(said.as_object())),
    }
}

/// The log-probabilities of a completion, token by token.
fn of_completion(said: Option<&Map<String, Value>>) -> Vec<Value> {
    let Some(said) = said else { return Vec::new() };
    let tokens = said["tokens"].as_array().into_iter().flatten().enumerate();
    tokens
        .map(|(i, token)| {
            json!([token, said["token_logprobs"][i], said["top_logprobs"][i], said["text_offset"][i]])
        })
        .collect()
}
