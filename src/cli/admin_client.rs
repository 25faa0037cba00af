//! The thin client of the admin API that the commands for operators share.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::error::{CliError, innermost};
use crate::ids::{MAX_ACTOR_CHARS, is_actor};

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
    #[command(flatten)]
    who: Who,
}

/// Who asks.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Who {
    /// Who; written to the audit log
    #[arg(long, env = "SWITCHBACK_ACTOR", default_value_t = login(), value_parser = parse_actor)]
    actor: String,
}

/// A user whom the system does not name, or names in a way that cannot be written down, is `cli`.
fn login() -> String {
    actor_or_cli(std::env::var("USER").ok())
}

fn actor_or_cli(name: Option<String>) -> String {
    name.and_then(|name| parse_actor(&name).ok()).unwrap_or_else(|| "cli".to_owned())
}

fn parse_actor(name: &str) -> Result<String, String> {
    if is_actor(name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "--actor, or SWITCHBACK_ACTOR, must be 1 to {MAX_ACTOR_CHARS} characters without control characters"
    ))
}

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an answer may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// A route is read or changed in milliseconds.
    Short,
    /// A load reads gigabytes, and an unload waits for answers under way: the server says when they end.
    Unlimited,
}

impl Patience {
    fn deadline(self) -> Option<Duration> {
        match self {
            Self::Short => Some(Duration::from_secs(30)),
            Self::Unlimited => None,
        }
    }
}

/// One request, ready to send.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Option<Value>,
    actor: Option<&'a str>,
    patience: Patience,
}

impl Target {
    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        let patience = Patience::Short;
        self.send(Ask { method: Method::GET, path, body: None, actor: None, patience }).await
    }

    /// Asks for what only a named operator is told.
    pub(super) async fn read(&self, path: &str, who: &Who) -> Result<Value, CliError> {
        let (actor, patience) = (Some(who.actor.as_str()), Patience::Short);
        self.send(Ask { method: Method::GET, path, body: None, actor, patience }).await
    }

    /// Asks a question that takes a body.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value, CliError> {
        self.send(Ask { method, path, body: Some(body), actor: None, patience: Patience::Short }).await
    }

    /// Sends a change; its `reason` joins the body, its `actor` travels as a header.
    pub(super) async fn change(
        &self,
        method: Method,
        path: &str,
        mut body: Value,
        change: &Change,
        patience: Patience,
    ) -> Result<Value, CliError> {
        if !change.reason.is_empty() {
            body["reason"] = change.reason.clone().into();
        }
        self.send(Ask { method, path, body: Some(body), actor: Some(&change.who.actor), patience }).await
    }

    async fn send(&self, ask: Ask<'_>) -> Result<Value, CliError> {
        let base = self.admin.trim_end_matches('/');
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        let address = format!("{base}{}", ask.path);
        let method = ask.method.clone();
        let failed = |e: reqwest::Error| failure(&method, &base, &e);
        let client = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).build();
        let mut request = client.map_err(failed)?.request(ask.method, &address);
        if let Some(deadline) = ask.patience.deadline() {
            request = request.timeout(deadline);
        }
        if let Some(body) = &ask.body {
            request = request.json(body);
        }
        if let Some(actor) = ask.actor {
            // As bytes: a header made of a text must be ASCII, and names are not all.
            request = request.header("x-switchback-actor", actor.as_bytes());
        }
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let text = response.text().await.map_err(failed)?;
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

/// A server that was never reached has changed nothing; of one that was, only its answer could tell.
fn failure(method: &Method, base: &str, error: &reqwest::Error) -> CliError {
    let (address, cause) = (base.to_owned(), innermost(error));
    if error.is_builder() {
        CliError::Usage(format!(
            "--admin {base:?} is not an address: {cause}; write one such as http://127.0.0.1:8081"
        ))
    } else if error.is_connect() {
        CliError::Unreachable { address, cause }
    } else if *method == Method::GET {
        CliError::Unanswered { address, cause }
    } else {
        CliError::Uncertain { address, cause }
    }
}

/// A text of an answer, for a column or a line; nothing where there is none.
pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Prints an answer as one JSON document.
pub(super) fn print_json(value: &Value) {
    println!("{value:#}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that takes one request and hangs up without an answer.
    async fn hangs_up() -> Target {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(connection.read(&mut request).await.unwrap() > 0);
        });
        Target { admin, json: false }
    }

    #[tokio::test]
    async fn a_change_without_an_answer_may_have_been_made_and_a_question_changed_nothing() {
        let who = Who { actor: "ada".to_owned() };
        let change = Change { reason: String::new(), who };
        let target = hangs_up().await;
        let sent = target.change(Method::PUT, "/route", serde_json::json!({}), &change, Patience::Short);
        let text = sent.await.unwrap_err().to_string();
        assert!(text.contains("may have been made") && text.contains("switchback models"), "{text}");

        let text = hangs_up().await.get("/admin/models").await.unwrap_err().to_string();
        assert!(text.contains("did not answer") && !text.contains("may have been made"), "{text}");
    }

    #[test]
    fn who_asks_may_be_called_juergen_and_must_be_called_something() {
        assert_eq!(parse_actor("jürgen").unwrap(), "jürgen");
        assert!(parse_actor(&"ü".repeat(MAX_ACTOR_CHARS)).is_ok());
        for bad in ["", "two\nlines", &"a".repeat(MAX_ACTOR_CHARS + 1)] {
            assert!(parse_actor(bad).unwrap_err().contains("SWITCHBACK_ACTOR"), "{bad:?}");
        }
        assert_eq!(actor_or_cli(Some("ada".to_owned())), "ada");
        assert_eq!([None, Some(String::new())].map(actor_or_cli), ["cli", "cli"]);
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_named() {
        let target = Target { admin: "127.0.0.1:port".to_owned(), json: false };
        let text = target.get("/admin/models").await.unwrap_err().to_string();
        assert!(text.contains("127.0.0.1:port") && text.contains("such as http://"), "{text}");
    }
}
