//! What an engine may use.

use super::EngineError;
use super::kv_memory::KvMemory;
use crate::model::{CausalLm, KvGeometry};

/// Whether the blocks of finished contexts are kept for later ones that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixCache {
    /// They are kept until the room is needed.
    On,
    /// Every prompt is computed from its first token.
    Off,
}

/// Who is served first of those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulingPolicy {
    /// Who came first, whatever ranks requests have.
    Fcfs,
    /// Who has the lowest rank, and of equals who came first.
    Priority,
}

/// What an engine may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// The most tokens of key-value memory, all requests together.
    pub kv_tokens: usize,
    /// Tokens a block.
    pub block_size: usize,
    /// Requests that are computed together.
    pub max_running: usize,
    /// Rows of one step; what the running requests leave of it goes to prompts.
    pub max_step_tokens: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Whether prefixes are kept.
    pub prefix_cache: PrefixCache,
    /// Whether requests may have ranks.
    pub scheduling_policy: SchedulingPolicy,
    /// The most tokens that are guessed of a request at once, and checked in one step; 0 for none.
    pub speculative_tokens: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kv_tokens: 65_536,
            block_size: 16,
            max_running: 64,
            max_step_tokens: 512,
            queue: 256,
            prefix_cache: PrefixCache::On,
            scheduling_policy: SchedulingPolicy::Fcfs,
            speculative_tokens: 0,
        }
    }
}

impl EngineConfig {
    /// How the storage is cut, if the settings make sense together.
    pub(super) fn geometry(&self) -> Result<KvGeometry, EngineError> {
        let settings = [
            ("block_size", self.block_size),
            ("max_running", self.max_running),
            ("max_step_tokens", self.max_step_tokens),
            ("queue", self.queue),
        ];
        if let Some((setting, _)) = settings.into_iter().find(|(_, value)| *value == 0) {
            return Err(EngineError::Zero { setting });
        }
        let Self { kv_tokens, block_size, .. } = *self;
        // Slots are counted in u32.
        if kv_tokens < block_size || u32::try_from(kv_tokens).is_err() {
            return Err(EngineError::KvTokens { kv_tokens, block_size });
        }
        Ok(KvGeometry { blocks: kv_tokens / block_size, block_size })
    }

    /// Memory for as many tokens as an engine of a model may use, and for others of the same sizes beside it.
    pub fn memory(&self, lm: &dyn CausalLm) -> Result<KvMemory, EngineError> {
        let kv_tokens = self.kv_tokens;
        let pool = lm.kv_pool(self.geometry()?);
        pool.map(KvMemory::new).map_err(|source| EngineError::Allocate { kv_tokens, source })
    }
}
