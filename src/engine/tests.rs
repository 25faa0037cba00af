//! The engine's promises, with threads and all.

use std::time::Duration;

use futures::StreamExt;

use super::testing::{EOS, FakeLm, Fault, Gate, greedy, tokenizer};
use super::*;
use crate::model::SpecialText;

pub(super) const SOON: Duration = Duration::from_mins(1);

pub(super) fn config() -> EngineConfig {
    EngineConfig { kv_tokens: 16 * 1024, block_size: 4, ..EngineConfig::default() }
}

pub(super) fn start(lm: FakeLm, config: EngineConfig) -> Engine {
    Engine::start("test".into(), Box::new(lm), tokenizer(), config, Turns::default()).unwrap()
}

pub(super) fn plain(config: EngineConfig) -> Engine {
    start(FakeLm::new(Fault::Nothing), config)
}

pub(super) fn gated(config: EngineConfig) -> (Engine, Gate) {
    let (lm, gate) = FakeLm::new(Fault::Nothing).gated();
    (start(lm, config), gate)
}

pub(super) fn request(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_vec(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopParams::default(),
        max_tokens,
        min_tokens: 0,
        logprobs: None,
        prompt_logprobs: None,
        constraint: None,
        special_text: SpecialText::Skip,
        shown: Vec::new(),
        priority: Priority::Foreground,
        rank: 0,
    }
}

/// Prompts of several lengths; many begin alike.
pub(super) fn prompts() -> Vec<Vec<u32>> {
    let shared: Vec<u32> = (0..40).map(|i| 97 + i * 7 % 26).collect();
    (0..64u32)
        .map(|i| [&shared[..(i as usize % 5) * 10], &[i, i + 1, 65][..=i as usize % 3]].concat())
        .collect()
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    pub(super) tokens: Vec<u32>,
    pub(super) text: String,
    prompt: Vec<TokenLogprob>,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) end: Option<Result<(FinishReason, Usage), String>>,
}

/// All that a generation says; an engine that stands still fails the test.
pub(super) async fn listen(generation: Generation) -> Told {
    tokio::time::timeout(SOON, told(generation)).await.expect("the engine stands still")
}

async fn told(mut generation: Generation) -> Told {
    let mut told = Told::default();
    while let Some(event) = generation.next().await {
        assert!(told.end.is_none(), "{event:?} after the end");
        match event {
            Event::Started { prompt, .. } => {
                assert!(told.tokens.is_empty());
                told.prompt = prompt;
            }
            Event::Token(token) => {
                told.tokens.push(token.token);
                told.text.push_str(&token.text);
                told.logprobs.extend(token.logprob);
            }
            Event::Text(text) => told.text.push_str(&text),
            Event::Finished { reason, usage } => told.end = Some(Ok((reason, usage))),
            Event::Failed(why) => told.end = Some(Err(why.to_string())),
        }
    }
    assert!(told.end.is_some(), "a stream without an end");
    told
}

pub(super) async fn all(engine: &Engine, requests: Vec<GenerateRequest>) -> Vec<Told> {
    let generations: Vec<_> = requests.into_iter().map(|r| engine.submit(r).unwrap()).collect();
    futures::future::join_all(generations.into_iter().map(listen)).await
}

