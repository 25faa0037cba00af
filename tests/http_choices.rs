//! Several answers to one prompt: each has its seed and its index, and the prompt is computed once.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Setup, chat, completion, start, start_with, with};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn texts(answer: &Value) -> Vec<String> {
    let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
    answer["choices"].as_array().unwrap().iter().map(text).collect()
}

#[tokio::test]
async fn choice_i_is_what_a_request_of_one_with_seed_plus_i_gets() {
    let server = start().await;
    let request = with(chat(), json!({"max_tokens": 12, "seed": 40, "ignore_eos": true}));
    let three = server.ask(CHAT, &with(request.clone(), json!({"n": 3}))).await;
    let three = texts(&three);
    for (i, text) in three.iter().enumerate() {
        let alone = server.ask(CHAT, &with(request.clone(), json!({"seed": 40 + i}))).await;
        assert_eq!(&texts(&alone)[0], text, "choice {i}");
    }
    assert_ne!(three[0], three[1]);
}

#[tokio::test]
async fn streamed_choices_put_together_are_the_whole_ones_and_the_usage_is_their_sum() {
    let server = start().await;
    let request = with(chat(), json!({"n": 3, "max_tokens": 9, "ignore_eos": true}));
    let whole = server.ask(CHAT, &request).await;
    assert_eq!(whole["usage"]["completion_tokens"], 27);
    assert_eq!(whole["usage"]["prompt_tokens"], "user:hello\nassistant:".len());
    let stream = with(request, json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = server.events(CHAT, &stream).await;
    let (mut streamed, mut ends) = (vec![String::new(); 3], Vec::new());
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        let index = choice["index"].as_u64().unwrap() as usize;
        streamed[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        ends.extend(choice["finish_reason"].as_str().map(|_| index));
    }
    ends.sort_unstable();
    assert_eq!((streamed, ends), (texts(&whole), vec![0, 1, 2]));
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 27);
}

#[tokio::test]
async fn the_prompt_of_many_choices_is_computed_once() {
    let server = start_with(Setup { engine: "  block_size: 16\n", ..Setup::default() }).await;
    let prompt = "a prompt of some length ".repeat(8); // 192 tokens, and one that begins the text
    let request = json!({"model": "desk@v1", "prompt": prompt, "n": 5, "max_tokens": 3, "ignore_eos": true});
    server.ask(TEXT, &request).await;
    let spared =
        server.counted(r#"switchback_engine_prefix_hit_tokens_total{model="desk",version="v1"}"#).await;
    assert_eq!(spared, 4 * 192);
}

#[tokio::test]
async fn best_of_gives_the_likeliest_of_the_answers_it_makes() {
    let server = start().await;
    let base = with(completion(), json!({"max_tokens": 6, "ignore_eos": true, "logprobs": 0}));
    let all = server.ask(TEXT, &with(base.clone(), json!({"n": 6}))).await;
    let mean = |choice: &Value| {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs.iter().map(|x| x.as_f64().unwrap()).sum::<f64>() / logprobs.len() as f64
    };
    let mut ranked: Vec<&Value> = all["choices"].as_array().unwrap().iter().collect();
    ranked.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let best = server.ask(TEXT, &with(base.clone(), json!({"n": 2, "best_of": 6}))).await;
    let texts: Vec<&Value> =
        best["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, [&ranked[0]["text"], &ranked[1]["text"]]);
    assert_eq!(best["choices"][1]["index"], 1);
    assert_eq!(best["usage"]["completion_tokens"], 36, "all that were made are counted");
    let plain = server.ask(TEXT, &with(base, json!({"best_of": 6, "logprobs": null}))).await;
    assert_eq!((&plain["choices"][0]["text"], &plain["choices"][0]["logprobs"]), (texts[0], &Value::Null));
}

#[tokio::test]
async fn choices_that_find_no_place_leave_none_of_the_others_behind() {
    let server = start_with(Setup { engine: "  queue: 4\n  max_running: 1\n", ..Setup::default() }).await;
    let response = server.post(CHAT, &with(chat(), json!({"n": 40, "max_tokens": 100}))).await;
    assert_eq!(response.status(), 429);
    server.idle().await;
    let one = server.ask(CHAT, &with(chat(), json!({"n": 2}))).await;
    assert_eq!(texts(&one).len(), 2);
}
