//! Transactions that replicas must not have at the same time.

use std::ops::{Deref, DerefMut};

use sqlx::Row;

use super::lead::Role;
use crate::store::error::StoreError;
use crate::store::open::{Store, Transaction};

/// The channel on which a change is told.
pub(super) const CHANNEL: &str = "switchback_changes";

/// What a transaction writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Writes {
    /// What every replica keeps in memory. It is written on top of what this replica's turn goes on from, or not at all,
    /// and told to the others.
    Change,
    /// Lines that take the next number of their table.
    Lines,
    /// What the leader has seen: of an earlier term, it is not written.
    Evidence,
}

/// A transaction of one of these kinds. It is undone unless it is committed.
pub(in crate::store) struct Writing {
    transaction: Transaction<'static>,
    store: Store,
    writes: Writes,
}

impl Store {
    /// Begins a transaction. On a shared store, those that change something or take numbers come one after the other.
    pub(in crate::store) async fn writing(&self, writes: Writes) -> Result<Writing, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let Some(shared) = self.shared() else {
            return Ok(Writing { transaction, store: self.clone(), writes });
        };
        match writes {
            Writes::Change => {
                let number: Option<i64> = *shared.turn.lock();
                let moved =
                    sqlx::query("UPDATE changes SET number = number + 1 WHERE number = COALESCE($1, number)");
                let moved = moved.bind(number).execute(&mut *transaction).await?;
                if moved.rows_affected() == 0 {
                    return Err(StoreError::Busy);
                }
                sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&mut *transaction).await?;
            }
            Writes::Lines => {
                sqlx::query("SELECT number FROM changes FOR UPDATE").fetch_one(&mut *transaction).await?;
            }
            Writes::Evidence => {
                let acting = shared.acting.lock().unwrap_or(*self.role.borrow());
                let Role::Leads { term } = acting else { return Err(StoreError::NotLeading) };
                let lead =
                    sqlx::query("SELECT term FROM lead FOR SHARE").fetch_one(&mut *transaction).await?;
                if lead.try_get::<i64, _>("term")? != term {
                    return Err(StoreError::NotLeading);
                }
            }
        }
        Ok(Writing { transaction, store: self.clone(), writes })
    }
}

impl Writing {
    pub(in crate::store) async fn commit(self) -> Result<(), StoreError> {
        let Self { transaction, store, writes } = self;
        let Some(shared) = store.shared() else { return Ok(transaction.commit().await?) };
        transaction.commit().await.map_err(|error| match shared.told(error) {
            // the database may have heard it before it was gone
            StoreError::Lost { why } => StoreError::InDoubt { why },
            other => other,
        })?;
        if writes == Writes::Change
            && let Some(number) = &mut *shared.turn.lock()
        {
            *number += 1;
        }
        Ok(())
    }
}

impl Deref for Writing {
    type Target = Transaction<'static>;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.transaction
    }
}
