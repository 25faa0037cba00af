//! What can go wrong with the store.

use std::path::PathBuf;

/// A store that cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder of the file cannot be made.
    #[error("cannot make the folder of the store {}: {source}", path.display())]
    Folder {
        /// The store's file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no store, or cannot be opened.
    #[error("cannot open the store {}: {source}; if the file is damaged, move it away and a new one is made", path.display())]
    Open {
        /// The store's file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// The file was written by another release of the program.
    #[error("the store {} does not fit this program: {source}; use the release that wrote it, or a newer one", path.display())]
    Schema {
        /// The store's file.
        path: PathBuf,
        /// Why.
        source: Box<sqlx::migrate::MigrateError>,
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
