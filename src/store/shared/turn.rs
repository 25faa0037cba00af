//! Turns: one replica after the other changes something, each on top of what the one before has left.
//!
//! A turn is a lock that ends with its transaction, so that it ends with its replica. Should one be lost all the same while
//! its replica goes on, the number of changes keeps what it writes out: see [`Writes`](super::Writes).

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Postgres, Row};

use super::connect::Shared;
use crate::store::error::StoreError;
use crate::store::open::{Kind, Store};

/// The lock of turns. Locks are the database's, so replicas of one deployment have a database of their own.
const TURN: i64 = 0x5377_6974_6368_0001;

/// How long a replica may do nothing in its turn: one that is stopped, but not dead, must not stop the others.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// The right to change something. Of a file, this process has it for ever.
pub struct Turn {
    held: Option<Held>,
}

struct Held {
    transaction: sqlx::Transaction<'static, Postgres>,
    shared: Arc<Shared>,
}

impl Store {
    /// Waits for the turn.
    pub async fn take_turn(&self) -> Result<Turn, StoreError> {
        let Kind::Shared(shared) = &self.kind else { return Ok(Turn { held: None }) };
        let taking = async {
            let mut transaction = shared.pool.begin().await?;
            let idle = format!("SET LOCAL idle_in_transaction_session_timeout = {}", IDLE.as_millis());
            sqlx::query(sqlx::AssertSqlSafe(idle)).execute(&mut *transaction).await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(TURN).execute(&mut *transaction).await?;
            let row = sqlx::query("SELECT number FROM changes").fetch_one(&mut *transaction).await?;
            *shared.turn.lock() = Some(row.try_get("number")?);
            Ok(Turn { held: Some(Held { transaction, shared: Arc::clone(shared) }) })
        };
        shared.within(taking).await
    }

    /// How many changes there have been; moves on with each that any replica makes.
    pub async fn changes_made(&self) -> Result<i64, StoreError> {
        let Kind::Shared(shared) = &self.kind else { return Ok(0) };
        let counting = async {
            let row = sqlx::query("SELECT number FROM changes").fetch_one(&shared.pool).await?;
            Ok(row.try_get("number")?)
        };
        shared.within(counting).await
    }

    /// Told when another replica may have changed something; never of a file.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changes.subscribe()
    }
}

impl Turn {
    /// The number of changes as this replica has left it by now.
    pub fn changes_made(&self) -> i64 {
        self.held.as_ref().and_then(|held| *held.shared.turn.lock()).unwrap_or_default()
    }

    /// Lets the next replica have it.
    pub async fn give_back(mut self) {
        let Some(Held { transaction, shared }) = self.held.take() else { return };
        *shared.turn.lock() = None;
        let ended = async { Ok(transaction.rollback().await?) };
        if let Err(error) = shared.within(ended).await {
            // the lock ends with the connection, or when the database finds it idle
            tracing::warn!(%error, "a turn could not be given back in order");
        }
    }
}

/// A turn that is not given back in order ends with its connection's transaction.
impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            *held.shared.turn.lock() = None;
        }
    }
}
