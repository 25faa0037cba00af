//! The way to the database, and what is known of whether it can be reached.

use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AnyPool, ConnectOptions, Connection};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::lead::Role;
use super::turn::IDLE;
use crate::store::error::StoreError;
use crate::store::open::{Kind, Store};

/// How long a connection is waited for. A loaded database is slower than this, and one that is gone is not.
pub(super) const CONNECT: Duration = Duration::from_secs(2);

/// How long the database may take over a statement; a turn that another replica has is waited for as long.
const STATEMENT: Duration = Duration::from_secs(3);

/// How long anything may take that is asked of the store. A database that a broken network hides answers nothing.
const ANSWER: Duration = Duration::from_secs(5);

/// Whether the database can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It can.
    Reachable,
    /// It cannot.
    Lost {
        /// Why.
        why: Arc<str>,
    },
}

/// What a shared store has beside its tables.
pub(in crate::store) struct Shared {
    /// What only PostgreSQL can do: turns, and listening.
    pub(super) pool: PgPool,
    pub(super) options: PgConnectOptions,
    /// Who this replica is, for people.
    pub(super) replica: String,
    /// The number of changes that this process's turn goes on from, while it has one. It is guarded for the moment of a
    /// read or a write: the owner of changes has one turn after another, and what it writes meanwhile looks here.
    pub(super) turn: Mutex<Option<i64>>,
    pub(super) reach: watch::Sender<Reach>,
    /// Tells the listener that something failed.
    pub(super) doubt: Notify,
    /// Set once, when this replica is not to lead any more.
    pub(super) resigned: CancellationToken,
    /// As what the watcher acts, once it has said so. It may be an earlier role: the lead can be lost and won again while
    /// it looks.
    pub(super) acting: Mutex<Option<Role>>,
}

impl Store {
    /// Connects to the database that replicas share, and brings its tables up to date. `replica` names this one for people.
    pub async fn connect(url: &str, replica: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let unusable = |source| StoreError::Address { source };
        let settings = [
            ("statement_timeout", STATEMENT.as_millis().to_string()),
            // a replica whose machine is gone must not keep its turn, nor the lead
            ("idle_in_transaction_session_timeout", IDLE.as_millis().to_string()),
            ("tcp_keepalives_idle", "3".to_owned()),
            ("tcp_keepalives_interval", "1".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
        ];
        let options = PgConnectOptions::from_str(url).map_err(unusable)?.application_name("switchback");
        let options = options.options(settings.iter().map(|(name, value)| (*name, value)));
        let place = place(&options);
        let failed = |source| StoreError::Connect { place: place.clone(), source };
        // a pool would not tell why it has no connection
        let first = tokio::time::timeout(2 * CONNECT, options.connect()).await;
        first.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(failed)?.close().await.map_err(failed)?;
        let pool = PgPoolOptions::new().max_connections(3).acquire_timeout(CONNECT);
        let pool = pool.connect_with(options.clone()).await.map_err(failed)?;
        migrations().run(&pool).await.map_err(|source| match source {
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => failed(source),
            other => StoreError::SharedSchema { place: place.clone(), source: Box::new(other) },
        })?;
        let shared = Shared {
            pool,
            options,
            replica: replica.to_owned(),
            turn: Mutex::new(None),
            reach: watch::Sender::new(Reach::Reachable),
            doubt: Notify::new(),
            resigned: CancellationToken::new(),
            acting: Mutex::new(None),
        };
        Ok(Self {
            pool: tables(url, &settings).await.map_err(failed)?,
            outbox: Arc::default(),
            changes: Arc::default(),
            role: Arc::new(watch::Sender::new(Role::Follows)),
            kind: Kind::Shared(Arc::new(shared)),
        })
    }

    pub(in crate::store) fn shared(&self) -> Option<&Arc<Shared>> {
        match &self.kind {
            Kind::Own { .. } => None,
            Kind::Shared(shared) => Some(shared),
        }
    }

    /// Whether replicas share it.
    pub fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// What is known of whether the database can be reached; always so of a file.
    pub fn reach(&self) -> Reach {
        self.shared().map_or(Reach::Reachable, |shared| shared.reach.borrow().clone())
    }

    /// Does something with the store, within a time; a file has all it needs.
    pub(in crate::store) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match &self.kind {
            Kind::Own { .. } => work.await,
            Kind::Shared(shared) => shared.within(work).await,
        }
    }
}

impl Shared {
    pub(in crate::store) async fn close(&self) {
        self.pool.close().await;
    }

    /// Does something within a time. While the database is known to be lost, nothing is tried: the listener tells when it
    /// is back.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Reach::Lost { why } = &*self.reach.borrow() {
            return Err(StoreError::Lost { why: why.to_string() });
        }
        match tokio::time::timeout(ANSWER, work).await {
            Ok(Err(StoreError::Query(error))) => Err(self.told(error)),
            Ok(outcome) => outcome,
            Err(_) => {
                self.doubt.notify_one();
                Err(StoreError::InDoubt { why: format!("the database took longer than {ANSWER:?}") })
            }
        }
    }

    /// A failed statement, or a database that is not there.
    pub(super) fn told(&self, error: sqlx::Error) -> StoreError {
        match lost(&error) {
            Some(why) => {
                self.doubt.notify_one();
                StoreError::Lost { why }
            }
            None if has_code(&error, &["57014", "55P03"]) => StoreError::Busy,
            None => StoreError::Query(error),
        }
    }
}

/// The tables of any store, and those of replicas. Theirs have numbers of their own, from 1001.
fn migrations() -> Migrator {
    let any = sqlx::migrate!("src/store/migrations");
    let replicas = sqlx::migrate!("src/store/shared/migrations");
    Migrator::with_migrations(any.iter().chain(replicas.iter()).cloned().collect())
}

/// The tables, which look the same whatever the database.
async fn tables(url: &str, settings: &[(&str, String)]) -> Result<AnyPool, sqlx::Error> {
    let mut url = url.to_owned();
    for (name, value) in settings {
        let and = if url.contains('?') { '&' } else { '?' };
        url.push_str(&format!("{and}options[{name}]={value}"));
    }
    let pool = AnyPoolOptions::new().max_connections(4).acquire_timeout(CONNECT);
    pool.connect(&url).await
}

/// Where a database is, without who asks and his password.
fn place(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map_or_else(
        || format!("{}:{}", options.get_host(), options.get_port()),
        |socket| socket.display().to_string(),
    );
    format!("{host}/{}", options.get_database().unwrap_or_default())
}

/// Why a database is not there, if that is what went wrong.
pub(super) fn lost(error: &sqlx::Error) -> Option<String> {
    match error {
        sqlx::Error::PoolTimedOut => Some(format!("no connection within {CONNECT:?}")),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Some(error.to_string()),
        // connections that broke, or were ended, and a database that stops, comes up, or only reads
        _ if has_code(error, &["08", "57P", "53300", "25006"]) => Some(error.to_string()),
        _ => None,
    }
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| codes.iter().any(|known| code.starts_with(known)))
}
