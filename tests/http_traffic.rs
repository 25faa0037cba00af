//! Requests of all kinds at once: each answers as it does alone, and what its clients leave behind is let go.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::Server;
use common::traffic::{self, Choices};
use futures::{StreamExt, stream};

/// For how many seconds there is random load: two here, and as long as this variable says to show more.
const SECONDS: &str = "SWITCHBACK_TEST_LOAD_SECONDS";

/// Requests in flight.
const LANES: u64 = 24;
/// Different requests under random load.
const KINDS: u64 = 300;

async fn start(engine: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let config = traffic::configure(folder.path(), engine);
    common::serve(folder, &config).await
}

/// One whose versions but one have a draft.
async fn start_drafted() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let config = traffic::configure(folder.path(), "kv_tokens: 8192, speculative_tokens: 3");
    let text = std::fs::read_to_string(&config).unwrap();
    let drafted = text.replace("{ image: base", "{ draft: desk@other, image: base");
    assert!(drafted != text);
    std::fs::write(&config, drafted).unwrap();
    common::serve(folder, &config).await
}

/// The whole answer to the request of a seed.
async fn whole(server: &Server, seed: u64) -> Choices {
    let asked = traffic::request(seed);
    let answer = traffic::answer(&server.client, &server.url(""), &asked, None).await;
    answer.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{asked:?}")).unwrap()
}

/// What each of these seeds answers with the server to itself.
async fn alone(server: &Server, seeds: u64) -> Vec<Choices> {
    let mut answers = Vec::new();
    for seed in 0..seeds {
        answers.push(whole(server, seed).await);
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mixed_requests_answer_as_each_does_alone() {
    let alone = alone(&start("kv_tokens: 8192, prefix_cache: false").await, 64).await;
    let some = |what: &str, held: bool| assert!(held, "no request {what}: the mix is poor");
    some("is sampled to its end", alone.iter().flatten().any(|(_, finish, _)| finish == "stop"));
    some("has two choices", alone.iter().any(|choices| choices.len() == 2));
    some("has log-probabilities", alone.iter().flatten().any(|(_, _, logprobs)| !logprobs.is_empty()));
    // much room, little room with sequences put back, steps of few rows, and tokens that are guessed in either way: that
    // happens while few run
    for (at_once, server) in [
        (64, start("kv_tokens: 8192").await),
        (64, start("kv_tokens: 640").await),
        (64, start("kv_tokens: 8192, max_running: 7, max_step_tokens: 7").await),
        (3, start("kv_tokens: 8192, speculative_tokens: 3").await),
        (3, start_drafted().await),
    ] {
        let asked = stream::iter(0..64).map(|seed| whole(&server, seed));
        let together: Vec<Choices> = asked.buffered(at_once).collect().await;
        for (seed, (together, alone)) in together.iter().zip(&alone).enumerate() {
            let asked = traffic::request(seed as u64);
            assert_eq!(together, alone, "{at_once} at once, seed {seed}: {asked:?}");
        }
        let mut guessed = 0;
        for version in traffic::VERSIONS {
            let of = format!("{{model=\"desk\",version=\"{version}\"}}");
            guessed += server.counted(&format!("switchback_engine_speculated_tokens_total{of}")).await;
        }
        assert_eq!(guessed > 0, at_once == 3, "{guessed} tokens were guessed");
    }
}

/// Kibibytes of memory that this process holds, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_load_and_clients_that_leave_change_no_answer_and_leak_nothing() {
    let seconds = std::env::var(SECONDS).map_or(2, |seconds| seconds.parse().unwrap());
    let server = start("kv_tokens: 2048, queue: 4096").await;
    let alone = alone(&server, KINDS).await;
    let (begun, span) = (Instant::now(), Duration::from_secs(seconds));
    let (answered, left) = (AtomicU64::new(0), AtomicU64::new(0));
    let lane = |lane: u64| {
        let (server, alone, answered, left) = (&server, &alone, &answered, &left);
        async move {
            let mut number = lane;
            while begun.elapsed() < span {
                // a fixed walk through the seeds that differs from lane to lane
                number =
                    number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (seed, leaves) = ((number >> 33) % KINDS, (number >> 20) % 8);
                match leaves {
                    0 | 1 => {
                        leave(server, seed, number >> 23).await;
                        left.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {
                        let answer = whole(server, seed).await;
                        assert_eq!(answer, alone[seed as usize], "seed {seed}: {:?}", traffic::request(seed));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    };
    let all = stream::iter(0..LANES).map(lane).buffer_unordered(LANES as usize).collect::<Vec<()>>();
    let watch = async {
        // what the first tenth allocates is what such a load needs
        tokio::time::sleep(span / 10).await;
        let early = resident();
        tokio::time::sleep(span * 9 / 10).await;
        (early, resident())
    };
    let (_, (early, late)) = tokio::join!(all, watch);
    server.idle().await;
    let held = held_blocks(&server).await;
    assert_eq!(held.len(), traffic::VERSIONS.len(), "{held:?}");
    for (series, held) in held {
        assert_eq!(held, "0", "{series}: blocks of nobody");
    }
    let (answered, left) = (answered.into_inner(), left.into_inner());
    println!("{answered} answers as alone, {left} clients left, {early:?} KiB resident, then {late:?}");
    assert!(answered > 0 && left > 0);
    // the other test of this file runs beside it for a few seconds, so a short load shows nothing of memory
    if let Some((early, late)) = early.zip(late).filter(|_| seconds >= 60) {
        assert!(late < early + (64 << 10), "from {early} to {late} KiB");
    }
}

/// Asks, and goes away: after some events of a stream, or after some time.
async fn leave(server: &Server, seed: u64, after: u64) {
    let asked = traffic::request(seed);
    let url = server.url("");
    let events = 1 + (after % 4) as usize;
    let answer = traffic::answer(&server.client, &url, &asked, Some(events));
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_millis(after % 40), answer).await {
        panic!("seed {seed}: {error}\n{asked:?}");
    }
}

/// The series of blocks that requests hold, and what each says.
async fn held_blocks(server: &Server) -> HashMap<String, String> {
    let text = server.get("/metrics").await.text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with("switchback_engine_kv_blocks_used{"));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, held)| (series.to_owned(), held.to_owned()))
        .collect()
}
