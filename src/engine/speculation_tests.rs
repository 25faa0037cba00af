//! Engines that guess answer as those that do not, whoever guesses, and in fewer steps.

use super::testing::{ECHO, FakeLm, Fault, tokenizer};
use super::tests::{Told, config, listen, request, start};
use super::{Engine, EngineConfig, EngineStats, GenerateRequest, Models, SamplingParams, Turns};

/// Requests of all kinds that have no grammar, whose prompts read alike in places.
fn requests() -> Vec<GenerateRequest> {
    let phrase: Vec<u32> = (0..ECHO as u32).map(|i| 97 + i * 5 % 26).collect();
    let of = |i: usize| {
        let prompt = [&phrase[i % 3..], &phrase[..], &[i as u32, 65]].concat();
        let plain = request(&prompt, 1 + i * 7 % 40);
        let seeded = SamplingParams { temperature: 0.7, seed: i as u64, ..SamplingParams::default() };
        match i % 4 {
            0 => plain,
            1 => GenerateRequest { sampling: seeded, ..plain },
            2 => GenerateRequest {
                sampling: SamplingParams { frequency_penalty: 0.3, repetition_penalty: 1.1, ..seeded },
                min_tokens: 5,
                ..plain
            },
            _ => GenerateRequest { logprobs: Some(2), prompt_logprobs: Some(0), ..plain },
        }
    };
    (0..24).map(of).collect()
}

/// A model that is inclined to echo: what it says is found in its context, and a model that is not guesses it now and then.
fn echo() -> FakeLm {
    FakeLm::new(Fault::Nothing).echoing()
}

fn guessing(speculative_tokens: usize) -> EngineConfig {
    EngineConfig { speculative_tokens, block_size: 8, ..config() }
}

fn start_with(draft: FakeLm, config: EngineConfig) -> Engine {
    let (lm, draft): (Box<dyn crate::model::CausalLm>, _) = (Box::new(echo()), Box::new(draft));
    let memory = config.memory(lm.as_ref()).unwrap();
    let models = Models { lm, draft: Some(draft) };
    Engine::start_with(&memory, "test".into(), models, tokenizer(), config, Turns::default()).unwrap()
}

/// What an engine tells of all of them, a few at a time, and its counters.
async fn told(engine: Engine, together: usize) -> (Vec<Told>, EngineStats) {
    let mut all = Vec::new();
    for few in requests().chunks(together) {
        let generations = few.iter().map(|request| engine.submit(request.clone()).unwrap());
        all.extend(futures::future::join_all(generations.map(listen)).await);
    }
    // which prefixes are still known is no part of an answer
    for told in &mut all {
        if let Some(Ok((_, usage))) = &mut told.end {
            usage.cached_tokens = 0;
        }
    }
    (all, engine.stats())
}

/// What an engine tells that guesses nothing.
async fn plainly_told(together: usize) -> (Vec<Told>, EngineStats) {
    let (told, stats) = told(start(echo(), guessing(0)), together).await;
    assert_eq!(stats.speculated_tokens, 0);
    (told, stats)
}

#[tokio::test]
async fn answers_are_the_same_to_the_token_and_come_in_fewer_steps() {
    for together in [1, 3] {
        let (plain, slow) = plainly_told(together).await;
        let other = start_with(FakeLm::new(Fault::Nothing), guessing(4));
        for engine in [start(echo(), guessing(4)), other] {
            let (speculated, fast) = told(engine, together).await;
            assert_eq!(speculated, plain);
            let EngineStats { steps, speculated_tokens: guessed, accepted_tokens: right, .. } = fast;
            assert!(0 < right && right < guessed, "{right} of {guessed}: both kinds are to come up");
            assert!(steps < slow.steps, "{steps} steps with {right} guesses that were right, {}", slow.steps);
        }
    }
}

/// A step of many sequences has work enough.
#[tokio::test]
async fn nothing_is_guessed_while_many_run() {
    let (plain, _) = plainly_told(24).await;
    for engine in [start(echo(), guessing(4)), start_with(echo(), guessing(4))] {
        let (speculated, stats) = told(engine, 24).await;
        assert_eq!(speculated, plain);
        assert!(stats.speculated_tokens < 24 * 4, "only while the last few run: {stats:?}");
    }
}

/// A draft that is as the model itself is always right: at any temperature, after any change in what it has computed so
/// far, and over prefixes that it shares with others or has computed for itself.
#[tokio::test]
async fn a_draft_of_one_mind_is_always_right() {
    // too few blocks for three at once: some are set aside, and prefixes are thrown out
    let scarce = EngineConfig { kv_tokens: 128, ..guessing(4) };
    // a context takes several steps to be caught up
    let slow = EngineConfig { max_step_tokens: 5, ..guessing(4) };
    for (config, together) in [(guessing(4), 1), (guessing(7), 2), (scarce, 3), (slow.clone(), 1), (slow, 2)]
    {
        let (plain, _) = plainly_told(together).await;
        let (speculated, stats) = told(start_with(echo(), config.clone()), together).await;
        assert_eq!(speculated, plain);
        let EngineStats { speculated_tokens: guessed, accepted_tokens: right, .. } = stats;
        assert!(guessed > 50, "{stats:?}");
        assert_eq!(right, guessed, "{config:?}");
        assert!(stats.prefix_hit_tokens > 0, "{stats:?}");
    }
}

/// Equal prompts of whole blocks, some of which read no prefix: blocks get the content that others have, go back, and are
/// written to by shorter contexts in between.
#[tokio::test]
async fn a_block_that_was_written_to_is_not_taken_for_what_it_was() {
    let engine = start_with(echo(), EngineConfig { kv_tokens: 96, max_step_tokens: 24, ..guessing(4) });
    let whole: Vec<u32> = (0..16).map(|i| 97 + i * 7 % 26).collect();
    for round in 0..60_u32 {
        let length = 1 + round as usize * 5 % 7;
        let scored = GenerateRequest { prompt_logprobs: Some(0), logprobs: Some(0), ..request(&whole, 24) };
        let short = request(&[100 + round; 3], length);
        let plain = request(&whole, 3 + length);
        for few in
            [vec![scored.clone(), plain.clone()], vec![short.clone()], vec![plain, short], vec![scored]]
        {
            let generations = few.iter().map(|request| engine.submit(request.clone()).unwrap());
            futures::future::join_all(generations.map(listen)).await;
        }
    }
    let EngineStats { speculated_tokens: guessed, accepted_tokens: right, .. } = engine.stats();
    assert!(guessed > 1000, "{guessed}");
    assert_eq!(right, guessed);
}

#[tokio::test]
async fn a_draft_that_fails_is_let_go() {
    let (plain, _) = plainly_told(2).await;
    let nan = u32::from(b'a');
    for fault in [Fault::ErrorAt(3), Fault::PanicAt(3), Fault::NanFor(nan)] {
        let (told, stats) = told(start_with(FakeLm::new(fault), guessing(4)), 2).await;
        assert_eq!(told, plain, "{fault:?}");
        assert!(stats.speculated_tokens > 0, "{fault:?}");
    }
}

/// One with fewer positions guesses no further than it can see.
#[tokio::test]
async fn a_draft_that_sees_less_far_guesses_less() {
    let (plain, _) = plainly_told(1).await;
    let short = FakeLm::new(Fault::Nothing).echoing().with_positions(24);
    let (told, stats) = told(start_with(short, guessing(4)), 1).await;
    assert_eq!(told, plain);
    assert!(stats.speculated_tokens > 0 && stats.accepted_tokens == stats.speculated_tokens, "{stats:?}");
}
