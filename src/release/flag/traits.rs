//! What flags may know of a request.

use std::sync::Arc;

/// Whether the sticky key is a name that the client has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Who {
    /// It is a user's name: of the body, or of a header.
    Named,
    /// Nobody: the server asks, to test a version. Flags over models are about users.
    Server,
    /// It is an API key, or was made up for the connection; cohorts of users do not hold it.
    #[default]
    Nameless,
}

/// What flags may know of a request besides its sticky key: only the headers that they name.
#[derive(Clone, Default)]
pub struct Traits {
    /// Whether the sticky key is a user's name.
    pub who: Who,
    /// Headers that flags of the model name, with their values.
    pub headers: Vec<(Arc<str>, String)>,
}

impl Traits {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| **found == *name).map(|(_, value)| &**value)
    }
}

/// Tells names only: a header may hold what is not for logs.
impl std::fmt::Debug for Traits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("Traits").field("who", &self.who).field("headers", &headers).finish()
    }
}
