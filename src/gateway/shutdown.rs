//! The end: no new requests, then every engine finishes what it has, within one deadline.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Gateway;

/// How long answers that wait for their checks are waited for; thousands are judged in that time.
const CHECKS_DEADLINE: Duration = Duration::from_secs(2);

impl Gateway {
    /// Takes no new requests from now on; `/ready` says so at once.
    pub fn close(&self) {
        self.inner().closed.store(true, Ordering::Release);
        // From now on versions leave because the server does: no rollout must take that for its canary's death.
        self.inner().stop.cancel();
    }

    /// Whether the server has begun to stop.
    pub fn is_stopping(&self) -> bool {
        self.inner().stop.is_cancelled()
    }

    /// Returns when the server begins to stop.
    pub async fn stopping(&self) {
        self.inner().stop.cancelled().await;
    }

    /// Closes, and waits until all engines have finished or the drain deadline has passed. How many requests were cut
    /// off at the deadline.
    pub async fn shut_down(&self) -> usize {
        self.close();
        self.inner().residency.drain_all(self.inner().drain_deadline).await
    }

    /// Ends the checks once what was answered has been judged, and waits until what was seen of rollouts is written
    /// down. To be called when no answer is read any more.
    pub async fn end_checks(&self) {
        self.inner().checks.close(CHECKS_DEADLINE).await;
        self.inner().end.cancel();
        self.inner().tasks.close();
        if tokio::time::timeout(CHECKS_DEADLINE, self.inner().tasks.wait()).await.is_err() {
            tracing::warn!("what was seen of rollouts last could not be written in time");
        }
    }
}
