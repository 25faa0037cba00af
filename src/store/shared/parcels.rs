//! What replicas saw of answers, on its way to the one that leads.
//!
//! Parcels are sent one after the other, so that who has read one has read all before it. They are deleted in the
//! transaction that writes down what the analyses have made of them: a leader that dies leaves them to the next.

use sqlx::Row;

use super::writing::Writes;
use crate::ids::ModelName;
use crate::store::error::StoreError;
use crate::store::open::{Store, Transaction};

/// Parcels that may wait. A leader takes them every second; where nobody does, they must not fill the database.
const WAITING: i64 = 10_000;

/// What one replica saw of a model's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The model.
    pub model: ModelName,
    /// JSON that only the watcher understands.
    pub body: String,
}

/// A parcel that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParcelRow {
    /// Counts up.
    pub id: i64,
    /// JSON that only the watcher understands.
    pub body: String,
}

/// How far the leader has taken in what was sent of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The model.
    pub model: ModelName,
    /// The last parcel.
    pub through: i64,
}

impl Store {
    /// Sends parcels to the leader, all or none.
    pub async fn send_parcels(&self, parcels: &[Parcel]) -> Result<(), StoreError> {
        let Some(replica) = self.replica() else { return Ok(()) };
        self.within(async {
            let mut writing = self.writing(Writes::Lines).await?;
            let counted = sqlx::query("SELECT COUNT(*) AS waiting FROM parcels").fetch_one(&mut **writing);
            if counted.await?.try_get::<i64, _>("waiting")? >= WAITING {
                return Err(StoreError::ParcelsWait { waiting: WAITING });
            }
            for Parcel { model, body } in parcels {
                let insert = sqlx::query("INSERT INTO parcels (model, replica, body) VALUES ($1, $2, $3)");
                insert.bind(model.as_str()).bind(replica).bind(body).execute(&mut **writing).await?;
            }
            writing.commit().await
        })
        .await
    }

    /// The oldest `limit` parcels of a model that came after one, in order.
    pub async fn parcels(
        &self,
        model: &ModelName,
        after: i64,
        limit: u32,
    ) -> Result<Vec<ParcelRow>, StoreError> {
        if !self.is_shared() {
            return Ok(Vec::new());
        }
        self.within(async {
            let select = "SELECT id, body FROM parcels WHERE model = $1 AND id > $2 ORDER BY id LIMIT $3";
            let query = sqlx::query(select).bind(model.as_str()).bind(after).bind(i64::from(limit));
            let rows = query.fetch_all(&self.pool).await?;
            rows.iter()
                .map(|row| Ok(ParcelRow { id: row.try_get("id")?, body: row.try_get("body")? }))
                .collect()
        })
        .await
    }
}

impl Store {
    /// Deletes what was sent of models that nothing compares any more, so that it takes nobody's room.
    pub async fn forget_parcels_but(&self, compared: &[ModelName]) -> Result<(), StoreError> {
        if !self.is_shared() {
            return Ok(());
        }
        self.within(async {
            let rows = sqlx::query("SELECT DISTINCT model FROM parcels").fetch_all(&self.pool).await?;
            for row in rows {
                let model: String = row.try_get("model")?;
                if !compared.iter().any(|compared| compared.as_str() == model) {
                    let forget = sqlx::query("DELETE FROM parcels WHERE model = $1").bind(model);
                    forget.execute(&self.pool).await?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Deletes what was taken in.
pub(in crate::store) async fn forget_parcels(
    transaction: &mut Transaction<'static>,
    Taken { model, through }: &Taken,
) -> Result<(), StoreError> {
    let forget = sqlx::query("DELETE FROM parcels WHERE model = $1 AND id <= $2");
    forget.bind(model.as_str()).bind(*through).execute(&mut **transaction).await?;
    Ok(())
}
