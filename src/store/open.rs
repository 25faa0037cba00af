//! Opening the file.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::error::StoreError;

/// The open store. Cloning it clones a handle.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) pool: SqlitePool,
}

/// How long a statement waits for another process that holds the file.
const BUSY: Duration = Duration::from_secs(5);

impl Store {
    /// Opens `path`, which is made, with its folder, where it is not there yet.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            let failed = |source| StoreError::Folder { path: path.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        // one writer owns all changes; a second connection serves reads beside it
        let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await;
        let pool = pool.map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        sqlx::migrate!("src/store/migrations").run(&pool).await.map_err(|source| match source {
            sqlx::migrate::MigrateError::Execute(source) => {
                StoreError::Open { path: path.to_owned(), source }
            }
            other => StoreError::Schema { path: path.to_owned(), source: Box::new(other) },
        })?;
        Ok(Self { pool })
    }

    /// Waits for what is under way and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
