//! What a store is, and opening the file of one that a server has for itself.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::watch;

use super::error::StoreError;
use super::shared::{Role, Shared};

/// The open store. Cloning it clones a handle.
#[derive(Clone)]
pub struct Store {
    pub(super) pool: AnyPool,
    /// Tells that something may be in the outbox.
    pub(super) outbox: Arc<watch::Sender<()>>,
    /// Tells that another replica may have changed something.
    pub(super) changes: Arc<watch::Sender<()>>,
    pub(super) role: Arc<watch::Sender<Role>>,
    pub(super) kind: Kind,
}

/// Whose a store is.
#[derive(Clone)]
pub(super) enum Kind {
    /// A file of this process alone.
    Own {
        /// Held until the last handle is gone. The system lets go of it when the process dies, however it dies.
        _lock: Arc<File>,
    },
    /// A database that replicas share.
    Shared(Arc<Shared>),
}

pub(super) type Transaction<'a> = sqlx::Transaction<'a, sqlx::Any>;

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
    /// the same file would make every later change of the first fail. Replicas share a database instead: see
    /// [`Store::connect`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            let failed = |source| StoreError::Folder { path: path.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = Arc::new(lock(path).await?);
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY);
        // the file remembers its journal mode; what it does not remember is set for each connection below
        let first =
            SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(failed)?;
        sqlx::migrate!("src/store/migrations").run(&first).await.map_err(|source| match source {
            sqlx::migrate::MigrateError::Execute(source) => failed(source),
            other => StoreError::Schema { path: path.to_owned(), source: Box::new(other) },
        })?;
        first.close().await;
        sqlx::any::install_default_drivers();
        let found = path.canonicalize();
        let found = found.map_err(|source| StoreError::Folder { path: path.to_owned(), source })?;
        // one writer owns all changes; a second connection serves reads beside it
        let pool = AnyPoolOptions::new().max_connections(2).after_connect(|connection, _| {
            Box::pin(async move {
                let settings = format!(
                    "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = {}",
                    BUSY.as_millis()
                );
                sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(connection).await.map(drop)
            })
        });
        let pool = pool.connect(&url_of(&found)).await.map_err(failed)?;
        let role = Arc::new(watch::Sender::new(Role::Leads { term: 0 }));
        let kind = Kind::Own { _lock: lock };
        Ok(Self { pool, outbox: Arc::default(), changes: Arc::default(), role, kind })
    }

    /// Waits for what is under way and closes the file, or the connections.
    pub async fn close(&self) {
        self.pool.close().await;
        if let Kind::Shared(shared) = &self.kind {
            shared.close().await;
        }
    }
}

/// A connection's address may hold a password.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// The file as an address. All that could mean something else in one is escaped.
fn url_of(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    let escaped: String = bytes
        .map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    format!("sqlite://{escaped}?mode=rw")
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

    #[tokio::test]
    async fn a_file_of_any_name_is_opened_as_safely() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a b.db", "50%25.db", "what?#.db", "größe.db", "sub/../state.db"] {
            std::fs::create_dir_all(folder.path().join("sub")).unwrap();
            let path = folder.path().join(name);
            let store = Store::open(&path).await.unwrap();
            assert!(path.exists(), "{name}");
            let pragma = async |what: &str| {
                let query = sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA {what}")));
                sqlx::Row::get::<String, _>(&query.fetch_one(&store.pool).await.unwrap(), 0)
            };
            assert_eq!(pragma("journal_mode").await, "wal");
            let select = "SELECT CAST(synchronous AS TEXT) || ' ' || CAST(foreign_keys AS TEXT) AS found \
                          FROM pragma_synchronous, pragma_foreign_keys";
            let row = sqlx::query(select).fetch_one(&store.pool).await.unwrap();
            assert_eq!(sqlx::Row::get::<String, _>(&row, "found"), "2 1", "{name}");
        }
    }
}
