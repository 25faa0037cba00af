//! A product of matrices, as the library of the device is asked for it.

use crate::tensor::encoding::ElementType;

/// `y = x Wᵀ`: `x` `[rows, width]` and `W` `[outs, width]` of one element type give `y` `[rows, outs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Product {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) y: u64,
    pub(super) shape: ProductShape,
}

/// What decides how a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProductShape {
    pub(super) rows: usize,
    pub(super) outs: usize,
    /// Elements from a row of `y` to the next: more than `outs` where others fill in the rest.
    pub(super) y_stride: usize,
    pub(super) width: usize,
    /// Of `x` and `W`.
    pub(super) element: ElementType,
    /// Of `y`.
    pub(super) out: ElementType,
}
