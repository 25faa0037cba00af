//! The host plays a device: its memory, and the kernels' host form.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use super::driver::{Driver, Shape};
use super::gemm::{Product, ProductShape};
use super::graph::Recorded;
use crate::tensor::encoding::ElementType;
use crate::tensor::error::{Result, TensorError};

/// Every byte that nobody has written yet: not a number in all element types.
pub(super) const POISON: u8 = 0xFF;

const NAME: &str = "the emulated device";

/// As CUDA's allocator gives them at least.
const ALIGNMENT: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct Emulated(Arc<Mutex<Memory>>);

/// One stream of it.
struct Stream {
    device: Emulated,
    /// What is being recorded, if anything is.
    recording: Mutex<Option<Vec<Work>>>,
}

/// Work that was recorded.
#[derive(Clone)]
enum Work {
    /// A kernel, its shape and its arguments.
    Launch(String, Shape, Vec<u64>),
    Multiply(Product),
}

struct Recording {
    work: Vec<Work>,
}

#[derive(Debug)]
struct Memory {
    capacity: usize,
    pieces: HashMap<u64, usize>,
    /// Bytes of the host's memory that are pinned.
    pinned: usize,
}

impl Emulated {
    /// A device with so many bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self(Arc::new(Mutex::new(Memory { capacity, pieces: HashMap::new(), pinned: 0 })))
    }

    /// Bytes that somebody holds.
    pub(super) fn used(&self) -> usize {
        self.0.lock().unwrap().pieces.values().sum()
    }

    /// Bytes of the host's memory that somebody holds pinned.
    pub(super) fn pinned(&self) -> usize {
        self.0.lock().unwrap().pinned
    }

    fn fill(address: u64, bytes: usize, byte: u8) {
        // SAFETY: the piece has so many bytes, as `Buffer` says
        unsafe { std::ptr::write_bytes(address as *mut u8, byte, bytes) };
    }
}

impl Emulated {
    /// A stream of work on it.
    pub(super) fn stream(&self) -> Box<dyn Driver> {
        Box::new(Stream { device: self.clone(), recording: Mutex::default() })
    }
}

impl Stream {
    /// Whether the work was recorded: then it is not done.
    fn records(&self, work: impl FnOnce() -> Work) -> bool {
        let mut recording = self.recording.lock().unwrap();
        recording.as_mut().map(|recorded| recorded.push(work())).is_some()
    }
}

impl Recorded for Recording {
    fn replay(&self) -> Result<()> {
        for work in &self.work {
            match work.clone() {
                Work::Launch(kernel, shape, mut arguments) => {
                    let mut pointers: Vec<*mut c_void> =
                        arguments.iter_mut().map(|argument| std::ptr::from_mut(argument).cast()).collect();
                    // SAFETY: what was promised when it was recorded
                    unsafe { launch(&kernel, shape, &mut pointers)? };
                }
                // SAFETY: as above
                Work::Multiply(product) => unsafe { multiply(&product) },
            }
        }
        Ok(())
    }
}

impl Driver for Stream {
    fn name(&self) -> &str {
        NAME
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let used = self.device.used();
        let mut memory = self.device.0.lock().unwrap();
        if used + bytes > memory.capacity {
            return Err(TensorError::Memory { device: NAME.to_owned(), bytes });
        }
        // SAFETY: the layout is not empty, as nobody asks for nothing
        let address = unsafe { alloc(layout(bytes)) } as u64;
        memory.pieces.insert(address, bytes);
        Emulated::fill(address, bytes, POISON);
        Ok(address)
    }

    fn free(&self, address: u64) {
        let bytes = self.device.0.lock().unwrap().pieces.remove(&address);
        let bytes = bytes.expect("it was allocated, and not freed twice");
        // SAFETY: `allocate` made it with this layout
        unsafe { dealloc(address as *mut u8, layout(bytes)) };
    }

    /// As much as the device has: more is not to be had.
    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8> {
        let mut memory = self.device.0.lock().unwrap();
        if memory.pinned + bytes > memory.capacity {
            return Err(TensorError::Memory { device: "the host".to_owned(), bytes });
        }
        memory.pinned += bytes;
        // SAFETY: the layout is not empty, as nobody asks for nothing
        Ok(unsafe { alloc_zeroed(layout(bytes)) })
    }

