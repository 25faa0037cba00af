//! Columns as types.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::error::StoreError;
use crate::ids::{IdError, RolloutId};

pub(super) fn timestamp(row: &AnyRow, column: &'static str) -> Result<Timestamp, StoreError> {
    let found: String = row.try_get(column)?;
    found.parse().map_err(|e: jiff::Error| StoreError::Row { column, found, why: e.to_string() })
}

/// A model's or a version's name.
pub(super) fn name<T: std::str::FromStr<Err = IdError>>(
    row: &AnyRow,
    column: &'static str,
) -> Result<T, StoreError> {
    let found: String = row.try_get(column)?;
    found.parse().map_err(|e: IdError| StoreError::Row { column, found, why: e.to_string() })
}

/// JSON.
pub(super) fn parsed<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<T, StoreError> {
    let found: String = row.try_get(column)?;
    serde_json::from_str(&found).map_err(|e| StoreError::Row { column, found, why: e.to_string() })
}

/// A number of a narrower type than the column's.
pub(super) fn number<T: TryFrom<i64>>(row: &AnyRow, column: &'static str) -> Result<T, StoreError> {
    let found: i64 = row.try_get(column)?;
    T::try_from(found).map_err(|_| StoreError::Row {
        column,
        found: found.to_string(),
        why: "out of range".to_owned(),
    })
}

pub(super) fn rollout_id(row: &AnyRow, column: &'static str) -> Result<RolloutId, StoreError> {
    number(row, column).map(RolloutId::new)
}
