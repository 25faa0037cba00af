//! What a grammar promises, through an engine whose model would rather say something else.

use serde_json::{Value, json};

use super::{Constraint, Grammar, GrammarCompiler};
use crate::engine::testing::{EOS, FakeLm, Fault, tokenizer};
use crate::engine::tests::{SOON, Told, all, config, plain, start};
use crate::engine::*;

fn compiler() -> GrammarCompiler {
    GrammarCompiler::new(&tokenizer(), 257, &[EOS]).unwrap()
}

fn regex(pattern: &str) -> Constraint {
    compiler().compile(Grammar::from_regex(pattern)).unwrap()
}

fn json_schema() -> Constraint {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["kind", "size", "tags"],
    "properties": {
        "kind": {"enum": ["a rather long kind", "b"]},
        "size": {"type": "integer", "minimum": -20, "maximum": 300},
        "tags": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 4}},
    }});
    compiler().compile(Grammar::from_json_schema(schema)).unwrap()
}

fn request(constraint: &Constraint, seed: u64) -> GenerateRequest {
    GenerateRequest {
        prompt: vec![97, 98, seed as u32 % 7],
        sampling: SamplingParams { seed, ..SamplingParams::default() },
        stop: StopParams { eos: EosPolicy::Stop(vec![EOS]), ..StopParams::default() },
        constraint: Some(constraint.clone()),
        ..crate::engine::tests::request(&[1], 120)
    }
}

fn scored(request: GenerateRequest) -> GenerateRequest {
    GenerateRequest { logprobs: Some(1), ..request }
}

fn reason(told: &Told) -> FinishReason {
    told.end.clone().unwrap().unwrap().0
}

#[tokio::test]
async fn answers_at_temperature_one_are_of_their_grammar_in_any_batch_and_memory() {
    let (words, schema) = (regex("(red|green)( (light|dark)){0,3}!"), json_schema());
    let requests = || -> Vec<GenerateRequest> {
        let of = |seed: u64| match seed % 3 {
            0 => request(&words, seed),
            1 => request(&schema, seed),
            _ => GenerateRequest { constraint: None, ..request(&words, seed) },
        };
        (0..48).map(of).collect()
    };
    let mut alone = Vec::new();
    for request in requests() {
        alone.extend(all(&plain(config()), vec![request]).await);
    }
    // room for all, and room for little more than one
    for kv_tokens in [16 * 1024, 160] {
        for max_step_tokens in [3, 512] {
            let engine = plain(EngineConfig { kv_tokens, max_step_tokens, ..config() });
            let together = all(&engine, requests()).await;
            assert_eq!(
                together.iter().map(|t| &t.tokens).collect::<Vec<_>>(),
                alone.iter().map(|t| &t.tokens).collect::<Vec<_>>()
            );
            assert_eq!(engine.drain(SOON).await, DrainOutcome::Finished);
            assert_eq!(engine.stats().blocks_used, 0);
            assert_eq!(engine.stats().preemptions > 0, kv_tokens == 160);
        }
    }
    let is_word = ::regex::Regex::new("^(red|green)( (light|dark)){0,3}!$").unwrap();
    let mut finished = 0;
    for (seed, told) in alone.iter().enumerate() {
        if reason(told) == FinishReason::Length {
            continue;
        }
        match seed % 3 {
            0 => assert!(is_word.is_match(&told.text), "{:?}", told.text),
            1 => {
                let value: Value = serde_json::from_str(&told.text).unwrap();
                assert!((-20..=300).contains(&value["size"].as_i64().unwrap()), "{value}");
            }
            _ => continue,
        }
        finished += 1;
    }
    assert!(finished >= 24, "{finished}");
}

#[tokio::test]
async fn tokens_are_the_same_whether_they_are_forced_or_chosen() {
    let constraint = json_schema();
    let (forced, chosen) = (plain(config()), plain(config()));
    let requests = || (0..24).map(|seed| request(&constraint, seed));
    let with = all(&forced, requests().collect()).await;
    let without = all(&chosen, requests().map(scored).collect()).await;
    for (with, without) in with.iter().zip(&without) {
        assert_eq!((&with.tokens, &with.text, &with.end), (&without.tokens, &without.text, &without.end));
        assert_eq!(without.logprobs.len(), without.tokens.len());
    }
    assert!(forced.stats().steps < chosen.stats().steps);
}

#[tokio::test]
async fn what_leaves_no_choice_takes_one_step_and_counts_as_any_text() {
    let engine = plain(config());
    let told = all(&engine, vec![request(&regex("one two three"), 1)]).await.remove(0);
    assert_eq!((told.text.as_str(), told.tokens.len()), ("one two three", 13));
    let (reason, usage) = told.end.unwrap().unwrap();
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Stop, 13));
    assert_eq!((engine.stats().steps, engine.stats().generated_tokens), (1, 13));
}

