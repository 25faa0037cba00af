//! What an encoder has to do: a bounded queue, one request after the other, off the threads that serve connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::GatewayError;
use crate::engine::DrainOutcome;

/// When to come back to a full queue.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The queue of an encoder. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct EncoderQueue {
    /// Requests that are computed or wait.
    places: Arc<Semaphore>,
    all: u32,
    /// Whose turn it is: a request's texts are computed on all threads.
    turn: Arc<Semaphore>,
    /// Nothing more is taken.
    closing: Arc<AtomicBool>,
    /// What is under way is to end.
    stop: Arc<AtomicBool>,
}

/// Why there is no place.
#[derive(Debug)]
pub(super) enum NoPlace {
    /// The queue is full.
    Full(GatewayError),
    /// The version is being unloaded.
    Closed,
}

impl EncoderQueue {
    /// A queue of so many requests.
    pub(super) fn new(places: usize) -> Self {
        let all = u32::try_from(places).unwrap_or(u32::MAX).max(1);
        let (places, turn) = (Arc::new(Semaphore::new(all as usize)), Arc::new(Semaphore::new(1)));
        Self { places, all, turn, closing: Arc::default(), stop: Arc::default() }
    }

    /// A place for a request; it is given back when dropped.
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, NoPlace> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        // a drain takes all places: whoever finds none then, or one after all, is to look for another version
        if self.closing.load(Ordering::SeqCst) {
            return Err(NoPlace::Closed);
        }
        place.map_err(|_| NoPlace::Full(GatewayError::QueueFull { retry_after: RETRY_AFTER }))
    }

    /// Does a job of one that has a place when it is its turn. The job asks from time to time whether it is still
    /// wanted: it is not once the caller has left, or the version must go.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        job: impl FnOnce(&Wanted) -> Result<T, GatewayError> + Send + 'static,
    ) -> Result<T, GatewayError> {
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return Err(GatewayError::CutOff) };
        let left = Arc::new(AtomicBool::new(false));
        let wanted = Wanted { left: Arc::clone(&left), stop: Arc::clone(&self.stop) };
        let _leaves = Leaves(left);
        let task = tokio::task::spawn_blocking(move || {
            let result = job(&wanted);
            drop((turn, place));
            result
        });
        task.await.unwrap_or_else(|e| Err(GatewayError::Internal { why: format!("the encoder failed: {e}") }))
    }

    /// Takes nothing more and waits for what is there; at the deadline, that is cut off.
    pub(super) async fn drain(&self, deadline: Duration) -> DrainOutcome {
        self.closing.store(true, Ordering::SeqCst);
        // whoever waits for all places goes before those who come later
        let everything = self.places.acquire_many(self.all);
        let outcome = match tokio::time::timeout(deadline, everything).await {
            Ok(_) => DrainOutcome::Finished,
            Err(_) => {
                DrainOutcome::Cancelled { requests: self.all as usize - self.places.available_permits() }
            }
        };
        self.stop.store(true, Ordering::Release);
        self.places.close();
        self.turn.close();
        outcome
    }
}

/// Whether anybody waits for a job.
pub(super) struct Wanted {
    left: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Wanted {
    pub(super) fn check(&self) -> Result<(), GatewayError> {
        let is_over = self.left.load(Ordering::Acquire) || self.stop.load(Ordering::Acquire);
        if is_over { Err(GatewayError::CutOff) } else { Ok(()) }
    }
}

/// Says so when the caller leaves.
struct Leaves(Arc<AtomicBool>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_place_that_is_given_back_can_be_had() {
        let queue = EncoderQueue::new(1);
        let place = queue.enter().unwrap();
        assert!(matches!(queue.enter(), Err(NoPlace::Full(_))));
        assert_eq!(queue.run(place, |_| Ok(7)).await.unwrap(), 7);
        drop(queue.enter().unwrap());
    }

    #[tokio::test]
    async fn a_drain_waits_for_what_is_there_and_takes_nothing_more() {
        let queue = EncoderQueue::new(4);
        let place = queue.enter().unwrap();
        let drained = queue.drain(Duration::from_secs(5));
        let work = queue.run(place, Wanted::check);
        let (outcome, done) = tokio::join!(drained, work);
        assert_eq!((outcome, done), (DrainOutcome::Finished, Ok(())));
        assert!(matches!(queue.enter(), Err(NoPlace::Closed)));
    }

    #[tokio::test]
    async fn what_is_left_at_the_deadline_is_cut_off_and_counted() {
        let queue = EncoderQueue::new(4);
        let place = queue.enter().unwrap();
        assert_eq!(queue.drain(Duration::ZERO).await, DrainOutcome::Cancelled { requests: 1 });
        assert_eq!(queue.run(place, |_| Ok(())).await, Err(GatewayError::CutOff));
    }
}
