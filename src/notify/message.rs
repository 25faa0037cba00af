//! A delivery as bytes, and their signature.

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;

use super::slack;
use crate::config::{WebhookFormat, WebhookSecret};
use crate::ids::Digest;
use crate::store::{DeliveryRow, RolloutNotice};

/// The JSON format: the notice with the delivery's number.
#[derive(Serialize)]
struct Numbered<'a> {
    id: i64,
    #[serde(flatten)]
    notice: &'a RolloutNotice,
}

/// The body in a receiver's format. The same at each attempt.
pub(super) fn body(delivery: &DeliveryRow, format: WebhookFormat) -> String {
    match format {
        WebhookFormat::Slack => slack::message(&delivery.notice).to_string(),
        WebhookFormat::Json => {
            let numbered = Numbered { id: delivery.id, notice: &delivery.notice };
            serde_json::to_string(&numbered).expect("names and numbers always serialise")
        }
    }
}

/// The value of the signature's header: `sha256=` and the HMAC-SHA256 of the body in hexadecimal digits.
pub(super) fn signature(secret: &WebhookSecret, body: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body.as_bytes());
    format!("sha256={}", Digest::from_bytes(mac.finalize().into_bytes().into()).hex())
}
