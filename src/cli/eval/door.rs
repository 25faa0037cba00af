//! The way to a server over HTTP.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::cli::error::innermost;
use crate::quality::suite::{Door, DoorError};

/// The longest that one answer may take.
const LONGEST: Duration = Duration::from_mins(10);

/// A server of OpenAI's API.
pub(super) struct HttpDoor {
    client: reqwest::Client,
    url: String,
    api_key: Option<String>,
}

impl HttpDoor {
    pub(super) fn new(url: &str, api_key: Option<String>) -> Result<Self, String> {
        let client = reqwest::Client::builder().no_proxy().timeout(LONGEST).build();
        let client = client.map_err(|e| format!("no HTTP client: {e}"))?;
        let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        Ok(Self { client, url, api_key })
    }

    /// Finds out whether there is anybody, whatever he says.
    pub(super) async fn reach(&self) -> Result<(), String> {
        let asked = self.client.get(format!("{}/v1/models", self.url)).send().await;
        asked.map(drop).map_err(|e| self.failed(&e).to_string())
    }

    async fn send(&self, path: &str, body: &Value) -> Result<Value, DoorError> {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        let request = match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let response = request.send().await.map_err(|e| self.failed(&e))?;
        let status = response.status();
        let after = response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
        let text = response.text().await.map_err(|e| self.failed(&e))?;
        let answer: Result<Value, _> = serde_json::from_str(&text);
        let why = match answer {
            Ok(answer) if status.is_success() => return Ok(answer),
            Ok(answer) => format!("{status}: {}", answer["error"]["message"].as_str().unwrap_or(&text)),
            Err(e) => format!("{status}, and no JSON: {e}"),
        };
        Err(match status.as_u16() {
            429 | 503 => DoorError::Busy { after: after.map(Duration::from_secs), why },
            _ => DoorError::Failed(why),
        })
    }

    fn failed(&self, error: &reqwest::Error) -> DoorError {
        DoorError::Failed(format!(
            "no answer from {}: {}; start a server, or name one by --url",
            self.url,
            innermost(error)
        ))
    }
}

impl Door for HttpDoor {
    fn post(&self, path: &'static str, body: Value) -> BoxFuture<'_, Result<Value, DoorError>> {
        async move { self.send(path, &body).await }.boxed()
    }
}
