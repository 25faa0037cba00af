//! What the server tells about itself: metrics for Prometheus and logs for people and machines.
//!
//! In: observations from any room, as plain numbers and labels. Out: the text of `/metrics`, lines on stderr.
//! May import: nothing of ours (only `ids`).
//!
//! Invariants: no label takes a value that a client can choose freely, so the number of series is bounded by the
//! configuration; a metric that cannot be registered is a start-up error, never a panic on the way of a request.

mod logging;
mod metrics;
mod samples;

pub use logging::{LogFormat, LoggingError, init as init_logging};
pub use metrics::{ConfigNews, Metrics, MirrorOutcome, Outcome, RequestSample, WebhookOutcome};
pub use samples::{EngineSample, ResidencySample, RouteSample};
