//! From a version in the host's memory to an engine on the device: a place at one that computes its weights already, or
//! one of its own, with memory beside what is yet to come.

use std::sync::Arc;

use super::{Blueprint, Inner, Residency};
use crate::engine::{Engine, EngineConfig, Models, NewTenant};
use crate::gateway::backend::{Backend, Decoder, Prepared};
use crate::gateway::kv::{Expected, Later};
use crate::gateway::state::State;
use crate::ids::VersionRef;
use crate::model::{Footprint, LoadedModel};

impl Residency {
    /// A place at the engine of another version of the model, hot by now, that has the same image and settings: what tells
    /// the two apart comes before the engine (a prompt), or beside its weights (an adapter), and their requests are computed
    /// together.
    pub(super) fn engine_of_sibling(
        &self,
        prepared: &Prepared,
        decoder: &Decoder,
        plan: &Blueprint,
    ) -> Option<Engine> {
        let (table, blueprints) = (self.0.table.load(), self.0.blueprints.load());
        let is_sibling = |backend: &&Arc<Backend>| {
            let sibling = &backend.prepared;
            let its = blueprints.get(&sibling.version);
            // a device that guesses nothing has no use for a draft
            let draft = |plan: &Blueprint| plan.draft.clone().filter(|_| self.0.pool.device().is_host());
            let settings = |plan: &Blueprint| (plan.engine.clone(), plan.kv, draft(plan));
            let same_settings = its.is_some_and(|its| settings(its) == settings(plan));
            sibling.version.model == prepared.version.model
                && (sibling.digest, sibling.quantize) == (prepared.digest, prepared.quantize)
                && same_settings
        };
        for sibling in table.values().filter_map(State::serving).filter(is_sibling) {
            let (version, sibling_version) = (&prepared.version, sibling.version());
            match sibling.engine().ok().and_then(|engine| engine.share(tenant(prepared, decoder))) {
                Some(engine) => {
                    tracing::info!(%version, sibling = %sibling_version, "they share an engine");
                    return Some(engine);
                }
                None => {
                    tracing::warn!(%version, sibling = %sibling_version, "its engine does not take it in");
                }
            }
        }
        None
    }

    pub(super) fn start_engine(
        &self,
        prepared: &Prepared,
        decoder: &Decoder,
        plan: &Blueprint,
    ) -> Result<Engine, String> {
        let (version, model) = (&prepared.version, &decoder.model);
        let mut lm = model.lm().map_err(|e| e.to_string())?;
        let Inner { memories, pool, turns, .. } = &*self.0;
        let memory = memories.of(
            &version.model,
            lm.as_mut(),
            (&plan.engine, plan.kv.tokens),
            pool.device(),
            || self.later(version),
        )?;
        let layout = memory.pool().layout();
        let kv_tokens = plan.kv.most.unwrap_or(layout.blocks * layout.block_size);
        let settings = EngineConfig { kv_tokens, ..plan.engine.clone() };
        let (first, tokenizer) = (tenant(prepared, decoder), model.tokenizer.clone());
        let draft = decoder.draft.as_ref().map(LoadedModel::lm).transpose().map_err(|e| e.to_string())?;
        let models = Models { lm, draft };
        Engine::start_with(&memory, first, models, tokenizer, settings, turns.clone())
            .map_err(|e| e.to_string())
    }

    /// Which engines are to find room on the device beside that of a version that is being loaded, as far as their files
    /// can be found and read.
    fn later(&self, version: &VersionRef) -> Vec<Later> {
        let Inner { blueprints, images, awaited, table, .. } = &*self.0;
        let (awaited, table, blueprints) = (awaited.load(), table.load(), blueprints.load());
        let on_device = |other: &VersionRef| table.get(other).is_some_and(|state| state.backend().is_some());
        let there = blueprints.iter().filter(|(other, _)| *other == version || on_device(other));
        let mut engines: Vec<_> =
            there.map(|(other, plan)| (&other.model, &plan.image, plan.quantize)).collect();
        // those that come for certain first, so that what they bring counts as theirs
        let (soon, perhaps): (Vec<_>, Vec<_>) =
            blueprints.iter().partition(|(other, _)| awaited.contains(*other));
        let soon = soon.into_iter().map(|plan| (plan, Expected::Soon));
        let perhaps = perhaps.into_iter().map(|plan| (plan, Expected::Perhaps));
        let mut later = Vec::new();
        for ((other, plan), expected) in soon.chain(perhaps) {
            // versions of a model that differ in their prompt or their adapter share an engine
            let engine = (&other.model, &plan.image, plan.quantize);
            if engines.contains(&engine) {
                continue;
            }
            let brought = engines
                .iter()
                .any(|(_, image, quantize)| (*image, *quantize) == (&plan.image, plan.quantize));
            engines.push(engine);
            let dir = images.dir_of(&plan.image).ok().flatten();
            let Some(footprint) = dir.and_then(|dir| Footprint::of(&dir, plan.quantize).ok()) else {
                continue;
            };
            let weight_bytes = if brought { 0 } else { footprint.weight_bytes };
            let (model, tokens) = (other.model.clone(), plan.kv.tokens);
            later.push(Later { model, footprint, weight_bytes, tokens, expected });
        }
        later
    }
}

/// A version as its engine's tenant.
fn tenant(prepared: &Prepared, decoder: &Decoder) -> NewTenant {
    NewTenant { name: prepared.version.to_string(), adapter: decoder.adapter.clone() }
}
