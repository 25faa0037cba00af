//! The images on this machine, each file kept once.
//!
//! ```text
//! blobs/sha256/<hex>          every distinct file, read-only
//! images/<hex>/manifest.json  what an image is made of; <hex> is the image's digest
//! images/<hex>/files/...      the image as a folder: hard links to the blobs
//! hub/<org>/<name>/<commit>.json  which image a Hub commit is
//! hub/<org>/<name>/<commit>/<file>.json  which image one of its files is by itself
//! known/<hex>.json            what a large file had for a digest; <hex> is the sha256 of its path
//! partial/, tmp/              downloads and changes under way
//! lock                        held by whoever changes the store
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{ImageError, at};
use super::files::{
    copy_hashed, create_dir, hash_file, link, same_file, scratch, sync_folder_of, write_whole,
};
use super::hub::{Hub, RemoteFile};
use super::known::Known;
use super::manifest::{FileEntry, Manifest, manifest_by, manifest_of, newest_file, path_in};
use super::progress::{Count, Progress, Step, counted};
use crate::config::{Commit, HubImage, HubRepo, ImageRef};
use crate::ids::Digest;

/// Files that are fetched at once; more would only share the same line.
const DOWNLOADS: usize = 4;

/// A folder, or a GGUF file, whose content is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedImage {
    /// The folder with the files, or the one file.
    pub dir: PathBuf,
    /// The digest of what is there.
    pub digest: Digest,
    /// The size of all files.
    pub bytes: u64,
}

/// The images on this machine.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) root: PathBuf,
}

/// What a Hub commit turned out to be.
#[derive(Serialize, Deserialize)]
pub(super) struct HubRecord {
    pub(super) digest: Digest,
}

/// A file of a pull whose bytes are all here.
enum Fetched {
    /// The store had it.
    Held(String, FileEntry),
    /// Downloaded, not yet checked.
    Part(RemoteFile, PathBuf),
}

impl Store {
    /// Opens a store, and makes one where there is none.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        for folder in ["blobs/sha256", "images", "hub", "known", "partial", "tmp"] {
            create_dir(&root.join(folder))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Where an image's files are, whatever is in them now; none while it is not pulled.
    pub fn dir_of(&self, image: &ImageRef) -> Result<Option<PathBuf>, ImageError> {
        Ok(self.located(image)?.map(|(dir, _)| dir))
    }

    /// Where an image's files are, and what they were when they were pulled; none while it is not pulled.
    fn located(&self, image: &ImageRef) -> Result<Option<(PathBuf, Option<Digest>)>, ImageError> {
        match image {
            ImageRef::Local(dir) => Ok(Some((dir.clone(), None))),
            ImageRef::Hub(image) => {
                Ok(self.pulled(image)?.map(|digest| (self.files_dir(digest), Some(digest))))
            }
        }
    }

    /// Finds an image and proves that it is what was asked for: every file is read and hashed, but large ones that have not
    /// changed since they were.
    ///
    /// A Hub image must have been pulled; nothing is fetched here.
    pub fn resolve(
        &self,
        image: &ImageRef,
        expected: Option<Digest>,
        progress: Progress<'_>,
    ) -> Result<LocatedImage, ImageError> {
        let not_pulled = || ImageError::NotPulled { reference: image.to_string() };
        let (dir, pulled) = self.located(image)?.ok_or_else(not_pulled)?;
        let expected = expected.or(pulled);
        let known = self.known();
        let found = manifest_by(&|path, step| known.hash(path, step), &dir, progress)?;
        let digest = found.digest();
        match expected {
            Some(expected) if expected != digest => Err(ImageError::Mismatch {
                look_at: self.look_at(&dir, &found, expected),
                dir,
                expected,
                found: digest,
            }),
            _ => Ok(LocatedImage { dir, digest, bytes: found.bytes() }),
        }
    }

