//! Products of large matrices by cuBLASLt, each shape planned once.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver;

use super::gemm::{Product, ProductShape};
use crate::tensor::encoding::ElementType;
use crate::tensor::error::{Result, TensorError};

/// cuBLASLt for one stream: a workspace must not be shared between streams.
pub(super) struct Matmul {
    device: String,
    handle: Handle,
    workspace: driver::sys::CUdeviceptr,
    workspace_bytes: usize,
    // Guards the plans made so far. One thread owns the stream, so nobody waits for it; the type cannot know that.
    plans: Mutex<HashMap<ProductShape, Plan>>,
}

/// cuBLASLt on one device. It is never given back: that would wait for the whole device.
#[derive(Clone, Copy)]
pub(super) struct Handle(sys::cublasLtHandle_t);

// SAFETY: cuBLASLt may be called from any thread, by one handle, too
unsafe impl Send for Handle {}
// SAFETY: as above
unsafe impl Sync for Handle {}

/// The oldest cuBLASLt whose interface this is: CUDA 13's.
const OLDEST: usize = 130_000;

impl Handle {
    /// The calling thread has the device's context.
    pub(super) fn new(device: &str) -> Result<Self> {
        let failed = |what: String| TensorError::Device { device: device.to_owned(), what };
        // SAFETY: it gives a number
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < OLDEST {
            let what = format!(
                "the libcublasLt that is found first is version {version}, older than {OLDEST}: install CUDA 13's cuBLAS, or \
                 name its folder first in LD_LIBRARY_PATH"
            );
            return Err(failed(what));
        }
        Ok(Self(result::create_handle().map_err(|error| failed(format!("cuBLASLt: {error}")))?))
    }
}

// SAFETY: plans and workspace are used by one thread at a time, the stream's owner
unsafe impl Send for Matmul {}
// SAFETY: as above
unsafe impl Sync for Matmul {}

/// `CUBLAS_OP_T`, which these bindings do not name.
const TRANSPOSED: i32 = 1;

/// How a shape is computed.
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    /// Of the weight, of `x` and of `y`.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Matmul {
    /// The calling thread has the device's context.
    pub(super) fn new(device: &str, handle: Handle, compute_capability_major: i32) -> Result<Self> {
        // as NVIDIA's documentation of cublasLt advises
        let workspace_bytes = if compute_capability_major >= 9 { 32 << 20 } else { 4 << 20 };
        // SAFETY: cuBLASLt writes it before it reads it
        let workspace = unsafe { driver::result::malloc_sync(workspace_bytes) };
        let workspace = workspace
            .map_err(|_| TensorError::Memory { device: device.to_owned(), bytes: workspace_bytes })?;
        Ok(Self { device: device.to_owned(), handle, workspace, workspace_bytes, plans: Mutex::default() })
    }

    /// Enqueues a product on the stream of this workspace.
    ///
    /// # Safety
    /// Matrices of the product's shape lie at its addresses and stay there until the work is done; the calling thread
    /// has the device's context.
    pub(super) unsafe fn enqueue(&self, product: &Product, stream: sys::cudaStream_t) -> Result<()> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(product.shape) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(self.plan(product.shape).map_err(|error| self.failed(product.shape, error))?)
            }
        };
        let Plan { operation, layouts: [weight, x, y], algorithm } = plan;
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the plan is of this shape; the caller promised the addresses
        let enqueued = unsafe {
            result::matmul(
                self.handle.0,
                *operation,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                product.weight as *const c_void,
                *weight,
                product.x as *const c_void,
                *x,
                product.y as *const c_void,
                *y,
                product.y as *mut c_void,
                *y,
                ptr::from_ref(algorithm),
                self.workspace as *mut c_void,
                self.workspace_bytes,
                stream,
            )
        };
        enqueued.map_err(|error| self.failed(product.shape, error))
    }

    /// cuBLASLt counts columns first. There `y = x Wᵀ` of rows is `Y = Wᵀ' X` of columns: W is `[width, outs]` and is
    /// turned, X is `[width, rows]`, and Y is `[outs, rows]`.
    fn plan(&self, shape: ProductShape) -> std::result::Result<Plan, CublasError> {
        let ProductShape { rows, outs, y_stride, width, element, out } = shape;
        let (rows, outs, width) = (rows as u64, outs as u64, width as u64);
        let (compute, scale) =
            (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        let operation = result::create_matmul_desc(compute, scale)?;
        // SAFETY: the descriptor is new, and the attribute is read from where it lies
        unsafe {
            result::set_matmul_desc_attribute(
                operation,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                ptr::from_ref(&TRANSPOSED).cast(),
                size_of_val(&TRANSPOSED),
            )?;
        }
        let layouts = [
            result::create_matrix_layout(data_type(element), width, outs, width as i64)?,
            result::create_matrix_layout(data_type(element), width, rows, width as i64)?,
            result::create_matrix_layout(data_type(out), outs, rows, y_stride as i64)?,
        ];
        let preference = result::create_matmul_pref()?;
        // SAFETY: all descriptors are new and of this shape
        let found = unsafe {
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                ptr::from_ref(&self.workspace_bytes).cast(),
                size_of::<usize>(),
            )?;
            let [weight, x, y] = layouts;
            let found =
                result::get_matmul_algo_heuristic(self.handle.0, operation, weight, x, y, y, preference);
            result::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Plan { operation, layouts, algorithm: found.algo })
    }

    fn failed(&self, shape: ProductShape, error: CublasError) -> TensorError {
        TensorError::Device { device: self.device.clone(), what: format!("cuBLASLt: {error} for {shape:?}") }
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        for (_, Plan { operation, layouts, .. }) in
            self.plans.get_mut().unwrap_or_else(PoisonError::into_inner).drain()
        {
            // SAFETY: the plan made them, and nobody else has them
            unsafe {
                let _ = result::destroy_matmul_desc(operation);
                for layout in layouts {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
        }
        // SAFETY: the same; freeing waits for the work that uses it
        unsafe {
            let _ = driver::result::free_sync(self.workspace);
        }
    }
}

const fn data_type(element: ElementType) -> sys::cudaDataType_t {
    match element {
        ElementType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        ElementType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        ElementType::F32 => sys::cudaDataType_t::CUDA_R_32F,
    }
}
