//! Several tenants of one engine, and several engines in one memory.

use std::time::Duration;

use super::testing::{FakeLm, Fault, greedy, small_pool, tokenizer};
use super::tests::{SOON, all, config, gated, listen, prompts, request};
use super::*;
use crate::model::KvGeometry;

#[tokio::test]
async fn tenants_of_an_engine_are_computed_together_and_counted_apart() {
    let (one, gate) = gated(config());
    let other = one.share("other".into()).unwrap();
    let first = one.submit(request(&[1], 4)).unwrap();
    gate.wait();
    let second = other.submit(request(&[2], 4)).unwrap();
    let third = other.submit(request(&[3], 4)).unwrap();
    assert_eq!((one.stats().running, one.stats().waiting), (1, 0));
    assert_eq!((other.stats().running, other.stats().waiting), (0, 2));
    drop(gate);
    for (generation, prompt) in [(first, 1), (second, 2), (third, 3)] {
        assert_eq!(listen(generation).await.tokens, greedy(&[prompt], 4));
    }
    assert!(one.is_shared_with(&other));
    assert_eq!((one.stats().generated_tokens, other.stats().generated_tokens), (4, 8));
    assert_eq!((one.stats().steps, other.stats().steps), (5, 5), "all three in the same steps");
}

#[tokio::test]
async fn a_tenant_leaves_while_the_others_go_on_and_the_last_ends_the_engine() {
    let (stable, gate) = gated(config());
    let canary = stable.share("canary".into()).unwrap();
    let goes_on = stable.submit(request(&[1], 60)).unwrap();
    gate.wait();
    let endless = canary.submit(request(&[2], 10_000)).unwrap();
    let opens = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(gate);
    };
    let (outcome, ()) = futures::join!(canary.drain(Duration::ZERO), opens);
    assert_eq!(outcome, DrainOutcome::Cancelled { requests: 1 });
    assert_eq!(listen(endless).await.end.unwrap().unwrap().0, FinishReason::Cancelled);
    assert!(!canary.is_alive() && stable.is_alive());
    assert_eq!(canary.submit(request(&[2], 1)).unwrap_err(), SubmitError::Closed);
    assert_eq!(listen(goes_on).await.tokens, greedy(&[1], 60));

    // who left does not keep the engine from ending, nor does who was dropped
    let dropped = stable.share("dropped".into()).unwrap();
    let unread = dropped.submit(request(&[3], 50)).unwrap();
    drop(dropped);
    assert_eq!(listen(unread).await.tokens, greedy(&[3], 50));
    assert_eq!(stable.drain(SOON).await, DrainOutcome::Finished);
    assert_eq!(canary.drain(SOON).await, DrainOutcome::Cancelled { requests: 1 }, "as it was told before");
    assert!(stable.share("late".into()).is_none());
}

#[tokio::test]
async fn a_queue_is_one_for_all_tenants() {
    let (one, gate) = gated(EngineConfig { max_running: 1, queue: 2, ..config() });
    let other = one.share("other".into()).unwrap();
    let first = one.submit(request(&[1], 2)).unwrap();
    gate.wait();
    let waiting = [one.submit(request(&[2], 2)).unwrap(), other.submit(request(&[3], 2)).unwrap()];
    for engine in [&one, &other] {
        assert!(matches!(engine.submit(request(&[4], 2)), Err(SubmitError::QueueFull { .. })));
    }
    drop(gate);
    for generation in [first].into_iter().chain(waiting) {
        listen(generation).await;
    }
}

fn memory(blocks: usize) -> KvMemory {
    KvMemory::new(small_pool(KvGeometry { blocks, block_size: 4 }))
}

fn start_in(memory: &KvMemory, lm: FakeLm, config: EngineConfig) -> Engine {
    Engine::start_in(memory, "test".into(), Box::new(lm), tokenizer(), config, Turns::default()).unwrap()
}

/// Two engines over a memory that holds far less than what both have to do, and one that is idle after it has filled the
/// memory with prefixes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_in_one_memory_each_say_what_they_would_say_alone() {
    let alone: Vec<Vec<u32>> = prompts().iter().map(|p| greedy(p, 24)).collect();
    for (blocks, prefix_cache) in [(4096, PrefixCache::On), (30, PrefixCache::On), (24, PrefixCache::Off)] {
        let memory = memory(blocks);
        let lm = FakeLm::new(Fault::Nothing);
        let siblings = [lm.sibling(), lm.sibling(), lm];
        let config = EngineConfig { prefix_cache, ..config() };
        let [idle, stable, canary] = siblings.map(|lm| start_in(&memory, lm, config.clone()));
        let warm_up = prompts()[..8].iter().map(|p| request(p, 4)).collect();
        all(&idle, warm_up).await;

        let requests = || prompts().iter().map(|p| request(p, 24)).collect::<Vec<_>>();
        let (one, other) = tokio::join!(all(&stable, requests()), all(&canary, requests()));
        for told in [one, other] {
            for (told, alone) in told.iter().zip(&alone) {
                assert_eq!(&told.tokens, alone, "{blocks} {prefix_cache:?}");
            }
        }
        let preemptions = stable.stats().preemptions + canary.stats().preemptions;
        assert_eq!(preemptions > 0, blocks < 100, "{preemptions} with {blocks} blocks");
        for engine in [idle, stable, canary] {
            assert_eq!(engine.drain(SOON).await, DrainOutcome::Finished);
        }
        assert_eq!(memory.pool().free(), blocks, "all of it is given back");
    }
}

/// A canary with little to do holds little, however much stable's prefixes have filled.
#[tokio::test]
async fn a_version_takes_the_memory_that_it_uses() {
    let memory = memory(64);
    let lm = FakeLm::new(Fault::Nothing);
    let (canary, stable) = (lm.sibling(), lm);
    let stable = start_in(&memory, stable, config());
    let long: Vec<u32> = (0..240).collect();
    listen(stable.submit(request(&long, 4)).unwrap()).await;
    let canary = start_in(&memory, canary, config());
    assert_eq!(
        (stable.limits().max_context, canary.limits().max_context),
        (256, 256),
        "each can have it all"
    );
    let told = listen(canary.submit(request(&[1; 40], 8)).unwrap()).await;
    assert_eq!(told.tokens, greedy(&[1; 40], 8));
    // what is left of stable's prefix is still of use to it
    let again = listen(stable.submit(request(&long, 4)).unwrap()).await;
    let cached = again.end.unwrap().unwrap().1.cached_tokens;
    assert!((100..240).contains(&cached), "{cached} of the prompt's tokens were there");
    // and all of it goes to the canary, if that is what it needs
    let told = listen(canary.submit(request(&[3; 250], 6)).unwrap()).await;
    assert_eq!(told.tokens, greedy(&[3; 250], 6));
}

#[tokio::test]
async fn an_engine_keeps_to_its_part_of_a_memory() {
    let memory = memory(64);
    let lm = FakeLm::new(Fault::Nothing);
    let small = start_in(&memory, lm.sibling(), EngineConfig { kv_tokens: 48, ..config() });
    assert_eq!((small.limits().max_context, small.stats().blocks_total), (48, 12));
    let refused = small.submit(request(&[1; 40], 9)).unwrap_err();
    assert_eq!(refused, SubmitError::TooLong { tokens: 49, limit: 48 });
    let requests = prompts().iter().map(|p| request(p, 5)).collect();
    for (told, prompt) in all(&small, requests).await.iter().zip(prompts()) {
        assert_eq!(told.tokens, greedy(&prompt, 5));
    }
    assert!(memory.pool().free() >= 64 - 12);
}
