//! Asking memory for what will be read soon.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

/// How many bytes ahead of where it reads a kernel asks for more: some processors by themselves do not look past the end
/// of a page.
pub(super) const AHEAD: usize = 4 << 10;

/// Asks for so many bytes from `p` on, wherever it points.
#[inline(always)]
pub(super) fn fetch_ahead(p: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every such processor has it, and nothing is read that is not there
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, bytes);
}
