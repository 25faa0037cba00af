//! A kernel's arguments, in its order.

#![allow(unsafe_code)]

use std::ffi::c_void;

use super::driver::{Gpu, Shape};
use super::lists::Indices;
use super::memory::Buffer;
use crate::tensor::error::Result;

/// A launch that is being put together: each argument in eight bytes of its own, as the driver takes pointers to them.
/// The processors that we build for keep the low bytes of a number first, so that a smaller one is read where it begins.
#[must_use]
pub(super) struct Launch<'a> {
    kernel: String,
    arguments: Vec<u64>,
    // buffers that must live until the work is enqueued; after that the stream's order keeps them
    _buffers: std::marker::PhantomData<&'a Buffer>,
}

impl<'a> Launch<'a> {
    pub(super) fn of(kernel: impl Into<String>) -> Self {
        Self { kernel: kernel.into(), arguments: Vec::with_capacity(20), _buffers: std::marker::PhantomData }
    }

    /// A pointer to the start of a buffer.
    pub(super) fn buffer(self, buffer: &'a Buffer) -> Self {
        self.at(buffer, 0)
    }

    /// A pointer to the start of a list.
    pub(super) fn list(self, list: &'a Indices) -> Self {
        self.at(list.buffer(), list.offset())
    }

    fn at(mut self, buffer: &'a Buffer, offset: usize) -> Self {
        debug_assert!(offset <= buffer.bytes(), "an address outside of the buffer");
        self.arguments.push(buffer.address() + offset as u64);
        self
    }

    /// A pointer that may be null.
    pub(super) fn optional(mut self, buffer: Option<&'a Buffer>) -> Self {
        self.arguments.push(buffer.map_or(0, Buffer::address));
        self
    }

    /// An `int`.
    pub(super) fn int(mut self, value: usize) -> Self {
        debug_assert!(i32::try_from(value).is_ok(), "an int of {value}");
        self.arguments.push(u64::from(value as u32));
        self
    }

    /// A `size_t`.
    pub(super) fn size(mut self, value: usize) -> Self {
        self.arguments.push(value as u64);
        self
    }

    /// A `float`.
    pub(super) fn float(mut self, value: f32) -> Self {
        self.arguments.push(u64::from(value.to_bits()));
        self
    }

    /// Enqueues it.
    ///
    /// # Safety
    /// The kernel takes these arguments in this order, and reads and writes within these buffers only, given this shape.
    pub(super) unsafe fn go(mut self, gpu: &Gpu, shape: Shape) -> Result<()> {
        let mut pointers: Vec<*mut c_void> =
            self.arguments.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        // SAFETY: the caller's promise
        unsafe { gpu.launch(&self.kernel, shape, &mut pointers) }
    }
}