    /// Which file makes the difference: exactly, where the store knows the expected image; else a guess.
    fn look_at(&self, dir: &Path, found: &Manifest, expected: Digest) -> String {
        let known = self.manifest(expected).ok();
        let difference = known.and_then(|known| found.first_difference(&known));
        difference.unwrap_or_else(|| match newest_file(dir) {
            Some(name) => {
                format!("{name}: it was written most recently (the store does not know the expected image)")
            }
            None => "the folder: it has no files".to_owned(),
        })
    }

    /// Takes a folder, or a GGUF file as an image of its own, into the store and tells its digest. Files that the store has are not copied.
    /// Each byte is read twice, to learn the digest and to copy it, and counts twice in `progress`.
    pub fn add_local(&self, dir: &Path, progress: Progress<'_>) -> Result<LocatedImage, ImageError> {
        let _lock = self.lock()?;
        let manifest = manifest_of(dir, &|done, total| progress(done, 2 * total))?;
        let copied = |done, total| progress(total + done, 2 * total);
        let count = Count::new(&copied, manifest.bytes());
        let step = |change| count.step(change);
        manifest.files.par_iter().try_for_each(|(name, entry)| {
            if self.holds(entry, &step) {
                return Ok(());
            }
            let (path, tmp) = (path_in(dir, name), self.scratch());
            let (sha256, _) = copy_hashed(&path, &tmp, &step).inspect_err(|_| drop(fs::remove_file(&tmp)))?;
            if sha256 != entry.sha256 {
                let _ = fs::remove_file(&tmp);
                return Err(ImageError::Changed { path });
            }
            self.keep(&tmp, sha256)
        })?;
        self.publish(&manifest)
    }

    /// Fetches a commit's model files from the Hub, goes on where an earlier try stopped, and tells the
    /// digest. A commit that the store has whole is answered without asking the Hub.
    /// Each byte counts twice in `progress`: once when it is here, once when it is checked.
    pub async fn pull_hub(
        &self,
        hub: &Hub,
        image: &HubImage,
        progress: Progress<'_>,
    ) -> Result<LocatedImage, ImageError> {
        if let Some(whole) = self.pulled_whole(image, progress).await? {
            return Ok(whole);
        }
        let lock = self.lock()?;
        let HubImage { repo, revision: commit, file } = image;
        let remote = hub.snapshot(repo, commit.as_str()).await?;
        let files = remote.model_files(image)?;
        let own = file.as_ref().map(|file| format!("-{}", file.as_str())).unwrap_or_default();
        let partial =
            self.root.join("partial").join(repo.as_str().replace('/', "--")).join(format!("{commit}{own}"));
        create_dir(&partial)?;

        let count = Count::new(progress, 2 * files.iter().filter_map(|f| f.bytes).sum::<u64>());
        let step = |change| count.step(change);
        let fetches = files.iter().map(|file| self.fetch(hub, repo, commit, file, &partial, &step));
        let fetched: Vec<Fetched> =
            futures::stream::iter(fetches).buffer_unordered(DOWNLOADS).try_collect().await?;
        let store = self.clone();
        // The lock goes along: whoever drops this future does not stop the work on the disk.
        let pulled = counted(&step, move |step| {
            let _lock = lock;
            let accepted = fetched.par_iter().map(|file| store.accept(file, step));
            store.publish(&Manifest { files: accepted.collect::<Result<_, _>>()? })
        })
        .await?;
        let record = HubRecord { digest: pulled.digest };
        let path = self.hub_record(image);
        create_dir(path.parent().unwrap_or(&self.root))?;
        write_whole(&path, &self.scratch(), &json(&record, &path)?)?;
        // Every part became a blob; what cannot be removed here, `dedupe` removes.
        let _ = fs::remove_dir_all(&partial);
        Ok(pulled)
    }

