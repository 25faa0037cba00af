//! The paged key-value cache in the host's memory, and attention over it.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

use std::cell::UnsafeCell;

use super::isa::{Isa, Kernel, Level, MOST_LANES, dispatch, exp};
use super::linear::Grid;
use super::rowwise::Softcap;
use super::team;
use crate::tensor::attention::Attention;
use crate::tensor::encoding::ElementType;
use crate::tensor::kv::KvLayout;
use crate::tensor::rows::Query;

/// Multiplications below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 16;

/// Keys and values of all layers in the host's memory, written in part by each of those who hold a part of it.
pub(in crate::tensor) struct KvStore {
    layout: KvLayout,
    keys: Vec<Floats>,
    values: Vec<Floats>,
}

/// Numbers of which each is one thread's at a time.
struct Floats(Box<[UnsafeCell<f32>]>);

// SAFETY: whoever reads or writes promises that nobody else writes there
unsafe impl Sync for Floats {}

impl Floats {
    fn zeroed(n: usize) -> Self {
        let floats = Box::into_raw(vec![0.0_f32; n].into_boxed_slice());
        // SAFETY: a cell lies in memory as what is in it
        Self(unsafe { Box::from_raw(floats as *mut [UnsafeCell<f32>]) })
    }

    /// `n` numbers from `first` on.
    ///
    /// # Safety
    /// Nobody writes them while they are borrowed.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline(always)]
    unsafe fn read(&self, first: usize, n: usize) -> &[f32] {
        let cells = &self.0[first..][..n];
        // SAFETY: the caller's promise
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), n) }
    }

    /// Puts numbers at `first`.
    ///
    /// # Safety
    /// Nobody reads or writes there meanwhile.
    ///
    /// # Panics
    /// If there is not so much room.
    unsafe fn write(&self, first: usize, numbers: &[f32]) {
        for (cell, number) in self.0[first..][..numbers.len()].iter().zip(numbers) {
            // SAFETY: the caller's promise
            unsafe { *cell.get() = *number };
        }
    }
}

impl KvStore {
    /// Allocates all of it, zeroed; `None` if the memory is not to be had.
    pub(in crate::tensor) fn new(layout: KvLayout) -> Option<Self> {
        let floats = layout.layer()?;
        // asking first turns a refusal into an answer; the zeroed allocation itself aborts when refused
        Vec::<f32>::new().try_reserve_exact(floats.checked_mul(layout.layers)?.checked_mul(2)?).ok()?;
        let all = || (0..layout.layers).map(|_| Floats::zeroed(floats)).collect();
        Some(Self { layout, keys: all(), values: all() })
    }

    /// Writes `[rows, kv_heads, head_dim]` keys and values of `layer` into `slots`, one a row.
    ///
    /// # Safety
    /// Nobody reads or writes the slots meanwhile.
    ///
    /// # Panics
    /// If a slot or the layer is outside the layout.
    pub(in crate::tensor) unsafe fn write(&self, layer: usize, slots: &[u32], keys: &[f32], values: &[f32]) {
        let width = self.layout.slot();
        let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for (slot, (key, value)) in slots.iter().zip(rows) {
            let to = *slot as usize * width;
            // SAFETY: the caller's promise
            unsafe {
                self.keys[layer].write(to, key);
                self.values[layer].write(to, value);
            }
        }
    }

    #[cfg(test)]
    pub(in crate::tensor) fn key(&self, layer: usize, slot: usize, head: usize) -> &[f32] {
        let KvLayout { kv_heads, head_dim, .. } = self.layout;
        // SAFETY: a test writes before it reads
        unsafe { self.keys[layer].read((slot * kv_heads + head) * head_dim, head_dim) }
    }

    #[cfg(test)]
    pub(in crate::tensor) fn value(&self, layer: usize, slot: usize, head: usize) -> &[f32] {
        let KvLayout { kv_heads, head_dim, .. } = self.layout;
        // SAFETY: as above
        unsafe { self.values[layer].read((slot * kv_heads + head) * head_dim, head_dim) }
    }

    #[cfg(test)]
    pub(in crate::tensor) const fn layout(&self) -> KvLayout {
        self.layout
    }
}

