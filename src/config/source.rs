//! Where a configuration is read from, and whether it is another by now.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::ConfigErrors;
use super::overlay::{self, EnvName};
use super::valid::Config;
use super::validate::load_for;

/// A configuration's file, and the environment whose overlay is laid over it, if one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// The environment.
    pub env: Option<EnvName>,
}

/// What the system says of the files. Where it says the same, they hold the same.
///
/// Of a symbolic link it is what the link leads to: a `ConfigMap` of Kubernetes is swapped by turning a link over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<Option<FileStamp>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    modified: Option<SystemTime>,
    length: u64,
    /// Which file it is, where the system numbers them: one that took another's place may be as old and as long.
    number: u64,
}

impl Source {
    /// Reads the files and checks what comes of them.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        load_for(&self.file, self.env.as_ref())
    }

    /// What the system says of the files now. Reads none of them.
    pub fn stamp(&self) -> Stamp {
        let overlay = self.env.as_ref().map(|env| overlay::file_of(&self.file, env));
        let files = [Some(self.file.as_path()), overlay.as_deref()];
        Stamp(files.into_iter().flatten().map(stamp).collect())
    }
}

impl Stamp {
    /// Whether each file that is other than before is another file, not one that was written where it is.
    pub fn is_in_place_of(&self, before: &Self) -> bool {
        let number = |stamp: &Option<FileStamp>| stamp.as_ref().map(|stamp| stamp.number);
        let mut pairs = self.0.iter().zip(&before.0).filter(|(now, before)| now != before);
        pairs.all(|(now, before)| number(now) != number(before))
    }

    /// Whether all files are there.
    pub fn is_whole(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }
}

fn stamp(file: &Path) -> Option<FileStamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some(FileStamp { modified: metadata.modified().ok(), length: metadata.len(), number: number(&metadata) })
}

#[cfg(unix)]
fn number(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn number(_: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kubernetes does it: the file is a link into `..data`, which is a link to a folder, and is turned over.
    #[cfg(unix)]
    #[test]
    fn a_link_that_is_turned_over_is_seen() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["..1", "..2"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("sb.yaml"), "models: {}").unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/sb.yaml", at("sb.yaml")).unwrap();
        let source = Source { file: at("sb.yaml"), env: None };
        let before = source.stamp();
        assert_eq!(before, source.stamp());
        symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_ne!(before, source.stamp());
        assert!(source.stamp().is_whole());
    }

    #[test]
    fn a_new_overlay_is_seen_and_a_missing_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sb.yaml");
        std::fs::write(&file, "models: {}").unwrap();
        let source = Source { file, env: Some("prod".parse().unwrap()) };
        let before = source.stamp();
        assert!(!before.is_whole());
        std::fs::create_dir(folder.path().join("env")).unwrap();
        std::fs::write(folder.path().join("env/prod.yaml"), "models: {}").unwrap();
        assert!(source.stamp().is_whole());
        assert_ne!(before, source.stamp());
    }
}
