//! What is sampled at each scrape, and the registry that it is shown in.

use std::time::Duration;

use prometheus::{Counter, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::metrics::{VERSION, labels};
use crate::ids::VersionRef;

/// One engine's numbers at a scrape.
#[derive(Debug, Clone)]
pub struct EngineSample {
    /// Whose engine it is.
    pub version: VersionRef,
    /// Whether its thread is alive.
    pub alive: bool,
    /// Sequences that are being computed.
    pub running: u64,
    /// Sequences that wait for a place.
    pub waiting: u64,
    /// KV blocks that requests hold.
    pub blocks_used: u64,
    /// KV blocks that the engine may hold.
    pub blocks_total: u64,
    /// Sequences that were put back for want of blocks, since the start.
    pub preemptions: u64,
    /// Forward steps since the start.
    pub steps: u64,
    /// Prompt tokens that the prefix cache saved, since the start.
    pub prefix_hit_tokens: u64,
    /// Tokens generated since the start, those of answers under way too.
    pub generated_tokens: u64,
    /// Tokens that were guessed.
    pub speculated_tokens: u64,
    /// Of those, the right ones.
    pub accepted_tokens: u64,
}

/// Where one version is, at a scrape.
#[derive(Debug, Clone)]
pub struct ResidencySample {
    /// The version.
    pub version: VersionRef,
    /// `cold`, `loading`, `warm`, `hot`, `draining` or `failed`.
    pub state: &'static str,
    /// Bytes of its weights in memory.
    pub weight_bytes: u64,
    /// Of these, bytes that another version had loaded already.
    pub shared_bytes: u64,
}

/// One version's share of its model's route, at a scrape.
#[derive(Debug, Clone)]
pub struct RouteSample {
    /// The version.
    pub version: VersionRef,
    /// Its weight as a percentage.
    pub percent: f64,
    /// The route's revision.
    pub revision: u64,
}

/// A registry of one scrape: built anew, so that a version that is gone leaves no stale series.
pub(super) fn sampled(
    engines: &[EngineSample],
    residency: &[ResidencySample],
    routes: &[RouteSample],
    background: Duration,
) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new_custom(Some("switchback".into()), None)?;
    let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
        let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(vec.clone()))?;
        Ok(vec)
    };
    let totals = |name: &str, help: &str| -> Result<IntCounterVec, prometheus::Error> {
        let vec = IntCounterVec::new(Opts::new(name, help), &VERSION)?;
        registry.register(Box::new(vec.clone()))?;
        Ok(vec)
    };

    let alive = gauges("engine_alive", "1 if the engine's thread is alive.", &VERSION)?;
    let running = gauges("engine_running", "Sequences being computed.", &VERSION)?;
    let waiting = gauges("engine_waiting", "Sequences waiting for a place.", &VERSION)?;
    let used = gauges("engine_kv_blocks_used", "KV blocks that requests hold.", &VERSION)?;
    let help = "KV blocks that the engine may hold, of those that the versions of the model share.";
    let blocks = gauges("engine_kv_blocks", help, &VERSION)?;
    let preemptions = totals("engine_preemptions_total", "Sequences put back for want of KV blocks.")?;
    let steps = totals("engine_steps_total", "Forward steps.")?;
    let hits = totals("engine_prefix_hit_tokens_total", "Prompt tokens that the prefix cache saved.")?;
    let generated =
        totals("engine_generated_tokens_total", "Tokens generated, those of answers under way too.")?;
    let speculated =
        totals("engine_speculated_tokens_total", "Tokens that were guessed ahead of their step.")?;
    let accepted =
        totals("engine_accepted_tokens_total", "Of the tokens that were guessed, the right ones.")?;
    for engine in engines {
        let labels = labels(&engine.version);
        alive.with_label_values(&labels).set(i64::from(engine.alive));
        running.with_label_values(&labels).set(engine.running as i64);
        waiting.with_label_values(&labels).set(engine.waiting as i64);
        used.with_label_values(&labels).set(engine.blocks_used as i64);
        blocks.with_label_values(&labels).set(engine.blocks_total as i64);
        preemptions.with_label_values(&labels).inc_by(engine.preemptions);
        steps.with_label_values(&labels).inc_by(engine.steps);
        hits.with_label_values(&labels).inc_by(engine.prefix_hit_tokens);
        generated.with_label_values(&labels).inc_by(engine.generated_tokens);
        speculated.with_label_values(&labels).inc_by(engine.speculated_tokens);
        accepted.with_label_values(&labels).inc_by(engine.accepted_tokens);
    }

    let state = gauges("residency", "1 for the state a version is in.", &["model", "version", "state"])?;
    let bytes =
        gauges("weight_bytes", "Bytes of a loaded version's weights, its draft's included.", &VERSION)?;
    let shared = gauges("weight_shared_bytes", "Of these, shared with a version loaded before.", &VERSION)?;
    for sample in residency {
        let labels = labels(&sample.version);
        for name in ["cold", "loading", "warm", "hot", "draining", "failed"] {
            state.with_label_values(&[labels[0], labels[1], name]).set(i64::from(name == sample.state));
        }
        bytes.with_label_values(&labels).set(sample.weight_bytes as i64);
        shared.with_label_values(&labels).set(sample.shared_bytes as i64);
    }

    let weight =
        GaugeVec::new(Opts::new("route_weight_percent", "A version's share of its model."), &VERSION)?;
    registry.register(Box::new(weight.clone()))?;
    let revision = gauges("route_revision", "The revision of a model's route.", &["model"])?;
    for route in routes {
        weight.with_label_values(&labels(&route.version)).set(route.percent);
        revision.with_label_values(&[route.version.model.as_str()]).set(route.revision as i64);
    }

    let help = "Time that engines spent on work nobody waits for, such as copies of requests.";
    let seconds = Counter::new("background_seconds_total", help)?;
    seconds.inc_by(background.as_secs_f64());
    registry.register(Box::new(seconds))?;
    Ok(registry)
}