/// Attention of each row of `q` `[rows, heads, head_dim]` over its own context: `[rows, heads, head_dim]`.
/// Query heads are grouped over key-value heads (Ainslie et al., 2023). A head takes three passes in the order of
/// what it sees of its context: scores, their exponentials against the highest, the weighted sum of values.
///
/// # Safety
/// Nobody writes the blocks of the queries meanwhile.
///
/// # Panics
/// If `q` is not one row a query, or a query reaches out of the cache.
pub(in crate::tensor) unsafe fn attend(
    level: Level,
    q: &[f32],
    queries: &[Query<'_>],
    (cache, layer): (&KvStore, usize),
    attention: Attention,
) -> Vec<f32> {
    let KvLayout { kv_heads, head_dim, .. } = cache.layout;
    let mut out = vec![0.0; q.len()];
    if queries.is_empty() {
        return out;
    }
    let width = q.len() / queries.len();
    let heads = width / head_dim;
    assert!(
        q.len() == queries.len() * heads * head_dim && heads.is_multiple_of(kv_heads),
        "rows of another width"
    );
    // one task: one row, one key-value head and the query heads that share it
    let share = width / kv_heads;
    let task = |(i, (out, q)): (usize, (&mut [f32], &[f32]))| {
        let (query, kv_head) = (queries[i / kv_heads], i % kv_heads);
        let (keys, values) = (&cache.keys[layer], &cache.values[layer]);
        dispatch(level, Group { q, out, query, kv_head, attention, layout: cache.layout, keys, values });
    };
    let seen = |query: &Query<'_>| query.visible - first_seen(*query, attention);
    let work: usize = queries.iter().map(|query| seen(query) * width).sum();
    if work < WORTH_A_THREAD {
        out.chunks_exact_mut(share).zip(q.chunks_exact(share)).enumerate().for_each(task);
    } else {
        team::consume(out.chunks_exact_mut(share).zip(q.chunks_exact(share)).enumerate().collect(), task);
    }
    out
}

/// The first token that a row sees.
fn first_seen(query: Query<'_>, attention: Attention) -> usize {
    attention.window.map_or(0, |window| query.visible.saturating_sub(window))
}

struct Group<'a> {
    q: &'a [f32],
    out: &'a mut [f32],
    query: Query<'a>,
    kv_head: usize,
    attention: Attention,
    layout: KvLayout,
    keys: &'a Floats,
    values: &'a Floats,
}

impl Kernel for Group<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let KvLayout { block_size, head_dim, .. } = self.layout;
        let Attention { scale, softcap, .. } = self.attention;
        let heads = self.q.len() / head_dim;
        // the floats of this head in a block's first token; the next token's lie `stride` further
        let stride = self.layout.slot();
        let head = self.kv_head * head_dim;
        // whole blocks, from that of the first token seen: what lies before that one is scored and left out
        let first_seen = first_seen(self.query, self.attention);
        let (first_block, hidden) = (first_seen / block_size, first_seen % block_size);
        let tokens = self.query.visible - first_block * block_size;
        let blocks = &self.query.blocks[first_block..self.query.visible.div_ceil(block_size)];
        let mut scores = vec![0.0; heads * tokens];
        for (i, block) in blocks.iter().enumerate() {
            let first = i * block_size;
            // SAFETY: whoever attends promises that nobody writes the blocks meanwhile
            let keys = unsafe { self.keys.read(*block as usize * block_size * stride, block_size * stride) };
            let grid = Grid {
                x: self.q.as_ptr(),
                rows: heads,
                w: keys[head..].as_ptr().cast(),
                element: ElementType::F32,
                w_stride: stride,
                width: head_dim,
                y: scores[first..].as_mut_ptr(),
                y_stride: tokens,
            };
            // SAFETY: `keys` is a whole block, and `scores` has `heads` rows of `tokens`, this task's own
            unsafe { grid.run::<I>(0..block_size.min(tokens - first)) };
        }
        for (out, scores) in self.out.chunks_exact_mut(head_dim).zip(scores.chunks_exact_mut(tokens)) {
            let seen = &mut scores[hidden..];
            let scale = match softcap {
                Some(cap) => {
                    // SAFETY: the processor has `I`
                    unsafe { Softcap { out: seen, scale, cap }.run::<I>() };
                    1.0
                }
                None => scale,
            };
            // SAFETY: the processor has `I`
            let total = unsafe { exponentials::<I>(seen, scale) };
            let mut before = hidden;
            for (scores, block) in scores.chunks(block_size).zip(blocks) {
                // SAFETY: as above; the processor has `I`
                unsafe {
                    let block = *block as usize * block_size * stride;
                    let values = self.values.read(block, block_size * stride);
                    add_weighted::<I>(out, &scores[before..], &values[before * stride + head..], stride);
                }
                before = 0;
            }
            for o in out {
                *o /= total;
            }
        }
    }
}

/// Turns scores into `exp(scale * (score - highest))`; gives their sum.
///
/// # Safety
/// The processor has `I`.
#[inline(always)]
unsafe fn exponentials<I: Isa>(scores: &mut [f32], scale: f32) -> f32 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let whole = scores.len() - scores.len() % I::LANES;
    let (vectors, rest) = scores.split_at_mut(whole);
    // padded with what becomes `exp(0)`: a 0 would become the exponential of a huge number where all scores are far
    // below 0, which `exp` does not allow
    let mut padded = [highest; MOST_LANES];
    padded[..rest.len()].copy_from_slice(rest);
    // SAFETY: each load and store is of `LANES` elements of a chunk, or of `padded`
    unsafe {
        let (scale, least) = (I::splat(scale), I::splat(-highest * scale));
        let mut sums = I::splat(0.0);
        for chunk in vectors.chunks_exact_mut(I::LANES) {
            let shares = exp::<I>(I::fma(I::load(chunk.as_ptr()), scale, least));
            I::store(chunk.as_mut_ptr(), shares);
            sums = I::fma(shares, I::splat(1.0), sums);
        }
        let shares = exp::<I>(I::fma(I::load(padded.as_ptr()), scale, least));
        I::store(padded.as_mut_ptr(), shares);
        rest.copy_from_slice(&padded[..rest.len()]);
        I::sum(sums) + rest.iter().sum::<f32>()
    }
}

