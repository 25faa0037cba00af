//! Webhooks: who is told what rollouts do, and how.

use std::collections::BTreeSet;
use std::fmt;

use reqwest::Url;
use sha2::{Digest as _, Sha256};

use super::phase::Phase;
use crate::ids::Digest;

/// One receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where it listens.
    pub url: WebhookUrl,
    /// The states of a rollout that it is told of; never empty.
    pub events: BTreeSet<Phase>,
    /// In which words.
    pub format: WebhookFormat,
    /// What bodies are signed with, if they are.
    pub secret: Option<WebhookSecret>,
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WebhookFormat {
    /// As Slack's incoming webhooks take it.
    #[default]
    Slack,
    /// One JSON object with all that is known.
    Json,
}

/// An address that may hold a token: only its host is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

/// The key of a signature; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(String);

impl Webhook {
    /// What people want to hear of who named nothing: all but the two that a first step follows by itself.
    pub fn usual_events() -> BTreeSet<Phase> {
        Phase::ALL.into_iter().filter(|event| !matches!(event, Phase::Pending | Phase::Suite)).collect()
    }
}

impl WebhookFormat {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Json => "json",
        }
    }
}

impl WebhookUrl {
    /// Reads an address; `None` unless it is one of HTTP with a host.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        (matches!(url.scheme(), "http" | "https") && url.host_str().is_some()).then_some(Self(url))
    }

    /// The address itself, to send to.
    pub const fn expose(&self) -> &Url {
        &self.0
    }

    /// The host, which is no secret.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// A name for people and for the store: the host, and eight digits that tell addresses of one host apart.
    pub fn receiver(&self) -> String {
        let hash = Digest::from_bytes(Sha256::digest(self.0.as_str()).into()).hex();
        format!("{}-{}", self.host(), &hash[..8])
    }
}

impl WebhookSecret {
    pub(super) const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, to sign with.
    pub const fn expose(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({}, ..)", self.host())
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}
