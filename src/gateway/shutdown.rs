//! The end: no new requests, then every engine finishes what it has, within one deadline.

use std::sync::atomic::Ordering;

use super::Gateway;

impl Gateway {
    /// Takes no new requests from now on; `/ready` says so at once.
    pub fn close(&self) {
        self.inner().closed.store(true, Ordering::Release);
    }

    /// Closes, and waits until all engines have finished or the drain deadline has passed. How many requests were cut
    /// off at the deadline.
    pub async fn shut_down(&self) -> usize {
        self.close();
        self.inner().residency.drain_all(self.inner().drain_deadline).await
    }
}
