//! Activations: what operators take and give.

use std::borrow::Cow;

use super::error::{Result, TensorError};
use super::gpu::Array;

/// A matrix of activations `[rows, width]`, row-major, on a device. Heads lie side by side in a row:
/// `[rows, heads * head_dim]`. On the host all are `f32`; on a GPU the residual stream and the logits are, and others are
/// of the element type that the weights have.
#[derive(Debug)]
pub struct Tensor {
    rows: usize,
    width: usize,
    data: Data,
}

#[derive(Debug)]
pub(super) enum Data {
    Host(Vec<f32>),
    Device(Array),
}

impl Tensor {
    /// A matrix on the host.
    pub fn from_vec(values: Vec<f32>, rows: usize, width: usize) -> Result<Self> {
        if rows.checked_mul(width) == Some(values.len()) {
            Ok(Self { rows, width, data: Data::Host(values) })
        } else {
            Err(TensorError::shape("tensor", format!("{} values as [{rows}, {width}]", values.len())))
        }
    }

    /// A matrix whose data a kernel has just written: it has `rows * width` elements.
    pub(super) const fn new(rows: usize, width: usize, data: Data) -> Self {
        Self { rows, width, data }
    }

    /// Rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// The first rows, where the data stays: a view on a device, a copy on the host.
    pub(super) fn first_rows(&self, rows: usize) -> Self {
        let data = match &self.data {
            Data::Host(values) => Data::Host(values[..rows * self.width].to_vec()),
            Data::Device(array) => Data::Device(array.clone()),
        };
        Self { rows, width: self.width, data }
    }

    pub(super) const fn data(&self) -> &Data {
        &self.data
    }

    pub(super) const fn data_mut(&mut self) -> &mut Data {
        &mut self.data
    }

    /// Row `row` in `f32`. Waits for a device to finish.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Result<Cow<'_, [f32]>> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        match &self.data {
            Data::Host(values) => Ok(values[row * self.width..][..self.width].into()),
            Data::Device(array) => Ok(array.row(row, self.width)?.into()),
        }
    }

    /// All elements, row by row. Waits for a device to finish.
    pub fn into_vec(self) -> Result<Vec<f32>> {
        match self.data {
            Data::Host(values) => Ok(values),
            Data::Device(array) => array.to_vec(self.rows * self.width),
        }
    }
}
