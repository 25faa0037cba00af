//! Chat, completions and their streams, in the shapes that OpenAI's and vLLM's clients read.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Setup, chat, completion, start, start_with, with};
use futures::StreamExt;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

#[tokio::test]
async fn a_chat_answer_names_its_version_and_counts_its_tokens() {
    let server = start().await;
    let response = server.post(CHAT, &chat()).await;
    assert_eq!(response.headers()["x-switchback-version"], "desk@v1");
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "desk");
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(answer["choices"][0]["logprobs"].is_null());
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let prompt = "user:hello\nassistant:".len();
    assert_eq!(answer["usage"]["prompt_tokens"], prompt);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    assert_eq!(answer["usage"]["total_tokens"], prompt + 4);
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let server = start().await;
    let request = with(chat(), json!({"n": 3, "ignore_eos": true}));
    let whole = server.ask(CHAT, &request).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.events(CHAT, &with(request, options)).await;
    let mut texts = vec![String::new(); 3];
    let mut finished = 0;
    for event in &events[..events.len() - 1] {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["id"], events[0]["id"]);
        assert!(event["usage"].is_null());
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        finished += usize::from(!choice["finish_reason"].is_null());
    }
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(events[i]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(whole["choices"][i]["message"]["content"], json!(text));
    }
    assert_eq!(finished, 3);
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 12);
}

#[tokio::test]
async fn a_choice_of_many_is_what_its_own_seed_gives() {
    let server = start().await;
    let many = server.ask(CHAT, &with(chat(), json!({"n": 3, "seed": 40}))).await;
    for i in 0..3 {
        let one = server.ask(CHAT, &with(chat(), json!({"seed": 40 + i}))).await;
        assert_eq!(many["choices"][i]["message"], one["choices"][0]["message"], "choice {i}");
    }
}

#[tokio::test]
async fn log_probabilities_come_in_both_shapes() {
    let server = start().await;
    let answer = server
        .ask(CHAT, &with(chat(), json!({"logprobs": true, "top_logprobs": 2, "ignore_eos": true})))
        .await;
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 4);
    assert!(tokens.iter().all(|t| t["logprob"].as_f64().unwrap() <= 0.0 && t["bytes"].is_array()));

    let request = with(completion(), json!({"logprobs": 1, "echo": true, "ignore_eos": true}));
    let answer = server.ask(TEXT, &request).await;
    let choice = &answer["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with("hello"));
    // The begin token, five of the prompt, four new ones.
    assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), 10);
    assert!(choice["logprobs"]["token_logprobs"][0].is_null());
    assert!(choice["logprobs"]["top_logprobs"][0].is_null());
    assert!(choice["logprobs"]["token_logprobs"][1].is_number());
    assert_eq!(choice["logprobs"]["text_offset"][0], 0);
}

#[tokio::test]
async fn echo_without_new_tokens_scores_a_prompt() {
    let server = start().await;
    let answer =
        server.ask(TEXT, &with(completion(), json!({"logprobs": 0, "echo": true, "max_tokens": 0}))).await;
    assert_eq!(answer["choices"][0]["text"], "hello");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(answer["usage"]["completion_tokens"], 0);
}

#[tokio::test]
async fn many_prompts_are_answered_prompt_by_prompt() {
    let server = start().await;
    let request = with(completion(), json!({"prompt": ["one", "two"], "n": 2, "echo": true}));
    let answer = server.ask(TEXT, &request).await;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (i, start) in ["one", "one", "two", "two"].into_iter().enumerate() {
        assert_eq!(choices[i]["index"], i);
        assert!(choices[i]["text"].as_str().unwrap().starts_with(start));
    }
    assert_eq!(answer["usage"]["prompt_tokens"], 8);
    let tokens = server.ask(TEXT, &with(completion(), json!({"prompt": [104, 105], "echo": true}))).await;
    assert!(tokens["choices"][0]["text"].as_str().unwrap().starts_with("hi"));
    server.ask(TEXT, &with(completion(), json!({"prompt": [[104], [105, 106]]}))).await;
}

#[tokio::test]
async fn a_streamed_completion_ends_with_its_reason() {
    let server = start().await;
    let events = server
        .events(TEXT, &with(completion(), json!({"stream": true, "echo": true, "ignore_eos": true})))
        .await;
    assert_eq!(events[0]["choices"][0]["text"], "hello");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert!(events.iter().all(|e| e["object"] == "text_completion" && e.get("usage").is_none()));
}

/// What a client of chat puts together from the log-probabilities of a stream's chunks.
fn chat_logprobs(events: &[Value]) -> Vec<Value> {
    let lists = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array());
    lists.flatten().cloned().collect()
}

#[tokio::test]
async fn a_streamed_chat_has_the_log_probabilities_of_the_whole_one() {
    let server = start().await;
    let request = with(chat(), json!({"logprobs": true, "top_logprobs": 2, "ignore_eos": true}));
    let whole = server.ask(CHAT, &request).await;
    let events = server.events(CHAT, &with(request, json!({"stream": true}))).await;
    let streamed = chat_logprobs(&events);
    assert_eq!(streamed.len(), 4);
    assert_eq!(json!(streamed), whole["choices"][0]["logprobs"]["content"]);
}

