//! Schemas at random, at temperature 1: every answer that was not cut validates.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use common::desk::{Desk, desk};
use common::schemas;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

/// How many schemas there are: forty here, and as many as this variable says to show more.
const SCHEMAS: &str = "SWITCHBACK_TEST_SCHEMAS";

/// Requests in flight.
const LANES: usize = 16;

fn schemas() -> u64 {
    std::env::var(SCHEMAS).map_or(40, |schemas| schemas.parse().unwrap())
}

/// How one answer ended, and how many tokens it has.
struct Answered {
    finished: bool,
    tokens: u64,
}

async fn ask(desk: &Desk, seed: u64) -> Answered {
    let schema = schemas::schema(seed);
    let body = json!({
        "model": "desk", "temperature": 1, "seed": seed, "max_tokens": 600,
        "messages": [{"role": "user", "content": "Where is my order?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "random", "schema": schema}},
    });
    let url = format!("http://{}/v1/chat/completions", desk.app.public);
    let response = desk.client.post(url).json(&body).send().await.unwrap();
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert!(status.is_success(), "seed {seed}: {answer}\n{schema}");
    let choice = &answer["choices"][0];
    let finished = choice["finish_reason"] == "stop";
    if finished {
        let text = choice["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}: {text}\n{schema}"));
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        if let Err(error) = validator.validate(&value) {
            panic!("seed {seed}: {error}: {text}\n{schema}");
        }
    }
    if !finished {
        println!("seed {seed} was cut: {schema}\n{:.400}", choice["message"]["content"].to_string());
    }
    Answered { finished, tokens: answer["usage"]["completion_tokens"].as_u64().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_validates_at_temperature_one() {
    let desk = desk().await;
    let begun = Instant::now();
    let answers = stream::iter(1..=schemas()).map(|seed| ask(&desk, seed)).buffer_unordered(LANES);
    let answers: Vec<Answered> = answers.collect().await;
    let finished = answers.iter().filter(|answered| answered.finished).count();
    let tokens: u64 = answers.iter().map(|answered| answered.tokens).sum();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} schemas: {finished} answers finished and validate; {tokens} tokens in {seconds:.1} s",
        answers.len()
    );
    // the demo is no friend of made-up schemas: in open ones, it goes on until it is cut
    assert!(finished * 2 >= answers.len(), "{finished} of {} finished", answers.len());
}
