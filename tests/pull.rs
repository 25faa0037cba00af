//! Pulling from a Hub that breaks off, lies or is away. The Hub is a server on the loopback address.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as Parts, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use switchback::config::{Commit, HubFile, HubImage, HubRepo, ImageRef};
use switchback::ids::Digest;
use switchback::image::{Hub, ImageError, LocatedImage, Store, manifest_of};
use tempfile::TempDir;
use tokio::sync::Notify;

const WEIGHTS: usize = 200_000;
const HALF: usize = WEIGHTS / 2;
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// What the played Hub does wrong.
#[derive(Default)]
struct Faults {
    /// Break the weights off in the middle, this many times.
    cuts: AtomicU64,
    /// Answer every range with the whole file.
    ignores_ranges: AtomicBool,
    /// Send other weights than announced.
    lies: AtomicBool,
    /// Answer everything with this status.
    status: Mutex<Option<StatusCode>>,
}

struct Played {
    files: BTreeMap<&'static str, Vec<u8>>,
    faults: Faults,
    /// Each download: the file and its range.
    downloads: Mutex<Vec<(String, Option<String>)>>,
    /// The first half has arrived: the connection may be cut.
    arrived: Notify,
}

struct Scene {
    hub: Hub,
    played: Arc<Played>,
    root: TempDir,
    store: Store,
}

