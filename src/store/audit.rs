//! The audit log: who did what, when and why. Lines are only ever added.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::error::StoreError;
use super::open::{Store, Transaction};
use super::read::timestamp;
use super::shared::Writes;

/// A line to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAudit {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What: `set_weights`, `rollback`, `load`, ...
    pub action: String,
    /// The model that it concerns.
    pub model: String,
    /// What exactly.
    pub detail: Option<String>,
    /// Why, in the actor's words.
    pub reason: Option<String>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Counts up.
    pub id: i64,
    /// What was recorded.
    pub line: NewAudit,
}

impl Store {
    /// The newest `limit` lines, of one model where one is named; the newest first.
    pub async fn audit(&self, limit: u32, model: Option<&str>) -> Result<Vec<AuditRow>, StoreError> {
        self.within(async {
            let select = "SELECT id, at, actor, action, model, detail, reason FROM audit \
                      WHERE ($1 IS NULL OR model = $1) ORDER BY id DESC LIMIT $2";
            let rows = sqlx::query(select).bind(model).bind(i64::from(limit)).fetch_all(&self.pool).await?;
            rows.iter().map(audit_row).collect()
        })
        .await
    }

    /// Adds a line that goes with no route change.
    pub async fn record(&self, line: &NewAudit) -> Result<(), StoreError> {
        self.within(async {
            let mut writing = self.writing(Writes::Lines).await?;
            insert(&mut writing, line).await?;
            writing.commit().await
        })
        .await
    }
}

pub(super) async fn insert(transaction: &mut Transaction<'_>, line: &NewAudit) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit (id, at, actor, action, model, detail, reason) \
         SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5, $6 FROM audit",
    )
    .bind(line.at.to_string())
    .bind(&line.actor)
    .bind(&line.action)
    .bind(&line.model)
    .bind(&line.detail)
    .bind(&line.reason)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn audit_row(row: &AnyRow) -> Result<AuditRow, StoreError> {
    let line = NewAudit {
        at: timestamp(row, "at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        model: row.try_get("model")?,
        detail: row.try_get("detail")?,
        reason: row.try_get("reason")?,
    };
    Ok(AuditRow { id: row.try_get("id")?, line })
}
