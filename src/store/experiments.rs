//! Experiments, and what their comparisons have seen.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::audit::{self, NewAudit};
use super::error::StoreError;
use super::open::Store;
use super::read::{name, number, timestamp};
use super::routes::{self, RouteRow};
use super::shared::{Taken, Writes, forget_parcels};
use crate::ids::{ExperimentId, ModelName, VersionName};

/// An experiment as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExperimentRow {
    /// Its number.
    pub id: ExperimentId,
    /// The model.
    pub model: ModelName,
    /// The version that the other is compared with.
    pub control: VersionName,
    /// The version that is tried.
    pub treatment: VersionName,
    /// JSON that only the experiment understands.
    pub terms: String,
    /// When it began.
    pub started_at: Timestamp,
    /// Who began it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it ended, if it has.
    pub ended_at: Option<Timestamp>,
    /// JSON that only the experiment understands: how it ended.
    pub ending: Option<String>,
    /// JSON that only the experiment understands: what was known at its end.
    pub findings: Option<String>,
}

/// The beginning or the end of an experiment.
#[derive(Debug, Clone)]
pub struct ExperimentChange {
    /// The experiment after it.
    pub experiment: ExperimentRow,
    /// The route's new revision, if the weights change.
    pub route: Option<RouteRow>,
    /// The line of the audit log.
    pub audit: NewAudit,
}

impl Store {
    /// The number of the next experiment. It is taken only when the experiment is written.
    pub async fn next_experiment_id(&self) -> Result<ExperimentId, StoreError> {
        self.within(async {
            let row =
                sqlx::query("SELECT COALESCE(MAX(id), 0) + 1 AS id FROM experiments").fetch_one(&self.pool);
            number(&row.await?, "id").map(ExperimentId::new)
        })
        .await
    }

    /// Writes the beginning or the end of an experiment, the route that goes with it and the audit line, all or none.
    pub async fn append_experiment(&self, change: &ExperimentChange) -> Result<(), StoreError> {
        self.within(async {
        let mut writing = self.writing(Writes::Change).await?;
        let row = &change.experiment;
        sqlx::query(
            "INSERT INTO experiments (id, model, control, treatment, terms, started_at, actor, reason, ended_at, \
             ending, findings) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at, ending = excluded.ending, \
             findings = excluded.findings",
        )
        .bind(i64::from(row.id.number()))
        .bind(row.model.as_str())
        .bind(row.control.as_str())
        .bind(row.treatment.as_str())
        .bind(&row.terms)
        .bind(row.started_at.to_string())
        .bind(&row.actor)
        .bind(&row.reason)
        .bind(row.ended_at.map(|at| at.to_string()))
        .bind(&row.ending)
        .bind(&row.findings)
        .execute(&mut **writing)
        .await?;
        if row.ended_at.is_some() {
            let forget = sqlx::query("DELETE FROM experiment_evidence WHERE experiment_id = $1");
            forget.bind(i64::from(row.id.number())).execute(&mut **writing).await?;
        }
        if let Some(route) = &change.route {
            routes::insert(&mut writing, route).await?;
        }
        audit::insert(&mut writing, &change.audit).await?;
        writing.commit().await
        })
        .await
    }

    /// The experiments that have not ended, by number.
    pub async fn running_experiments(&self) -> Result<Vec<ExperimentRow>, StoreError> {
        self.within(async {
            let select = "SELECT * FROM experiments WHERE ended_at IS NULL ORDER BY id";
            sqlx::query(select).fetch_all(&self.pool).await?.iter().map(experiment_row).collect()
        })
        .await
    }

    /// The newest `limit` experiments of a model, the newest first.
    pub async fn experiments(&self, model: &ModelName, limit: u32) -> Result<Vec<ExperimentRow>, StoreError> {
        self.within(async {
            let select = "SELECT * FROM experiments WHERE model = $1 ORDER BY id DESC LIMIT $2";
            let query = sqlx::query(select).bind(model.as_str()).bind(i64::from(limit));
            query.fetch_all(&self.pool).await?.iter().map(experiment_row).collect()
        })
        .await
    }

    /// Writes what the comparisons of a running experiment have seen, all or none of it, in place of what was written
    /// before. What comes after its end is too late, and is not kept. `taken` is what other replicas sent that is in it: it
    /// is forgotten with the same stroke.
    pub async fn save_evidence(
        &self,
        id: ExperimentId,
        snapshots: &[(String, String)],
        taken: Option<&Taken>,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut writing = self.writing(Writes::Evidence).await?;
            let forget = sqlx::query("DELETE FROM experiment_evidence WHERE experiment_id = $1");
            forget.bind(i64::from(id.number())).execute(&mut **writing).await?;
            for (measure, snapshot) in snapshots {
                sqlx::query(
                    "INSERT INTO experiment_evidence (experiment_id, measure, snapshot) SELECT id, $2, $3 \
                 FROM experiments WHERE id = $1 AND ended_at IS NULL",
                )
                .bind(i64::from(id.number()))
                .bind(measure)
                .bind(snapshot)
                .execute(&mut **writing)
                .await?;
            }
            if let Some(taken) = taken {
                forget_parcels(&mut writing, taken).await?;
            }
            writing.commit().await
        })
        .await
    }

    /// What was written last, by measure.
    pub async fn load_evidence(&self, id: ExperimentId) -> Result<Vec<(String, String)>, StoreError> {
        self.within(async {
            let select = "SELECT measure, snapshot FROM experiment_evidence WHERE experiment_id = $1";
            let rows = sqlx::query(select).bind(i64::from(id.number())).fetch_all(&self.pool).await?;
            rows.iter().map(|row| Ok((row.try_get("measure")?, row.try_get("snapshot")?))).collect()
        })
        .await
    }
}

fn experiment_row(row: &AnyRow) -> Result<ExperimentRow, StoreError> {
    let ended: Option<String> = row.try_get("ended_at")?;
    Ok(ExperimentRow {
        id: number(row, "id").map(ExperimentId::new)?,
        model: name(row, "model")?,
        control: name(row, "control")?,
        treatment: name(row, "treatment")?,
        terms: row.try_get("terms")?,
        started_at: timestamp(row, "started_at")?,
        actor: row.try_get("actor")?,
        reason: row.try_get("reason")?,
        ended_at: ended.map(|_| timestamp(row, "ended_at")).transpose()?,
        ending: row.try_get("ending")?,
        findings: row.try_get("findings")?,
    })
}
