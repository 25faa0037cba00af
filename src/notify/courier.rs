//! The task that empties the outbox.
//!
//! Each receiver has a lane: one delivery after another, the next only when the one before is settled. The lanes share a
//! task and nothing else.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::post::Post;
use super::retry::{Next, Terms, Tried, next};
use super::status::Webhooks;
use crate::clock::Clock;
use crate::config::{Phase, Webhook};
use crate::store::{Attempt, DeliveryRow, Store, StoreError, Subscription};
use crate::telemetry::{Metrics, WebhookOutcome};

/// How long a lane waits when the store fails.
const STORE_FAILED: Duration = Duration::from_secs(5);

/// All lanes.
pub struct Courier {
    lanes: Vec<Lane>,
}

/// The way to one receiver.
struct Lane {
    receiver: String,
    post: Post,
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    terms: Terms,
}

/// Why webhooks cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The outbox cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

impl Courier {
    /// Subscribes the configured receivers: from now on each transition puts its news in the outbox. To be called before
    /// anything moves.
    pub async fn subscribe(
        webhooks: &[Webhook],
        store: &Store,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        terms: Terms,
    ) -> Result<(Self, Webhooks), NotifyError> {
        let subscription = |webhook: &Webhook| Subscription {
            receiver: webhook.url.receiver(),
            events: webhook.events.iter().copied().map(Phase::as_str).collect(),
        };
        let all: Vec<_> = webhooks.iter().map(subscription).collect();
        let given_up = store.subscribe(&all, clock.now()).await?;
        if given_up > 0 {
            tracing::warn!(given_up, "deliveries to webhooks that are no longer configured were given up");
        }
        let lane = |webhook: &Webhook| -> Result<Lane, NotifyError> {
            Ok(Lane {
                receiver: webhook.url.receiver(),
                post: Post::new(webhook.clone())?,
                store: store.clone(),
                clock: Arc::clone(&clock),
                metrics: metrics.clone(),
                terms,
            })
        };
        let lanes = webhooks.iter().map(lane).collect::<Result<_, _>>()?;
        Ok((Self { lanes }, Webhooks::new(webhooks, store.clone())))
    }

    /// Delivers until `stop`. An attempt that is under way then has a moment left; what is not delivered stays in the
    /// outbox.
    pub async fn run(self, stop: CancellationToken) {
        self.run_until(&stop).await;
    }

    /// The same, and it can be run again.
    pub async fn run_until(&self, stop: &CancellationToken) {
        join_all(self.lanes.iter().map(|lane| lane.run(stop))).await;
    }
}

impl Lane {
    async fn run(&self, stop: &CancellationToken) {
        let mut changes = self.store.outbox_changes();
        // what an earlier process has left is there without a change
        changes.mark_changed();
        while !stop.is_cancelled() {
            let outcome = match self.store.next_delivery(&self.receiver).await {
                Ok(Some(delivery)) => self.deliver(&delivery, stop).await,
                Ok(None) => {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        // an error would mean that the store is gone, and this lane holds it
                        _ = changes.changed() => {}
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::error!(receiver = %self.receiver, %error, "the outbox of webhooks failed");
                self.wait(STORE_FAILED, stop).await;
            }
        }
    }

    /// Makes the next attempt of a delivery, when it is due.
    async fn deliver(&self, delivery: &DeliveryRow, stop: &CancellationToken) -> Result<(), StoreError> {
        let wait = until(self.clock.now(), delivery.due_at);
        // A longer wait is never asked for: the clock was set back.
        if !wait.is_zero() && wait <= self.terms.longest_asked.max(self.terms.longest_wait) {
            self.wait(wait, stop).await;
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        let attempt = self.post.attempt(delivery, self.terms.attempt, self.clock.now());
        tokio::pin!(attempt);
        let reply = tokio::select! {
            reply = &mut attempt => reply,
            () = stop.cancelled() => match tokio::time::timeout(self.terms.last_words, attempt).await {
                Ok(reply) => reply,
                // it counts as not made, and is made again after the restart
                Err(_) => return Ok(()),
            },
        };
        let now = self.clock.now();
        let tried = Tried { failed: delivery.attempts, age: until(delivery.notice.at, now) };
        let next = next(&self.terms, tried, reply, RandomState::new().hash_one(delivery.id));
        let attempt = self.told(delivery, next);
        self.store.record_attempt(delivery.id, &attempt, now).await
    }

    /// Counts and logs what an attempt came to.
    fn told(&self, delivery: &DeliveryRow, next: Next) -> Attempt {
        let DeliveryRow { id, notice, attempts, .. } = delivery;
        let (receiver, event) = (&self.receiver, &notice.event);
        match next {
            Next::Delivered => {
                self.metrics.webhook_attempted(receiver, WebhookOutcome::Delivered);
                tracing::debug!(%receiver, id, %event, "webhook delivered");
                Attempt::Delivered
            }
            Next::Again { wait, error } => {
                self.metrics.webhook_attempted(receiver, WebhookOutcome::Failed);
                tracing::warn!(%receiver, id, %event, attempts = attempts + 1, %error, ?wait, "a webhook failed; it is tried again");
                let due_at = self.clock.now().checked_add(wait).unwrap_or(jiff::Timestamp::MAX);
                Attempt::Again { due_at, error }
            }
            Next::GiveUp { error } => {
                self.metrics.webhook_attempted(receiver, WebhookOutcome::Failed);
                self.metrics.webhook_given_up(receiver);
                tracing::error!(%receiver, id, %event, attempts = attempts + 1, %error, "a webhook was given up; GET /admin/webhooks has it");
                Attempt::Dead { error }
            }
        }
    }

    async fn wait(&self, time: Duration, stop: &CancellationToken) {
        let at = self.clock.now().checked_add(time).unwrap_or(jiff::Timestamp::MAX);
        stop.run_until_cancelled(self.clock.wait_until(at)).await;
    }
}

/// How long it is until a time; nothing where it is past.
fn until(now: jiff::Timestamp, at: jiff::Timestamp) -> Duration {
    Duration::try_from(now.duration_until(at)).unwrap_or_default()
}
