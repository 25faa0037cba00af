//! The queue and its worker: what is offered is judged or counted as dropped, and nobody waits.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::checks::{Check, Finding, Named};
use super::response::Subject;
use super::tests::{checks, response};
use super::*;
use crate::config::Judges;
use crate::ids::{VersionRef, Weight};
use crate::telemetry::{Metrics, Outcome};

/// Panics at the text `panic`, fails at `fail`, and waits at the text `wait` until it is let go.
struct Fickle(std::sync::Mutex<mpsc::Receiver<()>>);

impl Check for Fickle {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        match subject.text() {
            "panic" => panic!("a check that breaks"),
            "fail" => return Err(CheckBroken::Embedding("no vector".to_owned())),
            "wait" => drop(self.0.lock().unwrap().recv()),
            _ => {}
        }
        Ok(Judgement::pass("fickle"))
    }
}

/// The user at whose observation the sink panics.
const UNLUCKY: u64 = u64::MAX;

/// When everything in these tests was asked for.
const ADMITTED: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

struct Bench {
    queue: CheckQueue,
    metrics: Metrics,
    seen: mpsc::Receiver<Observation>,
    go: mpsc::Sender<()>,
}

fn version() -> VersionRef {
    VersionRef { model: "m".parse().unwrap(), version: "v1".parse().unwrap() }
}

fn bench(limits: Limits) -> Bench {
    let (go, wait) = mpsc::channel();
    let mut checks = checks("[is-json]");
    let check = Box::new(Fickle(wait.into()));
    let fickle = Named { name: "fickle".parse().unwrap(), judges: Judges::Content, check };
    checks.0.insert(0, fickle);
    let metrics = Metrics::new().unwrap();
    let (sender, seen) = mpsc::channel();
    let plans = BTreeMap::from([(version().model, Plan { checks, share: Weight::FULL })]);
    let sink: Sink = Box::new(move |observation| {
        assert_ne!(observation.user, UNLUCKY, "a sink that breaks");
        sender.send(observation).unwrap();
    });
    let queue = CheckQueue::start(plans, limits, metrics.clone(), sink).unwrap();
    Bench { queue, metrics, seen, go }
}

impl Bench {
    fn offer(&self, user: u64, text: &str) {
        self.queue.watch(&version(), Way::Routed, ADMITTED, || user).unwrap().finished(response(text));
    }

