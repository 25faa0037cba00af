//! Flags as operators have set them; the newest state of each. Their history is in the audit log.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::audit::{self, NewAudit};
use super::error::StoreError;
use super::open::Store;
use super::read::name;
use super::shared::Writes;
use crate::ids::{ModelName, VersionName};

/// A flag of a model, or of one of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagRow {
    /// The model.
    pub model: ModelName,
    /// The version; none for the flag of the model itself.
    pub version: Option<VersionName>,
    /// JSON that only the owner of flags understands.
    pub flag: String,
}

impl Store {
    /// All flags that operators have set.
    pub async fn flags(&self) -> Result<Vec<FlagRow>, StoreError> {
        self.within(async {
            let select = "SELECT model, version, flag FROM flags ORDER BY model, version";
            sqlx::query(select).fetch_all(&self.pool).await?.iter().map(flag_row).collect()
        })
        .await
    }

    /// Sets a flag and adds its audit line, both or neither.
    pub async fn set_flag(&self, row: &FlagRow, line: &NewAudit) -> Result<(), StoreError> {
        self.within(async {
        let mut writing = self.writing(Writes::Change).await?;
        sqlx::query(
            "INSERT INTO flags (model, version, flag, updated_at, actor, reason) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (model, version) DO UPDATE SET flag = excluded.flag, updated_at = excluded.updated_at, \
             actor = excluded.actor, reason = excluded.reason",
        )
        .bind(row.model.as_str())
        .bind(row.version.as_ref().map_or("", VersionName::as_str))
        .bind(&row.flag)
        .bind(line.at.to_string())
        .bind(&line.actor)
        .bind(line.reason.as_deref().unwrap_or_default())
        .execute(&mut **writing)
        .await?;
        audit::insert(&mut writing, line).await?;
        writing.commit().await
        })
        .await
    }
}

fn flag_row(row: &AnyRow) -> Result<FlagRow, StoreError> {
    let version: String = row.try_get("version")?;
    Ok(FlagRow {
        model: name(row, "model")?,
        version: if version.is_empty() { None } else { Some(name(row, "version")?) },
        flag: row.try_get("flag")?,
    })
}
