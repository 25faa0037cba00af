//! The thin client of the admin API that `models`, `route` and `rollback` share.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::error::CliError;

/// Where the server is and who asks; the same for every command that talks to one.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Target {
    /// Address of the server's admin listener
    #[arg(long, env = "SWITCHBACK_ADMIN", default_value = "http://127.0.0.1:8081", value_name = "URL")]
    admin: String,
    /// Print one JSON document instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// Who asks for a change, and why; both go to the audit log.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Change {
    /// Why; written to the audit log
    #[arg(long, default_value = "")]
    reason: String,
    /// Who; written to the audit log
    #[arg(long, env = "SWITCHBACK_ACTOR", default_value_t = login())]
    actor: String,
}

fn login() -> String {
    std::env::var("USER").unwrap_or_else(|_| "cli".to_owned())
}

const DEADLINE: Duration = Duration::from_secs(30);

impl Target {
    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.send(Method::GET, path, None, None).await
    }

    /// Sends a change; its `reason` joins the body, its `actor` travels as a header.
    pub(super) async fn change(
        &self,
        method: Method,
        path: &str,
        mut body: Value,
        change: &Change,
    ) -> Result<Value, CliError> {
        if !change.reason.is_empty() {
            body["reason"] = change.reason.clone().into();
        }
        self.send(method, path, Some(body), Some(&change.actor)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        actor: Option<&str>,
    ) -> Result<Value, CliError> {
        let base = self.admin.trim_end_matches('/');
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        let address = format!("{base}{path}");
        let unreachable =
            |e: reqwest::Error| CliError::Unreachable { address: base.clone(), cause: innermost(&e) };
        let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().map_err(unreachable)?;
        let mut request = client.request(method, &address);
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(actor) = actor {
            request = request.header("x-switchback-actor", actor);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let text = response.text().await.map_err(unreachable)?;
        let answer: Value = serde_json::from_str(&text).map_err(|e| CliError::Answer {
            address: address.clone(),
            cause: format!("status {status}, not JSON: {e}"),
        })?;
        if status.is_success() {
            return Ok(answer);
        }
        let message = answer["error"]["message"].as_str().unwrap_or(&text);
        Err(CliError::Refused(message.to_owned()))
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(next) = current.source() {
        current = next;
    }
    current.to_string()
}

/// Prints an answer as one JSON document.
pub(super) fn print_json(value: &Value) {
    println!("{value:#}");
}
