//! Rollouts: the state of each, and each transition ever.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::audit::{self, NewAudit};
use super::error::StoreError;
use super::notice::RolloutNotice;
use super::open::{Store, Transaction};
use super::outbox;
use super::read::{name, number, rollout_id, timestamp};
use super::routes::{self, RouteRow};
use super::shared::Writes;
use crate::ids::{ModelName, RolloutId, VersionName, Weight};

/// A rollout as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRow {
    /// Its number.
    pub id: RolloutId,
    /// The model.
    pub model: ModelName,
    /// The version that is being rolled out.
    pub canary: VersionName,
    /// The version that it is compared with.
    pub stable: VersionName,
    /// JSON that only the rollout understands.
    pub policy: String,
    /// JSON that only the rollout understands.
    pub state: String,
    /// When it began.
    pub created_at: Timestamp,
    /// When its last transition was.
    pub updated_at: Timestamp,
    /// When it ended, if it has.
    pub ended_at: Option<Timestamp>,
    /// Who made the last transition.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// A line of a rollout's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitionRow {
    /// The rollout.
    pub rollout: RolloutId,
    /// Counts up from 1 within the rollout.
    pub seq: u32,
    /// When.
    pub at: Timestamp,
    /// Where it was, such as `step 2`; nowhere at its beginning.
    pub from: Option<String>,
    /// Where it went.
    pub to: String,
    /// The canary's weight before.
    pub from_weight: Weight,
    /// The canary's weight from then on.
    pub to_weight: Weight,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What one transition writes.
#[derive(Debug, Clone)]
pub struct NewTransition {
    /// The rollout after it. Its `updated_at`, `actor` and `reason` are those of the transition.
    pub rollout: RolloutRow,
    /// Where it was; nowhere for a rollout that begins.
    pub from: Option<String>,
    /// Where it is now.
    pub to: String,
    /// The canary's weight before.
    pub from_weight: Weight,
    /// The canary's weight from then on.
    pub to_weight: Weight,
    /// The route's new revision, where the weights change.
    pub route: Option<RouteRow>,
    /// The line of the audit log.
    pub audit: NewAudit,
    /// What webhooks tell of it, if it is worth telling.
    pub notice: Option<RolloutNotice>,
}

const COLUMNS: &str =
    "id, model, canary, stable, policy, state, created_at, updated_at, ended_at, actor, reason";

impl Store {
    /// The number of the next rollout. It is taken only when the rollout is written.
    pub async fn next_rollout_id(&self) -> Result<RolloutId, StoreError> {
        self.within(async {
            let row =
                sqlx::query("SELECT COALESCE(MAX(id), 0) + 1 AS id FROM rollouts").fetch_one(&self.pool);
            rollout_id(&row.await?, "id")
        })
        .await
    }

    /// Writes a transition: the rollout's state, its line in the history, the route's revision and the audit line, all
    /// or none of them. So whenever the process dies, the weights are those of the rollout's state.
    pub async fn append_transition(&self, transition: &NewTransition) -> Result<(), StoreError> {
        self.append_transitions(std::slice::from_ref(transition)).await
    }

    /// Writes several, all or none: the end of one rollout and the beginning of the one that takes its place.
    pub async fn append_transitions(&self, transitions: &[NewTransition]) -> Result<(), StoreError> {
        self.within(async {
            let mut writing = self.writing(Writes::Change).await?;
            for transition in transitions {
                append(&mut writing, transition).await?;
            }
            writing.commit().await?;
            self.outbox.send_replace(());
            Ok(())
        })
        .await
    }

    /// Writes what the analysis of a running rollout says now, for all replicas. It is no transition.
    pub async fn note_rollout(&self, id: RolloutId, state: &str) -> Result<(), StoreError> {
        self.within(async {
            let mut writing = self.writing(Writes::Change).await?;
            let update = sqlx::query("UPDATE rollouts SET state = $2 WHERE id = $1 AND ended_at IS NULL");
            let update = update.bind(i64::from(id.number())).bind(state).execute(&mut **writing).await?;
            if update.rows_affected() == 0 {
                return Err(StoreError::NoSuchRollout { id });
            }
            writing.commit().await
        })
        .await
    }

    /// The rollouts that have not ended, by number.
    pub async fn running_rollouts(&self) -> Result<Vec<RolloutRow>, StoreError> {
        self.within(async {
            let select = format!("SELECT {COLUMNS} FROM rollouts WHERE ended_at IS NULL ORDER BY id");
            let rows = sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(&self.pool).await?;
            rows.iter().map(rollout_row).collect()
        })
        .await
    }

    /// The newest `limit` rollouts of a model, the newest first.
    pub async fn rollouts(&self, model: &ModelName, limit: u32) -> Result<Vec<RolloutRow>, StoreError> {
        self.within(async {
            let select = format!("SELECT {COLUMNS} FROM rollouts WHERE model = $1 ORDER BY id DESC LIMIT $2");
            let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(model.as_str()).bind(i64::from(limit));
            query.fetch_all(&self.pool).await?.iter().map(rollout_row).collect()
        })
        .await
    }

