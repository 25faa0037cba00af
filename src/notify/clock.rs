//! Time, so that tests can turn it.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use jiff::Timestamp;

/// What time it is, and waiting for another.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
    /// Ready once it is `at`.
    fn wait_until(&self, at: Timestamp) -> BoxFuture<'_, ()>;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn wait_until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        let wait = Duration::try_from(self.now().duration_until(at)).unwrap_or_default();
        tokio::time::sleep(wait).boxed()
    }
}
