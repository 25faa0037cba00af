//! What the analyses of a rollout have seen, so that they go on where they were.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::error::StoreError;
use super::open::{Store, Transaction};
use super::read::{number, rollout_id, timestamp};
use super::shared::{Taken, Writes, forget_parcels};
use crate::ids::RolloutId;

/// What one check has seen up to a minute. Counts are since the rollout began, so a minute that is missing loses
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservationRow {
    /// The rollout.
    pub rollout: RolloutId,
    /// The check.
    pub check: String,
    /// Counts up; a second row of one minute replaces the first.
    pub minute: u32,
    /// When it was written.
    pub at: Timestamp,
    /// The canary's answers.
    pub canary: ArmCounts,
    /// Stable's answers over the same time.
    pub stable: ArmCounts,
    /// JSON from which the analysis goes on. Earlier rows lose theirs.
    pub snapshot: Option<String>,
}

/// Answers of one arm, and how many of them failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArmCounts {
    /// All answers.
    pub answers: u32,
    /// Those that failed.
    pub failures: u32,
}

impl Store {
    /// Writes what the checks have seen, all or none of it. `rows` are all of a rollout's: what an earlier call wrote keeps
    /// its counts, but an analysis goes on from these snapshots alone.
    ///
    /// `taken` is what other replicas sent that is in them: it is forgotten with the same stroke.
    pub async fn save_observations(
        &self,
        rows: &[ObservationRow],
        taken: Option<&Taken>,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut writing = self.writing(Writes::Evidence).await?;
            let rollouts: BTreeSet<RolloutId> = rows.iter().map(|row| row.rollout).collect();
            for rollout in rollouts {
                let forget =
                    "UPDATE observations SET snapshot = NULL WHERE rollout_id = $1 AND snapshot IS NOT NULL";
                sqlx::query(forget).bind(i64::from(rollout.number())).execute(&mut **writing).await?;
            }
            for row in rows {
                save(&mut writing, row).await?;
            }
            if let Some(taken) = taken {
                forget_parcels(&mut writing, taken).await?;
            }
            writing.commit().await
        })
        .await
    }

    /// The newest row of each check of a rollout.
    pub async fn load_observations(&self, rollout: RolloutId) -> Result<Vec<ObservationRow>, StoreError> {
        self.within(async {
            let select = "SELECT * FROM observations AS o WHERE rollout_id = $1 AND minute = \
                      (SELECT MAX(minute) FROM observations \
                       WHERE rollout_id = o.rollout_id AND check_name = o.check_name) ORDER BY check_name";
            let rows = sqlx::query(select).bind(i64::from(rollout.number())).fetch_all(&self.pool).await?;
            rows.iter().map(observation_row).collect()
        })
        .await
    }
}

async fn save(transaction: &mut Transaction<'_>, row: &ObservationRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO observations (rollout_id, check_name, minute, at, canary_answers, canary_failures, \
         stable_answers, stable_failures, snapshot) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (rollout_id, check_name, minute) DO UPDATE SET at = excluded.at, \
         canary_answers = excluded.canary_answers, canary_failures = excluded.canary_failures, \
         stable_answers = excluded.stable_answers, stable_failures = excluded.stable_failures, \
         snapshot = excluded.snapshot",
    )
    .bind(i64::from(row.rollout.number()))
    .bind(&row.check)
    .bind(i64::from(row.minute))
    .bind(row.at.to_string())
    .bind(i64::from(row.canary.answers))
    .bind(i64::from(row.canary.failures))
    .bind(i64::from(row.stable.answers))
    .bind(i64::from(row.stable.failures))
    .bind(&row.snapshot)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn observation_row(row: &AnyRow) -> Result<ObservationRow, StoreError> {
    let arm = |answers, failures| -> Result<ArmCounts, StoreError> {
        Ok(ArmCounts { answers: number(row, answers)?, failures: number(row, failures)? })
    };
    Ok(ObservationRow {
        rollout: rollout_id(row, "rollout_id")?,
        check: row.try_get("check_name")?,
        minute: number(row, "minute")?,
        at: timestamp(row, "at")?,
        canary: arm("canary_answers", "canary_failures")?,
        stable: arm("stable_answers", "stable_failures")?,
        snapshot: row.try_get("snapshot")?,
    })
}
