//! CUDA's driver and cuBLASLt, found when the program runs: it starts on machines without either and says what is
//! missing.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, sys};

use super::driver::{Driver, Shape};
use super::gemm::Product;
use super::graph::Recorded;
use super::matmul::{Handle, Matmul};
use crate::tensor::device::GpuInfo;
use crate::tensor::error::{Result, TensorError};

/// All kernels, for each kind of GPU: written by the build script. The driver reads it in words.
static FATBIN: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

/// One stream on a device.
pub(super) struct Cuda {
    matmul: Matmul,
    stream: Arc<CudaStream>,
    shared: Arc<Shared>,
}

/// The devices that were opened. They stay open until the process ends: closing one, or cuBLASLt's handle on it, waits for
/// the whole device, and that spoils what another thread is recording meanwhile.
// Guards the list while a device is opened, which happens a few times in a process.
static OPENED: Mutex<BTreeMap<usize, Arc<Shared>>> = Mutex::new(BTreeMap::new());

/// What all streams of a device share.
struct Shared {
    name: String,
    context: Arc<CudaContext>,
    handle: Handle,
    /// Whether the device reads the host's own memory by its page tables, as those do that are one chip with it: a copy
    /// from there may then still be under way when the call returns.
    coherent: bool,
    module: Module,
    // Guards the kernels found so far. A lookup is a hash of a name, once a launch, on threads that seldom meet; after
    // the first step all are there.
    kernels: Mutex<HashMap<String, Function>>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);
// SAFETY: a handle that the driver itself guards; it is valid while its module is
unsafe impl Send for Function {}

struct Module(sys::CUmodule);
// SAFETY: as above; nothing unloads it
unsafe impl Send for Module {}
// SAFETY: as above
unsafe impl Sync for Module {}

/// The devices of this machine.
pub(in crate::tensor) fn devices() -> Result<Vec<GpuInfo>> {
    let broken = |what: String| TensorError::Device { device: "CUDA".to_owned(), what };
    // SAFETY: it opens a library and closes it
    if !unsafe { sys::is_culib_present() } {
        return Err(broken("there is no NVIDIA driver: libcuda.so.1 is not found".to_owned()));
    }
    let failed = |error: DriverError| broken(explained(error));
    result::init().map_err(failed)?;
    let count = result::device::get_count().map_err(failed)?;
    (0..count as usize).map(|ordinal| info(ordinal).map_err(failed)).collect()
}

/// What a device says of itself. One that lets nobody in, as another program has it for itself, is listed, too.
fn info(ordinal: usize) -> std::result::Result<GpuInfo, DriverError> {
    let device = result::device::get(ordinal as i32)?;
    let mut version = 0;
    // SAFETY: it writes one number
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    // SAFETY: the device is there
    let total = unsafe { result::device::total_mem(device) }?;
    let free = CudaContext::new(ordinal).and_then(|context| context.mem_get_info());
    Ok(GpuInfo {
        ordinal,
        name: result::device::get_name(device)?,
        compute_capability: compute_capability(device)?,
        total_bytes: total as u64,
        free_bytes: free.as_ref().map_or(0, |(free, _)| *free as u64),
        cuda_version: (version as u32 / 1000, version as u32 % 1000 / 10),
        closed: free.err().map(explained),
    })
}

/// Brings all kernels of a module to the device. By itself the driver does that at a kernel's first launch, and may wait for
/// the whole device then, which spoils what another thread is recording meanwhile.
fn load_all(module: sys::CUmodule) -> std::result::Result<(), DriverError> {
    let mut count = 0;
    // SAFETY: the module is loaded, and the list has room for as many as there are
    unsafe {
        sys::cuModuleGetFunctionCount(&raw mut count, module).result()?;
        let mut functions = vec![std::ptr::null_mut(); count as usize];
        sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module).result()?;
        functions.into_iter().try_for_each(|function| sys::cuFuncLoad(function).result())
    }
}

fn compute_capability(device: sys::CUdevice) -> std::result::Result<(u32, u32), DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: the device is there
    let of = |which| unsafe { result::device::get_attribute(device, which) };
    Ok((of(MAJOR)? as u32, of(MINOR)? as u32))
}

