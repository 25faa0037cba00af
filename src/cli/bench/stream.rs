//! One streaming client: asks, reads to the end, and says which versions it saw on the way.

use std::collections::BTreeSet;

use futures::StreamExt;
use serde_json::Value;

/// What one stream showed.
pub(super) enum Outcome {
    /// It ended with `[DONE]`; every chunk and the header named one version.
    Whole,
    /// It ended, but its chunks name more than one version.
    Mixed(BTreeSet<String>),
    /// It did not end as a stream should.
    Failed(String),
}

/// Sends `body` (with `stream: true`) and reads the answer to its end.
pub(super) async fn read(client: &reqwest::Client, url: &str, body: &Value) -> Outcome {
    let response = match client.post(url).json(body).send().await {
        Ok(response) => response,
        Err(e) => return Outcome::Failed(e.to_string()),
    };
    if !response.status().is_success() {
        let status = response.status();
        return Outcome::Failed(format!("{status}: {}", response.text().await.unwrap_or_default()));
    }
    if response.headers().get("x-switchback-version").is_none() {
        return Outcome::Failed("no x-switchback-version header".to_owned());
    }
    let mut fingerprints = BTreeSet::new();
    let mut finished = false;
    let mut pending = Vec::new();
    let mut bytes = response.bytes_stream();
    while let Some(part) = bytes.next().await {
        match part {
            Ok(part) => pending.extend_from_slice(&part),
            Err(e) => return Outcome::Failed(e.to_string()),
        }
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            if data.trim_ascii() == b"[DONE]" {
                finished = true;
                continue;
            }
            match serde_json::from_slice::<Value>(data) {
                Ok(chunk) if chunk.get("error").is_none() => {
                    fingerprints.insert(chunk["system_fingerprint"].as_str().unwrap_or("none").to_owned());
                }
                Ok(chunk) => return Outcome::Failed(chunk.to_string()),
                Err(e) => return Outcome::Failed(format!("a chunk is not JSON: {e}")),
            }
        }
    }
    match (finished, fingerprints.len()) {
        (false, _) => Outcome::Failed("the stream broke off before [DONE]".to_owned()),
        (true, 1) => Outcome::Whole,
        (true, _) => Outcome::Mixed(fingerprints),
    }
}
