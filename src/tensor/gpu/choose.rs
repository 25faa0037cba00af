//! The choice of tokens on a device: what it depends on goes there in one copy, and ids come back.

#![allow(unsafe_code)]

use super::driver::{Gpu, Shape};
use super::launch::Launch;
use super::lists::{Indices, Lists};
use super::ops::{Array, same_element};
use crate::tensor::choice::{Choice, TokenMask};
use crate::tensor::encoding::ElementType;
use crate::tensor::error::Result;

/// Threads of the kernels of sampling.cu.
const THREADS: u32 = 512;
/// What they say of a row that nothing can be chosen from.
const UNUSABLE: u32 = u32::MAX;

/// A token of `rows[i]` of `logits` for `choices[i]`. What is allowed and edits change the row.
pub(in crate::tensor) fn choose(
    logits: &Array,
    vocab: usize,
    rows: &[u32],
    choices: &[Choice],
) -> Result<Vec<Option<u32>>> {
    same_element("choose", logits.element, ElementType::F32)?;
    let gpu = logits.buffer.gpu();
    let shape = Shape { grid: [choices.len() as u32, 1, 1], block: THREADS, shared: 0 };
    mask(gpu, logits, vocab, rows, choices)?;
    edit(gpu, logits, vocab, rows, choices)?;

    let mut lists = Lists::default();
    lists.add(rows.iter().copied());
    lists.add(choices.iter().map(|choice| choice.temperature.to_bits()));
    lists.add(choices.iter().map(|choice| choice.top_k));
    lists.add(choices.iter().map(|choice| choice.top_p.to_bits()));
    lists.add(choices.iter().map(|choice| choice.min_p.to_bits()));
    lists.add(choices.iter().flat_map(|choice| [choice.random as u32, (choice.random >> 32) as u32]));
    let settings: [Indices; 6] = lists.upload(gpu)?;
    let chosen = gpu.scratch(choices.len() * size_of::<u32>())?;
    let launch = Launch::of("choose").buffer(&logits.buffer);
    let launch = settings.iter().fold(launch, Launch::list).buffer(&chosen).int(vocab);
    // SAFETY: choose(logits, rows, temperatures, top_ks, top_ps, min_ps, randoms, chosen, vocab); the rows are the
    // caller's, checked against the logits
    unsafe { launch.go(gpu, shape)? };
    let mut bytes = vec![0; choices.len() * size_of::<u32>()];
    gpu.read(&chosen, &mut bytes)?;
    let ids = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    Ok(ids.map(|id| (id != UNUSABLE).then_some(id)).collect())
}

/// Forbids what is not allowed, in those rows where not all is.
fn mask(gpu: &Gpu, logits: &Array, vocab: usize, rows: &[u32], choices: &[Choice]) -> Result<()> {
    let masks: Vec<(u32, &TokenMask)> =
        rows.iter().zip(choices).filter_map(|(row, choice)| Some((*row, choice.allowed.as_ref()?))).collect();
    if masks.is_empty() {
        return Ok(());
    }
    let mut lists = Lists::default();
    lists.add(masks.iter().map(|(row, _)| *row));
    lists.add(masks.iter().flat_map(|(_, mask)| mask.words(vocab)));
    let lists: [Indices; 2] = lists.upload(gpu)?;
    let launch = Launch::of("mask_logits").buffer(&logits.buffer);
    let launch = lists.iter().fold(launch, Launch::list).int(vocab);
    let shape = Shape { grid: [masks.len() as u32, 1, 1], block: THREADS, shared: 0 };
    // SAFETY: mask_logits(logits, rows, masks, vocab), with as many words of each mask as the vocabulary needs
    unsafe { launch.go(gpu, shape) }
}

fn edit(gpu: &Gpu, logits: &Array, vocab: usize, rows: &[u32], choices: &[Choice]) -> Result<()> {
    if choices.iter().all(|choice| choice.edits.is_empty()) {
        return Ok(());
    }
    // an edit of a token that is none would write elsewhere
    let edits =
        || choices.iter().map(|choice| choice.edits.iter().filter(|edit| (edit.token as usize) < vocab));
    let mut ends: Vec<u32> = vec![0];
    for edits in edits() {
        ends.push(ends[ends.len() - 1] + edits.count() as u32);
    }
    let mut lists = Lists::default();
    lists.add(rows.iter().copied());
    lists.add(ends);
    lists.add(edits().flatten().map(|edit| edit.token));
    lists.add(edits().flatten().map(|edit| edit.bias.to_bits()));
    lists.add(edits().flatten().map(|edit| edit.repetition.to_bits()));
    lists.add(edits().flatten().map(|edit| edit.minus.to_bits()));
    let edits: [Indices; 6] = lists.upload(gpu)?;
    let launch = Launch::of("edit_logits").buffer(&logits.buffer);
    let launch = edits.iter().fold(launch, Launch::list).int(vocab);
    let shape = Shape { grid: [choices.len() as u32, 1, 1], block: THREADS, shared: 0 };
    // SAFETY: edit_logits(logits, rows, starts, tokens, bias, repetition, minus, vocab), of tokens below the vocabulary
    unsafe { launch.go(gpu, shape) }
}