/// What the driver says, in words.
fn explained(error: DriverError) -> String {
    let text = error.error_string().ok().and_then(|text| text.to_str().ok());
    let said = match (error.error_name().ok().and_then(|name| name.to_str().ok()), text) {
        (Some(name), Some(text)) => format!("{text} ({name})"),
        _ => format!("{error:?}"),
    };
    if LOST.contains(&error.0) {
        format!("{said}: this process has lost the GPU; restart the server")
    } else {
        said
    }
}

/// What leaves a device's context unusable until the process ends, for all versions.
const LOST: [sys::CUresult; 9] = [
    sys::CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
    sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
    sys::CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
    sys::CUresult::CUDA_ERROR_ASSERT,
    sys::CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
    sys::CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
    sys::CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
    sys::CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
    sys::CUresult::CUDA_ERROR_LAUNCH_FAILED,
];

impl Cuda {
    /// The first stream on a device.
    pub(super) fn new(ordinal: usize) -> Result<Self> {
        let name = format!("cuda:{ordinal}");
        let failed = |what: String| TensorError::Device { device: name.clone(), what };
        // SAFETY: it opens a library and closes it
        if !unsafe { cublaslt::sys::is_culib_present() } {
            let what = "libcublasLt.so.13 is not found: install CUDA 13's cuBLAS, or name its folder in LD_LIBRARY_PATH";
            return Err(failed(what.to_owned()));
        }
        let driver = |error: DriverError| failed(explained(error));
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = opened.get(&ordinal) {
            return Self::on(Arc::clone(shared));
        }
        let context = CudaContext::new(ordinal).map_err(driver)?;
        // SAFETY: each stream orders its own work, and what is placed for all is waited for
        unsafe { context.disable_event_tracking() };
        // SAFETY: the image is a fatbin, which tells its own length
        let module = unsafe { result::module::load_data(FATBIN.0.as_ptr().cast()) }.map_err(driver)?;
        load_all(module).map_err(driver)?;
        let handle = Handle::new(&name)?;
        let attribute =
            sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES;
        let coherent = context.attribute(attribute).map_err(driver)? != 0;
        let (module, kernels) = (Module(module), Mutex::default());
        let shared = Arc::new(Shared { name, context, handle, coherent, module, kernels });
        opened.insert(ordinal, Arc::clone(&shared));
        drop(opened);
        Self::on(shared)
    }

    fn on(shared: Arc<Shared>) -> Result<Self> {
        let stream = shared.context.new_stream().map_err(|error| shared.failed(error))?;
        let major = shared.context.compute_capability().map_or(0, |(major, _)| major);
        let matmul = Matmul::new(&shared.name, shared.handle, major)?;
        Ok(Self { matmul, stream, shared })
    }

    /// The context is the calling thread's from here on.
    fn here(&self) -> Result<sys::CUstream> {
        self.shared.enter()?;
        Ok(self.stream.cu_stream())
    }

    fn done(&self, what: std::result::Result<(), DriverError>) -> Result<()> {
        what.map_err(|error| self.shared.failed(error))
    }
}

impl Shared {
    /// The context is the calling thread's from here on. What a drop could not do before is only told: it may have been
    /// another version's.
    fn enter(&self) -> Result<()> {
        if let Err(error) = self.context.check_err() {
            tracing::error!(device = %self.name, error = %explained(error), "something of a GPU could not be given back");
        }
        self.context.bind_to_thread().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: DriverError) -> TensorError {
        TensorError::Device { device: self.name.clone(), what: explained(error) }
    }

    fn kernel(&self, name: &str) -> Result<sys::CUfunction> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Function(kernel)) = kernels.get(name) {
            return Ok(*kernel);
        }
        let missing =
            |why: String| TensorError::Device { device: self.name.clone(), what: format!("{name}: {why}") };
        let c_name = CString::new(name).map_err(|error| missing(error.to_string()))?;
        // SAFETY: the module is loaded
        let kernel = unsafe { result::module::get_function(self.module.0, c_name) };
        let kernel = kernel.map_err(|error| missing(explained(error)))?;
        kernels.insert(name.to_owned(), Function(kernel));
        Ok(kernel)
    }
}

