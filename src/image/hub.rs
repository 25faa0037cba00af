//! Talks to the Hugging Face Hub: what a commit holds, and its files, piece by piece.
//!
//! This speaks HTTP itself rather than through the `hf-hub` crate, because version 1.0 of it starts a
//! broken download from zero (`stream_response_to_file` truncates the partial file), does not retry a
//! body that is cut off, and its range streams do not tell whether the server honoured the range.
//! Of the Hub's API this needs two addresses: `/api/models/{repo}/revision/{rev}?blobs=true` and
//! `/{repo}/resolve/{commit}/{file}`.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

use super::error::{ImageError, at};
use super::progress::Step;
use crate::config::{Commit, HubFile, HubImage, HubRepo};
use crate::ids::Digest;

/// Tries without a single new byte before a download is given up.
const ATTEMPTS: u32 = 5;

/// A Hub, or a mirror of it.
#[derive(Clone)]
pub struct Hub {
    client: Client,
    endpoint: Url,
    token: Option<String>,
    backoff: Duration,
}

/// What a revision holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: Commit,
    /// Its files.
    pub files: Vec<RemoteFile>,
}

/// One file on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size, where the Hub tells it.
    pub bytes: Option<u64>,
    /// Its content, where the Hub tells it (large files).
    pub sha256: Option<Digest>,
}

