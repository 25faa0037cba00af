//! From an image's files to what they are: a model that writes, an encoder, or a cross-encoder.

use std::path::Path;
use std::sync::Arc;

use super::backend::{Body, Decoder};
use super::draft::DraftFiles;
use super::residency::Blueprint;
use super::speech::Formats;
use super::structured::Structures;
use crate::ids::Quantize;
use crate::model::{self, Adapter, CrossEncoder, Encoder, WeightPool};
use crate::prompt::{ChatTemplate, Prompt};

/// What a version has beside its image.
#[derive(Clone, Copy)]
pub(super) struct Beside<'a> {
    pub(super) prompt: Option<&'a Prompt>,
    /// The folder of its adapter.
    pub(super) adapter: Option<&'a Path>,
    /// Its draft.
    pub(super) draft: Option<&'a DraftFiles>,
}

impl Body {
    /// Reads the image at `path`, a folder or a file. `report` hears of bytes read and of all bytes.
    pub(super) fn read(
        path: &Path,
        plan: &Blueprint,
        beside: Beside<'_>,
        pool: &WeightPool,
        report: &dyn Fn(u64, u64),
    ) -> Result<Self, String> {
        if is_adapter_alone(path) {
            return Err("its image is an adapter: give that as `adapter`, and as `image` the model that it was trained on".into());
        }
        let plain = |what: &str| computed_as_it_is(what, plan, beside);
        if CrossEncoder::is_in(path) {
            plain("a cross-encoder")?;
            let encoder = CrossEncoder::load_in(path, pool, report).map_err(|e| e.to_string())?;
            // damaged weights show with the first pair, whichever it is
            let pair = encoder.cut_tokens("a first query", "a first text").map_err(|e| e.to_string())?;
            encoder.score(&pair).map_err(|e| e.to_string())?;
            return Ok(Self::CrossEncoder(Arc::new(encoder)));
        }
        if Encoder::is_in(path) {
            plain("an encoder")?;
            let encoder = Encoder::load_in(path, pool, report).map_err(|e| e.to_string())?;
            // damaged weights show with the first text, whichever it is
            encoder.embed("a first text").map_err(|e| e.to_string())?;
            return Ok(Self::Encoder(Arc::new(encoder)));
        }
        Ok(Self::Decoder(Box::new(decoder(path, plan, beside, pool, report)?)))
    }
}

/// Whether an image is an adapter without the model that it was trained on.
fn is_adapter_alone(path: &Path) -> bool {
    Adapter::is_in(path) && !path.join("config.json").exists()
}

/// Whether an image is a model that writes texts.
pub(super) fn writes_texts(path: &Path) -> bool {
    !is_adapter_alone(path) && !CrossEncoder::is_in(path) && !Encoder::is_in(path)
}

/// Refuses what a version says of an image that has no use for it.
fn computed_as_it_is(what: &str, plan: &Blueprint, beside: Beside<'_>) -> Result<(), String> {
    if beside.adapter.is_some() {
        return Err(format!("its image is {what}, which takes no adapter: leave `adapter` out"));
    }
    if beside.prompt.is_some() {
        return Err(format!("its image is {what}, and texts have no prompt: leave `prompt` out"));
    }
    if plan.draft.is_some() {
        return Err(format!("its image is {what}, which has no tokens to guess: leave `draft` out"));
    }
    if plan.quantize != Quantize::AsStored {
        return Err(format!("its image is {what}, which is computed as it is stored: leave `quantize` out"));
    }
    Ok(())
}

fn decoder(
    path: &Path,
    plan: &Blueprint,
    beside: Beside<'_>,
    pool: &WeightPool,
    report: &dyn Fn(u64, u64),
) -> Result<Decoder, String> {
    let model = model::load(path, plan.quantize, pool, report).map_err(|e| e.to_string())?;
    let draft = beside.draft.map(|draft| draft.read(pool, &model)).transpose()?;
    let adapter = beside.adapter.map(|dir| model.adapter(dir, pool));
    let adapter = adapter.transpose().map_err(|e| format!("adapter: {e}"))?;
    let sources = model.chat_templates.as_ref();
    let template = sources.map(|sources| ChatTemplate::compile_all(sources, &model.special));
    let template = template.transpose().map_err(|e| e.to_string())?;
    let source = sources.map(|sources| sources.tool_use.as_ref().unwrap_or(&sources.default).as_str());
    let formats = Formats::of(plan.tool_parser, plan.reasoning_parser, source);
    Ok(Decoder { model, adapter, draft, template, structures: Structures::default(), formats })
}
