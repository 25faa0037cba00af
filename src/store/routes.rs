//! Route revisions: each change of a model's weights is a new row; the newest counts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::audit::{self, NewAudit};
use super::error::StoreError;
use super::open::{Store, Transaction};
use super::read::{name, parsed, timestamp};
use super::shared::Writes;
use crate::ids::{ModelName, VersionName, Weight};

/// Neighbouring buckets of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRun {
    /// Who owns them.
    pub version: VersionName,
    /// How many there are.
    pub buckets: u16,
}

/// A revision at which one version had all traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StableRoute {
    /// The revision.
    pub revision: u64,
    /// The version that had all traffic.
    pub version: VersionName,
}

/// One revision of a model's route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRow {
    /// The model.
    pub model: ModelName,
    /// Counts up from 1 within the model.
    pub revision: u64,
    /// Share of each version.
    pub weights: BTreeMap<VersionName, Weight>,
    /// Which version owns which buckets, in the order of the circle.
    pub bucket_runs: Vec<BucketRun>,
    /// Where a rollback goes: the last entry first.
    pub rollback_points: Vec<StableRoute>,
    /// When it was made.
    pub at: Timestamp,
    /// Who made it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

impl Store {
    /// The newest revision of every model.
    pub async fn latest_routes(&self) -> Result<Vec<RouteRow>, StoreError> {
        self.within(async {
            let select = "SELECT * FROM route_revisions AS r WHERE revision = \
                      (SELECT MAX(revision) FROM route_revisions WHERE model = r.model) ORDER BY model";
            sqlx::query(select).fetch_all(&self.pool).await?.iter().map(route_row).collect()
        })
        .await
    }

    /// Adds a revision and its audit line, both or neither.
    pub async fn append_route(&self, route: &RouteRow, line: &NewAudit) -> Result<(), StoreError> {
        self.within(async {
            let mut writing = self.writing(Writes::Change).await?;
            insert(&mut writing, route).await?;
            audit::insert(&mut writing, line).await?;
            writing.commit().await
        })
        .await
    }
}

pub(super) async fn insert(transaction: &mut Transaction<'_>, route: &RouteRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO route_revisions \
         (model, revision, weights, bucket_runs, rollback_points, created_at, actor, reason) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(route.model.as_str())
    .bind(route.revision as i64)
    .bind(json(&route.weights))
    .bind(json(&route.bucket_runs))
    .bind(json(&route.rollback_points))
    .bind(route.at.to_string())
    .bind(&route.actor)
    .bind(&route.reason)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers always serialise")
}

fn route_row(row: &AnyRow) -> Result<RouteRow, StoreError> {
    Ok(RouteRow {
        model: name(row, "model")?,
        revision: row.try_get::<i64, _>("revision")?.cast_unsigned(),
        weights: parsed(row, "weights")?,
        bucket_runs: parsed(row, "bucket_runs")?,
        rollback_points: parsed(row, "rollback_points")?,
        at: timestamp(row, "created_at")?,
        actor: row.try_get("actor")?,
        reason: row.try_get("reason")?,
    })
}
