//! The outbox of webhooks: what is to be told, to whom, and what became of it.
//!
//! Rows are written in the transaction of what they tell of, one for each receiver that subscribed to the event; so
//! nothing that happened is forgotten, and nothing is told that did not happen.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::error::StoreError;
use super::notice::RolloutNotice;
use super::open::{Store, Transaction};
use super::read::{number, parsed, timestamp};
use super::shared::Writes;

/// Deliveries that are kept of each kind, delivered and dead, to be looked at; older ones are deleted.
pub const KEPT: u32 = 1000;

/// Who wants to hear of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// A name that stays the same over restarts.
    pub receiver: String,
    /// Names of events.
    pub events: Vec<&'static str>,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is to be made, or made again.
    Pending,
    /// The receiver has taken it.
    Delivered,
    /// It was given up.
    Dead,
}

/// One event on its way to one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Counts up. The same at each attempt.
    pub id: i64,
    /// The receiver.
    pub receiver: String,
    /// What happened.
    pub notice: RolloutNotice,
    /// What became of it.
    pub state: DeliveryState,
    /// Attempts that have failed.
    pub attempts: u32,
    /// Not before, while it is pending.
    pub due_at: Timestamp,
    /// When it was delivered or given up.
    pub settled_at: Option<Timestamp>,
    /// What the last attempt failed of.
    pub last_error: Option<String>,
}

/// How many deliveries a receiver has in each state. Old ones that are settled are no longer counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryCounts {
    /// To be made.
    pub pending: u64,
    /// Made.
    pub delivered: u64,
    /// Given up.
    pub dead: u64,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The receiver has taken it.
    Delivered,
    /// It failed, and will be made again.
    Again {
        /// Not before.
        due_at: Timestamp,
        /// What it failed of.
        error: String,
    },
    /// It failed for good.
    Dead {
        /// What it failed of.
        error: String,
    },
}

impl DeliveryState {
    /// As it is written down.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

const NO_LONGER: &str = "the receiver is no longer in the configuration";

impl Store {
    /// From now on these are told, and nobody else. What was on its way to others is given up; how many that were.
    pub async fn subscribe(&self, all: &[Subscription], now: Timestamp) -> Result<u64, StoreError> {
        self.within(async {
        let mut writing = self.writing(Writes::Lines).await?;
        sqlx::query("DELETE FROM webhook_subscriptions").execute(&mut **writing).await?;
        for Subscription { receiver, events } in all {
            for event in events {
                let insert = "INSERT INTO webhook_subscriptions (receiver, event) VALUES ($1, $2)";
                sqlx::query(insert).bind(receiver).bind(event).execute(&mut **writing).await?;
            }
        }
        let given_up = sqlx::query(
            "UPDATE webhook_outbox SET state = 'dead', settled_at = $1, last_error = $2 WHERE state = 'pending' \
             AND receiver NOT IN (SELECT receiver FROM webhook_subscriptions)",
        );
        let given_up = given_up.bind(now.to_string()).bind(NO_LONGER).execute(&mut **writing).await?;
        writing.commit().await?;
        Ok(given_up.rows_affected())
        })
        .await
    }

    /// Wakes whoever waits for something to deliver; see [`Store::next_delivery`].
    pub fn outbox_changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.outbox.subscribe()
    }

    /// The oldest delivery that a receiver has not had yet.
    pub async fn next_delivery(&self, receiver: &str) -> Result<Option<DeliveryRow>, StoreError> {
        self.within(async {
            let select =
                "SELECT * FROM webhook_outbox WHERE receiver = $1 AND state = 'pending' ORDER BY id LIMIT 1";
            let row = sqlx::query(select).bind(receiver).fetch_optional(&self.pool).await?;
            row.as_ref().map(delivery_row).transpose()
        })
        .await
    }

    /// Writes down what an attempt came to, and forgets what is settled and old.
    pub async fn record_attempt(&self, id: i64, attempt: &Attempt, now: Timestamp) -> Result<(), StoreError> {
        self.within(async {
        let mut writing = self.writing(Writes::Lines).await?;
        match attempt {
            Attempt::Delivered => settle(&mut writing, id, DeliveryState::Delivered, None, now).await?,
            Attempt::Dead { error } => {
                settle(&mut writing, id, DeliveryState::Dead, Some(error), now).await?;
            }
            Attempt::Again { due_at, error } => {
                let update = "UPDATE webhook_outbox SET attempts = attempts + 1, due_at = $2, last_error = $3 \
                              WHERE id = $1 AND state = 'pending'";
                let query = sqlx::query(update).bind(id).bind(due_at.to_string()).bind(error);
                query.execute(&mut **writing).await?;
            }
        }
        writing.commit().await
        })
        .await
    }

