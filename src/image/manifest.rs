//! What an image is made of, and the one number that says all of it.
//!
//! The digest is the sha256 of these lines, each ended by a line feed (0x0a):
//!
//! ```text
//! switchback-image-v1
//! <sha256 of the file, 64 lower-case hex digits> <size in bytes, decimal> <path>
//! ...
//! ```
//!
//! An image that is one GGUF file has its name for path: it is the same image as a folder with that file alone.
//! Paths are relative, with `/` between their parts, in the order of their UTF-8 bytes. Files and folders
//! whose name starts with a dot are left out; so are file times, owners and modes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{ImageError, at};
use super::files::hash_file;
use super::progress::{Count, Progress, Step};
use crate::config::HubFile;
use crate::ids::Digest;

/// One file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Of the content.
    pub sha256: Digest,
    /// The size.
    pub bytes: u64,
}

/// Every file of an image, by its relative path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The files; paths have `/` between their parts.
    pub files: BTreeMap<String, FileEntry>,
}

impl Manifest {
    /// The image's digest; see the head of this module for the exact lines.
    pub fn digest(&self) -> Digest {
        let mut lines = String::from("switchback-image-v1\n");
        for (path, file) in &self.files {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{} {} {path}", file.sha256.hex(), file.bytes);
        }
        Digest::from_bytes(Sha256::digest(lines).into())
    }

    /// The size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|f| f.bytes).sum()
    }

    /// The first file that is not the same in both, and how it differs, seen from `self`.
    pub(super) fn first_difference(&self, expected: &Self) -> Option<String> {
        let changed = expected.files.iter().find_map(|(path, want)| match self.files.get(path) {
            None => Some(format!("{path}: it is missing")),
            Some(have) if have != want => Some(format!("{path}: its content differs")),
            Some(_) => None,
        });
        let extra = || self.files.keys().find(|p| !expected.files.contains_key(*p));
        changed.or_else(|| extra().map(|path| format!("{path}: it should not be there")))
    }
}

/// Hashes every file of a folder, several at once; or a GGUF file.
pub fn manifest_of(dir: &Path, progress: Progress<'_>) -> Result<Manifest, ImageError> {
    manifest_by(&hash_file, dir, progress)
}

/// Tells the digest and the size of a file.
type Hash<'h> = &'h (dyn Fn(&Path, Step<'_>) -> Result<(Digest, u64), ImageError> + Sync);

/// Like [`manifest_of`], by other means than reading every file.
pub(super) fn manifest_by(
    hash: Hash<'_>,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<Manifest, ImageError> {
    let files = files_of(dir)?;
    let count = Count::new(progress, files.iter().map(|f| f.bytes).sum());
    let hashed = files.par_iter().map(|file| {
        let (sha256, bytes) = hash(&file.path, &|change| count.step(change))?;
        if bytes != file.bytes {
            return Err(ImageError::Changed { path: file.path.clone() });
        }
        Ok((file.name.clone(), FileEntry { sha256, bytes }))
    });
    Ok(Manifest { files: hashed.collect::<Result<_, _>>()? })
}

struct Found {
    name: String,
    path: PathBuf,
    bytes: u64,
}

/// Where a file of the image that is at `image` lies.
pub(super) fn path_in(image: &Path, name: &str) -> PathBuf {
    if image.is_dir() { image.join(name) } else { image.to_owned() }
}

/// A file that is an image by itself, by its own name.
fn lone_file(path: &Path) -> Result<Found, ImageError> {
    let name = path.file_name().and_then(|name| HubFile::parse(name.to_str()?));
    let Some(name) = name else {
        return Err(ImageError::NotAFolder { path: path.to_owned() });
    };
    let bytes = path.metadata().map_err(at("cannot read", path))?.len();
    Ok(Found { name: name.as_str().to_owned(), path: path.to_owned(), bytes })
}

/// The files that count, without reading them.
fn files_of(dir: &Path) -> Result<Vec<Found>, ImageError> {
    let root = match dir.canonicalize() {
        Ok(root) if root.is_dir() => root,
        Ok(file) if file.is_file() => return Ok(vec![lone_file(dir)?]),
        _ => return Err(ImageError::NotAFolder { path: dir.to_owned() }),
    };
    let mut found = Vec::new();
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in folder.read_dir().map_err(at("cannot read", &folder))? {
            let entry = entry.map_err(at("cannot read", &folder))?;
            let path = entry.path();
            let unfit = |why| ImageError::Unfit { path: path.clone(), why };
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let name = name.to_str().ok_or_else(|| unfit("its name is not UTF-8"))?;
            if name.contains(|c: char| c.is_control() || c == '\\') {
                return Err(unfit("its name has a control character or a backslash"));
            }
            let name = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(at("cannot read", &path))?;
            if kind.is_dir() {
                folders.push((path, format!("{name}/")));
                continue;
            }
            if kind.is_symlink() {
                let target = path.canonicalize().map_err(at("cannot follow", &path))?;
                if !target.starts_with(&root) {
                    return Err(ImageError::Escapes { path, target });
                }
                if target.is_dir() {
                    return Err(unfit("it is a link to a folder"));
                }
            }
            let meta = path.metadata().map_err(at("cannot read", &path))?;
            if !meta.is_file() {
                return Err(unfit("it is not a plain file"));
            }
            found.push(Found { name, path, bytes: meta.len() });
        }
    }
    if found.is_empty() {
        return Err(ImageError::Empty { path: dir.to_owned() });
    }
    Ok(found)
}

/// The file of a folder that was written last: the likeliest reason why a digest no longer fits.
pub(super) fn newest_file(dir: &Path) -> Option<String> {
    let files = files_of(dir).ok()?;
    let newest = files.into_iter().max_by_key(|f| f.path.metadata().and_then(|m| m.modified()).ok())?;
    Some(newest.name)
}
