//! The server's own Prometheus registry: what it counts while requests run, and what is sampled at each scrape.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use super::samples::{EngineSample, ResidencySample, RouteSample, sampled};
use crate::ids::{ModelName, VersionName, VersionRef};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered.
    Ok,
    /// The client left before the end.
    Cancelled,
    /// It ran past the request deadline.
    Timeout,
    /// The engine failed under it.
    Failed,
    /// The request itself was at fault.
    Invalid,
    /// The queue was full.
    QueueFull,
    /// No version could take it.
    Unavailable,
}

impl Outcome {
    /// The value of the `status` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::QueueFull => "queue_full",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How a canary fared with the copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MirrorOutcome {
    /// It answered.
    Answered,
    /// Its engine failed.
    Failed,
    /// Its template or its limits refuse such a request.
    Refused,
    /// There was not enough time that nobody else needed.
    Late,
    /// There was no room.
    Dropped,
}

impl MirrorOutcome {
    /// The value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Late => "late",
            Self::Dropped => "dropped",
        }
    }
}

/// What one attempt to tell a webhook came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The receiver has taken it.
    Delivered,
    /// It has not.
    Failed,
}

impl WebhookOutcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// Whether a configuration that was taken or refused is told of for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigNews {
    /// It is another than the one before.
    Another,
    /// It is the same, looked at again.
    Known,
}

/// What is known of one generation when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSample {
    /// How it ended.
    pub outcome: Outcome,
    /// From its admission to its end.
    pub elapsed: Duration,
    /// From its admission to its first token; none if it had no token.
    pub first_token: Option<Duration>,
    /// Tokens of all its prompts.
    pub prompt_tokens: u64,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u64,
    /// Tokens generated over all its choices.
    pub generated_tokens: u64,
}

/// The metrics of one server; cheap to clone. Each server has its own registry, so that tests may run many.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: IntCounterVec,
    http: IntCounterVec,
    latency: HistogramVec,
    first_token: HistogramVec,
    tokens: IntCounterVec,
    fallbacks: IntCounterVec,
    flag_answers: IntCounterVec,
    loads: IntCounterVec,
    checked: IntCounterVec,
    checks: IntCounterVec,
    checks_dropped: IntCounterVec,
    observations_dropped: IntCounterVec,
    mirrored: IntCounterVec,
    webhooks: IntCounterVec,
    webhooks_dead: IntCounterVec,
    reloads: IntCounterVec,
    config_in_force: IntGauge,
    in_flight: IntGauge,
    leader: IntGauge,
    store_reachable: IntGauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

pub(super) const VERSION: [&str; 2] = ["model", "version"];
/// Seconds; a small model answers in milliseconds, a long answer takes minutes.
const LATENCY: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0];

