//! What can go wrong with the store.

use std::path::PathBuf;

use crate::ids::{ModelName, RolloutId};

/// A store that cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder of the file cannot be made.
    #[error("cannot create the folder of the store {}: {source}", path.display())]
    Folder {
        /// The store's file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no store, or cannot be opened.
    #[error("cannot open the store {}: {source}; if the file is damaged, move it away and a new one is created", path.display())]
    Open {
        /// The store's file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// Another process has the store.
    #[error("{}: another server uses this store; give this one its own `server.store`", path.display())]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// The lock beside the file cannot be taken, so nobody knows whether another process has the store.
    #[error("cannot lock {}: {source}; put `server.store` on a file system that has locks", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file was written by another release of the program.
    #[error("the store {} was written by another release: {source}; use that release, or a newer one", path.display())]
    Schema {
        /// The store's file.
        path: PathBuf,
        /// Why.
        source: Box<sqlx::migrate::MigrateError>,
    },
    /// The address of the database that replicas share makes no sense.
    #[error("`server.store` is no address of a PostgreSQL database: {source}")]
    Address {
        /// Why.
        source: sqlx::Error,
    },
    /// The database that replicas share cannot be opened.
    #[error("cannot open the store {place}: {source}")]
    Connect {
        /// Where it is.
        place: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The database was written by another release of the program.
    #[error("the store {place} was written by another release: {source}; use that release, or a newer one")]
    SharedSchema {
        /// Where it is.
        place: String,
        /// Why.
        source: Box<sqlx::migrate::MigrateError>,
    },
    /// The database that replicas share is not there.
    #[error(
        "the store cannot be reached, so nothing was changed: {why}; this replica serves its last routes, try again when \
         the database is back"
    )]
    Lost {
        /// Why.
        why: String,
    },
    /// The database went away in the middle of a change.
    #[error(
        "the store did not say whether it made the change: {why}; look whether it did before you try again"
    )]
    InDoubt {
        /// Why.
        why: String,
    },
    /// Another replica changes something, and does not come to an end.
    #[error("another replica is changing something, so nothing was changed; try again")]
    Busy,
    /// Another replica leads by now.
    #[error("another replica leads by now, and goes on with what this one has written")]
    NotLeading,
    /// Nobody takes what replicas have seen.
    #[error("{waiting} parcels of what replicas saw of answers wait for a leader; no more are taken")]
    ParcelsWait {
        /// How many.
        waiting: i64,
    },
    /// A model has one rollout at a time.
    #[error("rollout {id} of {model} still runs; abort it, or let the new one take its place")]
    RolloutRuns {
        /// The model.
        model: ModelName,
        /// The one that runs.
        id: RolloutId,
    },
    /// What has ended does not change.
    #[error("rollout {id} has ended, or was never begun; nothing was written")]
    NoSuchRollout {
        /// As asked.
        id: RolloutId,
    },
    /// A statement failed.
    #[error("the store failed: {0}")]
    Query(#[from] sqlx::Error),
    /// A row that this program did not write.
    #[error("the store holds a row that cannot be read: {column} is {found:?}: {why}")]
    Row {
        /// The column.
        column: &'static str,
        /// What it holds.
        found: String,
        /// What is wrong with it.
        why: String,
    },
}

impl StoreError {
    /// Whether it is about a database that replicas share, and over when that is back, or another replica has had its
    /// turn.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::InDoubt { .. } | Self::Busy | Self::NotLeading)
    }

    /// All is well where it is passing: it is tried again anyway, and whoever lost the database has said so.
    pub(crate) fn unless_passing(self) -> Result<(), Self> {
        if self.is_passing() { Ok(()) } else { Err(self) }
    }
}
