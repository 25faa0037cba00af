//! What time it is, so that tests can turn it. Imports no other room.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use jiff::Timestamp;

/// What time it is, and waiting for another. One clock drives what a process does by itself.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;

    /// Ready once it is `at`; unless a clock knows better, after as long as the machine takes for that.
    fn wait_until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        let wait = Duration::try_from(self.now().duration_until(at)).unwrap_or_default();
        tokio::time::sleep(wait).boxed()
    }
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