    /// The image of a commit, if it was pulled and its files are as they should be.
    async fn pulled_whole(
        &self,
        image: &HubImage,
        progress: Progress<'_>,
    ) -> Result<Option<LocatedImage>, ImageError> {
        let Some(digest) = self.pulled(image)? else { return Ok(None) };
        let (store, manifest) = (self.clone(), self.manifest(digest)?);
        let bytes = manifest.bytes();
        let count = Count::new(progress, bytes);
        let check = move |step: Step<'_>| store.damage_of(digest, &manifest, step);
        let damage = counted(&|change| count.step(change), check).await;
        Ok(damage.is_empty().then(|| LocatedImage { dir: self.files_dir(digest), digest, bytes }))
    }

    /// Brings one file, unless the store has it.
    async fn fetch(
        &self,
        hub: &Hub,
        repo: &HubRepo,
        commit: &Commit,
        file: &RemoteFile,
        partial: &Path,
        step: Step<'_>,
    ) -> Result<Fetched, ImageError> {
        if let (Some(sha256), Some(bytes)) = (file.sha256, file.bytes) {
            let (store, entry) = (self.clone(), FileEntry { sha256, bytes });
            if counted(step, move |step| store.holds(&entry, step)).await {
                // what need not be fetched is here, too
                step(bytes as i64);
                return Ok(Fetched::Held(file.path.clone(), entry));
            }
        }
        let part = partial.join(&file.path);
        create_dir(part.parent().unwrap_or(partial))?;
        hub.download(repo, commit, file, &part, step).await?;
        Ok(Fetched::Part(file.clone(), part))
    }

    /// Checks a finished download and makes it a blob.
    fn accept(&self, fetched: &Fetched, step: Step<'_>) -> Result<(String, FileEntry), ImageError> {
        let (file, part) = match fetched {
            Fetched::Held(name, entry) => return Ok((name.clone(), *entry)),
            Fetched::Part(file, part) => (file, part),
        };
        let (sha256, bytes) = hash_file(part, step)?;
        let cause = match (file.sha256, file.bytes) {
            (Some(want), _) if want != sha256 => Some(format!("expected {want}, found {sha256}")),
            (_, Some(want)) if want != bytes => Some(format!("expected {want} bytes, found {bytes}")),
            _ => None,
        };
        if let Some(cause) = cause {
            let _ = fs::remove_file(part);
            return Err(ImageError::Corrupt { file: file.path.clone(), cause });
        }
        File::open(part).and_then(|f| f.sync_all()).map_err(at("cannot write", part))?;
        self.keep(part, sha256)?;
        Ok((file.path.clone(), FileEntry { sha256, bytes }))
    }

    /// Makes a finished file a blob. Replaces what is there: it may be damaged, and this was just hashed.
    fn keep(&self, file: &Path, sha256: Digest) -> Result<(), ImageError> {
        let blob = self.blob(sha256);
        let mut mode = file.metadata().map_err(at("cannot read", file))?.permissions();
        mode.set_readonly(true);
        fs::set_permissions(file, mode).map_err(at("cannot write-protect", file))?;
        fs::rename(file, &blob).map_err(at("cannot put in place", &blob))?;
        sync_folder_of(&blob)
    }

    /// Makes an image of blobs that are there. Idempotent; mends an image whose files were lost.
    fn publish(&self, manifest: &Manifest) -> Result<LocatedImage, ImageError> {
        let digest = manifest.digest();
        let image = LocatedImage { dir: self.files_dir(digest), digest, bytes: manifest.bytes() };
        if self.is_published(manifest, &image.dir) {
            return Ok(image);
        }
        let tmp = self.scratch();
        let files = tmp.join("files");
        for (name, entry) in &manifest.files {
            let path = files.join(name);
            create_dir(path.parent().unwrap_or(&files))?;
            link(&self.blob(entry.sha256), &path)?;
        }
        let record = tmp.join("manifest.json");
        write_whole(&record, &tmp.join("manifest.tmp"), &json(manifest, &record)?)?;
        let home = self.image_dir(digest);
        if home.exists() {
            fs::rename(&home, self.scratch()).map_err(at("cannot replace", &home))?;
        }
        fs::rename(&tmp, &home).map_err(at("cannot put in place", &home))?;
        sync_folder_of(&home)?;
        self.clear_tmp();
        Ok(image)
    }

