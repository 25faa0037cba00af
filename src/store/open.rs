//! Opening the file.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::error::StoreError;

/// The open store. Cloning it clones a handle.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) pool: SqlitePool,
    /// Tells that something may be in the outbox.
    pub(super) outbox: Arc<tokio::sync::watch::Sender<()>>,
    /// Held until the last handle is gone. The system lets go of it when the process dies, however it dies.
    _lock: Arc<File>,
}

/// How long a statement waits for another program that reads the file, such as a backup.
const BUSY: Duration = Duration::from_secs(5);

/// How long a store that another server uses is waited for: one that is just stopping needs a moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often such a store is tried again.
const RETRY: Duration = Duration::from_millis(10);

impl Store {
    /// Opens `path`, which is made, with its folder, where it is not there yet.
    ///
    /// One server at a time: each keeps its routes in memory and counts their revisions, so a second one on
    /// the same file would make every later change of the first fail.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            let failed = |source| StoreError::Folder { path: path.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = Arc::new(lock(path).await?);
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
        Ok(Self { pool, outbox: Arc::default(), _lock: lock })
    }

    /// Waits for what is under way and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Takes the lock of the store at `path`, in a file beside it: SQLite has its own locks on the store itself.
async fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = beside(path);
    let failed = |source| StoreError::Lock { path: lock_path.clone(), source };
    let file = File::options().create(true).append(true).open(&lock_path).map_err(failed)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => tokio::time::sleep(RETRY).await,
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".lock");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_serves_one_server_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let first = Store::open(&path).await.unwrap();
        let handle = first.clone();
        drop(first);
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("state.db") && text.contains("its own `server.store`"), "{text}");
        Store::open(&folder.path().join("other.db")).await.unwrap();

        drop(handle);
        Store::open(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_just_stopping_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let stopping = Store::open(&path).await.unwrap();
        let letting_go = async {
            tokio::time::sleep(3 * RETRY).await;
            drop(stopping);
        };
        let (opened, ()) = tokio::join!(Store::open(&path), letting_go);
        opened.unwrap();
    }
}
