//! A version's draft: the weights of another that are small enough to say ahead what the version may say. They are its own
//! to load, and where the other is in memory, too, they are shared.

use crate::config::{Config, DraftRef, ImageRef};
use crate::ids::{Digest, Quantize, VersionRef};
use crate::image;
use crate::model::{self, Adapter, CrossEncoder, Encoder, LoadedModel, WeightPool};

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

    /// Reads it for a version's model; nothing where what computes guesses nothing.
    pub(super) fn read(
        &self,
        images: &image::Store,
        pool: &WeightPool,
        version: &LoadedModel,
    ) -> Result<Option<LoadedModel>, String> {
        if !pool.device().is_host() {
            tracing::warn!(draft = %self.version, device = %pool.device(), "nothing is guessed on this device; the draft is left out");
            return Ok(None);
        }
        self.load(images, pool, version).map(Some).map_err(|why| format!("draft {}: {why}", self.version))
    }

    fn load(
        &self,
        images: &image::Store,
        pool: &WeightPool,
        version: &LoadedModel,
    ) -> Result<LoadedModel, String> {
        let dir = images.resolve(&self.image, self.digest, &|_, _| ()).map_err(|e| e.to_string())?.dir;
        if Encoder::is_in(&dir) || CrossEncoder::is_in(&dir) || Adapter::is_in(&dir) {
            return Err("its image is no model that writes texts".into());
        }
        let draft = model::load(&dir, self.quantize, pool, &|_, _| ()).map_err(|e| e.to_string())?;
        match draft.tokenizer.first_difference(&version.tokenizer) {
            None => Ok(draft),
            Some(token) => Err(format!(
                "its tokens are not the version's: {token} is another one; a draft must have the same tokenizer"
            )),
        }
    }
}