    /// Whether the image is there as links to its blobs; then nothing need be swapped under a reader.
    fn is_published(&self, manifest: &Manifest, dir: &Path) -> bool {
        self.manifest(manifest.digest()).is_ok_and(|there| there == *manifest)
            && manifest.files.iter().all(|(name, e)| same_file(&dir.join(name), &self.blob(e.sha256)))
    }

    /// Removes what crashed changes left behind; only under the lock.
    pub(super) fn clear_tmp(&self) {
        for entry in self.root.join("tmp").read_dir().into_iter().flatten().flatten() {
            let path = entry.path();
            // What cannot be removed now is tried again at the next change.
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }

    /// The manifest of an image in the store.
    pub fn manifest(&self, digest: Digest) -> Result<Manifest, ImageError> {
        let path = self.image_dir(digest).join("manifest.json");
        read_json(&path)?
            .ok_or_else(|| ImageError::Unknown { root: self.root.clone(), wanted: digest.to_string() })
    }

    /// The image that a Hub commit turned out to be, if it was pulled and is still here.
    fn pulled(&self, image: &HubImage) -> Result<Option<Digest>, ImageError> {
        let record: Option<HubRecord> = read_json(&self.hub_record(image))?;
        Ok(record.map(|r| r.digest).filter(|d| self.image_dir(*d).join("manifest.json").exists()))
    }

    /// Only one process changes the store at a time; readers need no lock.
    pub(super) fn lock(&self) -> Result<File, ImageError> {
        let path = self.root.join("lock");
        let file = File::options().create(true).append(true).open(&path).map_err(at("cannot open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(ImageError::Busy { root: self.root.clone() }),
            Err(TryLockError::Error(e)) => Err(at("cannot lock", &path)(e)),
        }
    }

    /// Whether a blob is there and whole. It is read, as a damaged one must be brought again; `step` is told
    /// of its bytes only where it is whole, in the end.
    fn holds(&self, entry: &FileEntry, step: Step<'_>) -> bool {
        let blob = self.blob(entry.sha256);
        if blob.metadata().is_ok_and(|m| m.len() != entry.bytes) {
            return false;
        }
        let told = AtomicI64::new(0);
        let telling = |change| {
            told.fetch_add(change, Ordering::Relaxed);
            step(change);
        };
        let whole = hash_file(&blob, &telling).is_ok_and(|(found, _)| found == entry.sha256);
        if !whole {
            step(-told.into_inner());
        }
        whole
    }

    pub(super) fn blob(&self, sha256: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(sha256.hex())
    }

    pub(super) fn image_dir(&self, digest: Digest) -> PathBuf {
        self.root.join("images").join(digest.hex())
    }

    pub(super) fn files_dir(&self, digest: Digest) -> PathBuf {
        self.image_dir(digest).join("files")
    }

    pub(super) fn scratch(&self) -> PathBuf {
        scratch(&self.root.join("tmp"))
    }

    /// Digests of large files.
    pub(super) fn known(&self) -> Known {
        Known::in_folder(self.root.join("known"), self.root.join("tmp"))
    }

    fn hub_record(&self, image: &HubImage) -> PathBuf {
        let HubImage { repo, revision, file } = image;
        let folder = self.root.join("hub").join(repo.as_str());
        match file {
            None => folder.join(format!("{revision}.json")),
            Some(file) => folder.join(revision.as_str()).join(format!("{}.json", file.as_str())),
        }
    }
}

fn json(value: &impl Serialize, path: &Path) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec_pretty(value).map_err(|source| ImageError::Record { path: path.to_owned(), source })
}

/// Reads a record; `None` where there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| ImageError::Record { path: path.to_owned(), source }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("cannot read", path)(e)),
    }
}
