//! Why an image could not be had, and what would help.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::ImageRefError;
use crate::ids::Digest;

/// Why an image could not be found, read, fetched or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done: "cannot read".
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No such folder.
    #[error("{} is not a folder; name the folder that holds config.json and the weights, or a .gguf file", path.display())]
    NotAFolder {
        /// What was named.
        path: PathBuf,
    },
    /// A folder without files.
    #[error("{} contains no files (hidden files do not count)", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A symbolic link that leaves the folder or leads to a folder.
    #[error(
        "{} leads to {}, outside the image, so its content could change unseen; copy the folder with `cp -RL`",
        path.display(), target.display()
    )]
    Escapes {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Something other than a plain file, or a name that a manifest cannot carry.
    #[error("{} cannot be part of an image: {why}", path.display())]
    Unfit {
        /// The entry.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A file changed while it was being read.
    #[error("{} changed while it was being read; try again when nothing writes to it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The content is not what was asked for.
    #[error("{} is not the image that was asked for\n  expected {expected}\n  found    {found}\n  look at {look_at}", dir.display())]
    Mismatch {
        /// The folder.
        dir: PathBuf,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
        /// The file to look at, and why.
        look_at: String,
    },
    /// The store holds no image of this digest.
    #[error("the store {} has no image {wanted}; `switchback images list` shows what it has", root.display())]
    Unknown {
        /// The store.
        root: PathBuf,
        /// The digest, or the start of one.
        wanted: String,
    },
    /// A start of a digest that fits several images.
    #[error("{prefix:?} is the start of {count} digests; give more digits")]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many it fits.
        count: usize,
    },
    /// A Hub image that has not been pulled.
    #[error("{reference} is not in the store; run `switchback pull {reference}`")]
    NotPulled {
        /// The reference.
        reference: String,
    },
    /// Images whose files are damaged.
    #[error("{count} damaged file(s); pull or add the image again")]
    Damaged {
        /// How many files.
        count: usize,
    },
    /// Another process is changing the store.
    #[error("another process is changing the store {}; wait for it to end", root.display())]
    Busy {
        /// The store.
        root: PathBuf,
    },
    /// A file of the store that does not read as what it should be.
    #[error("{} cannot be read: {source}; delete it, then pull or add the image again", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A reference that cannot be used.
    #[error(transparent)]
    Reference(#[from] ImageRefError),
    /// A moving reference, and the commit it stands for at this moment.
    #[error("{moving} can change; pin the commit that it points to now:\n  {pinned}")]
    Moving {
        /// What was asked for.
        moving: String,
        /// The same at the commit of this moment.
        pinned: String,
    },
    /// The Hub wants a token, or refuses the one it got.
    #[error(
        "the Hub refuses {url} ({status}): the model is private, gated or does not exist; check the spelling, accept its terms, and set HF_TOKEN to a token that may read it"
    )]
    Denied {
        /// What was asked.
        url: String,
        /// The answer's status.
        status: u16,
    },
    /// No such repository, commit or file.
    #[error("the Hub has no {what} ({url}); check the spelling, or set HF_TOKEN if the model is private")]
    NotFound {
        /// What was asked for.
        what: String,
        /// The address.
        url: String,
    },
    /// The Hub could not be reached, or broke off too often.
    #[error(
        "{url} does not answer: {cause}; check the network and HF_ENDPOINT, then run the command again: it resumes where it stopped"
    )]
    Offline {
        /// The address.
        url: String,
        /// The last cause.
        cause: String,
    },
    /// An answer that makes no sense.
    #[error("unexpected answer from {url}: {cause}")]
    Answer {
        /// The address.
        url: String,
        /// What was wrong.
        cause: String,
    },
    /// A download with another content than the Hub announced.
    #[error("{file} arrived damaged: {cause}; it was discarded; run the command again")]
    Corrupt {
        /// The file.
        file: String,
        /// What differs.
        cause: String,
    },
    /// A repository of GGUF files of which none was chosen.
    #[error("{pinned} holds several GGUF files; name one, as in `{pinned}/{}`: {}", names[0], names.join(", "))]
    SeveralGguf {
        /// The reference.
        pinned: String,
        /// Their names, which are several.
        names: Vec<String>,
    },
    /// A repository without what a model needs.
    #[error(
        "{repo} has no {missing}, so it is not a model that can be served; name one in safetensors format, or with a GGUF file"
    )]
    Incomplete {
        /// The repository.
        repo: String,
        /// What it lacks.
        missing: String,
    },
}

/// Gives an I/O error its place.
pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { action, path, source }
}
