//! Digests of large files, kept for as long as nothing says that the files have changed.
//!
//! A version that is loaded again, after a restart or to take it back, is not to wait for gigabytes to be hashed that were
//! hashed before. As Git does with its index, a file counts as unchanged while its place on the disk, its size and its
//! times do: any write moves the time of its last change, which no program can set. One that was changed just before it was
//! hashed might be changed again within a tick of the disk's clock, so it is not kept. What a disk damages by itself is
//! found by `verify`, which hashes everything.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use super::files::{hash_file, scratch};
use super::progress::Step;
use crate::ids::Digest;

/// What tells that a file is the same as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds, of the content.
    modified: (i64, i64),
    /// Seconds and nanoseconds, of content, owner, mode or names.
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Record {
    /// Whose it is.
    path: PathBuf,
    stamp: Stamp,
    sha256: Digest,
}

/// The digests that are known.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// A record for each file, named by the sha256 of its path.
    folder: PathBuf,
    /// Where records are written before they are there.
    tmp: PathBuf,
    /// Smaller files are hashed each time.
    least_bytes: u64,
    /// How long a file must have been as it is.
    least_age: Duration,
}

impl Known {
    /// Records in a folder that is there, of files that take a while to hash.
    pub(super) const fn in_folder(folder: PathBuf, tmp: PathBuf) -> Self {
        Self { folder, tmp, least_bytes: 16 << 20, least_age: Duration::from_secs(2) }
    }

    /// The digest and size of a file, which is read only if it is not known; `step` hears of its bytes.
    pub(super) fn hash(&self, path: &Path, step: Step<'_>) -> Result<(Digest, u64), ImageError> {
        let Some((stamp, record)) = self.stamp(path).zip(self.record_of(path)) else {
            return hash_file(path, step);
        };
        if let Some(known) = read(&record).filter(|known| known.stamp == stamp) {
            step(stamp.bytes as i64);
            return Ok((known.sha256, stamp.bytes));
        }
        let (sha256, bytes) = hash_file(path, step)?;
        // it is still what it was before it was read
        if self.stamp(path) == Some(stamp) {
            self.keep(&record, &Record { path: path.canonicalize().unwrap_or_default(), stamp, sha256 });
        }
        Ok((sha256, bytes))
    }

    /// Removes the records of files that are others by now, or are gone.
    pub(super) fn sweep(&self) {
        for entry in self.folder.read_dir().into_iter().flatten().flatten() {
            let record = entry.path();
            let is_true = read(&record).is_some_and(|known| {
                fs::metadata(&known.path).is_ok_and(|meta| stamp(&meta) == Some(known.stamp))
            });
            if !is_true {
                // one that cannot be removed is of no use and does no harm
                let _ = fs::remove_file(record);
            }
        }
    }

