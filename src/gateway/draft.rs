//! A version's draft: the weights of another that are small enough to say ahead what the version may say. They are its own
//! to load, and where the other is in memory, too, they are shared.

use std::path::PathBuf;

use super::body::writes_texts;
use crate::config::{Config, DraftRef, ImageRef};
use crate::ids::{Digest, Quantize, VersionRef};
use crate::image;
use crate::model::{self, Device, LoadedModel, WeightPool};

/// What it takes to load a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DraftPlan {
    version: VersionRef,
    image: ImageRef,
    digest: Option<Digest>,
    quantize: Quantize,
}

impl DraftPlan {
    /// The draft as it is declared.
    pub(super) fn of(config: &Config, DraftRef { version, .. }: &DraftRef) -> Option<Self> {
        let declared = config.models.get(&version.model)?.versions.get(&version.version)?;
        let (image, digest, quantize) = (declared.image.clone(), declared.digest, declared.quantize);
        Some(Self { version: version.clone(), image, digest, quantize })
    }

    /// Finds and verifies its image; nothing where what computes guesses nothing.
    pub(super) fn find(&self, images: &image::Store, device: &Device) -> Result<Option<DraftFiles>, String> {
        if !device.is_host() {
            tracing::warn!(draft = %self.version, %device, "nothing is guessed on this device; the draft is left out");
            return Ok(None);
        }
        let failed = |why: String| format!("draft {}: {why}", self.version);
        let found = images.resolve(&self.image, self.digest, &|_, _| ());
        let dir = found.map_err(|e| failed(e.to_string()))?.dir;
        if !writes_texts(&dir) {
            return Err(failed("its image is no model that writes texts".to_owned()));
        }
        Ok(Some(DraftFiles { version: self.version.clone(), quantize: self.quantize, dir }))
    }
}

/// A draft that was found.
pub(super) struct DraftFiles {
    version: VersionRef,
    quantize: Quantize,
    dir: PathBuf,
}

impl DraftFiles {
    /// Reads it for a version's model.
    pub(super) fn read(&self, pool: &WeightPool, version: &LoadedModel) -> Result<LoadedModel, String> {
        let failed = |why: String| format!("draft {}: {why}", self.version);
        let draft =
            model::load(&self.dir, self.quantize, pool, &|_, _| ()).map_err(|e| failed(e.to_string()))?;
        match draft.tokenizer.first_difference(&version.tokenizer) {
            None => Ok(draft),
            Some(token) => Err(failed(format!(
                "its tokens are not the version's: {token} is another one; a draft must have the same tokenizer"
            ))),
        }
    }
}