impl Metrics {
    /// A registry with all of the server's metrics.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("switchback".into()), None)?;
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(vec.clone()))?;
                Ok(vec)
            };
        let histograms = |name: &str, help: &str| -> Result<HistogramVec, prometheus::Error> {
            let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(LATENCY.to_vec()), &VERSION)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let requests =
            counters("requests_total", "Requests by how they ended.", &["model", "version", "status"])?;
        let http = counters(
            "http_requests_total",
            "Answers of both listeners by path and HTTP status, refusals of any kind included.",
            &["path", "status"],
        )?;
        let latency = histograms("request_seconds", "From admission to the last token.")?;
        let first_token = histograms("time_to_first_token_seconds", "From admission to the first token.")?;
        let tokens = counters(
            "tokens_total",
            "Tokens by kind: prompt, cached, generated.",
            &["model", "version", "kind"],
        )?;
        let fallbacks = counters(
            "fallbacks_total",
            "Requests whose own version was not hot and that another version answered.",
            &VERSION,
        )?;
        let flag_answers = counters(
            "flag_answers_total",
            "Requests that a flag answered by a text; version is empty where the flag is the model's.",
            &VERSION,
        )?;
        let loads = counters("loads_total", "Loads of versions by result.", &["model", "version", "result"])?;
        let checked = counters("responses_checked_total", "Answers that went through the checks.", &VERSION)?;
        let checks = counters(
            "checks_total",
            "Verdicts of checks: passed, failed, or broken where the check itself failed.",
            &["model", "version", "check", "result"],
        )?;
        let checks_dropped = counters(
            "checks_dropped_total",
            "Answers that were to be checked and were not, as the queue was full or closed.",
            &["model"],
        )?;
        let observations_dropped = counters(
            "observations_dropped_total",
            "Checked answers that rollouts did not see, as too many came at once.",
            &["model"],
        )?;
        let mirrored = counters(
            "mirrored_total",
            "Copies of requests by how the canary fared: answered, failed, refused, late, or dropped for want of room.",
            &["model", "version", "outcome"],
        )?;
        let webhooks = counters(
            "webhook_deliveries_total",
            "Attempts to tell a webhook by outcome: delivered or failed.",
            &["receiver", "outcome"],
        )?;
        let webhooks_dead = counters(
            "webhook_dead_letters_total",
            "Deliveries to webhooks that were given up.",
            &["receiver"],
        )?;
        let reloads = counters(
            "config_reloads_total",
            "Configurations that the file has held since the start, by what became of each: applied or refused.",
            &["result"],
        )?;
        let config_in_force = IntGauge::new(
            "config_in_force",
            "1 while the configuration that the file holds is the one that serves, 0 while it is refused.",
        )?;
        registry.register(Box::new(config_in_force.clone()))?;
        config_in_force.set(1);
        let in_flight = IntGauge::new("requests_in_flight", "Requests that are being answered.")?;
        registry.register(Box::new(in_flight.clone()))?;
        let leader =
            IntGauge::new("leader", "1 if this replica advances rollouts; of a lone server, always.")?;
        registry.register(Box::new(leader.clone()))?;
        let help = "1 if the store can be reached; a file always is.";
        let store_reachable = IntGauge::new("store_reachable", help)?;
        registry.register(Box::new(store_reachable.clone()))?;
        Ok(Self(Arc::new(Inner {
            registry,
            requests,
            http,
            latency,
            first_token,
            tokens,
            fallbacks,
            flag_answers,
            loads,
            checked,
            checks,
            checks_dropped,
            observations_dropped,
            mirrored,
            webhooks,
            webhooks_dead,
            reloads,
            config_in_force,
            in_flight,
            leader,
            store_reachable,
        })))
    }

    /// A request was admitted.
    pub fn request_started(&self) {
        self.0.in_flight.inc();
    }

    /// An admitted request ended.
    pub fn request_ended(&self, version: &VersionRef, sample: &RequestSample) {
        let labels = labels(version);
        self.0.in_flight.dec();
        self.count(version.model.as_str(), version.version.as_str(), sample.outcome);
        self.0.latency.with_label_values(&labels).observe(sample.elapsed.as_secs_f64());
        if let Some(first) = sample.first_token {
            self.0.first_token.with_label_values(&labels).observe(first.as_secs_f64());
        }
        for (kind, count) in [
            ("prompt", sample.prompt_tokens),
            ("cached", sample.cached_tokens),
            ("generated", sample.generated_tokens),
        ] {
            self.0.tokens.with_label_values(&[labels[0], labels[1], kind]).inc_by(count);
        }
    }

    /// A request was turned away before any engine had it. `model` and `version` must be configured ones; an empty
    /// text stands for a name that is not.
    pub fn request_refused(&self, model: &str, version: &str, outcome: Outcome) {
        self.count(model, version, outcome);
    }

    /// An HTTP request was answered. `path` must be a route such as `/v1/models/{model}`, never what a client wrote.
    pub fn http_answered(&self, path: &str, status: u16) {
        self.0.http.with_label_values(&[path, &status.to_string()]).inc();
    }

    /// The version that a key belongs to was not hot, and another answered.
    pub fn fell_back(&self, wanted: &VersionRef) {
        self.0.fallbacks.with_label_values(&labels(wanted)).inc();
    }

    /// A flag of a model, or of a version of it, answered in the place of a version.
    pub fn flag_answered(&self, model: &ModelName, version: Option<&VersionName>) {
        self.count(model.as_str(), "", Outcome::Ok);
        let version = version.map_or("", VersionName::as_str);
        self.0.flag_answers.with_label_values(&[model.as_str(), version]).inc();
    }

    /// A load ended.
    pub fn loaded(&self, version: &VersionRef, ok: bool) {
        let [model, name] = labels(version);
        self.0.loads.with_label_values(&[model, name, if ok { "ok" } else { "failed" }]).inc();
    }

    /// An answer went through its model's checks.
    pub fn response_checked(&self, version: &VersionRef) {
        self.0.checked.with_label_values(&labels(version)).inc();
    }

    /// A check gave a verdict: `passed`, `failed` or `broken`. `check` must be a configured name.
    pub fn check_judged(&self, version: &VersionRef, check: &str, result: &'static str) {
        let [model, name] = labels(version);
        self.0.checks.with_label_values(&[model, name, check, result]).inc();
    }

    /// An answer was to be checked, and there was no room.
    pub fn check_dropped(&self, model: &ModelName) {
        self.0.checks_dropped.with_label_values(&[model.as_str()]).inc();
    }

    /// A checked answer could not be shown to the rollouts.
    pub fn observation_dropped(&self, model: &ModelName) {
        self.0.observations_dropped.with_label_values(&[model.as_str()]).inc();
    }

    /// Checked answers could not be shown to the replica that leads the rollouts.
    pub fn observations_dropped(&self, model: &ModelName, answers: u64) {
        self.0.observations_dropped.with_label_values(&[model.as_str()]).inc_by(answers);
    }

    /// Whether this replica leads, and whether the store can be reached.
    pub fn replica(&self, leads: bool, store_reachable: bool) {
        self.0.leader.set(i64::from(leads));
        self.0.store_reachable.set(i64::from(store_reachable));
    }

    /// A copy of a request went to a canary.
    pub fn mirrored(&self, canary: &VersionRef, outcome: MirrorOutcome) {
        let [model, name] = labels(canary);
        self.0.mirrored.with_label_values(&[model, name, outcome.label()]).inc();
    }

    /// A webhook was told something, or was not. `receiver` must be a configured one.
    pub fn webhook_attempted(&self, receiver: &str, outcome: WebhookOutcome) {
        self.0.webhooks.with_label_values(&[receiver, outcome.label()]).inc();
    }

    /// What a webhook was to be told was given up.
    pub fn webhook_given_up(&self, receiver: &str) {
        self.0.webhooks_dead.with_label_values(&[receiver]).inc();
    }

    /// The file's configuration was put in force. It may have been in force before, with others refused in between.
    pub fn config_applied(&self, news: ConfigNews) {
        self.0.config_in_force.set(1);
        if news == ConfigNews::Another {
            self.0.reloads.with_label_values(&["applied"]).inc();
        }
    }

    /// The file's configuration cannot be taken.
    pub fn config_refused(&self, news: ConfigNews) {
        self.0.config_in_force.set(0);
        if news == ConfigNews::Another {
            self.0.reloads.with_label_values(&["refused"]).inc();
        }
    }

    fn count(&self, model: &str, version: &str, outcome: Outcome) {
        self.0.requests.with_label_values(&[model, version, outcome.label()]).inc();
    }

    /// The text of `/metrics`: all counters, and the samples of this moment.
    pub fn render(
        &self,
        engines: &[EngineSample],
        residency: &[ResidencySample],
        routes: &[RouteSample],
        background: Duration,
    ) -> Result<String, prometheus::Error> {
        let mut families = self.0.registry.gather();
        families.extend(sampled(engines, residency, routes, background)?.gather());
        TextEncoder::new().encode_to_string(&families)
    }
}

pub(super) fn labels(version: &VersionRef) -> [&str; 2] {
    [version.model.as_str(), version.version.as_str()]
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
