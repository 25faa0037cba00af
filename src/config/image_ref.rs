//! References to images: a folder, a GGUF file, or a repository on the Hub at one commit.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where an image's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// A folder on this machine, or a GGUF file.
    Local(PathBuf),
    /// On the Hub.
    Hub(HubImage),
}

/// A repository on the Hub at one commit, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubImage {
    /// `org/name`.
    pub repo: HubRepo,
    /// The pinned commit.
    pub revision: Commit,
    /// The GGUF file that is the whole image, of a repository that holds several.
    pub file: Option<HubFile>,
}

/// Why an image reference was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// Nothing was written.
    #[error("the reference is empty; give a folder, a GGUF file or `hf://org/name@<commit>`")]
    Empty,
    /// Another scheme than `hf://`.
    #[error("{scheme}:// is not a known source; give a folder, a GGUF file or `hf://org/name@<commit>`")]
    Scheme {
        /// The scheme found.
        scheme: String,
    },
    /// The repository is not `org/name`.
    #[error("{found:?} is not a Hub repository; write `hf://org/name@<commit>`")]
    Repo {
        /// The repository found.
        found: String,
    },
    /// A file that cannot be an image by itself.
    #[error(
        "{found:?} is not a GGUF file at the top of its repository; write `hf://{repo}@<commit>/<name>.gguf`, or leave the file out"
    )]
    File {
        /// The repository.
        repo: String,
        /// The file found.
        found: String,
    },
    /// No commit, or a branch or tag, which may move.
    #[error(
        "{found} does not pin the model, so it may change under a running release; write the full commit: `hf://{repo}@<40 hex digits>` (`switchback pull hf://{repo}@{ask}` prints the commit)"
    )]
    Moving {
        /// The repository.
        repo: String,
        /// What stood in place of the commit, in words.
        found: String,
        /// The revision to ask the Hub about.
        ask: String,
        /// The file that was named.
        file: Option<HubFile>,
    },
}

/// A repository on the Hub, `org/name` or a legacy bare `name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubRepo(String);

impl HubRepo {
    /// The repository as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HubRepo {
    type Err = ImageRefError;
    fn from_str(s: &str) -> Result<Self, ImageRefError> {
        let part = |p: &str| {
            (1..=96).contains(&p.len())
                && !p.starts_with(['.', '-'])
                && p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        if s.split('/').count() <= 2 && s.split('/').all(part) {
            Ok(Self(s.to_owned()))
        } else {
            Err(ImageRefError::Repo { found: s.to_owned() })
        }
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A full Git commit: 40 lower-case hexadecimal digits, which can never move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit(String);

impl Commit {
    /// Reads a commit; `None` unless it is 40 hexadecimal digits.
    pub fn parse(s: &str) -> Option<Self> {
        (s.len() == 40 && s.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Self(s.to_ascii_lowercase()))
    }

    /// The commit as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a GGUF file at the top of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubFile(String);

impl HubFile {
    /// What such names end in.
    pub const END: &str = ".gguf";

    /// Reads a name; `None` unless it is one of a GGUF file and no path.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = !name.starts_with('.')
            && name.len() <= 200
            && !name.contains(|c: char| matches!(c, '/' | '\\') || c.is_control());
        (plain && name.len() > Self::END.len() && name.ends_with(Self::END)).then(|| Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ImageRef {
    /// Reads a reference; a relative path is taken from `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self, ImageRefError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.trim().is_empty() {
                Err(ImageRefError::Empty)
            } else {
                Ok(Self::Local(base.join(text)))
            };
        };
        if scheme != "hf" {
            return Err(ImageRefError::Scheme { scheme: scheme.to_owned() });
        }
        let (repo, revision) = rest.split_once('@').map_or((rest, None), |(r, v)| (r, Some(v)));
        HubImage::parse(repo.parse()?, revision).map(Self::Hub)
    }
}

impl HubImage {
    /// Reads what stands behind the repository's `@`.
    fn parse(repo: HubRepo, written: Option<&str>) -> Result<Self, ImageRefError> {
        let written = written.unwrap_or("");
        // a branch may have a slash in its name, a commit has none
        let (pinned, rest) = written.split_once('/').map_or((written, None), |(c, f)| (c, Some(f)));
        if let Some(revision) = Commit::parse(pinned) {
            let wrong = |found: &str| ImageRefError::File { repo: repo.0.clone(), found: found.to_owned() };
            let file = rest.map(|file| HubFile::parse(file).ok_or_else(|| wrong(file))).transpose()?;
            return Ok(Self { repo, revision, file });
        }
        let named = written.rsplit_once('/').and_then(|(r, file)| Some((r, HubFile::parse(file)?)));
        let (revision, file) = named.map_or((written, None), |(r, file)| (r, Some(file)));
        Err(ImageRefError::Moving {
            found: match revision {
                "" => "a reference without a commit".to_owned(),
                r => format!("revision {r:?}"),
            },
            ask: if revision.is_empty() { "main" } else { revision }.to_owned(),
            repo: repo.0,
            file,
        })
    }
}

impl fmt::Display for HubImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}@{}", self.repo, self.revision)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, "/{}", file.0))
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Hub(image) => image.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn read(text: &str) -> Result<String, String> {
        let read = ImageRef::parse(text, "/etc".as_ref());
        read.map(|image| image.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_reference_is_written_as_it_is_read() {
        for file in ["", "/model-q4_k_m.gguf"] {
            let text = format!("hf://org/name@{COMMIT}{file}");
            assert_eq!(read(&text), Ok(text));
        }
        assert_eq!(read("models/a.gguf").unwrap(), "/etc/models/a.gguf");
    }

    #[test]
    fn what_is_no_gguf_file_at_the_top_is_refused_and_a_branch_is_asked_about_without_the_file() {
        for file in ["a/b.gguf", "model.safetensors", "", ".gguf", "..", "a\\b.gguf"] {
            let error = read(&format!("hf://org/name@{COMMIT}/{file}")).unwrap_err();
            assert!(error.contains("is not a GGUF file at the top"), "{error}");
        }
        for (branch, file) in [("main", Some("a.gguf")), ("refs/pr/1", Some("a.gguf")), ("refs/pr/1", None)] {
            let end = file.map(|file| format!("/{file}")).unwrap_or_default();
            match ImageRef::parse(&format!("hf://org/name@{branch}{end}"), "".as_ref()) {
                Err(ImageRefError::Moving { ask, file: found, .. }) => {
                    assert_eq!((ask.as_str(), found.as_ref().map(HubFile::as_str)), (branch, file));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
