//! A model's files, named by what is in them.
//!
//! In: a folder, a GGUF file, or a repository on the Hub at one commit. Out: [`LocatedImage`]: readable files whose
//! content has been hashed and found to be the digest that was asked for.
//! May import: `config` (the references), `ids`.
//! Invariants: an image's digest says every byte of every file and nothing else; a file in the store has
//! the content that its name says, or `verify` reports it; a large file is hashed again only when it may have changed; the store changes only by rename, so a crash
//! leaves the old state or the new one; what was downloaded is never fetched again.
//!
//! Hashing blocks: call [`Store::resolve`], [`Store::verify`] and [`Store::add_local`] off the async threads.

mod error;
mod files;
mod hub;
mod known;
mod manifest;
mod progress;
mod store;
mod upkeep;

#[cfg(test)]
mod tests;

pub use error::ImageError;
pub use hub::{Hub, RemoteFile, Snapshot};
pub use manifest::{FileEntry, Manifest, manifest_of};
pub use progress::Progress;
pub use store::{LocatedImage, Store};
pub use upkeep::{Damage, DedupeReport, ListedImage};