#[tokio::test]
async fn limits_and_stops_cut_forced_text_where_they_would_cut_any() {
    let constraint = regex("one two three");
    let engine = plain(config());
    let short = GenerateRequest { max_tokens: 5, ..request(&constraint, 1) };
    let stop = StopParams { strings: vec!["w".into()], ..request(&constraint, 1).stop };
    let stopped = GenerateRequest { stop, ..request(&constraint, 1) };
    let whole = GenerateRequest { max_tokens: 13, min_tokens: 13, ..request(&constraint, 1) };
    let told = all(&engine, vec![short, stopped, whole]).await;
    let ends: Vec<_> =
        told.iter().map(|told| (told.text.as_str(), told.end.clone().unwrap().unwrap())).collect();
    let usage = |completion_tokens| Usage { prompt_tokens: 3, completion_tokens, cached_tokens: 0 };
    assert_eq!(ends[0], ("one t", (FinishReason::Length, usage(5))));
    assert_eq!(ends[1], ("one t", (FinishReason::Stop, usage(6))));
    assert_eq!(ends[2], ("one two three", (FinishReason::Stop, usage(13))));
}

#[tokio::test]
async fn the_end_comes_where_the_grammar_allows_it_and_not_before() {
    let engine = plain(config());
    // ends at any length, and the model chooses where
    let told = all(&engine, (0..20).map(|seed| request(&regex("[ab]*"), seed)).collect()).await;
    for told in &told {
        assert!(told.text.chars().all(|c| "ab".contains(c)), "{:?}", told.text);
    }
    assert!(told.iter().any(|told| reason(told) == FinishReason::Stop && told.tokens.last() == Some(&EOS)));
    let at_least = |seed| GenerateRequest { min_tokens: 9, ..request(&regex("[ab]*|c"), seed) };
    for told in all(&engine, (0..20).map(at_least).collect()).await {
        assert!(told.text == "c" || told.tokens.len() > 9, "{:?}", told.text);
    }
}

#[tokio::test]
async fn a_grammar_that_outgrows_its_limits_ends_its_own_request_only() {
    let (lm, words) = (FakeLm::new(Fault::Nothing), regex("[a-z]{20}"));
    let engine = start(lm, config());
    // the automaton has to remember each of the last characters
    let monster = compiler().compile(Grammar::from_regex("[a-z]*a[a-z]{400}b[a-z]{400}c"));
    let Ok(monster) = monster else { return };
    let monster = GenerateRequest { max_tokens: 2000, ..request(&monster, 1) };
    let told = all(&engine, vec![request(&words, 1), monster, request(&words, 2)]).await;
    assert_eq!((reason(&told[0]), reason(&told[2])), (FinishReason::Stop, FinishReason::Stop));
    assert!(engine.is_alive());
    if let Err(why) = told[1].end.clone().unwrap() {
        assert!(why.starts_with("the answer cannot go on within its grammar: "), "{why}");
    }
}

#[tokio::test]
async fn a_constraint_for_another_vocabulary_is_refused() {
    let other = GrammarCompiler::new(&tokenizer(), 250, &[7]).unwrap();
    let constraint = other.compile(Grammar::from_regex("a+")).unwrap();
    let told = all(&plain(config()), vec![request(&constraint, 1)]).await.remove(0);
    assert!(told.end.unwrap().unwrap_err().contains("a vocabulary of 250 tokens"));
}

#[test]
fn a_grammar_that_is_wrong_says_why() {
    for (grammar, reason) in [
        (Grammar::from_regex("(a"), "unclosed group"),
        (Grammar::from_lark("start: missing".into()), "missing"),
        (Grammar::from_json_schema(json!({"type": "strang"})), "Invalid type: strang"),
        (Grammar::from_json_schema(json!(false)), "nsatisfiable"),
    ] {
        let error = compiler().compile(grammar).unwrap_err().to_string();
        assert!(error.contains(reason) && error.len() <= 1300 && !error.contains('\n'), "{error}");
    }
    assert_eq!(GrammarCompiler::new(&tokenizer(), 257, &[]).unwrap_err(), ConstraintError::NoEnd);
}

#[test]
fn special_tokens_written_in_a_text_stay_text() {
    let constraint = regex("<eos>");
    let mut guide = super::Guide::new(&constraint, super::JumpAhead::Yes);
    let advance = guide.advance(u32::from(b'<'));
    assert_eq!(advance.forced, b"eos>".map(u32::from));
    assert_eq!(advance.then, super::Then::Complete);
}
