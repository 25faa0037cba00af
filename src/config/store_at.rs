//! Where the store is: `server.store`.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::Url;

use super::raw::Value;
use super::read_webhooks::{Environment, from_environment};
use super::reader::Problem;
use super::values::folder;

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAt {
    /// In a file that one server has for itself.
    File(PathBuf),
    /// In a database that replicas share.
    Postgres(PostgresUrl),
}

/// The address of a database, which may hold a password: only its host is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(Url);

impl PostgresUrl {
    /// Reads an address; `None` unless it is one of PostgreSQL.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        matches!(url.scheme(), "postgres" | "postgresql").then_some(Self(url))
    }

    /// The address itself, to connect to.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({}, ..)", self.0.host_str().unwrap_or_default())
    }
}

/// A path, an address of PostgreSQL, or `{env: NAME}` for a variable that has one. What is an address, or was meant to be
/// one, is not shown where it is wrong.
pub(super) fn store_at(value: &Value, base: &Path, env: Environment<'_>) -> Result<StoreAt, Problem> {
    let written = match value {
        Value::Map(_) => from_environment(value, env)?,
        Value::Text(text) if text.contains("://") => text.clone(),
        value => {
            let path = folder(value)?;
            return if looks_like_an_address(&path.to_string_lossy()) {
                Err(no_address())
            } else {
                Ok(StoreAt::File(base.join(path)))
            };
        }
    };
    if !written.contains("://") {
        let is_meant = looks_like_an_address(&written);
        return if is_meant { Err(no_address()) } else { Ok(StoreAt::File(base.join(written))) };
    }
    if written.contains("${") {
        return Err(Problem::new("a variable in a text", "write `store: {env: NAME}`"));
    }
    PostgresUrl::parse(&written).map(StoreAt::Postgres).ok_or_else(no_address)
}

/// Whether a text without `://` was meant for an address: as a file's name it would show a password, and every replica would
/// have a store of its own.
fn looks_like_an_address(text: &str) -> bool {
    text.starts_with("postgres:")
        || text.starts_with("postgresql:")
        || ["host=", "password=", "@"].iter().any(|mark| text.contains(mark))
}

fn no_address() -> Problem {
    Problem::new("not an address of PostgreSQL", "write postgres://user@host/database, or a path")
}
