//! Looking after the store: what is in it, is it whole, does it hold anything twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::error::{ImageError, at};
use super::files::{hash_file, link, same_file};
use super::manifest::Manifest;
use super::progress::{Count, Progress, Step};
use super::store::{HubRecord, Store, read_json};
use crate::config::HubFile;
use crate::ids::Digest;

/// One image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedImage {
    /// Its digest.
    pub digest: Digest,
    /// Number of files.
    pub files: usize,
    /// Size of all files.
    pub bytes: u64,
    /// Bytes of files that another image has too; they are on the disk once.
    pub shared_bytes: u64,
    /// The Hub commits that are this image, as references.
    pub sources: Vec<String>,
}

/// A file of an image that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The image.
    pub image: Digest,
    /// The path within it.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
}

/// What a dedupe did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DedupeReport {
    /// Copies that became links.
    pub relinked: usize,
    /// Blobs and abandoned downloads that no image needs, removed.
    pub removed: usize,
    /// Bytes that the disk has back.
    pub freed_bytes: u64,
}

impl Store {
    /// Every image, by digest.
    pub fn list(&self) -> Result<Vec<ListedImage>, ImageError> {
        let mut manifests = BTreeMap::new();
        for digest in self.digests()? {
            manifests.insert(digest, self.manifest(digest)?);
        }
        let mut owners: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
        for (image, manifest) in &manifests {
            for file in manifest.files.values() {
                owners.entry(file.sha256).or_default().insert(*image);
            }
        }
        let mut sources = self.sources()?;
        let listed = manifests.iter().map(|(digest, manifest)| ListedImage {
            digest: *digest,
            files: manifest.files.len(),
            bytes: manifest.bytes(),
            shared_bytes: manifest
                .files
                .values()
                .filter(|f| owners.get(&f.sha256).is_some_and(|o| o.len() > 1))
                .map(|f| f.bytes)
                .sum(),
            sources: sources.remove(digest).unwrap_or_default(),
        });
        Ok(listed.collect())
    }

    /// The one image whose digest starts with `prefix`, with or without `sha256:`.
    pub fn find(&self, prefix: &str) -> Result<Digest, ImageError> {
        let hex = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        let fitting: Vec<Digest> =
            self.digests()?.into_iter().filter(|d| !hex.is_empty() && d.hex().starts_with(hex)).collect();
        match fitting[..] {
            [one] => Ok(one),
            [] => Err(ImageError::Unknown { root: self.root.clone(), wanted: prefix.to_owned() }),
            _ => Err(ImageError::Ambiguous { prefix: prefix.to_owned(), count: fitting.len() }),
        }
    }

    /// Reads every file of an image again and tells which are not what they should be.
    pub fn verify(&self, digest: Digest, progress: Progress<'_>) -> Result<Vec<Damage>, ImageError> {
        let manifest = self.manifest(digest)?;
        let count = Count::new(progress, manifest.bytes());
        Ok(self.damage_of(digest, &manifest, &|change| count.step(change)))
    }

    /// What is wrong with the files of an image that `manifest` should describe.
    pub(super) fn damage_of(&self, digest: Digest, manifest: &Manifest, step: Step<'_>) -> Vec<Damage> {
        let damage = |file: &str, why: String| Damage { image: digest, file: file.to_owned(), why };
        let found = manifest.digest();
        if found != digest {
            return vec![damage("manifest.json", format!("it describes {found}"))];
        }
        let dir = self.files_dir(digest);
        let checked =
            manifest.files.par_iter().filter_map(|(name, want)| match hash_file(&dir.join(name), step) {
                Ok((sha256, _)) if sha256 == want.sha256 => None,
                Ok((sha256, _)) => Some(damage(name, format!("expected {}, found {sha256}", want.sha256))),
                Err(e) => Some(damage(name, e.to_string())),
            });
        checked.collect()
    }

    /// Turns copies into links (a store that was copied has them) and removes what no image needs.
    pub fn dedupe(&self) -> Result<DedupeReport, ImageError> {
        let _lock = self.lock()?;
        self.clear_tmp();
        self.known().sweep();
        let mut report = DedupeReport::default();
        let mut needed = BTreeSet::new();
        for image in self.digests()? {
            for (name, file) in &self.manifest(image)?.files {
                needed.insert(file.sha256.hex());
                let (blob, path) = (self.blob(file.sha256), self.files_dir(image).join(name));
                if same_file(&blob, &path) {
                    continue;
                }
                // The copy goes only when the blob is known to be good.
                if hash_file(&blob, &|_| ()).is_ok_and(|(found, _)| found == file.sha256) {
                    let size = path.metadata().map_or(0, |m| m.len());
                    let tmp = self.scratch();
                    link(&blob, &tmp)?;
                    fs::rename(&tmp, &path).map_err(at("cannot put in place", &path))?;
                    if same_file(&blob, &path) {
                        report.relinked += 1;
                        report.freed_bytes += size;
                    }
                }
            }
        }
        let blobs = self.root.join("blobs/sha256");
        for entry in entries(&blobs)? {
            let unneeded = entry.file_name().to_str().is_none_or(|name| !needed.contains(name));
            if unneeded {
                report.freed_bytes += entry.metadata().map_or(0, |m| m.len());
                report.removed += 1;
                fs::remove_file(entry.path()).map_err(at("cannot remove", &entry.path()))?;
            }
        }
        for repo in entries(&self.root.join("partial"))? {
            let (files, bytes) = weigh(&repo.path())?;
            report.removed += files;
            report.freed_bytes += bytes;
            fs::remove_dir_all(repo.path()).map_err(at("cannot remove", &repo.path()))?;
        }
        Ok(report)
    }

    /// The images that are there.
    pub fn digests(&self) -> Result<Vec<Digest>, ImageError> {
        let names = entries(&self.root.join("images"))?;
        let digest = |e: &fs::DirEntry| format!("sha256:{}", e.file_name().to_str()?).parse().ok();
        let mut digests: Vec<Digest> = names.iter().filter_map(digest).collect();
        digests.sort_unstable();
        Ok(digests)
    }

    /// The Hub references of each image.
    fn sources(&self) -> Result<BTreeMap<Digest, Vec<String>>, ImageError> {
        let mut sources: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let root = self.root.join("hub");
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in entries(&folder)? {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let named = folder.strip_prefix(&root).ok().and_then(|folder| reference(folder, &path));
                if let Some((record, reference)) = read_json::<HubRecord>(&path)?.zip(named) {
                    sources.entry(record.digest).or_default().push(reference);
                }
            }
        }
        Ok(sources)
    }
}

/// The reference whose record lies at `record`, in `folder` of the records.
fn reference(folder: &Path, record: &Path) -> Option<String> {
    let stem = record.file_stem()?.to_str()?;
    if HubFile::parse(stem).is_none() {
        return Some(format!("hf://{}@{stem}", folder.display()));
    }
    let (repo, commit) = (folder.parent()?.display(), folder.file_name()?.display());
    Some(format!("hf://{repo}@{commit}/{stem}"))
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, ImageError> {
    let read = folder.read_dir().map_err(at("cannot read", folder))?;
    read.collect::<Result<_, _>>().map_err(at("cannot read", folder))
}

/// The files below a folder and their size.
fn weigh(folder: &Path) -> Result<(usize, u64), ImageError> {
    let mut sum = (0, 0);
    for entry in entries(folder)? {
        let meta = entry.metadata().map_err(at("cannot read", &entry.path()))?;
        let (files, bytes) = if meta.is_dir() { weigh(&entry.path())? } else { (1, meta.len()) };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    Ok(sum)
}
