//! The few file operations that the store rests on: hash, write whole, link, lock.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::error::{ImageError, at};
use super::progress::Step;
use crate::ids::Digest;

const CHUNK: usize = 1 << 20;

/// Hashes what `source` gives and hands each piece to `each`.
fn digest_of(
    mut source: impl Read,
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), ImageError>,
) -> Result<(Digest, u64), ImageError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(at("cannot read", path)(e)),
        };
        hash.update(&buffer[..n]);
        bytes += n as u64;
        each(&buffer[..n])?;
    }
    Ok((Digest::from_bytes(hash.finalize().into()), bytes))
}

/// The digest and size of a file; `step` hears of each piece's bytes.
pub(super) fn hash_file(path: &Path, step: Step<'_>) -> Result<(Digest, u64), ImageError> {
    let file = File::open(path).map_err(at("cannot open", path))?;
    digest_of(file, path, |piece| {
        step(piece.len() as i64);
        Ok(())
    })
}

/// Copies a file to a new place, onto the disk, and tells the digest of what was written.
pub(super) fn copy_hashed(from: &Path, to: &Path, step: Step<'_>) -> Result<(Digest, u64), ImageError> {
    let source = File::open(from).map_err(at("cannot open", from))?;
    let mut target = File::create_new(to).map_err(at("cannot create", to))?;
    let result = digest_of(source, from, |piece| {
        step(piece.len() as i64);
        target.write_all(piece).map_err(at("cannot write", to))
    })?;
    target.sync_all().map_err(at("cannot write", to))?;
    Ok(result)
}

/// Writes a file so that readers see the old content or the new one, never a part.
pub(super) fn write_whole(path: &Path, tmp: &Path, content: &[u8]) -> Result<(), ImageError> {
    let mut file = File::create(tmp).map_err(at("cannot create", tmp))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(at("cannot write", tmp))?;
    fs::rename(tmp, path).map_err(at("cannot put in place", path))?;
    sync_folder_of(path)
}

/// Makes a rename outlast a power cut.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), ImageError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(at("cannot sync", folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// A second name for `from`, or a copy where the file system knows no second names.
pub(super) fn link(from: &Path, to: &Path) -> Result<(), ImageError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(at("cannot link or copy to", to))
}

pub(super) fn create_dir(path: &Path) -> Result<(), ImageError> {
    fs::create_dir_all(path).map_err(at("cannot create", path))
}

/// A path in `folder` that nobody else uses.
pub(super) fn scratch(folder: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{}-{n}", std::process::id()))
}

/// Whether two names are one file on the disk.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |p: &Path| fs::metadata(p).map(|m| (m.dev(), m.ino()));
        matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
    }
    #[cfg(not(unix))]
    {
        let _ = (a, b);
        false
    }
}
