//! Products of matrices by cuBLASLt, each with what is added to it in the same launch.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::hash_map::{Entry, HashMap};
use std::ffi::c_void;

use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda_backend::{DeviceId, gemm_reduced_precision_f32};
use candle_core::{CudaDevice, DType, Error, Result, Tensor, bail};

use super::launch::{address, device, room, start};

/// A tensor as a matrix, or its transposed.
pub(super) struct Matrix<'a> {
    values: Cow<'a, Tensor>,
    rows: usize,
    width: usize,
    /// Values from one row to the next.
    pitch: usize,
    turned: bool,
}

impl<'a> Matrix<'a> {
    /// `x` [..., width] as rows; a copy of it where they do not lie equally far from each other.
    pub(super) fn of(x: &'a Tensor) -> Result<Self> {
        let (dims, strides) = (x.dims(), x.stride());
        let Some((&width, outer)) = dims.split_last() else { bail!("a number is no matrix") };
        let rows = outer.iter().product();
        let pitch = outer.iter().zip(strides).rev().find(|(side, _)| **side > 1).map_or(width, |(_, stride)| *stride);
        let mut next = pitch;
        let even = outer.iter().zip(strides).rev().all(|(&side, &stride)| {
            let follows = side == 1 || stride == next;
            next *= side;
            follows
        });
        if even && pitch >= width && (strides[outer.len()] == 1 || width == 1) {
            return Ok(Self { values: Cow::Borrowed(x), rows, width, pitch, turned: false });
        }
        Ok(Self { values: Cow::Owned(x.contiguous()?), rows, width, pitch: width, turned: false })
    }

    /// How many there are, as they lie.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// What it is of.
    pub(super) fn values(&self) -> &Tensor {
        &self.values
    }

    /// Its transposed.
    pub(super) fn turned(self) -> Self {
        Self { turned: !self.turned, ..self }
    }

    /// Rows and columns.
    fn sides(&self) -> (usize, usize) {
        if self.turned { (self.width, self.rows) } else { (self.rows, self.width) }
    }

    fn tensor(&self) -> Result<Tensor> {
        let rows = self.values.reshape((self.rows, self.width))?;
        if self.turned { rows.t() } else { Ok(rows) }
    }
}

/// What is added to a product, of its type.
#[derive(Clone, Copy, Default)]
pub(super) struct Added<'a> {
    /// `[n]`, to each row.
    pub(super) bias: Option<&'a Tensor>,
    /// [m, n], in any shape.
    pub(super) residual: Option<&'a Tensor>,
}

/// All that the library chooses an algorithm by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    /// Of the left and the right side.
    pitches: [usize; 2],
    turned: [bool; 2],
    /// Of both sides, and of the result.
    types: [DType; 2],
    /// Products of f32 have 10 bits of mantissa.
    rounded: bool,
    biased: bool,
    /// Bytes to which the right and the left side, what is added and the result are aligned.
    aligned: [u32; 4],
}

