//! Who calls: the API key, and what keeps the caller on one version.

use std::borrow::Cow;
use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

use super::error::{ApiError, KeyFault};
use super::public::PublicState;
use crate::gateway::{Address, Gateway, StickyKey, Target, Who};

/// The key given to a connection whose requests carry none; a client that sends it back stays on its version.
pub(super) const STICKY_HEADER: HeaderName = HeaderName::from_static("x-switchback-sticky-key");

/// Longer keys are cut: they are hashed, and nobody needs more to tell users apart.
const MAX_KEY_BYTES: usize = 512;

/// The keys that may call; empty lets everybody in. Keys are compared by their hashes, so that the time of a
/// comparison tells nothing about a key. (The keys themselves stay in memory, in the configuration.)
#[derive(Clone, Default)]
pub(super) struct ApiKeys(Arc<HashSet<[u8; 32]>>);

impl ApiKeys {
    pub(super) fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(Arc::new(keys.into_iter().map(|key| Sha256::digest(key).into()).collect()))
    }

    fn allow(&self, key: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(key).into();
        self.0.contains(&hash)
    }
}

/// The API key of an admitted request, where keys are asked for.
#[derive(Clone)]
struct AdmittedKey(Arc<str>);

/// Does not tell the key: logs are read by many.
impl fmt::Debug for AdmittedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdmittedKey(..)")
    }
}

/// Lets a request pass if its key is known, or if none is asked for.
pub(super) async fn authenticate(
    State(state): State<PublicState>,
    mut request: Request,
    next: Next,
) -> Response {
    if state.keys.0.is_empty() {
        return next.run(request).await;
    }
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let key =
        given.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // Anthropic's clients have a header of their own
    let own = request.headers().get("x-api-key").and_then(|v| v.to_str().ok());
    let key = key.map(|(_, key)| key).or(own).map(str::trim).filter(|key| !key.is_empty());
    match key {
        Some(key) if state.keys.allow(key) => {
            let admitted = AdmittedKey(key.into());
            request.extensions_mut().insert(admitted);
            next.run(request).await
        }
        Some(_) => ApiError::wrong_key(KeyFault::Unknown).into_response(),
        None => ApiError::wrong_key(KeyFault::Missing).into_response(),
    }
}

/// One connection, with the key that its requests fall back on.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<str>);

impl Connection {
    /// A new connection, with a key that no other has.
    pub(super) fn new() -> Self {
        Self(format!("conn-{:016x}", crate::gateway::random_u64()).into())
    }
}

/// Where a request comes from. Has no `Debug`: its headers hold the API key.
pub(super) struct Caller {
    headers: HeaderMap,
    key: Option<AdmittedKey>,
    connection: Connection,
    within: Option<Within>,
    origin: KeyOrigin,
}

/// Marks a request of the server to itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Within;

/// Who chose the sticky key of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyOrigin {
    /// The client.
    Client,
    /// The server, for the connection; the client is told it.
    Connection,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let connection = parts.extensions.get::<ConnectInfo<Connection>>().map(|info| info.0.clone());
        Ok(Self {
            headers: parts.headers.clone(),
            key: parts.extensions.get::<AdmittedKey>().cloned(),
            connection: connection.unwrap_or_else(Connection::new),
            within: parts.extensions.get::<Within>().copied(),
            origin: KeyOrigin::Client,
        })
    }
}

impl Caller {
    /// Which model, for whom. The sticky key is, in this order: the end user that the body names, the model's
    /// configured header, the key that a former answer gave, the API key, the connection.
    pub(super) fn address(
        &mut self,
        gateway: &Gateway,
        model: &str,
        end_user: Option<&str>,
    ) -> Result<Address, ApiError> {
        let target: Target = model.parse()?;
        let configured = gateway.sticky_header(target.model()).and_then(|name| self.header(&name));
        let (sticky, who) = if self.within.is_some() {
            (StickyKey::from_api_key(""), Who::Server)
        } else if let Some(user) = end_user {
            (StickyKey::from_user(cut(user)), Who::Named)
        } else if let Some(value) = configured.or_else(|| self.header(STICKY_HEADER.as_str())) {
            (StickyKey::from_header(cut(&value)), Who::Named)
        } else if let Some(key) = &self.key {
            (StickyKey::from_api_key(&key.0), Who::Nameless)
        } else {
            self.origin = KeyOrigin::Connection;
            // As if from a header: sent back as one, it must choose the same version.
            (StickyKey::from_header(&self.connection.0), Who::Nameless)
        };
        let header = |name: &str| self.header(name).map(|value| cut(&value).to_owned());
        let traits = gateway.traits(target.model(), who, header);
        Ok(Address { target, sticky, traits })
    }

    /// A header's value. HTTP allows any bytes in one, and a name such as `jürgen` names a user too.
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let value = String::from_utf8_lossy(self.headers.get(name)?.as_bytes());
        (!value.is_empty()).then_some(value)
    }

    /// Tells the client the key that its connection was given, if it was used.
    pub(super) fn tell_given_key(&self, headers: &mut HeaderMap) {
        if self.origin == KeyOrigin::Connection
            && let Ok(value) = HeaderValue::try_from(&*self.connection.0)
        {
            headers.insert(STICKY_HEADER, value);
        }
    }
}

pub(super) fn cut(key: &str) -> &str {
    &key[..key.floor_char_boundary(MAX_KEY_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_cut_between_characters() {
        let long = "é".repeat(400);
        assert_eq!(cut(&long).len(), MAX_KEY_BYTES);
        assert_eq!(cut(&format!("x{long}")).len(), MAX_KEY_BYTES - 1);
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", AdmittedKey("sk-1".into())), "AdmittedKey(..)");
    }

    #[test]
    fn only_listed_keys_are_let_in() {
        let keys = ApiKeys::new(["sk-1", "sk-2"]);
        assert!(keys.allow("sk-2"));
        assert!(!keys.allow("sk-"));
    }
}