#[tokio::test]
async fn a_streamed_completion_has_the_log_probabilities_of_the_whole_one() {
    let server = start().await;
    for (echo, count) in [(false, 4), (true, 10)] {
        let request = with(completion(), json!({"logprobs": 2, "echo": echo, "ignore_eos": true}));
        let whole = server.ask(TEXT, &request).await;
        let events = server.events(TEXT, &with(request, json!({"stream": true}))).await;
        let choices = || events.iter().map(|event| &event["choices"][0]);
        let text: String = choices().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(whole["choices"][0]["text"], json!(text));
        for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let lists = choices().filter_map(|choice| choice["logprobs"][column].as_array());
            let streamed: Vec<&Value> = lists.flatten().collect();
            assert_eq!(streamed.len(), count, "{column}");
            assert_eq!(json!(streamed), whole["choices"][0]["logprobs"][column], "{column} with echo {echo}");
        }
    }
}

#[tokio::test]
async fn values_that_ask_for_nothing_are_taken() {
    let server = start().await;
    let harmless = json!({
        "tools": null, "tool_choice": "none", "response_format": {"type": "text"}, "temperature": null, "stop": null,
        "top_k": -1, "store": false, "service_tier": "auto", "stream": false, "logit_bias": {}, "metadata": {"run": "7"},
        "parallel_tool_calls": false, "prompt_cache_key": "desk", "reasoning_effort": null, "verbosity": null,
        "max_completion_tokens": 4, "function_call": "none"
    });
    server.ask(CHAT, &with(chat(), harmless)).await;
    server.ask(CHAT, &with(chat(), json!({"tools": [], "functions": [], "metadata": null}))).await;
    server.ask(CHAT, &with(chat(), json!({"repetition_penalty": 0.01}))).await;
    // An answer, sent back as clients do.
    let said = json!({
        "role": "assistant", "content": "x", "refusal": null, "audio": null, "annotations": [], "tool_calls": null,
        "function_call": null, "reasoning_content": null
    });
    let again =
        json!({"role": "assistant", "content": "x", "tool_calls": [], "reasoning_content": "", "name": null});
    server.ask(CHAT, &with(chat(), json!({"messages": [said, again]}))).await;
    let parts = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]});
    server.ask(CHAT, &with(chat(), parts)).await;
}

#[tokio::test]
async fn tokens_and_text_turn_into_each_other() {
    let server = start().await;
    let tokens = server.ask("/tokenize", &json!({"prompt": "hié", "return_token_strs": true})).await;
    assert_eq!(tokens["tokens"], json!([256, 104, 105, 195, 169]));
    assert_eq!(tokens["count"], 5);
    assert_eq!(tokens["token_strs"].as_array().unwrap().len(), 5);
    assert!(tokens["max_model_len"].as_u64().unwrap() > 0);
    let plain = server
        .ask("/tokenize", &json!({"model": "desk@v2", "prompt": "hi", "add_special_tokens": false}))
        .await;
    assert_eq!(plain["tokens"], json!([104, 105]));
    let text = server.ask("/detokenize", &json!({"model": "desk", "tokens": [104, 105, 195, 169]})).await;
    assert_eq!(text["prompt"], "hié");
    let many = vec![104; 10_000];
    let text = server.ask("/detokenize", &json!({"model": "desk", "tokens": many})).await;
    assert_eq!(text["prompt"], "h".repeat(10_000));
    let messages = json!({"model": "desk", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(server.ask("/tokenize", &messages).await["count"], "user:x\nassistant:".len());
}

#[tokio::test]
async fn models_and_versions_are_listed() {
    let server = start().await;
    let list: Value = server.get("/v1/models").await.json().await.unwrap();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["desk", "desk@broken", "desk@v1", "desk@v2", "desk@v3"]);
    let card: Value = server.get("/v1/models/desk@v2").await.json().await.unwrap();
    assert_eq!(card["parent"], "desk");
    let description: Value = server.get("/openapi.json").await.json().await.unwrap();
    assert!(description["paths"].get("/v1/chat/completions").is_some());
    assert!(description["components"]["schemas"].get("DecodingBody").is_some());
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let server = start().await;
    // more than the sockets' buffers hold, so that it cannot have been answered before the client is missed
    let long = json!({
        "stream": true, "max_tokens": 200, "ignore_eos": true, "n": 100, "logprobs": true, "top_logprobs": 20
    });
    let request = with(chat(), long);
    let mut stream = server.post(CHAT, &request).await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    server.idle().await;
    let text = server.get("/metrics").await.text().await.unwrap();
    assert!(
        text.contains(r#"switchback_requests_total{model="desk",status="cancelled",version="v1"} 1"#),
        "{text}"
    );
}

#[tokio::test]
async fn a_request_past_its_deadline_is_told_so() {
    // Long enough for a body to arrive, which the timeout bounds too; too short for so many tokens.
    let server = start_with(Setup { server: "  request_timeout: 100ms\n", ..Setup::default() }).await;
    let long = json!({"max_tokens": 200, "ignore_eos": true, "n": 128, "logprobs": true, "top_logprobs": 20});
    let long = with(chat(), long);
    let response = server.post(CHAT, &long).await;
    assert_eq!(response.status(), 504);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["error"]["code"], "request_timeout");
    let events = server.events(CHAT, &with(long, json!({"stream": true}))).await;
    assert_eq!(events.last().unwrap()["error"]["code"], "request_timeout");
    server.idle().await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let server = start_with(Setup { engine: "  queue: 1\n  max_running: 1\n", ..Setup::default() }).await;
    let response = server.post(CHAT, &with(chat(), json!({"n": 64, "max_tokens": 100}))).await;
    assert_eq!(response.status(), 429);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["error"]["code"], "queue_full");
    server.idle().await;
    server.ask(CHAT, &chat()).await;
}
