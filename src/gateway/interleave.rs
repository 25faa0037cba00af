//! How engines share the device, as rollouts and experiments need it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::engine::{Interleave, Turns};
use crate::release::Releases;

/// Has engines share the device evenly while anything compares how fast versions are, so that a canary is not found slow
/// for having few users; else as is best for all clients together. Ends with `stop`.
pub(super) async fn interleave(turns: Turns, releases: Releases, every: Duration, stop: CancellationToken) {
    let mut looks = tokio::time::interval(every);
    loop {
        let how = if releases.compares_times() { Interleave::Evenly } else { Interleave::ByDemand };
        turns.interleave(how);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
    }
}