impl Driver for Cuda {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.here()?;
        // SAFETY: whoever gets it writes it before he reads it
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(address),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(TensorError::Memory { device: self.shared.name.clone(), bytes })
            }
            Err(error) => Err(self.shared.failed(error)),
        }
    }

    fn free(&self, address: u64) {
        // Freeing waits for all work on the device, so that none of it still uses the memory.
        // SAFETY: `allocate` gave the address, and its one buffer is gone
        let freed = self.here().and_then(|_| self.done(unsafe { result::free_sync(address) }));
        if let Err(error) = freed {
            tracing::error!(%error, "memory of a GPU could not be given back");
        }
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8> {
        self.here()?;
        // Any stream of any device may copy from it.
        // SAFETY: it is written just below, before anybody reads it
        match unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE) } {
            Ok(memory) => {
                let memory = memory.cast::<u8>();
                // SAFETY: so many bytes lie there
                unsafe { memory.write_bytes(0, bytes) };
                Ok(memory)
            }
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(TensorError::Memory { device: "the host".to_owned(), bytes })
            }
            Err(error) => Err(self.shared.failed(error)),
        }
    }

    fn free_pinned(&self, memory: *mut u8, _bytes: usize) {
        // SAFETY: `allocate_pinned` gave it, and its one owner is gone
        let freed = self.here().and_then(|_| self.done(unsafe { result::free_host(memory.cast()) }));
        if let Err(error) = freed {
            tracing::error!(%error, "pinned memory could not be given back");
        }
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        let stream = self.here()?;
        // SAFETY: a buffer of so many bytes lies there
        self.done(unsafe { result::memset_d8_async(address, 0, bytes, stream) })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let stream = self.here()?;
        // SAFETY: a buffer of so many bytes lies there. Memory that is not pinned is copied by the driver before this
        // returns, so the source may change; but for devices that read it themselves.
        self.done(unsafe { result::memcpy_htod_async(address, bytes, stream) })?;
        if self.shared.coherent { self.wait() } else { Ok(()) }
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let stream = self.here()?;
        // SAFETY: a buffer of so many bytes lies there, and the copy is over before `bytes` is anybody else's
        self.done(unsafe { result::memcpy_dtoh_async(bytes, address, stream) })?;
        self.wait()
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        let stream = self.here()?;
        // SAFETY: two buffers of so many bytes lie there
        self.done(unsafe { result::memcpy_dtod_async(to, from, bytes, stream) })
    }

    fn wait(&self) -> Result<()> {
        self.here()?;
        self.done(self.stream.synchronize())
    }

    fn free_bytes(&self) -> Result<u64> {
        self.here()?;
        match result::mem_get_info() {
            Ok((free, _)) => Ok(free as u64),
            Err(error) => Err(self.shared.failed(error)),
        }
    }

    unsafe fn launch(&self, kernel: &str, shape: Shape, arguments: &mut [*mut c_void]) -> Result<()> {
        let (stream, function) = (self.here()?, self.shared.kernel(kernel)?);
        let Shape { grid: [x, y, z], block, shared } = shape;
        // SAFETY: the caller's promise
        let launched = unsafe {
            result::launch_kernel(function, (x, y, z), (block, 1, 1), shared as u32, stream, arguments)
        };
        launched.map_err(|error| TensorError::Device {
            device: self.shared.name.clone(),
            what: format!("{kernel}: {}", explained(error)),
        })
    }

    unsafe fn multiply(&self, product: &Product) -> Result<()> {
        let stream = self.here()?;
        // SAFETY: the caller's promise
        unsafe { self.matmul.enqueue(product, stream.cast()) }
    }

    fn begin_recording(&self) -> Result<()> {
        self.here()?;
        // Other threads go on with theirs meanwhile.
        self.done(self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED))
    }

    fn end_recording(&self) -> Result<Box<dyn Recorded>> {
        self.here()?;
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        let graph = graph.map_err(|error| self.shared.failed(error))?;
        let nothing = || TensorError::Device {
            device: self.shared.name.clone(),
            what: "nothing was recorded".to_owned(),
        };
        Ok(Box::new(Recording { graph: graph.ok_or_else(nothing)?, shared: Arc::clone(&self.shared) }))
    }

    fn fork(&self) -> Result<Box<dyn Driver>> {
        Ok(Box::new(Self::on(Arc::clone(&self.shared))?))
    }
}

/// A CUDA graph, and what its kernels live in.
struct Recording {
    graph: CudaGraph,
    shared: Arc<Shared>,
}

// SAFETY: the thread that owns the stream owns the graph, too, and one thread at a time has either
unsafe impl Send for Recording {}

impl Recorded for Recording {
    fn replay(&self) -> Result<()> {
        self.shared.enter()?;
        self.graph.launch().map_err(|error| self.shared.failed(error))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // what is enqueued may still use the workspace
        let _ = self.wait();
    }
}
