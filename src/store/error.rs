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