    /// The newest `limit` transitions of a model's rollouts, the newest first.
    pub async fn rollout_history(
        &self,
        model: &ModelName,
        limit: u32,
    ) -> Result<Vec<TransitionRow>, StoreError> {
        self.within(async {
            let select = "SELECT t.* FROM rollout_transitions AS t JOIN rollouts AS r ON r.id = t.rollout_id \
                      WHERE r.model = $1 ORDER BY t.rollout_id DESC, t.seq DESC LIMIT $2";
            let query = sqlx::query(select).bind(model.as_str()).bind(i64::from(limit));
            query.fetch_all(&self.pool).await?.iter().map(transition_row).collect()
        })
        .await
    }
}

/// The first statement writes: a transaction that reads first could not become a writer once another has written.
async fn append(transaction: &mut Transaction<'_>, new: &NewTransition) -> Result<(), StoreError> {
    match new.from {
        None => begin(transaction, &new.rollout).await?,
        Some(_) => update(transaction, &new.rollout).await?,
    }
    insert_line(transaction, new).await?;
    if let Some(route) = &new.route {
        routes::insert(transaction, route).await?;
    }
    if let Some(notice) = &new.notice {
        outbox::insert(transaction, notice).await?;
    }
    audit::insert(transaction, &new.audit).await
}

async fn begin(transaction: &mut Transaction<'_>, row: &RolloutRow) -> Result<(), StoreError> {
    let insert = format!(
        "INSERT INTO rollouts ({COLUMNS}) \
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 \
         WHERE NOT EXISTS (SELECT 1 FROM rollouts WHERE model = $2 AND ended_at IS NULL)"
    );
    let done = sqlx::query(sqlx::AssertSqlSafe(insert))
        .bind(i64::from(row.id.number()))
        .bind(row.model.as_str())
        .bind(row.canary.as_str())
        .bind(row.stable.as_str())
        .bind(&row.policy)
        .bind(&row.state)
        .bind(row.created_at.to_string())
        .bind(row.updated_at.to_string())
        .bind(row.ended_at.map(|at| at.to_string()))
        .bind(&row.actor)
        .bind(&row.reason)
        .execute(&mut **transaction)
        .await?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    let select = "SELECT id FROM rollouts WHERE model = $1 AND ended_at IS NULL";
    let running = sqlx::query(select).bind(row.model.as_str()).fetch_one(&mut **transaction).await?;
    Err(StoreError::RolloutRuns { model: row.model.clone(), id: rollout_id(&running, "id")? })
}

async fn update(transaction: &mut Transaction<'_>, row: &RolloutRow) -> Result<(), StoreError> {
    let update = "UPDATE rollouts SET state = $2, updated_at = $3, ended_at = $4, actor = $5, reason = $6 \
                  WHERE id = $1 AND ended_at IS NULL";
    let done = sqlx::query(update)
        .bind(i64::from(row.id.number()))
        .bind(&row.state)
        .bind(row.updated_at.to_string())
        .bind(row.ended_at.map(|at| at.to_string()))
        .bind(&row.actor)
        .bind(&row.reason)
        .execute(&mut **transaction)
        .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::NoSuchRollout { id: row.id }) }
}

async fn insert_line(transaction: &mut Transaction<'_>, new: &NewTransition) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO rollout_transitions \
         (rollout_id, seq, at, from_state, to_state, from_weight, to_weight, actor, reason) \
         SELECT $1, COALESCE(MAX(seq), 0) + 1, $2, $3, $4, $5, $6, $7, $8 \
         FROM rollout_transitions WHERE rollout_id = $1",
    )
    .bind(i64::from(new.rollout.id.number()))
    .bind(new.rollout.updated_at.to_string())
    .bind(&new.from)
    .bind(&new.to)
    .bind(i64::from(new.from_weight.basis_points()))
    .bind(i64::from(new.to_weight.basis_points()))
    .bind(&new.rollout.actor)
    .bind(&new.rollout.reason)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn rollout_row(row: &AnyRow) -> Result<RolloutRow, StoreError> {
    let ended: Option<String> = row.try_get("ended_at")?;
    Ok(RolloutRow {
        id: rollout_id(row, "id")?,
        model: name(row, "model")?,
        canary: name(row, "canary")?,
        stable: name(row, "stable")?,
        policy: row.try_get("policy")?,
        state: row.try_get("state")?,
        created_at: timestamp(row, "created_at")?,
        updated_at: timestamp(row, "updated_at")?,
        ended_at: ended.map(|_| timestamp(row, "ended_at")).transpose()?,
        actor: row.try_get("actor")?,
        reason: row.try_get("reason")?,
    })
}

fn transition_row(row: &AnyRow) -> Result<TransitionRow, StoreError> {
    Ok(TransitionRow {
        rollout: rollout_id(row, "rollout_id")?,
        seq: number(row, "seq")?,
        at: timestamp(row, "at")?,
        from: row.try_get("from_state")?,
        to: row.try_get("to_state")?,
        from_weight: weight(row, "from_weight")?,
        to_weight: weight(row, "to_weight")?,
        actor: row.try_get("actor")?,
        reason: row.try_get("reason")?,
    })
}

fn weight(row: &AnyRow, column: &'static str) -> Result<Weight, StoreError> {
    let found: u16 = number(row, column)?;
    let out_of_range =
        || StoreError::Row { column, found: found.to_string(), why: "more than all traffic".to_owned() };
    Weight::from_basis_points(found).ok_or_else(out_of_range)
}
