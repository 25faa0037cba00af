//! Streaming clients: the events of an answer, and one that says which versions it saw on the way.

use std::collections::BTreeSet;

use futures::{Stream, StreamExt};
use reqwest::Response;
use serde_json::Value;

use crate::cli::error::innermost;

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
    let response = match ask(client.post(url).json(body)).await {
        Ok(response) => response,
        Err(why) => return Outcome::Failed(why),
    };
    if response.headers().get("x-switchback-version").is_none() {
        return Outcome::Failed("no x-switchback-version header".to_owned());
    }
    let mut fingerprints = BTreeSet::new();
    let mut chunks = std::pin::pin!(chunks(response));
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => {
                fingerprints.insert(chunk["system_fingerprint"].as_str().unwrap_or("none").to_owned());
            }
            Err(why) => return Outcome::Failed(why),
        }
    }
    if fingerprints.len() == 1 { Outcome::Whole } else { Outcome::Mixed(fingerprints) }
}

/// Sends a request.
///
/// # Errors
/// Why it was not answered, or what the server said that is no success.
pub(super) async fn ask(request: reqwest::RequestBuilder) -> Result<Response, String> {
    let response = request.send().await.map_err(|error| unanswered(&error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(format!("{status}: {}", response.text().await.unwrap_or_default()))
}

/// Why there is no answer, and from where.
fn unanswered(error: &reqwest::Error) -> String {
    let from = error.url().map_or_else(String::new, |url| format!("{url}: "));
    format!("{from}{}", innermost(error))
}

/// The chunks of a streamed answer, until `[DONE]`. One that breaks off before, or holds an error, ends with why.
pub(super) fn chunks(response: Response) -> impl Stream<Item = Result<Value, String>> {
    let reader = Reader { bytes: response.bytes_stream().boxed(), pending: Vec::new(), over: false };
    futures::stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        reader.over = chunk.is_err();
        Some((chunk, reader))
    })
}

struct Reader<S> {
    bytes: S,
    /// What came after the last whole line.
    pending: Vec<u8>,
    over: bool,
}

impl<S, B> Reader<S>
where
    S: Stream<Item = reqwest::Result<B>> + Unpin,
    B: AsRef<[u8]>,
{
    async fn next(&mut self) -> Option<Result<Value, String>> {
        if self.over {
            return None;
        }
        loop {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                match line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) {
                    None => {}
                    Some(b"[DONE]") => return None,
                    Some(data) => return Some(chunk(data)),
                }
            }
            match self.bytes.next().await {
                Some(Ok(part)) => self.pending.extend_from_slice(part.as_ref()),
                Some(Err(error)) => return Some(Err(error.to_string())),
                None => return Some(Err("the stream broke off before [DONE]".to_owned())),
            }
        }
    }
}

fn chunk(data: &[u8]) -> Result<Value, String> {
    let chunk: Value =
        serde_json::from_slice(data).map_err(|error| format!("a chunk is not JSON: {error}"))?;
    if chunk.get("error").is_some_and(|error| !error.is_null()) { Err(chunk.to_string()) } else { Ok(chunk) }
}
