//! From the way of a request to the worker: a bounded queue that drops and counts, and never makes anyone wait.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::checks::Checks;
use super::response::Response;
use super::worker::{CutShort, Ended, Finish, Ledger, Message, Sink, Way, Worker};
use crate::ids::{ModelName, VersionRef, Weight};
use crate::telemetry::Metrics;

/// What is checked of one model.
#[derive(Debug)]
pub struct Plan {
    /// The checks.
    pub checks: Checks,
    /// The share of answers that are checked.
    pub share: Weight,
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Answers.
    pub answers: usize,
    /// Bytes of their texts.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { answers: 4096, bytes: 64 << 20 }
    }
}

/// The way to the checks. Cheap to clone; the worker ends with the last clone, or when it is closed.
#[derive(Clone)]
pub struct CheckQueue(Arc<Inner>);

struct Inner {
    plans: BTreeMap<ModelName, Arc<Plan>>,
    sender: mpsc::Sender<Message>,
    ledger: Arc<Ledger>,
    limits: Limits,
    metrics: Metrics,
    /// Counts answers, so that a user's answers are sampled independently.
    answers: AtomicU64,
}

impl CheckQueue {
    /// Starts the worker, unless there is nothing to check. `sink` gets each observation, in order, on its thread.
    pub fn start(
        plans: BTreeMap<ModelName, Plan>,
        limits: Limits,
        metrics: Metrics,
        sink: Sink,
    ) -> io::Result<Self> {
        let plans: BTreeMap<_, _> = plans.into_iter().map(|(model, plan)| (model, Arc::new(plan))).collect();
        let (sender, receiver) = mpsc::channel(limits.answers.max(1));
        let ledger = Arc::new(Ledger::default());
        if !plans.is_empty() {
            let worker = Worker { receiver, sink, metrics: metrics.clone(), ledger: Arc::clone(&ledger) };
            std::thread::Builder::new().name("checks".into()).spawn(move || worker.run())?;
        }
        Ok(Self(Arc::new(Inner { plans, sender, ledger, limits, metrics, answers: AtomicU64::new(0) })))
    }

    /// The way to the checks for one answer of a version to a user; none if nothing of it is to be checked. `admitted` is
    /// when it was asked for, as whoever reads the observation counts time; `user` is asked only where the model has checks.
    pub fn watch(
        &self,
        version: &VersionRef,
        way: Way,
        admitted: Timestamp,
        user: impl FnOnce() -> u64,
    ) -> Option<Watch> {
        let plan = self.0.plans.get(&version.model)?;
        let user = user();
        let answer = self.0.answers.fetch_add(1, Ordering::Relaxed);
        sampled(user, answer, plan.share).then(|| Watch {
            queue: self.clone(),
            plan: Arc::clone(plan),
            version: version.clone(),
            way,
            admitted,
            user,
        })
    }

    /// Takes nothing more, and waits until what is queued has been judged, or the deadline has passed. What is left
    /// then is dropped and counted.
    pub async fn close(&self, deadline: Duration) {
        if self.0.plans.is_empty() {
            return;
        }
        let (done, finished) = oneshot::channel();
        let drained = async {
            // Fails only if the worker has ended, and then there is nothing to wait for.
            if self.0.sender.send(Message::Close(done)).await.is_ok() {
                let _ = finished.await;
            }
        };
        if tokio::time::timeout(deadline, drained).await.is_err() {
            self.0.ledger.abandon();
            tracing::warn!(?deadline, "the checks were not done in time; what is left is dropped");
        }
    }

    fn offer(&self, ended: Ended) {
        let bytes = ended.bytes();
        let model = ended.version.model.clone();
        let fits = self.0.ledger.add(bytes) <= self.0.limits.bytes;
        if !fits || self.0.sender.try_send(Message::Answer(ended)).is_err() {
            self.0.ledger.remove(bytes);
            self.0.metrics.check_dropped(&model);
        }
    }
}

impl std::fmt::Debug for CheckQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckQueue").field("plans", &self.0.plans).finish_non_exhaustive()
    }
}

/// The way to the checks for one answer. An answer of several choices offers each.
#[derive(Debug, Clone)]
pub struct Watch {
    queue: CheckQueue,
    plan: Arc<Plan>,
    version: VersionRef,
    way: Way,
    admitted: Timestamp,
    user: u64,
}

impl Watch {
    /// A choice came to its end.
    pub fn finished(&self, response: Response) {
        self.offer(Finish::Whole(response));
    }

    /// A choice did not: it is observed, but there is no whole text to judge.
    pub fn cut_short(&self, cut: CutShort) {
        self.offer(Finish::CutShort(cut));
    }

    fn offer(&self, finish: Finish) {
        let Self { queue, plan, version, way, admitted, user } = self;
        let (plan, version) = (Arc::clone(plan), version.clone());
        queue.offer(Ended { plan, version, way: *way, admitted: *admitted, user: *user, finish });
    }
}

/// Whether an answer is in the sample. A hash: no lock, no random state, and no user is always in or always out.
fn sampled(user: u64, answer: u64, share: Weight) -> bool {
    share.holds(xxh3_64_with_seed(&answer.to_le_bytes(), user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_each_users_answers_is_sampled() {
        let share = Weight::from_percent(25.0).unwrap();
        for user in [0, 7, u64::MAX] {
            let count = (0..10_000).filter(|answer| sampled(user, *answer, share)).count();
            assert!((2_300..2_700).contains(&count), "{count} of 10,000 for user {user}");
        }
        assert!((0..1000).all(|answer| sampled(1, answer, Weight::FULL)));
        assert!(!(0..1000).any(|answer| sampled(1, answer, Weight::ZERO)));
    }
}
