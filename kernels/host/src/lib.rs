//! Runs a kernel's host form by its name, as a driver would launch it on a device.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

/// Why a launch came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No kernel has this name.
    NoSuchKernel,
    /// Some threads wait at a barrier that the others of their block or warp never reach.
    Deadlock,
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

unsafe extern "C" {
    fn switchback_emulate(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared: usize,
        arguments: *mut *mut c_void,
    ) -> c_int;
}

/// Runs every block of a launch, one after the other, on the caller's thread.
///
/// # Safety
/// `arguments` are pointers to values of the kernel's own parameter types, in its order, and what the kernel makes of
/// them is within memory that it may read and write.
pub unsafe fn launch(name: &str, shape: Shape, arguments: &mut [*mut c_void]) -> Result<(), Refused> {
    let name = CString::new(name).map_err(|_| Refused::NoSuchKernel)?;
    let Shape { grid, block, shared } = shape;
    // SAFETY: the caller's promise
    let status = unsafe {
        switchback_emulate(name.as_ptr(), grid.as_ptr(), block.as_ptr(), shared, arguments.as_mut_ptr())
    };
    match status {
        0 => Ok(()),
        1 => Err(Refused::NoSuchKernel),
        _ => Err(Refused::Deadlock),
    }
}
