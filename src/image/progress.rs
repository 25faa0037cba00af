//! Bytes that several threads read, added up for the one who watches.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Told how many bytes are done and how many there are in all; called from several threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Told of each change in the number of bytes that are done; below 0 where work has to be done again.
pub(super) type Step<'a> = &'a (dyn Fn(i64) + Sync);

/// The bytes done so far, of a known number.
pub(super) struct Count<'a> {
    progress: Progress<'a>,
    done: AtomicU64,
    total: u64,
}

impl<'a> Count<'a> {
    pub(super) fn new(progress: Progress<'a>, total: u64) -> Self {
        progress(0, total);
        Self { progress, done: AtomicU64::new(0), total }
    }

    /// Steps back wrap around and come out right.
    pub(super) fn step(&self, change: i64) {
        let before = self.done.fetch_add(change as u64, Ordering::Relaxed);
        (self.progress)(before.wrapping_add(change as u64), self.total);
    }
}

/// Runs blocking work off the async threads, where hashing gigabytes would hold up the downloads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Like [`blocking`], for work that counts bytes. `step` stays with the caller's task; what the work's thread
/// counts is carried over to it.
pub(super) async fn counted<T: Send + 'static>(
    step: Step<'_>,
    work: impl FnOnce(Step<'_>) -> T + Send + 'static,
) -> T {
    let (counter, mut counter_seen) = watch::channel(0_i64);
    // A clone outlives the work, so that its last count can still be read.
    let counting = counter.clone();
    let working = blocking(move || work(&|change| counting.send_modify(|sum| *sum += change)));
    tokio::pin!(working);
    let mut told = 0;
    let mut tell = |sum: i64| {
        step(sum - told);
        told = sum;
    };
    loop {
        tokio::select! {
            done = &mut working => {
                let sum = *counter.borrow();
                tell(sum);
                return done;
            }
            Ok(()) = counter_seen.changed() => {
                let sum = *counter_seen.borrow_and_update();
                tell(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_thread_counts_reaches_the_task_that_watches() {
        let sum = AtomicU64::new(0);
        let step = |change: i64| {
            sum.fetch_add(change as u64, Ordering::Relaxed);
        };
        let result = counted(&step, |step| {
            (0..100).for_each(|_| step(7));
            step(-300);
            "done"
        });
        assert_eq!(result.await, "done");
        assert_eq!(sum.into_inner(), 400);
    }
}
