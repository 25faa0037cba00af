//! The embedding model: found and verified as a version's image is, loaded before the first request, and lent to the
//! checks.

use rayon::ThreadPoolBuilder;

use super::start::StartError;
use crate::config::{Config, EmbeddingConfig, Pinning};
use crate::image;
use crate::model::Encoder;
use crate::quality::{Embedder, Embedding};

/// The embedder that the configuration asks for, if it does. A version that cannot be loaded leaves the others serving,
/// as the state of each is there to see; an embedding model that cannot be loaded would leave every `similar` check
/// broken and the rollouts that rest on them without their evidence, so the server does not start.
pub(super) async fn embedder(config: &Config, images: &image::Store) -> Result<Option<Embedder>, StartError> {
    let Some(embedding) = &config.embedding else { return Ok(None) };
    if embedding.pinning() == Pinning::Unpinned {
        tracing::warn!(image = %embedding.image, "the embedding model is unpinned: add its `digest`");
    }
    let (wanted, images) = (embedding.clone(), images.clone());
    let loaded = tokio::task::spawn_blocking(move || load(&wanted, &images)).await;
    let why = match loaded.unwrap_or_else(|e| Err(format!("the load panicked: {e}"))) {
        Ok(embedder) => return Ok(Some(embedder)),
        Err(why) => why,
    };
    let (file, line, image) = (config.file.clone(), embedding.line, embedding.image.to_string());
    Err(StartError::Embedding { file, line, image, why })
}

fn load(wanted: &EmbeddingConfig, images: &image::Store) -> Result<Embedder, String> {
    let started = std::time::Instant::now();
    let image = images.resolve(&wanted.image, wanted.digest, &|_, _| ()).map_err(|e| e.to_string())?;
    let encoder = Encoder::load(&image.dir).map_err(|e| e.to_string())?;
    // Operators spread over the threads of the pool that they are called in. The engines' own would make answers wait
    // for checks; a pool of one thread bounds what checks may take from them.
    let alone = ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "embedding".into()).build();
    let alone = alone.map_err(|e| format!("its thread cannot be started: {e}"))?;
    // Damaged weights and a strange tokenizer show with the first text, whichever it is.
    encoder.embed("a first text").map_err(|e| e.to_string())?;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(digest = %image.digest, max_tokens = encoder.max_tokens(), seconds, "embedding model is loaded");
    Ok(Embedder::new(move |text| {
        let vector = alone.install(|| encoder.embed(text)).map_err(|e| e.to_string())?;
        Embedding::unit(vector).ok_or_else(|| "the embedding's length is not 1".to_owned())
    }))
}