/// `out += Σ share * value`, token by token; token `t`'s value starts at `t * stride`.
///
/// # Safety
/// The processor has `I`.
#[inline(always)]
unsafe fn add_weighted<I: Isa>(out: &mut [f32], shares: &[f32], values: &[f32], stride: usize) {
    assert!((shares.len() - 1) * stride + out.len() <= values.len(), "values of another size");
    let mut d = 0;
    // SAFETY: `d` and what is read beside it stay below `out.len()`, and so within `values`, checked above
    unsafe {
        while d + 4 * I::LANES <= out.len() {
            add_columns::<I, 4>(out, shares, values, stride, d);
            d += 4 * I::LANES;
        }
        while d + I::LANES <= out.len() {
            add_columns::<I, 1>(out, shares, values, stride, d);
            d += I::LANES;
        }
    }
    for (d, o) in out.iter_mut().enumerate().skip(d) {
        for (t, share) in shares.iter().enumerate() {
            *o += share * values[t * stride + d];
        }
    }
}

/// [`add_weighted`] for the `N` vectors of columns from `d`.
///
/// # Safety
/// The processor has `I`; the columns exist in `out` and in every token's value.
#[inline(always)]
unsafe fn add_columns<I: Isa, const N: usize>(
    out: &mut [f32],
    shares: &[f32],
    values: &[f32],
    stride: usize,
    d: usize,
) {
    // SAFETY: the caller's promise
    unsafe {
        let out = out.as_mut_ptr().add(d);
        let mut sums = [I::splat(0.0); N];
        for (n, sum) in sums.iter_mut().enumerate() {
            *sum = I::load(out.add(n * I::LANES));
        }
        for (t, share) in shares.iter().enumerate() {
            let share = I::splat(*share);
            let value = values.as_ptr().add(t * stride + d);
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = I::fma(share, I::load(value.add(n * I::LANES)), *sum);
            }
        }
        for (n, sum) in sums.iter().enumerate() {
            I::store(out.add(n * I::LANES), *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::reference::{self, noise};

    fn filled(layout: KvLayout, slots: &[u32]) -> KvStore {
        let cache = KvStore::new(layout).unwrap();
        let n = slots.len() * layout.slot();
        // SAFETY: nobody else has it
        unsafe { cache.write(1, slots, &noise(n, 5), &noise(n, 6)) };
        cache
    }

    #[test]
    fn attention_is_what_the_formula_says_and_a_row_is_computed_alone() {
        for (kv_heads, group, head_dim) in [(1, 1, 4), (2, 3, 12), (2, 7, 64), (1, 8, 80)] {
            let layout = KvLayout { layers: 2, blocks: 9, block_size: 4, kv_heads, head_dim };
            let table: &[u32] = &[7, 0, 3, 8, 1];
            let slots: Vec<u32> = (0..18).map(|t| table[t / 4] * 4 + t as u32 % 4).collect();
            let cache = filled(layout, &slots);
            let width = kv_heads * group * head_dim;
            let q = noise(18 * width, 7);
            let queries: Vec<Query<'_>> = (1..=18).map(|visible| Query { blocks: table, visible }).collect();
            let plain = Attention::of_heads(head_dim);
            let capped = Attention { scale: 0.7, softcap: Some(0.5), window: None };
            for (level, attention) in Level::available().iter().flat_map(|level| {
                let windows = [1, 3, 8, 18].map(|window| Attention { window: Some(window), ..capped });
                [plain, capped].into_iter().chain(windows).map(move |attention| (level, attention))
            }) {
                let exact = reference::attend(&q, &queries, &cache, 1, attention);
                // SAFETY: nobody writes
                let attend = |q: &[f32], queries: &[Query<'_>]| unsafe {
                    attend(*level, q, queries, (&cache, 1), attention)
                };
                let all = attend(&q, &queries);
                for (a, b) in all.iter().zip(&exact) {
                    assert!((a - b).abs() < 1e-5, "{level:?}, {attention:?}: {a} against {b}");
                }
                for (i, query) in queries.iter().enumerate() {
                    let row = i * width..(i + 1) * width;
                    let alone = attend(&q[row.clone()], &[*query]);
                    assert!(
                        alone.iter().zip(&all[row]).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{level:?}"
                    );
                }
            }
        }
    }
}
