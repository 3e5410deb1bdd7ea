//! Attaching a hand-written backward pass to a tensor that was computed by any means.
//!
//! candle records a backward pass only for operations that it executes itself. The operation here
//! "executes" by handing over a result that exists already (on the CPU without copying it), so both
//! directions can be written with ordinary tensors and run on every device.

use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, InplaceOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor,
    Var, bail,
};

use super::cuda;

/// `y` as a function of `x`, with the gradient that `backward` maps from that of `y`.
///
/// `y` must own its storage, i.e. be freshly computed and not a view.
pub(crate) fn with_backward(
    x: &Tensor,
    y: Tensor,
    backward: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !x.track_op() {
        return Ok(y);
    }
    x.apply_op1(Given::new(y, Box::new(move |_, dy| Ok([Some(backward(dy)?), None, None])))?)
}

/// `y`, an untracked tensor of the shape of `x`, with the gradient as if it were `x` and something constant.
///
/// # Errors
/// If shapes do not fit.
pub fn with_gradient_of(x: &Tensor, y: Tensor) -> Result<Tensor> {
    with_backward(x, y, |dy| Ok(dy.clone()))
}

/// Like [`with_backward`] for two inputs; what is given to an input that is not tracked is dropped.
pub(crate) fn with_backward2(
    [a, b]: [&Tensor; 2],
    y: Tensor,
    backward: impl Fn(&Tensor) -> Result<[Option<Tensor>; 2]> + Send + Sync + 'static,
) -> Result<Tensor> {
    with_backward3([a, b, &a.detach()], y, move |_, dy| {
        let [da, db] = backward(dy)?;
        Ok([da, db, None])
    })
}

/// Like [`with_backward2`] for three inputs; `backward` is given the result and its gradient.
pub(crate) fn with_backward3(
    inputs: [&Tensor; 3],
    y: Tensor,
    backward: impl Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync + 'static,
) -> Result<Tensor> {
    let [a, b, c] = inputs;
    if !inputs.iter().any(|t| t.track_op()) {
        return Ok(y);
    }
    let tracked = inputs.map(Tensor::track_op);
    let backward = move |y: &Tensor, dy: &Tensor| -> Result<[Option<Tensor>; 3]> {
        let mut grads = backward(y, dy)?;
        for (grad, tracked) in grads.iter_mut().zip(tracked) {
            grad.take_if(|_| !tracked);
        }
        Ok(grads)
    };
    a.apply_op3(b, c, Given::new(y, Box::new(backward))?)
}

/// An input for those that have fewer than an operation takes. One number, since no device has to know empty tensors.
pub(crate) fn nothing(like: &Tensor) -> Result<Tensor> {
    Tensor::zeros(1, like.dtype(), like.device())
}

/// `f(x)` that keeps nothing but `x`: the backward pass computes `f` once more.
pub(crate) fn recompute(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Result<Tensor> {
    let kept = x.detach();
    let y = f(&kept)?;
    with_backward(x, y, move |dy| gradient_at(&kept, dy, &f))
}

/// All gradients from `dy`, that of `y`: of a number whose gradient `dy` is, as candle begins with 1.
fn gradients(y: &Tensor, dy: &Tensor) -> Result<GradStore> {
    let dy = dy.to_dtype(y.dtype())?;
    with_backward(y, nothing(y)?, move |_| Ok(dy.clone()))?.backward()
}

/// The gradient of `x` from `dy`, that of `f(x)`.
pub(crate) fn gradient_at(x: &Tensor, dy: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let variable = Var::from_tensor(x)?;
    let mut grads = gradients(&f(variable.as_tensor())?, dy)?;
    grads.remove(&variable).map_or_else(|| x.zeros_like(), Ok)
}

/// Like [`recompute`] for three inputs.
pub(crate) fn recompute3(
    inputs: [&Tensor; 3],
    f: impl Fn([&Tensor; 3]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let kept = inputs.map(|t| t.detach());
    let y = f(kept.each_ref())?;
    with_backward3(inputs, y, move |_, dy| {
        let vars = [Var::from_tensor(&kept[0])?, Var::from_tensor(&kept[1])?, Var::from_tensor(&kept[2])?];
        let mut grads = gradients(&f(vars.each_ref().map(|v| v.as_tensor()))?, dy)?;
        Ok(vars.each_ref().map(|v| grads.remove(v)))
    })
}

/// Maps the result and its gradient to those of the inputs.
type Backward = Box<dyn Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync>;

struct Given {
    result: Mutex<Option<Tensor>>,
    shape: Shape,
    backward: Backward,
}

impl Given {
    fn new(result: Tensor, backward: Backward) -> Result<Self> {
        let result = result.contiguous()?;
        Ok(Self { shape: result.shape().clone(), result: Mutex::new(Some(result)), backward })
    }

    fn take(&self) -> Result<Tensor> {
        match self.result.lock().ok().and_then(|mut slot| slot.take()) {
            Some(result) => Ok(result),
            None => bail!("the result of an operation was asked for twice"),
        }
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        let out = Out::<CpuStorage>::default();
        self.take()?.inplace_op1(&out)?;
        match out.0.into_inner() {
            Ok(Some(storage)) => Ok((storage, self.shape.clone())),
            _ => bail!("the result of an operation is not on the CPU"),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        let out = Out::<CudaStorage>::default();
        self.take()?.inplace_op1(&out)?;
        match out.0.into_inner() {
            Ok(Some(storage)) => Ok((storage, self.shape.clone())),
            _ => bail!("the result of an operation is not on the CUDA device"),
        }
    }

    fn metal(&self) -> Result<(MetalStorage, Shape)> {
        let result = self.take()?;
        match &*result.storage_and_layout().0 {
            Storage::Metal(storage) => Ok((storage.try_clone(result.layout())?, self.shape.clone())),
            _ => bail!("the result of an operation is not on the Metal device"),
        }
    }
}

/// Moves the storage out of a tensor that nobody else holds.
struct Out<T>(Mutex<Option<T>>);

impl<T> Default for Out<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl InplaceOp1 for Out<CudaStorage> {
    fn name(&self) -> &'static str {
        "take-storage"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("the result of an operation is on the CPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> Result<()> {
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some(cuda::take(storage)?);
        }
        Ok(())
    }
}

impl InplaceOp1 for Out<CpuStorage> {
    fn name(&self) -> &'static str {
        "take-storage"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        let empty = match storage {
            CpuStorage::F32(_) => CpuStorage::F32(Vec::new()),
            CpuStorage::BF16(_) => CpuStorage::BF16(Vec::new()),
            CpuStorage::F16(_) => CpuStorage::F16(Vec::new()),
            CpuStorage::F64(_) => CpuStorage::F64(Vec::new()),
            _ => bail!("only floating-point results have gradients"),
        };
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some(std::mem::replace(storage, empty));
        }
        Ok(())
    }
}

impl CustomOp1 for Given {
    fn name(&self) -> &'static str {
        "given"
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }
    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }
    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let [dx, _, _] = (self.backward)(y, &dy.contiguous()?)?;
        Ok(dx)
    }
}

impl CustomOp3 for Given {
    fn name(&self) -> &'static str {
        "given"
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }
    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }
    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = (self.backward)(y, &dy.contiguous()?)?;
        Ok((da, db, dc))
    }
}