    fn next(&self) -> Observation {
        self.seen.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn counts(&self, line: &str) -> bool {
        self.metrics.render(&[], &[], &[], Duration::ZERO).unwrap().lines().any(|l| l == line)
    }

    fn dropped(&self, count: usize) -> bool {
        self.counts(&format!(r#"switchback_checks_dropped_total{{model="m"}} {count}"#))
    }
}

#[test]
fn an_observation_names_version_user_and_verdicts() {
    let bench = bench(Limits::default());
    bench.offer(7, "{");
    let seen = bench.next();
    assert_eq!((seen.version, seen.way, seen.user), (version(), Way::Routed, 7));
    assert_eq!((seen.outcome, seen.output_tokens), (Outcome::Ok, 7));
    let verdicts: Vec<_> = seen.judgements.iter().map(|(c, j)| (c.as_str(), j.verdict)).collect();
    assert_eq!(verdicts, [("fickle", Verdict::Pass), ("is-json", Verdict::Fail)]);
    for line in [
        r#"switchback_checks_total{check="is-json",model="m",result="failed",version="v1"} 1"#,
        r#"switchback_checks_total{check="fickle",model="m",result="passed",version="v1"} 1"#,
    ] {
        assert!(bench.counts(line), "{line}");
    }
}

#[test]
fn the_answer_to_a_copy_is_judged_by_what_it_says_alone() {
    let plan = Plan { checks: checks("[is-json, {type: latency, max: 1ms}]"), share: Weight::FULL };
    let plans = BTreeMap::from([(version().model, plan)]);
    let (sender, seen) = mpsc::channel();
    let sink: Sink = Box::new(move |observation| sender.send(observation).unwrap());
    let queue = CheckQueue::start(plans, Limits::default(), Metrics::new().unwrap(), sink).unwrap();
    for (way, count) in [(Way::Mirrored, 1), (Way::Routed, 2)] {
        queue.watch(&version(), way, ADMITTED, || 1).unwrap().finished(response("{}"));
        let seen = seen.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((seen.way, seen.judgements.len()), (way, count));
    }
}

#[test]
fn answers_that_were_cut_short_are_observed_without_verdicts() {
    let bench = bench(Limits::default());
    let watch = bench.queue.watch(&version(), Way::Pinned, ADMITTED, || 1).unwrap();
    watch.cut_short(CutShort {
        outcome: Outcome::Timeout,
        elapsed: Duration::from_secs(1),
        time_to_first_token: None,
        output_tokens: 3,
    });
    let seen = bench.next();
    assert_eq!((seen.way, seen.outcome, seen.output_tokens), (Way::Pinned, Outcome::Timeout, 3));
    assert!(seen.judgements.is_empty());
}

#[test]
fn a_panic_in_a_check_or_a_sink_stops_nothing() {
    let bench = bench(Limits::default());
    bench.offer(1, "panic");
    let seen = bench.next();
    assert_eq!(seen.judgements.len(), 1, "the other check goes on: {seen:?}");
    bench.offer(1, "fail");
    assert_eq!(bench.next().judgements.len(), 1);
    bench.offer(UNLUCKY, "the sink breaks");
    bench.offer(2, "{}");
    assert_eq!(bench.next().user, 2);
    let broken = r#"switchback_checks_total{check="fickle",model="m",result="broken",version="v1"} 2"#;
    assert!(bench.counts(broken));
}

#[test]
fn a_full_queue_drops_and_counts_and_makes_nobody_wait() {
    let bench = bench(Limits { answers: 2, bytes: 1 << 20 });
    bench.offer(0, "wait");
    // The worker may or may not have taken the first one; five more never fit.
    let started = Instant::now();
    (1..=5).for_each(|user| bench.offer(user, "{}"));
    assert!(started.elapsed() < Duration::from_secs(5));
    bench.go.send(()).unwrap();
    let mut seen = vec![bench.next()];
    while let Ok(next) = bench.seen.recv_timeout(Duration::from_millis(200)) {
        seen.push(next);
    }
    assert!((2..=3).contains(&seen.len()), "{seen:?}");
    assert!(bench.dropped(6 - seen.len()));
}

#[test]
fn long_texts_fill_the_queue_before_it_is_full() {
    let bench = bench(Limits { answers: 100, bytes: 10 });
    bench.offer(0, "wait");
    bench.offer(1, "more than ten bytes");
    bench.go.send(()).unwrap();
    bench.next();
    assert!(bench.dropped(1));
    bench.offer(2, "{}");
    assert_eq!(bench.next().user, 2);
}

#[tokio::test]
async fn closing_judges_what_is_queued_and_takes_no_more() {
    let bench = bench(Limits::default());
    bench.offer(0, "wait");
    (1..=50).for_each(|user| bench.offer(user, "{}"));
    bench.go.send(()).unwrap();
    bench.queue.close(Duration::from_secs(10)).await;
    assert_eq!(bench.seen.try_iter().count(), 51);
    bench.offer(1, "{}");
    assert!(bench.dropped(1));
    bench.queue.close(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn closing_gives_up_at_its_deadline() {
    let bench = bench(Limits::default());
    bench.offer(0, "wait");
    (1..=3).for_each(|user| bench.offer(user, "{}"));
    let started = Instant::now();
    bench.queue.close(Duration::from_millis(20)).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    bench.go.send(()).unwrap();
    bench.next();
    assert!(bench.seen.recv_timeout(Duration::from_secs(10)).is_err(), "the worker went on");
    assert!(bench.dropped(3));
}

#[test]
fn a_model_without_checks_is_not_watched() {
    let bench = bench(Limits::default());
    let other = VersionRef { model: "other".parse().unwrap(), version: "v1".parse().unwrap() };
    let asked = || -> u64 { panic!("nobody needs the user's number here") };
    assert!(bench.queue.watch(&other, Way::Routed, ADMITTED, asked).is_none());
}