    /// The newest `limit` deliveries, the newest first.
    pub async fn deliveries(&self, limit: u32) -> Result<Vec<DeliveryRow>, StoreError> {
        self.within(async {
            let select = "SELECT * FROM webhook_outbox ORDER BY id DESC LIMIT $1";
            let rows = sqlx::query(select).bind(i64::from(limit)).fetch_all(&self.pool).await?;
            rows.iter().map(delivery_row).collect()
        })
        .await
    }

    /// How many deliveries a receiver has in each state.
    pub async fn delivery_counts(&self, receiver: &str) -> Result<DeliveryCounts, StoreError> {
        self.within(async {
            let select =
                "SELECT state, COUNT(*) AS deliveries FROM webhook_outbox WHERE receiver = $1 GROUP BY state";
            let mut counts = DeliveryCounts::default();
            for row in sqlx::query(select).bind(receiver).fetch_all(&self.pool).await? {
                let deliveries = number(&row, "deliveries")?;
                match state(&row)? {
                    DeliveryState::Pending => counts.pending = deliveries,
                    DeliveryState::Delivered => counts.delivered = deliveries,
                    DeliveryState::Dead => counts.dead = deliveries,
                }
            }
            Ok(counts)
        })
        .await
    }

    /// The newest delivery to a receiver of which an attempt failed.
    pub async fn last_failure(&self, receiver: &str) -> Result<Option<DeliveryRow>, StoreError> {
        self.within(async {
            let select = "SELECT * FROM webhook_outbox WHERE receiver = $1 AND last_error IS NOT NULL \
                      ORDER BY id DESC LIMIT 1";
            let row = sqlx::query(select).bind(receiver).fetch_optional(&self.pool).await?;
            row.as_ref().map(delivery_row).transpose()
        })
        .await
    }
}

/// Puts an event in the outbox of everybody who subscribed to it.
pub(super) async fn insert(
    transaction: &mut Transaction<'_>,
    notice: &RolloutNotice,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO webhook_outbox (id, receiver, event, body, created_at, state, attempts, due_at) \
         SELECT (SELECT COALESCE(MAX(id), 0) FROM webhook_outbox) + ROW_NUMBER() OVER (ORDER BY receiver), \
         receiver, event, $2, $3, 'pending', 0, $3 FROM webhook_subscriptions WHERE event = $1",
    )
    .bind(&notice.event)
    .bind(serde_json::to_string(notice).expect("names and numbers always serialise"))
    .bind(notice.at.to_string())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// The newest row is always kept, so that no number is ever given twice.
async fn settle(
    transaction: &mut Transaction<'_>,
    id: i64,
    state: DeliveryState,
    error: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let failed = i64::from(state == DeliveryState::Dead);
    let update = "UPDATE webhook_outbox SET state = $2, settled_at = $3, attempts = attempts + $4, \
                  last_error = COALESCE($5, last_error) WHERE id = $1 AND state = 'pending'";
    let query = sqlx::query(update).bind(id).bind(state.as_str()).bind(now.to_string());
    query.bind(failed).bind(error).execute(&mut **transaction).await?;
    let forget = "DELETE FROM webhook_outbox WHERE state = $1 AND id NOT IN \
                  (SELECT id FROM webhook_outbox WHERE state = $1 ORDER BY id DESC LIMIT $2)";
    sqlx::query(forget).bind(state.as_str()).bind(i64::from(KEPT)).execute(&mut **transaction).await?;
    Ok(())
}

fn delivery_row(row: &AnyRow) -> Result<DeliveryRow, StoreError> {
    let settled: Option<String> = row.try_get("settled_at")?;
    Ok(DeliveryRow {
        id: row.try_get("id")?,
        receiver: row.try_get("receiver")?,
        notice: parsed(row, "body")?,
        state: state(row)?,
        attempts: number(row, "attempts")?,
        due_at: timestamp(row, "due_at")?,
        settled_at: settled.map(|_| timestamp(row, "settled_at")).transpose()?,
        last_error: row.try_get("last_error")?,
    })
}

fn state(row: &AnyRow) -> Result<DeliveryState, StoreError> {
    let found: String = row.try_get("state")?;
    let all = [DeliveryState::Pending, DeliveryState::Delivered, DeliveryState::Dead];
    let unknown = || StoreError::Row {
        column: "state",
        found: found.clone(),
        why: "not a state of a delivery".to_owned(),
    };
    all.into_iter().find(|state| state.as_str() == found).ok_or_else(unknown)
}
