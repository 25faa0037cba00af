//! For tests: a version whose engine dies of the next request, as one does whose device fails.

use std::sync::Arc;

use super::Gateway;
use super::backend::{Backend, Runner};
use super::state::State;
use crate::engine::{Engine, EngineConfig, Turns};
use crate::ids::VersionRef;
use crate::model::{Batch, CausalLm, Device, ElementType, KvCache, KvPool, KvShape, Logits, ModelError};

/// A model that cannot compute.
struct Broken {
    vocab: usize,
    cache: Option<KvCache>,
}

impl CausalLm for Broken {
    fn vocab_size(&self) -> usize {
        self.vocab
    }
    fn max_positions(&self) -> usize {
        1024
    }
    fn kv_shape(&self) -> KvShape {
        KvShape { layers: 1, kv_heads: 1, head_dim: 1 }
    }
    fn kv_element(&self) -> ElementType {
        ElementType::F32
    }
    fn join(&mut self, pool: &KvPool) -> Result<(), ModelError> {
        self.cache = Some(pool.cache(&Device::CPU));
        Ok(())
    }
    fn cache(&mut self) -> Option<&mut KvCache> {
        self.cache.as_mut()
    }
    fn forward(&mut self, _batch: &Batch) -> Result<Logits, ModelError> {
        Err(ModelError::Batch("the device fell off the bus".into()))
    }
}

impl Gateway {
    /// Puts such an engine in the place of a hot version's own.
    pub(crate) fn break_engine(&self, version: &VersionRef) {
        let sound = self.inner().residency.hot(version).expect("a hot version");
        let lm = Box::new(Broken { vocab: sound.prepared.vocab_size(), cache: None });
        let (tokenizer, config) = (sound.prepared.tokenizer().clone(), EngineConfig::default());
        let engine = Engine::start("broken".into(), lm, tokenizer, config, Turns::default()).unwrap();
        let broken = Backend { prepared: Arc::clone(&sound.prepared), runner: Runner::Engine(engine) };
        self.inner().residency.put(version, &State::Hot(Arc::new(broken)));
    }
}
