//! The version that the configuration wants for each model, as far as the server has acted on it. So a wish is acted on
//! once, however often the server restarts.

use super::audit::{self, NewAudit};
use super::error::StoreError;
use super::open::Store;
use super::read::name;
use super::shared::Writes;
use crate::ids::{ModelName, VersionName};

impl Store {
    /// What was acted on last; nothing of a model whose configuration never named a version.
    pub async fn wanted(&self, model: &ModelName) -> Result<Option<VersionName>, StoreError> {
        self.within(async {
            let select = sqlx::query("SELECT version FROM wanted_versions WHERE model = $1");
            let row = select.bind(model.as_str()).fetch_optional(&self.pool).await?;
            row.map(|row| name(&row, "version")).transpose()
        })
        .await
    }

    /// Writes down that the configuration wants no version any more, with its audit line, both or neither.
    pub async fn forget_wanted(&self, model: &ModelName, line: &NewAudit) -> Result<(), StoreError> {
        self.within(async {
            let mut writing = self.writing(Writes::Lines).await?;
            let forget = sqlx::query("DELETE FROM wanted_versions WHERE model = $1").bind(model.as_str());
            forget.execute(&mut **writing).await?;
            audit::insert(&mut writing, line).await?;
            writing.commit().await
        })
        .await
    }

    /// Writes down that a wish was acted on, with its audit line, both or neither.
    pub async fn set_wanted(
        &self,
        model: &ModelName,
        version: &VersionName,
        line: &NewAudit,
    ) -> Result<(), StoreError> {
        self.within(async {
            let mut writing = self.writing(Writes::Lines).await?;
            sqlx::query(
                "INSERT INTO wanted_versions (model, version, at) VALUES ($1, $2, $3) \
             ON CONFLICT (model) DO UPDATE SET version = excluded.version, at = excluded.at",
            )
            .bind(model.as_str())
            .bind(version.as_str())
            .bind(line.at.to_string())
            .execute(&mut **writing)
            .await?;
            audit::insert(&mut writing, line).await?;
            writing.commit().await
        })
        .await
    }
}
