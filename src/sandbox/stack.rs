//! How much stack a template can need. A stack is address space until it is touched, so that to have enough costs nothing.

/// What stands on a stack beside a value or a source: the thread's own frames, and minijinja's, which nests 500 of them.
const BESIDE: usize = 8 << 20;
/// What a walk over a value takes a level of it, twice over: to compare dictionaries is the most wasteful, at 512 bytes. One
/// unit of fuel nests a value at most once.
const A_LEVEL: usize = 1 << 10;
/// The same of a source and its tree, which an operator of one byte nests once: a chain of signs takes 400 bytes for each.
const A_BYTE: usize = 1 << 10;

/// The stack that suffices for a rendering of so much fuel.
pub(super) fn for_fuel(fuel: u64) -> usize {
    usize::try_from(fuel).map_or(usize::MAX, |fuel| fuel.saturating_mul(A_LEVEL).saturating_add(BESIDE))
}

/// The stack that suffices to compile a source of so many bytes.
pub(super) fn for_source(bytes: usize) -> usize {
    bytes.saturating_mul(A_BYTE).saturating_add(BESIDE)
}