/// How a product is computed; what the library made for it goes with it.
struct Plan {
    way: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
    result: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library on a device.
struct Library {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    /// None where it has no algorithm.
    plans: HashMap<Shape, Option<Plan>>,
}

thread_local! {
    /// Those of a thread's devices. A device's stream is its thread's, so the workspace is too; and a card whose worker
    /// has ended is free.
    static LIBRARIES: RefCell<HashMap<DeviceId, Library>> = RefCell::default();
}

/// What NVIDIA advises for Hopper; others do with less.
const WORKSPACE: usize = 32 << 20;

/// left [m, k] right [k, n] with what is `added`, [m, n] in `dtype`: that of both sides, or f32.
pub(super) fn product(left: &Matrix, right: &Matrix, added: Added, dtype: DType) -> Result<Tensor> {
    let ((m, k), (rows, n)) = (left.sides(), right.sides());
    let types = [left.values.dtype(), dtype];
    if k != rows || right.values.dtype() != types[0] {
        bail!("a product of {m} x {k} values of {:?} and {rows} x {n} of {:?}", types[0], right.values.dtype());
    }
    let device = device(&left.values)?;
    // SAFETY: the product writes all of it
    let y = unsafe { room(&left.values, (m, n), dtype)? };
    let residual = added.residual.map(Tensor::contiguous).transpose()?;
    let to = address(&y)?;
    let (at_right, at_left) = (start(&right.values)?, start(&left.values)?);
    let addend = residual.as_ref().map_or(Ok(to), address)?;
    let bias = added.bias.map(address).transpose()?;
    let composed = || composed(left, right, Added { residual: residual.as_ref(), ..added }, dtype);
    if bias.is_some_and(|bias| !bias.is_multiple_of(16)) {
        return composed(); // the library is not told how biases are aligned
    }
    let shape = Shape {
        m,
        n,
        k,
        pitches: [left.pitch, right.pitch],
        turned: [left.turned, right.turned],
        types,
        rounded: types[0] == DType::F32 && gemm_reduced_precision_f32(),
        biased: bias.is_some(),
        aligned: [at_right, at_left, addend, to].map(|address| 1 << address.trailing_zeros().min(8)),
    };
    LIBRARIES.with_borrow_mut(|libraries| {
        let Library { handle, workspace, plans } = match libraries.entry(device.id()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => place.insert(Library::new(&device)?),
        };
        let plan = match plans.entry(shape) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => place.insert(Plan::find(*handle, &shape, bias)?),
        };
        let Some(plan) = plan else { return composed() };
        plan.add_bias(bias)?;
        let (one, beta) = (1f32, residual.is_some() as u8 as f32);
        let stream = device.cuda_stream();
        // SAFETY: the matrices are of the sizes that the plan was made for, and live: the stream runs in order
        unsafe {
            result::matmul(
                *handle,
                plan.way,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                at_right as *const c_void,
                plan.right,
                at_left as *const c_void,
                plan.left,
                addend as *const c_void,
                plan.result,
                to as *mut c_void,
                plan.result,
                &plan.algorithm,
                workspace.device_ptr(&stream).0 as *mut c_void,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
        .map_err(Error::wrap)?;
        Ok(y.clone())
    })
}

/// The same of candle's operations.
fn composed(left: &Matrix, right: &Matrix, added: Added, dtype: DType) -> Result<Tensor> {
    let mut y = left.tensor()?.matmul(&right.tensor()?)?.to_dtype(dtype)?;
    if let Some(bias) = added.bias {
        y = y.broadcast_add(bias)?;
    }
    match added.residual {
        Some(residual) => &y + residual.reshape(y.shape())?,
        None => Ok(y),
    }
}

impl Library {
    fn new(device: &CudaDevice) -> Result<Self> {
        // SAFETY: nobody reads what is in it before the library has written it
        let workspace = unsafe { device.alloc::<u8>(WORKSPACE)? };
        let handle = result::create_handle().map_err(Error::wrap)?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: it was made for this, and nobody else has it. An error of a library that goes is nobody's.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: they were made for this, and nobody else has them
        unsafe {
            let _ = result::destroy_matmul_desc(self.way);
            for layout in [self.left, self.right, self.result] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Plan {
    /// The fastest way that the library knows, if it knows any. `bias` is where the first one lies.
    fn find(handle: sys::cublasLtHandle_t, shape: &Shape, bias: Option<u64>) -> Result<Option<Self>> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let how = match shape.rounded {
            true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let kind = |dtype| match dtype {
            DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
            DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
            other => bail!("no product of {other:?}"),
        };
        let layout = |dtype: DType, (rows, columns): (usize, usize), pitch: usize| -> Result<_> {
            result::create_matrix_layout(kind(dtype)?, rows as u64, columns as u64, pitch as i64).map_err(Error::wrap)
        };
        // the library counts columns first: to it our rows are columns, and the right side comes first
        let across = |turned: bool, rows: usize, columns: usize| if turned { (rows, columns) } else { (columns, rows) };
        let Shape { m, n, k, pitches, turned, types, .. } = *shape;
        let mut plan = Self {
            way: result::create_matmul_desc(how, sys::cudaDataType_t::CUDA_R_32F).map_err(Error::wrap)?,
            left: layout(types[0], across(turned[0], m, k), pitches[0])?,
            right: layout(types[0], across(turned[1], k, n), pitches[1])?,
            result: layout(types[1], (n, m), n)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, turned[1] as u32)?;
        plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, turned[0] as u32)?;
        if shape.biased {
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
        }
        plan.add_bias(bias)?;
        let wanted = result::create_matmul_pref().map_err(Error::wrap)?;
        let want = |attribute, value: *const c_void, size| {
            // SAFETY: it was made above, and the value has that size
            unsafe { result::set_matmul_pref_attribute(wanted, attribute, value, size) }.map_err(Error::wrap)
        };
        let room = WORKSPACE;
        want(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const room).cast(), size_of::<usize>())?;
        let sides = [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        for (side, aligned) in sides.into_iter().zip(&shape.aligned) {
            want(side, (&raw const *aligned).cast(), size_of::<u32>())?;
        }
        let (way, left, right, result) = (plan.way, plan.left, plan.right, plan.result);
        // SAFETY: all of them were made above
        let found = unsafe {
            let found = result::get_matmul_algo_heuristic(handle, way, right, left, result, result, wanted);
            result::destroy_matmul_pref(wanted).map_err(Error::wrap)?;
            found
        };
        match found {
            Ok(found) => {
                plan.algorithm = found.algo;
                Ok(Some(plan))
            }
            Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => Ok(None),
            Err(error) => Err(Error::wrap(error)),
        }
    }

    fn add_bias(&self, bias: Option<u64>) -> Result<()> {
        let pointer = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        bias.map_or(Ok(()), |bias| self.set(pointer, bias))
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: T) -> Result<()> {
        // SAFETY: it lives, and the value is copied
        unsafe { result::set_matmul_desc_attribute(self.way, attribute, (&raw const value).cast(), size_of::<T>()) }
            .map_err(Error::wrap)
    }
}
