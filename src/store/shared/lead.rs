//! Which replica leads: it advances rollouts and experiments, runs the suites that rollouts wait for, and delivers
//! webhooks.
//!
//! The lead is a lock of a connection of its own: it ends when the leader does, and another takes it. Each leader has a
//! term, which counts up: what one writes who does not know yet that he was replaced is refused.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{ConnectOptions, PgConnection, Row};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connect::{CONNECT, Shared};
use super::turn::IDLE;
use crate::store::error::StoreError;
use crate::store::open::{Kind, Store};
use crate::store::read::timestamp;

/// The lock of the lead.
const LEAD: i64 = 0x5377_6974_6368_0002;

/// How often a replica tries to lead, and how often the leader asks whether it still does.
const BEAT: Duration = Duration::from_millis(500);

/// Whether a replica leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It does. A server that has its store for itself always does.
    Leads {
        /// Counts the leaders of a shared store.
        term: i64,
    },
    /// Another does, or nobody.
    Follows,
}

/// Who leads, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderRow {
    /// Counts the leaders.
    pub term: i64,
    /// The name of the replica; it may be gone by now.
    pub replica: String,
    /// Since when.
    pub since: Timestamp,
}

impl Store {
    /// Whether this replica leads, and word of each change.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    /// Whether this replica leads.
    pub fn leads(&self) -> bool {
        matches!(*self.role.borrow(), Role::Leads { .. })
    }

    /// Says as what the watcher acts from now on: what it has seen is of that term.
    pub fn acts_as(&self, role: Role) {
        if let Some(shared) = self.shared() {
            *shared.acting.lock() = Some(role);
        }
    }

    /// This replica's name, where the store is shared.
    pub fn replica(&self) -> Option<&str> {
        self.shared().map(|shared| shared.replica.as_str())
    }

    /// Who led last; nobody knows of a file.
    pub async fn leader(&self) -> Result<Option<LeaderRow>, StoreError> {
        if !self.is_shared() {
            return Ok(None);
        }
        let select = "SELECT term, replica, since FROM lead WHERE since IS NOT NULL";
        self.within(async {
            let row = sqlx::query(select).fetch_optional(&self.pool).await?;
            let leader = row.map(|row| {
                let (term, replica) = (row.try_get("term")?, row.try_get("replica")?);
                Ok(LeaderRow { term, replica, since: timestamp(&row, "since")? })
            });
            leader.transpose()
        })
        .await
    }

    /// Does not lead from now on, and lets another do so.
    pub fn resign(&self) {
        if let Kind::Shared(shared) = &self.kind {
            shared.resigned.cancel();
            self.role.send_replace(Role::Follows);
        }
    }

    /// Leads whenever nobody else does, until [`Store::resign`].
    pub async fn stand_for_lead(&self) {
        let Kind::Shared(shared) = &self.kind else { return };
        let resigned = shared.resigned.clone();
        let _ = resigned.run_until_cancelled(self.lead_again_and_again(shared)).await;
        self.role.send_replace(Role::Follows);
    }

    async fn lead_again_and_again(&self, shared: &Shared) {
        loop {
            if let Some((mut connection, term)) = elected(shared).await {
                tracing::info!(term, replica = %shared.replica, "leads the replicas: advances their rollouts");
                self.role.send_replace(Role::Leads { term });
                while still_there(&mut connection).await {
                    sleep(BEAT).await;
                }
                self.role.send_replace(Role::Follows);
                tracing::warn!(term, replica = %shared.replica, "no longer leads: the connection to the store broke");
            }
            sleep(BEAT).await;
        }
    }
}

/// The connection whose end is the end of the lead, and the term; nothing where another leads, or nobody can.
async fn elected(shared: &Shared) -> Option<(PgConnection, i64)> {
    let mut connection = timeout(CONNECT, shared.options.connect()).await.ok()?.ok()?;
    // a leader that is stopped, but not dead, must not keep the lead; servers before PostgreSQL 14 do not know this
    let idle = format!("SET idle_session_timeout = {}", IDLE.as_millis());
    let _ = timeout(CONNECT, sqlx::query(sqlx::AssertSqlSafe(idle)).execute(&mut connection)).await.ok()?;
    loop {
        let asking = sqlx::query("SELECT pg_try_advisory_lock($1) AS leads").bind(LEAD);
        let answer = timeout(CONNECT, asking.fetch_one(&mut connection)).await.ok()?.ok()?;
        if answer.try_get("leads").ok()? {
            break;
        }
        sleep(BEAT).await;
    }
    let term = sqlx::query("UPDATE lead SET term = term + 1, replica = $1, since = $2 RETURNING term")
        .bind(&shared.replica)
        .bind(Timestamp::now().to_string())
        .fetch_one(&mut connection);
    let term = timeout(CONNECT, term).await.ok()?.ok()?.try_get("term").ok()?;
    Some((connection, term))
}

async fn still_there(connection: &mut PgConnection) -> bool {
    let asking = sqlx::query("SELECT 1").execute(connection);
    matches!(timeout(CONNECT, asking).await, Ok(Ok(_)))
}