    /// What tells that a file is the same, if it is large and has been as it is for a while.
    fn stamp(&self, path: &Path) -> Option<Stamp> {
        let stamp = stamp(&fs::metadata(path).ok()?)?;
        let latest = stamp.modified.max(stamp.changed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let settled = now.checked_sub(self.least_age)?;
        let settled = (settled.as_secs() as i64, i64::from(settled.subsec_nanos()));
        (stamp.bytes >= self.least_bytes && latest <= settled).then_some(stamp)
    }

    fn record_of(&self, path: &Path) -> Option<PathBuf> {
        let path = path.canonicalize().ok()?;
        let name = Digest::from_bytes(Sha256::digest(path.as_os_str().as_encoded_bytes()).into());
        Some(self.folder.join(format!("{}.json", name.hex())))
    }

    /// Without a record the file is hashed again, so one that cannot be written only costs time.
    fn keep(&self, place: &Path, record: &Record) {
        let tmp = scratch(&self.tmp);
        let Ok(content) = serde_json::to_vec(record) else { return };
        let written = fs::write(&tmp, content).and_then(|()| fs::rename(&tmp, place));
        if let Err(error) = written {
            tracing::warn!(path = %place.display(), %error, "a file's digest was not kept; it will be hashed again");
        }
    }
}

fn read(record: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(record).ok()?).ok()
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
fn stamp(meta: &Metadata) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    Some(Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        bytes: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// Nothing here tells reliably.
#[cfg(not(unix))]
fn stamp(_: &Metadata) -> Option<Stamp> {
    None
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn known(folder: &Path) -> Known {
        Known { folder: folder.to_owned(), tmp: folder.to_owned(), least_bytes: 0, least_age: Duration::ZERO }
    }

    fn quiet(_: i64) {}

    /// What a record says is taken without a look at the file, so a false one shows that it was.
    fn is_taken_from_the_record(known: &Known, path: &Path) -> bool {
        let record = known.record_of(path).unwrap();
        let Some(mut kept) = read(&record) else { return false };
        let true_one = kept.sha256;
        kept.sha256 = Digest::from_bytes([7; 32]);
        fs::write(&record, serde_json::to_vec(&kept).unwrap()).unwrap();
        let taken = known.hash(path, &quiet).unwrap().0 == kept.sha256;
        kept.sha256 = true_one;
        fs::write(&record, serde_json::to_vec(&kept).unwrap()).unwrap();
        taken
    }

    #[test]
    fn a_file_is_hashed_once_and_again_when_it_has_changed() {
        let (records, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (known, path) = (known(records.path()), dir.path().join("weights"));
        fs::write(&path, "one").unwrap();
        let one = known.hash(&path, &quiet).unwrap();
        assert_eq!(one, hash_file(&path, &quiet).unwrap());
        assert!(is_taken_from_the_record(&known, &path));
        let told = std::sync::atomic::AtomicI64::new(0);
        let count = |bytes| {
            told.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        };
        assert_eq!(known.hash(&path, &count).unwrap(), one);
        assert_eq!(told.into_inner(), 3, "its bytes count as done");

        // of the same size and with the old time of its content: only the time of the change tells
        let modified = path.metadata().unwrap().modified().unwrap();
        while fs::write(&path, "two").is_ok()
            && stamp(&path.metadata().unwrap()) == known_stamp(&known, &path)
        {}
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(known.hash(&path, &quiet).unwrap(), hash_file(&path, &quiet).unwrap());

        // another file in its place
        fs::write(dir.path().join("other"), "333").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        assert_eq!(known.hash(&path, &quiet).unwrap(), hash_file(&path, &quiet).unwrap());
    }

    #[test]
    fn records_of_files_that_are_gone_are_swept_out() {
        let (records, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let known = known(records.path());
        for name in ["stays", "goes", "changes"] {
            fs::write(dir.path().join(name), name).unwrap();
            known.hash(&dir.path().join(name), &quiet).unwrap();
        }
        fs::write(records.path().join("broken.json"), "{").unwrap();
        fs::remove_file(dir.path().join("goes")).unwrap();
        fs::write(dir.path().join("changes"), "of another size").unwrap();
        known.sweep();
        assert_eq!(records.path().read_dir().unwrap().count(), 1);
        assert!(is_taken_from_the_record(&known, &dir.path().join("stays")));
    }

    fn known_stamp(known: &Known, path: &Path) -> Option<Stamp> {
        read(&known.record_of(path)?).map(|record| record.stamp)
    }

    #[test]
    fn nothing_is_kept_of_small_files_and_fresh_ones_and_damaged_records_are_no_matter() {
        let (records, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join("weights");
        fs::write(&path, "one").unwrap();
        let eager = known(records.path());
        for careful in [
            Known { least_bytes: 4, ..eager.clone() },
            Known { least_age: Duration::from_hours(1), ..eager.clone() },
        ] {
            careful.hash(&path, &quiet).unwrap();
            assert_eq!(records.path().read_dir().unwrap().count(), 0, "{careful:?}");
        }
        let one = eager.hash(&path, &quiet).unwrap();
        fs::write(eager.record_of(&path).unwrap(), "{").unwrap();
        assert_eq!(eager.hash(&path, &quiet).unwrap(), one);
        let nowhere = Known { folder: dir.path().join("gone"), ..eager };
        assert_eq!(nowhere.hash(&path, &quiet).unwrap(), one);
        assert!(nowhere.hash(&dir.path().join("no file"), &quiet).is_err());
    }
}