    fn free_pinned(&self, memory: *mut u8, bytes: usize) {
        self.device.0.lock().unwrap().pinned -= bytes;
        // SAFETY: `allocate_pinned` made it with this layout
        unsafe { dealloc(memory, layout(bytes)) };
    }

    fn reused(&self, address: u64, bytes: usize) {
        Emulated::fill(address, bytes, POISON);
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        Emulated::fill(address, bytes, 0);
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the piece has so many bytes; a slice of the program is not in a piece
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as above
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: two pieces of so many bytes
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        let memory = self.device.0.lock().unwrap();
        Ok((memory.capacity - memory.pieces.values().sum::<usize>()) as u64)
    }

    unsafe fn launch(&self, kernel: &str, shape: Shape, arguments: &mut [*mut c_void]) -> Result<()> {
        // SAFETY: each argument lies in eight bytes, as `Launch` puts them
        let values = || arguments.iter().map(|argument| unsafe { *argument.cast::<u64>() }).collect();
        if self.records(|| Work::Launch(kernel.to_owned(), shape, values())) {
            return Ok(());
        }
        // SAFETY: the caller's promise
        unsafe { launch(kernel, shape, arguments) }
    }

    unsafe fn multiply(&self, product: &Product) -> Result<()> {
        if !self.records(|| Work::Multiply(*product)) {
            // SAFETY: the caller's promise
            unsafe { multiply(product) };
        }
        Ok(())
    }

    fn begin_recording(&self) -> Result<()> {
        *self.recording.lock().unwrap() = Some(Vec::new());
        Ok(())
    }

    fn end_recording(&self) -> Result<Box<dyn Recorded>> {
        let work = self.recording.lock().unwrap().take().expect("it was begun");
        Ok(Box::new(Recording { work }))
    }

    fn fork(&self) -> Result<Box<dyn Driver>> {
        Ok(self.device.stream())
    }
}

/// # Safety
/// As [`super::driver::Gpu::launch`].
unsafe fn launch(kernel: &str, shape: Shape, arguments: &mut [*mut c_void]) -> Result<()> {
    let Shape { grid, block, shared } = shape;
    let shape = switchback_emulator::Shape { grid, block: [block, 1, 1], shared };
    // SAFETY: the caller's promise
    let launched = unsafe { switchback_emulator::launch(kernel, shape, arguments) };
    launched
        .map_err(|why| TensorError::Device { device: NAME.to_owned(), what: format!("{kernel}: {why:?}") })
}

/// # Safety
/// As [`super::driver::Gpu::multiply`].
unsafe fn multiply(product: &Product) {
    let ProductShape { rows, outs, y_stride, width, element, out } = product.shape;
    // SAFETY: the matrices are where the product says, and have its shape
    let x = |r, k| unsafe { load(product.x, element, r * width + k) };
    // SAFETY: as above
    let w = |o, k| unsafe { load(product.weight, element, o * width + k) };
    for r in 0..rows {
        for o in 0..outs {
            let sum: f32 = (0..width).map(|k| x(r, k) * w(o, k)).sum();
            // SAFETY: as above
            unsafe { store(product.y, out, r * y_stride + o, sum) };
        }
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGNMENT).expect("no test asks for that much")
}

/// # Safety
/// An element lies there.
unsafe fn load(address: u64, element: ElementType, i: usize) -> f32 {
    // SAFETY: the caller's promise
    unsafe {
        match element {
            ElementType::Bf16 => (*(address as *const half::bf16).add(i)).to_f32(),
            ElementType::F16 => (*(address as *const half::f16).add(i)).to_f32(),
            ElementType::F32 => *(address as *const f32).add(i),
        }
    }
}

/// # Safety
/// There is room for an element there.
unsafe fn store(address: u64, element: ElementType, i: usize, value: f32) {
    // SAFETY: the caller's promise
    unsafe {
        match element {
            ElementType::Bf16 => *(address as *mut half::bf16).add(i) = half::bf16::from_f32(value),
            ElementType::F16 => *(address as *mut half::f16).add(i) = half::f16::from_f32(value),
            ElementType::F32 => *(address as *mut f32).add(i) = value,
        }
    }
}