#[derive(Deserialize)]
struct RepoInfo {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Snapshot {
    /// The files that serving needs: those of a folder in Hugging Face layout, of an adapter, or one GGUF file. Refuses a
    /// repository without either, and one with several GGUF files of which `image` names none.
    pub fn model_files(&self, image: &HubImage) -> Result<Vec<&RemoteFile>, ImageError> {
        let lacks = |missing: &str| {
            Err(ImageError::Incomplete { repo: image.repo.to_string(), missing: missing.to_owned() })
        };
        if let Some(wanted) = &image.file {
            let files: Vec<_> = self.files.iter().filter(|f| f.path == wanted.as_str()).collect();
            return if files.is_empty() { lacks(wanted.as_str()) } else { Ok(files) };
        }
        let files: Vec<_> = self.files.iter().filter(|f| is_model_file(&f.path)).collect();
        let has_weights = files.iter().any(|f| f.path.ends_with(".safetensors"));
        let ggufs: Vec<_> = self.files.iter().filter(|f| HubFile::parse(&f.path).is_some()).collect();
        match &ggufs[..] {
            [_] if !has_weights => return Ok(ggufs),
            [_, _, ..] if !has_weights => {
                let names = ggufs.iter().map(|f| f.path.clone()).collect();
                return Err(ImageError::SeveralGguf { pinned: image.to_string(), names });
            }
            _ => {}
        }
        if !files.iter().any(|f| matches!(f.path.as_str(), "config.json" | "adapter_config.json")) {
            return lacks("config.json or adapter_config.json");
        }
        if has_weights { Ok(files) } else { lacks(".safetensors file") }
    }
}

#[expect(clippy::case_sensitive_file_extension_comparisons, reason = "the Hub's names are exact")]
/// Only files at the top count, and those below it whose folder is known, so a path from the Hub cannot lead out of a folder.
fn is_model_file(path: &str) -> bool {
    const NAMES: [&str; 5] = [
        "config.json",
        "adapter_config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ];
    /// What sentence-transformers adds.
    const OF_ENCODERS: [&str; 4] = [
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    ];
    if OF_ENCODERS.contains(&path) {
        return true;
    }
    let plain = |name: &str| {
        !name.starts_with('.') && !name.contains(|c: char| matches!(c, '/' | '\\') || c.is_control())
    };
    if let Some(name) = path.strip_prefix("additional_chat_templates/") {
        return plain(name) && name.ends_with(".jinja");
    }
    plain(path)
        && (NAMES.contains(&path)
            || (path.starts_with("tokenizer") && path.ends_with(".json"))
            || path.ends_with(".safetensors")
            || path.ends_with(".safetensors.index.json"))
}

/// A failed request: worth another try, or final.
enum Failure {
    Transient(String),
    Final(ImageError),
}

impl Hub {
    /// The Hub that the environment names: `HF_ENDPOINT`, and a token from `HF_TOKEN` or from
    /// `huggingface-cli login`.
    pub fn from_env() -> Result<Self, ImageError> {
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let home = || {
            let cache = || Some(PathBuf::from(var("HOME")?).join(".cache"));
            let cache = || var("XDG_CACHE_HOME").map(PathBuf::from).or_else(cache);
            var("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")))
        };
        let file = || var("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")));
        // No file is the common case: most models need no token.
        let token = var("HF_TOKEN").or_else(|| std::fs::read_to_string(file()?).ok());
        let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        Self::new(&endpoint, token)
    }

    /// The Hub at an address.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self, ImageError> {
        let wrong = |cause: String| ImageError::Answer { url: endpoint.to_owned(), cause };
        let endpoint: Url = endpoint.parse().map_err(|e| wrong(format!("not an address: {e}")))?;
        if endpoint.cannot_be_a_base() {
            return Err(wrong("not an http address".to_owned()));
        }
        let client = Client::builder()
            .user_agent(concat!("switchback/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_mins(1));
        // a proxy that the environment names cannot reach this machine's own addresses
        let client = if is_loopback(&endpoint) { client.no_proxy() } else { client };
        let client = client.build().map_err(|e| wrong(chain(&e)))?;
        Ok(Self { client, endpoint, token, backoff: Duration::from_millis(500) })
    }

    /// The same Hub with another first pause between tries; each further pause is twice as long.
    #[must_use]
    pub fn with_backoff(mut self, first: Duration) -> Self {
        self.backoff = first;
        self
    }

    /// What a revision holds; a branch or tag is answered with its commit of this moment.
    pub async fn snapshot(&self, repo: &HubRepo, revision: &str) -> Result<Snapshot, ImageError> {
        let mut url = self.url(&["api", "models"], repo, &["revision", revision]);
        url.set_query(Some("blobs=true"));
        let what = format!("{repo} at revision {revision}");
        let mut tries = 0;
        let info: RepoInfo = loop {
            let failure = match self.get(&url, 0, &what).await {
                Ok(answer) => match answer.bytes().await {
                    Ok(body) => break parse(&body, &url)?,
                    Err(e) => Failure::Transient(chain(&e)),
                },
                Err(failure) => failure,
            };
            self.pause(failure, &mut tries, &url).await?;
        };
        let answer = |cause: String| ImageError::Answer { url: url.to_string(), cause };
        let commit = info.sha.as_deref().and_then(Commit::parse);
        let commit = commit.ok_or_else(|| answer("it names no commit".to_owned()))?;
        if Commit::parse(revision).is_some_and(|asked| asked != commit) {
            return Err(answer(format!("asked for {revision}, answered for {commit}")));
        }
        let files = info.siblings.into_iter().map(|s| {
            let lfs = s.lfs.as_ref();
            let sha256 = lfs.and_then(|l| l.sha256.as_ref());
            let sha256 = sha256
                .map(|hex| format!("sha256:{hex}").parse())
                .transpose()
                .map_err(|e| answer(format!("{}: {e}", s.rfilename)))?;
            Ok(RemoteFile { bytes: lfs.and_then(|l| l.size).or(s.size), sha256, path: s.rfilename })
        });
        Ok(Snapshot { commit, files: files.collect::<Result<_, ImageError>>()? })
    }

    /// Fetches a file into `part`, from where an earlier try stopped. `step` hears of each change in the
    /// number of bytes that are there.
    pub(super) async fn download(
        &self,
        repo: &HubRepo,
        commit: &Commit,
        file: &RemoteFile,
        part: &Path,
        step: Step<'_>,
    ) -> Result<(), ImageError> {
        let parts: Vec<&str> = ["resolve", commit.as_str()].into_iter().chain(file.path.split('/')).collect();
        let url = self.url(&[], repo, &parts);
        let what = format!("file {} in {repo} at {commit}", file.path);
        // Plain writes, for they end with the call: a background write that outlives a dropped download
        // would land in the middle of the next one. A piece is small and goes to the page cache.
        let mut out =
            File::options().create(true).append(true).open(part).map_err(at("cannot open", part))?;
        let mut have = out.metadata().map_err(at("cannot read", part))?.len();
        step(have as i64);
        let mut tries = 0;
        loop {
            if file.bytes.is_some_and(|size| have > size) {
                restart(&out, part, &mut have, step)?;
            }
            if file.bytes == Some(have) {
                return Ok(());
            }
            let before = have;
            match self.piece(&url, &what, &mut out, part, &mut have, step).await {
                // Shorter than announced is a cut that the transport did not notice.
                Ok(()) if file.bytes.is_none_or(|size| size == have) => return Ok(()),
                outcome => {
                    let failure = match outcome {
                        Ok(()) => Failure::Transient(format!("{have} bytes arrived of {:?}", file.bytes)),
                        Err(failure) => failure,
                    };
                    if have > before {
                        tries = 0;
                    }
                    self.pause(failure, &mut tries, &url).await?;
                }
            }
        }
    }

    /// One request, from byte `have` on, to the end of its answer.
    async fn piece(
        &self,
        url: &Url,
        what: &str,
        out: &mut File,
        part: &Path,
        have: &mut u64,
        step: Step<'_>,
    ) -> Result<(), Failure> {
        let answer = self.get(url, *have, what).await?;
        let goes_on = answer.status() == StatusCode::PARTIAL_CONTENT && range_start(&answer) == Some(*have);
        if *have > 0 && !goes_on {
            restart(out, part, have, step).map_err(Failure::Final)?;
            if answer.status() != StatusCode::OK {
                return Err(Failure::Transient(format!("range answered with {}", answer.status())));
            }
        }
        let mut body = answer.bytes_stream();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|e| Failure::Transient(chain(&e)))?;
            out.write_all(&bytes).map_err(|e| Failure::Final(at("cannot write", part)(e)))?;
            *have += bytes.len() as u64;
            step(bytes.len() as i64);
        }
        Ok(())
    }

    async fn get(&self, url: &Url, from: u64, what: &str) -> Result<Response, Failure> {
        let mut request = self.client.get(url.clone());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let answer = request.send().await.map_err(|e| Failure::Transient(chain(&e)))?;
        let (status, url) = (answer.status(), url.to_string());
        match status {
            s if s.is_success() => Ok(answer),
            // The partial file is longer than the file: the caller starts anew.
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Failure::Final(ImageError::Denied { url, status: status.as_u16() }))
            }
            StatusCode::NOT_FOUND => Err(Failure::Final(ImageError::NotFound { what: what.to_owned(), url })),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Transient(status.to_string()))
            }
            s if s.is_server_error() => Err(Failure::Transient(status.to_string())),
            _ => Err(Failure::Final(ImageError::Answer { url, cause: status.to_string() })),
        }
    }

    /// Waits before the next try, or gives up.
    async fn pause(&self, failure: Failure, tries: &mut u32, url: &Url) -> Result<(), ImageError> {
        let cause = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Transient(cause) => cause,
        };
        *tries += 1;
        if *tries >= ATTEMPTS {
            return Err(ImageError::Offline { url: url.to_string(), cause });
        }
        tracing::debug!(%url, %cause, tries, "the Hub is asked again");
        tokio::time::sleep(self.backoff * 2_u32.pow(*tries - 1)).await;
        Ok(())
    }

    /// The endpoint's address with escaped parts.
    fn url(&self, before: &[&str], repo: &HubRepo, after: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        // `new` has refused addresses that cannot have parts.
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(before).extend(repo.as_str().split('/')).extend(after);
        }
        url
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
}

fn restart(out: &File, part: &Path, have: &mut u64, step: Step<'_>) -> Result<(), ImageError> {
    out.set_len(0).map_err(at("cannot write", part))?;
    step(-(*have as i64));
    *have = 0;
    Ok(())
}

/// The first byte of a `Content-Range: bytes 5-9/10`.
fn range_start(answer: &Response) -> Option<u64> {
    let value = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn parse(body: &[u8], url: &Url) -> Result<RepoInfo, ImageError> {
    serde_json::from_slice(body)
        .map_err(|e| ImageError::Answer { url: url.to_string(), cause: e.to_string() })
}

/// An error with its causes: reqwest's own text leaves out what went wrong below.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
