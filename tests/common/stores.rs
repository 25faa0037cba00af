//! Stores of both kinds, so that a test holds for each.

use std::ops::Deref;
use std::time::{Duration, Instant};

use switchback::store::Store;
use tempfile::TempDir;

use super::postgres::Postgres;

/// Where a store is.
pub enum Place {
    File(TempDir),
    Database(Postgres),
}

/// An open store of one that leads, so that it may write what it sees. It lets another lead when it is dropped.
pub struct Opened(Store);

impl Place {
    /// An empty one of each kind that the machine has.
    pub async fn all() -> Vec<Self> {
        let file = Self::File(tempfile::tempdir().unwrap());
        std::iter::once(file).chain(Postgres::start().await.map(Self::Database)).collect()
    }

    pub async fn open(&self) -> Opened {
        let database = match self {
            Self::File(folder) => return Opened(Store::open(&folder.path().join("state.db")).await.unwrap()),
            Self::Database(database) => database,
        };
        let store = Store::connect(&database.url(), "a test").await.unwrap();
        let standing = store.clone();
        tokio::spawn(async move { standing.stand_for_lead().await });
        let began = Instant::now();
        while !store.leads() {
            assert!(began.elapsed() < Duration::from_secs(20), "it never leads");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Opened(store)
    }
}

impl Deref for Opened {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.resign();
    }
}
