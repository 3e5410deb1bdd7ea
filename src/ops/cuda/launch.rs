//! Launching kernels on tensors.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, sys,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Shape, Storage, Tensor, bail};
use half::bf16;

/// The compiled kernels of a file.
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) ptx: &'static str,
}

/// Those of the file of that name.
macro_rules! module {
    ($name:literal) => {
        $crate::ops::cuda::launch::Module {
            name: $name,
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")),
        }
    };
}
pub(super) use module;

/// Shared memory that a kernel gets without being asked for more.
const USUAL_SHARED: usize = 48 << 10;

/// A launch in the making: a kernel and its arguments in order.
pub(super) struct Launch {
    function: CudaFunction,
    stream: Arc<CudaStream>,
    /// Each in words of its own, padded: the driver reads as many bytes as the kernel's parameter has.
    arguments: Vec<Vec<u64>>,
}

impl Launch {
    /// Kernel `name` on the device of `like`.
    pub(super) fn new(module: &Module, name: &str, like: &Tensor) -> Result<Self> {
        let device = device(like)?;
        let function = device.get_or_load_custom_func(name, module.name, module.ptx)?.into_cuda_function();
        Ok(Self { function, stream: device.cuda_stream(), arguments: Vec::new() })
    }

    /// A contiguous tensor, which must live until the launch; an argument that is a pointer.
    pub(super) fn tensor(self, t: &Tensor) -> Result<Self> {
        let address = address(t)?;
        Ok(self.value(address))
    }

    /// One that may be missing.
    pub(super) fn maybe(self, t: Option<&Tensor>) -> Result<Self> {
        match t {
            Some(t) => self.tensor(t),
            None => Ok(self.value(0u64)),
        }
    }

    /// A number, or a structure as the kernel declares it.
    pub(super) fn value<T: DeviceRepr + Copy>(mut self, value: T) -> Self {
        let mut words = vec![0u64; size_of::<T>().div_ceil(8)];
        // SAFETY: as many bytes as the value has, in memory that is at least as aligned
        unsafe { words.as_mut_ptr().cast::<T>().write(value) };
        self.arguments.push(words);
        self
    }

    /// Launches blocks of `threads` with `shared` bytes of dynamic shared memory.
    ///
    /// # Safety
    /// The arguments must be the kernel's, and what it writes of the size that it writes.
    pub(super) unsafe fn run(self, grid: [usize; 3], threads: usize, shared: usize) -> Result<()> {
        if shared > USUAL_SHARED {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            self.function.set_attribute(attribute, shared as i32).w()?;
        }
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (threads as u32, 1, 1), shared_mem_bytes: shared as u32 };
        let mut builder = self.stream.launch_builder(&self.function);
        for words in &self.arguments {
            builder.arg(&words[0]);
        }
        // SAFETY: the caller's
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    /// Launches a thread for each of `count` values.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    pub(super) unsafe fn over(self, count: usize) -> Result<()> {
        // SAFETY: the caller's
        unsafe { self.run([count.div_ceil(256), 1, 1], 256, 0) }
    }
}

/// The device that a tensor is on.
pub(super) fn device(t: &Tensor) -> Result<CudaDevice> {
    match t.device() {
        Device::Cuda(device) => Ok(device.clone()),
        _ => bail!("expected a tensor on the CUDA device"),
    }
}

/// Where the first value of a contiguous tensor lies.
pub(super) fn address(t: &Tensor) -> Result<u64> {
    if !t.is_contiguous() {
        bail!("a kernel was given a tensor of {:?} that is not contiguous", t.dims());
    }
    start(t)
}

/// Where a tensor's first value lies.
pub(super) fn start(t: &Tensor) -> Result<u64> {
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("expected a tensor on the CUDA device") };
    let stream = storage.device().cuda_stream();
    let first = match storage.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        DType::F64 => storage.as_cuda_slice::<f64>()?.device_ptr(&stream).0,
        DType::I64 => storage.as_cuda_slice::<i64>()?.device_ptr(&stream).0,
        other => bail!("no kernel takes {other:?}"),
    };
    Ok(first + (layout.start_offset() * t.dtype().size_in_bytes()) as u64)
}

/// A tensor that a kernel is about to write, like `like` in all but its shape and type.
///
/// # Safety
/// All of it must be written before it is read.
pub(super) unsafe fn room(like: &Tensor, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let (device, shape) = (device(like)?, shape.into());
    let count = shape.elem_count();
    // SAFETY: the caller's
    let storage = unsafe {
        match dtype {
            DType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(count)?, device),
            DType::BF16 => CudaStorage::wrap_cuda_slice(device.alloc::<bf16>(count)?, device),
            DType::F64 => CudaStorage::wrap_cuda_slice(device.alloc::<f64>(count)?, device),
            other => bail!("no kernel writes {other:?}"),
        }
    };
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

/// `name_f32` or `name_bf16`.
pub(super) fn typed(name: &str, dtype: DType) -> Result<String> {
    Ok(match dtype {
        DType::F32 => format!("{name}_f32"),
        DType::BF16 => format!("{name}_bf16"),
        other => bail!("{name} has no kernel for {other:?}"),
    })
}

/// `t`, contiguous and of that type.
pub(super) fn plain(t: &Tensor, dtype: DType) -> Result<Tensor> {
    t.detach().to_dtype(dtype)?.contiguous()
}