impl Scene {
    async fn new() -> Self {
        let weights: Vec<u8> =
            (0..WEIGHTS as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let files = BTreeMap::from([
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{\"model\":{}}".to_vec()),
            ("model.safetensors", weights),
            ("modules.json", b"[]".to_vec()),
            ("additional_chat_templates/tool_use.jinja", b"{{ tools }}".to_vec()),
            ("additional_chat_templates/.hidden.jinja", b"not needed".to_vec()),
            ("1_Pooling/config.json", b"{}".to_vec()),
            ("README.md", b"not needed".to_vec()),
            ("pytorch_model.bin", b"not needed".to_vec()),
            ("onnx/model.safetensors", b"not needed".to_vec()),
            ("other/config.json", b"not needed".to_vec()),
        ]);
        Self::of(files).await
    }

    async fn of(files: BTreeMap<&'static str, Vec<u8>>) -> Self {
        let played = Arc::new(Played {
            files,
            faults: Faults::default(),
            downloads: Mutex::default(),
            arrived: Notify::new(),
        });
        let app = Router::new()
            .route("/api/models/{org}/{name}/revision/{revision}", get(info))
            .route("/{org}/{name}/resolve/{revision}/{*file}", get(resolve))
            .with_state(played.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        Self { hub: hub(&endpoint), played, root, store }
    }

    async fn pull(&self, commit: &str) -> Result<LocatedImage, ImageError> {
        let last = Mutex::new((0, 0));
        let progress = |done, total| {
            assert!(done <= total, "{done} of {total}");
            *last.lock().unwrap() = (done, total);
            if done >= HALF as u64 {
                self.played.arrived.notify_one();
            }
        };
        let pulled = self.store.pull_hub(&self.hub, &image(commit, None), &progress).await;
        let (done, total) = last.into_inner().unwrap();
        assert!(pulled.is_err() || done == total, "it ended at {done} of {total}");
        pulled
    }

    /// The ranges under which a file was asked for since the last look.
    fn ranges_of(&self, name: &str) -> Vec<Option<String>> {
        let all = std::mem::take(&mut *self.played.downloads.lock().unwrap());
        all.into_iter().filter(|(file, _)| file == name).map(|(_, range)| range).collect()
    }

    fn assert_whole(&self, image: &LocatedImage) {
        let expected = [
            "1_Pooling/config.json",
            "additional_chat_templates/tool_use.jinja",
            "config.json",
            "model.safetensors",
            "modules.json",
            "tokenizer.json",
        ];
        let manifest = manifest_of(&image.dir, &|_, _| ()).unwrap();
        assert_eq!(manifest.files.keys().collect::<Vec<_>>(), expected);
        assert_eq!(manifest.digest(), image.digest);
        for name in expected {
            assert!(
                std::fs::read(image.dir.join(name)).unwrap() == self.played.files[name],
                "{name} differs"
            );
        }
    }
}

fn hub(endpoint: &str) -> Hub {
    Hub::new(endpoint, None).unwrap().with_backoff(Duration::ZERO)
}

fn image(commit: &str, file: Option<&str>) -> HubImage {
    let file = file.map(|file| HubFile::parse(file).unwrap());
    HubImage { repo: repo(), revision: Commit::parse(commit).unwrap(), file }
}

fn repo() -> HubRepo {
    "org/name".parse().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Digest::from_bytes(Sha256::digest(bytes).into()).hex()
}

async fn info(
    State(hub): State<Arc<Played>>,
    Parts((_, _, revision)): Parts<(String, String, String)>,
) -> Response {
    if let Some(status) = *hub.faults.status.lock().unwrap() {
        return status.into_response();
    }
    let commit = if revision == "main" { COMMIT.to_owned() } else { revision };
    let siblings: Vec<_> = hub
        .files
        .iter()
        .map(|(name, bytes)| {
            let lfs = json!({ "sha256": sha256(bytes), "size": bytes.len() });
            let lfs = if bytes.len() > 1000 { lfs } else { json!(null) };
            json!({ "rfilename": name, "size": bytes.len(), "lfs": lfs })
        })
        .collect();
    axum::Json(json!({ "id": "org/name", "sha": commit, "siblings": siblings })).into_response()
}

async fn resolve(
    State(hub): State<Arc<Played>>,
    Parts((_, _, revision, file)): Parts<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let range = headers.get(header::RANGE).map(|r| r.to_str().unwrap().to_owned());
    hub.downloads.lock().unwrap().push((file.clone(), range.clone()));
    let Some(mut content) = hub.files.get(file.as_str()).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let is_weights = file == "model.safetensors";
    if is_weights && hub.faults.lies.load(Ordering::Relaxed) {
        content[7] ^= 1;
    }
    let total = content.len();
    let from = range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from: usize = from.filter(|_| !hub.faults.ignores_ranges.load(Ordering::Relaxed)).unwrap_or(0);
    let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let rest = Bytes::from(content).slice(from..);
    let answer = Response::builder()
        .status(status)
        .header(header::ETAG, format!("\"{}\"", sha256(&rest)))
        .header("x-repo-commit", revision)
        .header(header::CONTENT_LENGTH, rest.len());
    let answer = if from > 0 {
        answer.header(header::CONTENT_RANGE, format!("bytes {from}-{}/{total}", total - 1))
    } else {
        answer
    };
    let left = |cuts: u64| cuts.checked_sub(1);
    let cut = is_weights && hub.faults.cuts.try_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok();
    if !cut {
        return answer.body(Body::from(rest)).unwrap();
    }
    let head = rest.slice(..rest.len() / 2);
    // Cut only after the client has what was sent, so that what it resumes from is certain.
    let broken = futures::stream::once(async move {
        hub.arrived.notified().await;
        Err(std::io::Error::other("cut"))
    });
    let body = futures::stream::once(async { Ok(head) }).chain(broken);
    answer.body(Body::from_stream(body)).unwrap()
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_where_it_stopped() {
    let scene = Scene::new().await;
    scene.played.faults.cuts.store(1, Ordering::Relaxed);
    let image = scene.pull(COMMIT).await.unwrap();
    scene.assert_whole(&image);
    let ranges = scene.ranges_of("model.safetensors");
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert_eq!(ranges[0], None);
    let from: usize = ranges[1].as_ref().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!((1..=HALF).contains(&from), "{from}");
}

#[tokio::test]
async fn a_second_pull_downloads_nothing_and_needs_no_hub() {
    let scene = Scene::new().await;
    let first = scene.pull(COMMIT).await.unwrap();
    scene.ranges_of("");
    *scene.played.faults.status.lock().unwrap() = Some(StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(scene.pull(COMMIT).await.unwrap(), first);
    assert!(scene.played.downloads.lock().unwrap().is_empty());

    let image = ImageRef::Hub(image(COMMIT, None));
    assert_eq!(scene.store.resolve(&image, Some(first.digest), &|_, _| ()).unwrap(), first);
    let listed = scene.store.list().unwrap();
    assert_eq!(listed[0].sources, [format!("hf://org/name@{COMMIT}")]);
}

#[tokio::test]
async fn another_commit_with_the_same_weights_does_not_fetch_them_again() {
    let scene = Scene::new().await;
    let first = scene.pull(COMMIT).await.unwrap();
    scene.ranges_of("");
    let second = scene.pull(LATER).await.unwrap();
    assert_eq!(first.digest, second.digest);
    assert!(scene.ranges_of("model.safetensors").is_empty());
}

#[tokio::test]
async fn a_pull_in_a_later_process_uses_what_an_earlier_one_left() {
    let scene = Scene::new().await;
    let partial = scene.root.path().join(format!("partial/org--name/{COMMIT}"));
    std::fs::create_dir_all(&partial).unwrap();
    let weights = &scene.played.files["model.safetensors"];
    std::fs::write(partial.join("model.safetensors"), &weights[..HALF]).unwrap();
    let image = scene.pull(COMMIT).await.unwrap();
    scene.assert_whole(&image);
    assert_eq!(scene.ranges_of("model.safetensors"), [Some(format!("bytes={HALF}-"))]);
    assert!(!partial.exists());
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_start() {
    let scene = Scene::new().await;
    scene.played.faults.ignores_ranges.store(true, Ordering::Relaxed);
    scene.played.faults.cuts.store(1, Ordering::Relaxed);
    let image = scene.pull(COMMIT).await.unwrap();
    scene.assert_whole(&image);
}

#[tokio::test]
async fn damaged_weights_are_discarded_and_the_next_pull_is_clean() {
    let scene = Scene::new().await;
    scene.played.faults.lies.store(true, Ordering::Relaxed);
    let error = scene.pull(COMMIT).await.unwrap_err();
    assert!(matches!(&error, ImageError::Corrupt { file, .. } if file == "model.safetensors"), "{error}");
    scene.played.faults.lies.store(false, Ordering::Relaxed);
    scene.assert_whole(&scene.pull(COMMIT).await.unwrap());
}

#[tokio::test]
async fn a_file_that_was_damaged_on_the_disk_is_fetched_again() {
    let scene = Scene::new().await;
    let image = scene.pull(COMMIT).await.unwrap();
    damage(&image.dir.join("model.safetensors"));
    assert_eq!(scene.store.verify(image.digest, &|_, _| ()).unwrap().len(), 1);
    scene.assert_whole(&scene.pull(COMMIT).await.unwrap());
    assert_eq!(scene.store.verify(image.digest, &|_, _| ()).unwrap(), []);
}

fn damage(path: &Path) {
    let mut mode = path.metadata().unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    mode.set_readonly(false);
    std::fs::set_permissions(path, mode).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[9] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_branch_is_answered_with_its_commit() {
    let scene = Scene::new().await;
    let snapshot = scene.hub.snapshot(&repo(), "main").await.unwrap();
    assert_eq!(snapshot.commit.as_str(), COMMIT);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let scene = Scene::new().await;
    for (status, expected) in
        [(401, "set HF_TOKEN"), (403, "set HF_TOKEN"), (404, "check the spelling"), (500, "HF_ENDPOINT")]
    {
        *scene.played.faults.status.lock().unwrap() = Some(StatusCode::from_u16(status).unwrap());
        let error = scene.pull(COMMIT).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{status}: {error}");
    }
    let away = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        hub(&format!("http://{}", listener.local_addr().unwrap()))
    };
    let error = scene.store.pull_hub(&away, &image(COMMIT, None), &|_, _| ()).await.unwrap_err();
    assert!(matches!(error, ImageError::Offline { .. }), "{error}");
}

/// A repository of GGUF files with these at its top.
async fn of_gguf(names: &[&'static str]) -> Scene {
    let own = ["README.md", "config.json", "deep/other.gguf"];
    let files = names.iter().copied().chain(own).map(|name| (name, name.as_bytes().to_vec()));
    Scene::of(files.collect()).await
}

fn names(image: &LocatedImage) -> Vec<String> {
    manifest_of(&image.dir, &|_, _| ()).unwrap().files.into_keys().collect()
}

#[tokio::test]
async fn of_several_gguf_files_one_is_named_and_is_an_image_by_itself() {
    let scene = of_gguf(&["m-q4_k_m.gguf", "m-q8_0.gguf"]).await;
    let error = scene.pull(COMMIT).await.unwrap_err().to_string();
    assert!(error.contains("m-q4_k_m.gguf, m-q8_0.gguf"), "{error}");
    assert!(error.contains(&format!("hf://org/name@{COMMIT}/m-q4_k_m.gguf")), "{error}");

    let wanted = image(COMMIT, Some("m-q8_0.gguf"));
    let pulled = scene.store.pull_hub(&scene.hub, &wanted, &|_, _| ()).await.unwrap();
    assert_eq!(names(&pulled), ["m-q8_0.gguf"]);
    let other = image(COMMIT, Some("m-q4_k_m.gguf"));
    let other = scene.store.pull_hub(&scene.hub, &other, &|_, _| ()).await.unwrap();
    assert_ne!(other.digest, pulled.digest);
    // found again without the Hub, under its own name alone
    *scene.played.faults.status.lock().unwrap() = Some(StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(scene.store.pull_hub(&scene.hub, &wanted, &|_, _| ()).await.unwrap(), pulled);
    let resolve = |image: HubImage| scene.store.resolve(&ImageRef::Hub(image), None, &|_, _| ());
    assert_eq!(resolve(wanted).unwrap(), pulled);
    let unpulled = resolve(image(COMMIT, None)).unwrap_err();
    assert!(matches!(unpulled, ImageError::NotPulled { .. }), "{unpulled}");
    let listed: Vec<String> = scene.store.list().unwrap().into_iter().flat_map(|i| i.sources).collect();
    assert!(listed.contains(&format!("hf://org/name@{COMMIT}/m-q8_0.gguf")), "{listed:?}");

    // the same file on this machine is the same image
    let file = pulled.dir.join("m-q8_0.gguf");
    let local = scene.store.resolve(&ImageRef::Local(file), Some(pulled.digest), &|_, _| ()).unwrap();
    assert_eq!(local.bytes, pulled.bytes);
}

#[tokio::test]
async fn the_only_gguf_file_need_not_be_named_and_one_that_is_not_there_is_missing() {
    let scene = of_gguf(&["m.gguf"]).await;
    let pulled = scene.pull(COMMIT).await.unwrap();
    assert_eq!(names(&pulled), ["m.gguf"]);
    let missing = image(COMMIT, Some("n.gguf"));
    let error = scene.store.pull_hub(&scene.hub, &missing, &|_, _| ()).await.unwrap_err().to_string();
    assert!(error.contains("no n.gguf"), "{error}");
}