fn text_of(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().filter(|t| **t != EOS).map(|t| *t as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn sixty_four_at_once_each_get_the_text_that_they_would_get_alone() {
    let alone: Vec<Vec<u32>> = prompts().iter().map(|p| greedy(p, 24)).collect();
    for prefix_cache in [PrefixCache::On, PrefixCache::Off] {
        for max_step_tokens in [1, 7, 64, 512] {
            // Room for all, and room for little more than one.
            for kv_tokens in [16 * 1024, 96] {
                let engine = plain(EngineConfig { kv_tokens, max_step_tokens, prefix_cache, ..config() });
                let requests = prompts().iter().map(|p| request(p, 24)).collect();
                for (told, alone) in all(&engine, requests).await.iter().zip(&alone) {
                    assert_eq!(&told.tokens, alone, "{prefix_cache:?} {max_step_tokens} {kv_tokens}");
                    assert_eq!(told.text, text_of(alone));
                    let (reason, usage) = told.end.clone().unwrap().unwrap();
                    assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, 24));
                }
                assert_eq!(engine.drain(SOON).await, DrainOutcome::Finished);
                let stats = engine.stats();
                assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
                assert_eq!(stats.generated_tokens, 64 * 24);
                assert_eq!(stats.preemptions > 0, kv_tokens == 96, "preemptions: {}", stats.preemptions);
                if prefix_cache == PrefixCache::Off {
                    assert_eq!(stats.prefix_hit_tokens, 0);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_second_request_reads_the_prefix_of_the_first() {
    let engine = plain(config());
    let prompt: Vec<u32> = (0..41).collect();
    let first = listen(engine.submit(request(&prompt, 5)).unwrap()).await;
    let second = listen(engine.submit(request(&prompt, 5)).unwrap()).await;
    assert_eq!(first.tokens, second.tokens);
    let cached = |told: &Told| told.end.clone().unwrap().unwrap().1.cached_tokens;
    assert_eq!((cached(&first), cached(&second)), (0, 40));
    assert_eq!((engine.stats().prefix_hit_tokens, engine.stats().prompt_tokens), (40, 82));
}

#[tokio::test]
async fn a_seed_gives_the_same_text_alone_in_a_batch_and_after_preemption() {
    let request = |(i, prompt): (usize, &Vec<u32>)| GenerateRequest {
        sampling: SamplingParams {
            seed: i as u64 % 7,
            top_p: 0.9,
            repetition_penalty: 1.2,
            frequency_penalty: 0.3,
            ..SamplingParams::default()
        },
        logprobs: Some(2),
        prompt_logprobs: (i % 4 == 0).then_some(1),
        ..request(prompt, 20)
    };
    let prompts = prompts();
    let requests = || prompts.iter().enumerate().map(request);
    let mut alone = Vec::new();
    let engine = plain(config());
    for request in requests() {
        alone.push(listen(engine.submit(request).unwrap()).await);
    }
    let engine = plain(EngineConfig { kv_tokens: 96, max_step_tokens: 7, ..config() });
    for (i, (one, told)) in alone.iter().zip(all(&engine, requests().collect()).await).enumerate() {
        assert_eq!((&one.tokens, &one.text), (&told.tokens, &told.text));
        assert_eq!((&one.logprobs, &one.prompt), (&told.logprobs, &told.prompt));
        assert_eq!(told.prompt.len(), if i % 4 == 0 { prompts[i].len() } else { 0 });
        assert_eq!(told.logprobs.len(), 20);
    }
    assert!(engine.stats().preemptions > 0);
    let other = requests().next().unwrap();
    let other = GenerateRequest { sampling: SamplingParams { seed: 99, ..other.sampling.clone() }, ..other };
    assert_ne!(listen(engine.submit(other).unwrap()).await.tokens, alone[0].tokens);
}

#[tokio::test]
async fn a_presence_penalty_remembers_what_was_generated() {
    let mut request = request(&[1, 2, 3], 60);
    request.sampling.presence_penalty = 100.0;
    let told = listen(plain(config()).submit(request).unwrap()).await;
    let distinct: std::collections::HashSet<_> = told.tokens.iter().collect();
    assert_eq!(distinct.len(), 60);
}

#[tokio::test]
async fn a_generation_that_is_dropped_frees_its_blocks_before_the_next_step() {
    let (engine, gate) = gated(config());
    let dropped = engine.submit(request(&[1; 40], 100)).unwrap();
    gate.wait();
    assert_eq!(engine.stats().blocks_used, 10);
    drop(dropped);
    gate.pass();
    drop(gate);
    assert_eq!(engine.drain(SOON).await, DrainOutcome::Finished);
    assert_eq!((engine.stats().blocks_used, engine.stats().steps), (0, 1));
}

#[tokio::test]
async fn a_slow_client_holds_nobody_up() {
    let engine = plain(config());
    let unread = engine.submit(request(&[1, 2], 500)).unwrap();
    let told = listen(engine.submit(request(&[3, 4], 600)).unwrap()).await;
    assert_eq!(told.tokens, greedy(&[3, 4], 600));
    assert_eq!(listen(unread).await.tokens, greedy(&[1, 2], 500));
}

#[tokio::test]
async fn a_stop_string_over_several_tokens_ends_the_text_before_it() {
    let engine = plain(config());
    let prompt =
        prompts().into_iter().find(|p| greedy(p, 30).iter().all(|token| (32..127).contains(token))).unwrap();
    let tokens = greedy(&prompt, 30);
    let text = text_of(&tokens);
    let stop: String = text.chars().skip(10).take(4).collect();
    let at = text.find(&stop).unwrap();
    for (include_stop, end) in [(StopInclusion::Exclude, at), (StopInclusion::Include, at + stop.len())] {
        let stop =
            StopParams { strings: vec![stop.clone(), "never".into()], include_stop, ..StopParams::default() };
        let told = listen(engine.submit(GenerateRequest { stop, ..request(&prompt, 30) }).unwrap()).await;
        assert_eq!(told.text, text[..end]);
        assert_eq!(told.end.unwrap().unwrap().0, FinishReason::Stop);
    }
}

#[tokio::test]
async fn end_of_text_stops_but_not_before_the_least_tokens() {
    let engine = plain(config());
    let eos = |eos, min_tokens| {
        let mut request = request(&[5, 6], 12);
        request.sampling.logit_bias = vec![(EOS, 100.0)];
        request.stop.eos = eos;
        request.min_tokens = min_tokens;
        request.logprobs = Some(0);
        request
    };
    let told = listen(engine.submit(eos(EosPolicy::Stop(vec![EOS]), 3)).unwrap()).await;
    assert_eq!((told.tokens.len(), told.logprobs.len()), (4, 3));
    assert_eq!(told.tokens[3], EOS);
    assert_eq!(told.text, text_of(&told.tokens));
    assert_eq!(told.end.unwrap().unwrap().0, FinishReason::Stop);
    let told = listen(engine.submit(eos(EosPolicy::Ignore, 0)).unwrap()).await;
    assert_eq!((told.tokens, told.text.as_str()), (vec![EOS; 12], ""));
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_takes_again_when_it_moves() {
    let (engine, gate) = gated(EngineConfig { max_running: 1, queue: 2, ..config() });
    let first = engine.submit(request(&[1], 2)).unwrap();
    gate.wait();
    let second = engine.submit(request(&[2], 2)).unwrap();
    let third = engine.submit(request(&[3], 2)).unwrap();
    assert!(matches!(engine.submit(request(&[4], 2)), Err(SubmitError::QueueFull { .. })));
    assert_eq!((engine.stats().running, engine.stats().waiting), (1, 2));
    drop(gate);
    for (generation, prompt) in [(first, 1), (second, 2), (third, 3)] {
        assert_eq!(listen(generation).await.tokens, greedy(&[prompt], 2));
    }
    assert_eq!(listen(engine.submit(request(&[4], 2)).unwrap()).await.tokens, greedy(&[4], 2));
}

#[tokio::test]
async fn what_can_never_fit_or_makes_no_sense_is_refused_and_the_rest_goes_on() {
    let engine =
        start(FakeLm::new(Fault::Nothing).with_positions(50), EngineConfig { kv_tokens: 40, ..config() });
    assert_eq!(engine.limits().max_context, 40);
    let refused = engine.submit(request(&[1; 30], 11)).unwrap_err();
    assert_eq!(refused, SubmitError::TooLong { tokens: 41, limit: 40 });
    for bad in [request(&[], 1), request(&[257], 1), request(&[1], 0)] {
        assert!(listen(engine.submit(bad).unwrap()).await.end.unwrap().is_err());
    }
    assert_eq!(listen(engine.submit(request(&[1; 30], 10)).unwrap()).await.tokens, greedy(&[1; 30], 10));
}

#[tokio::test]
async fn a_drain_finishes_what_is_there_and_takes_nothing_new() {
    let (engine, gate) = gated(config());
    let running = engine.submit(request(&[1], 3)).unwrap();
    gate.wait();
    let queued = engine.submit(request(&[2], 3)).unwrap();
    let drain = tokio::spawn({
        let engine = engine.clone();
        async move { engine.drain(SOON).await }
    });
    while !matches!(engine.submit(request(&[3], 3)), Err(SubmitError::Closed)) {
        tokio::task::yield_now().await;
    }
    assert!(engine.is_alive());
    drop(gate);
    assert_eq!(drain.await.unwrap(), DrainOutcome::Finished);
    assert!(!engine.is_alive());
    assert_eq!(listen(running).await.tokens, greedy(&[1], 3));
    assert_eq!(listen(queued).await.tokens, greedy(&[2], 3));
    assert_eq!(engine.drain(SOON).await, DrainOutcome::Finished, "a second drain finds it done");
}

/// Requests come from another thread while an idle engine is drained: each is answered or refused, none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_in_while_an_engine_drains_is_answered() {
    for _ in 0..200 {
        let engine = plain(EngineConfig { kv_tokens: 64, ..config() });
        let late = engine.clone();
        let submitting = std::thread::spawn(move || {
            let mut taken = Vec::new();
            loop {
                match late.submit(request(&[1], 1)) {
                    Ok(generation) => taken.push(generation),
                    Err(SubmitError::Closed) => break taken,
                    Err(_) => std::thread::yield_now(),
                }
            }
        });
        assert_eq!(engine.drain(SOON).await, DrainOutcome::Finished);
        for generation in submitting.join().unwrap() {
            assert_eq!(listen(generation).await.tokens, greedy(&[1], 1));
        }
    }
}

#[tokio::test]
async fn a_drain_cuts_off_at_its_deadline() {
    let (engine, gate) = gated(config());
    let endless = engine.submit(request(&[1], 10_000)).unwrap();
    gate.wait();
    // The gate opens when the deadline has passed: were both due at once, the drain is polled first.
    let opens = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(gate);
    };
    let (outcome, ()) = futures::join!(engine.drain(Duration::ZERO), opens);
    assert_eq!(outcome, DrainOutcome::Cancelled { requests: 1 });
    assert_eq!(listen(endless).await.end.unwrap().unwrap().0, FinishReason::Cancelled);
}

#[tokio::test]
async fn an_idle_engine_drains_and_one_without_handles_finishes_what_it_has() {
    assert_eq!(plain(config()).drain(SOON).await, DrainOutcome::Finished);
    let engine = plain(config());
    let generation = engine.submit(request(&[1], 50)).unwrap();
    drop(engine);
    assert_eq!(listen(generation).await.tokens, greedy(&[1], 50));
}

#[tokio::test]
async fn a_model_that_fails_or_panics_fails_its_requests_and_ends_the_engine() {
    // Many times, because that the engine is dead before its requests hear of it is a matter of order.
    for (fault, word) in
        [(Fault::ErrorAt(3), "a batch that cannot be"), (Fault::PanicAt(3), "panicked")].repeat(100)
    {
        let (lm, gate) = FakeLm::new(fault).gated();
        let engine = start(lm, config());
        let generations: Vec<_> = (0..5).map(|i| engine.submit(request(&[i], 50)).unwrap()).collect();
        drop(gate);
        for generation in generations {
            let told = listen(generation).await;
            let why = told.end.unwrap().unwrap_err();
            assert!(why.contains(word) && why.contains("the test wants it"), "{why}");
            assert!(!engine.is_alive());
        }
        assert_eq!(engine.submit(request(&[1], 1)).unwrap_err(), SubmitError::Closed);
        engine.drain(SOON).await;
    }
}

#[tokio::test]
async fn logits_that_are_no_numbers_fail_that_request_only() {
    let engine = start(FakeLm::new(Fault::NanFor(255)), config());
    let good = prompts().into_iter().find(|p| !greedy(p, 20).contains(&255)).unwrap();
    let told = all(&engine, vec![request(&good, 20), request(&[255], 20)]).await;
    assert_eq!(told[0].tokens, greedy(&good, 20));
    assert!(told[1].end.clone().unwrap().unwrap_err().contains("not finite"));
    assert!(engine.is_alive());
    engine.drain(SOON).await;
    assert_eq!(engine.stats().blocks_used, 0);
}

/// What clients are told while a device computes the next step is what they are told otherwise.
#[tokio::test]
async fn a_device_that_computes_apart_changes_nothing_for_clients() {
    let requests = || {
        prompts().into_iter().enumerate().map(|(i, prompt)| GenerateRequest {
            sampling: SamplingParams { seed: i as u64, frequency_penalty: 0.3, ..SamplingParams::default() },
            logprobs: (i % 3 == 0).then_some(1),
            stop: StopParams {
                strings: if i % 4 == 0 { vec!["a".into(), "qu".into()] } else { Vec::new() },
                eos: EosPolicy::Stop(vec![EOS, 101]),
                ..StopParams::default()
            },
            ..request(&prompt, 12 + i % 3)
        })
    };
    let config = || EngineConfig { prefix_cache: PrefixCache::Off, ..config() };
    let told = all(&plain(config()), requests().collect()).await;
    let reasons: Vec<_> = told.iter().map(|told| told.end.clone().unwrap().unwrap().0).collect();
    assert!(reasons.contains(&FinishReason::Stop) && reasons.contains(&FinishReason::Length));
    let apart = start(FakeLm::new(Fault::Nothing).apart(), config());
    for (i, (apart, told)) in all(&apart, requests().collect()).await.iter().zip(&told).enumerate() {
        assert!(apart == told, "request {i}: {:?} and {:?}", apart.end, told.end);
    }

    // a drain tells all that was accepted before it cuts off
    let (lm, gate) = FakeLm::new(Fault::Nothing).apart().gated();
    let engine = start(lm, config());
    let endless = engine.submit(request(&[1], 10_000)).unwrap();
    (0..5).for_each(|_| {
        gate.wait();
        gate.pass();
    });
    gate.wait();
    let opens = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(gate);
    };
    let (_, ()) = futures::join!(engine.drain(Duration::ZERO), opens);
    let told = listen(endless).await;
    let (reason, usage) = told.end.clone().unwrap().unwrap();
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Cancelled, told.tokens.len()));
    assert!(told.tokens.len() >= 6, "{}", told.tokens.len());
}

fn background(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    GenerateRequest { priority: Priority::Background, ..request(prompt, max_tokens) }
}

fn on(turns: &Turns, lm: FakeLm) -> Engine {
    Engine::start("test".into(), Box::new(lm), tokenizer(), config(), turns.clone()).unwrap()
}

#[tokio::test]
async fn the_background_waits_for_the_foreground_of_every_engine_on_the_device() {
    let turns = Turns::default();
    let (lm, gate) = FakeLm::new(Fault::Nothing).gated();
    let (stable, canary) = (on(&turns, lm), on(&turns, FakeLm::new(Fault::Nothing)));
    let client = stable.submit(request(&[1], 2)).unwrap();
    gate.wait();
    let mut copy = canary.submit(background(&[1], 8)).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), copy.next()).await;
    assert!(early.is_err(), "{early:?} while a client waits");
    drop(gate);
    listen(client).await;
    assert_eq!(listen(copy).await.tokens, greedy(&[1], 8));
    assert!(turns.is_idle() && turns.background_time() > Duration::ZERO);
}

#[tokio::test]
async fn the_background_gives_the_same_text_though_the_foreground_cuts_in() {
    let turns = Turns::default();
    let engine = on(&turns, FakeLm::new(Fault::Nothing));
    let copies: Vec<_> = prompts().iter().map(|p| engine.submit(background(p, 24)).unwrap()).collect();
    let clients: Vec<_> = prompts().iter().map(|p| engine.submit(request(p, 24)).unwrap()).collect();
    for (generation, prompt) in clients.into_iter().chain(copies).zip(prompts().iter().chain(&prompts())) {
        assert_eq!(listen(generation).await.tokens, greedy(prompt, 24));
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_the_background() {
    let turns = Turns::new(crate::ids::Weight::ZERO);
    let engine = on(&turns, FakeLm::new(Fault::Nothing));
    let copy = engine.submit(background(&[1], 8)).unwrap();
    assert_eq!(engine.drain(SOON).await, DrainOutcome::Finished);
    assert!(matches!(listen(copy).await.end, Some(Ok((FinishReason::Cancelled, _)))));
}
