//! One attempt: a request to one receiver, within a deadline.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};

use super::message;
use super::retry::{Reply, retry_after};
use crate::config::{Webhook, WebhookUrl};
use crate::store::DeliveryRow;

/// So much of what a receiver says about a failure is kept.
const SAID: usize = 120;

/// A receiver with connections of its own.
pub(super) struct Post {
    webhook: Webhook,
    client: Client,
}

impl Post {
    pub(super) fn new(webhook: Webhook) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .user_agent(concat!("switchback/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none());
        // a proxy that the environment names cannot reach this machine's own addresses
        let client = if is_loopback(&webhook.url) { client.no_proxy() } else { client };
        Ok(Self { client: client.build()?, webhook })
    }

    /// Sends a delivery and reads what comes back.
    pub(super) async fn attempt(&self, delivery: &DeliveryRow, deadline: Duration, now: Timestamp) -> Reply {
        let Webhook { url, format, secret, .. } = &self.webhook;
        let body = message::body(delivery, *format);
        let mut request = self
            .client
            .post(url.expose().clone())
            .timeout(deadline)
            .header(CONTENT_TYPE, "application/json")
            .header("x-switchback-event", &delivery.notice.event)
            .header("x-switchback-delivery", delivery.id);
        if let Some(secret) = secret {
            request = request.header("x-switchback-signature", message::signature(secret, &body));
        }
        match request.body(body).send().await {
            Ok(response) => {
                let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let wait = wait.and_then(|value| retry_after(value, now));
                let code = response.status().as_u16();
                let said =
                    if response.status().is_success() { String::new() } else { said(response, url).await };
                Reply::Status { code, retry_after: wait, said }
            }
            Err(error) => Reply::Broken(broken(&error, deadline)),
        }
    }
}

/// Why nothing came back. The error's own text would show the URL.
fn broken(error: &reqwest::Error, deadline: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {deadline:?}");
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let what = if error.is_connect() { "cannot connect" } else { "no answer" };
    if innermost.is::<reqwest::Error>() { what.to_owned() } else { format!("{what}: {innermost}") }
}

/// The beginning of what a receiver says of a failure; nothing where it repeats a part of its address.
async fn said(mut response: Response, url: &WebhookUrl) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > 4 * SAID {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    shown(&text, url)
}

fn shown(text: &str, url: &WebhookUrl) -> String {
    let url = url.expose();
    let parts = url.path().split('/').chain(url.query()).chain(url.password());
    if parts.into_iter().any(|part| part.len() > 4 && text.contains(part)) {
        return String::new();
    }
    let printable = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(SAID).collect()
}

fn is_loopback(url: &WebhookUrl) -> bool {
    let host = url.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receiver_says_is_short_and_holds_no_token() {
        let url = WebhookUrl::parse("https://hooks.slack.com/services/T0/B0/s3cr3t").unwrap();
        assert_eq!(shown("invalid_payload\r\n", &url), "invalid_payload");
        assert_eq!(shown(&"x".repeat(999), &url).len(), SAID);
        assert_eq!(shown("no page at /services/T0/B0/s3cr3t", &url), "");
    }
}
