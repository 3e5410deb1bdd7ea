//! One AdamW step of all trained variables together.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::launch::{Launch, Module, address, module, room};
use crate::ops::adamw::{Settings, Trained};

const ADAMW: Module = module!("adamw");

/// Values that a block takes.
const PIECE: usize = 1 << 14;

/// Numbers of 8 bytes that the kernels know of a variable.
const COLUMNS: usize = 7;

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Stepping {
    first_keep: f32,
    first_share: f32,
    second_keep: f32,
    second_share: f32,
    root: f32,
    eps: f32,
    rate: f64,
    shrink: f64,
    most: f64,
}

// SAFETY: plain numbers
unsafe impl DeviceRepr for Stepping {}

/// Clips, and updates values and moments in place unless the norm is not finite; the norm of all gradients before
/// clipping, `[1]` in f64 on the device.
pub(crate) fn step(trained: &mut [Trained], settings: &Settings, step: usize) -> Result<Tensor> {
    let Some(first) = trained.first() else { candle_core::bail!("nothing is trained") };
    let device = first.value.as_tensor().clone();
    let mut grads = Vec::with_capacity(trained.len());
    let mut table = Vec::with_capacity(COLUMNS * trained.len());
    let mut pieces = 0;
    for Trained { value, grad, moments, multiplier } in trained.iter() {
        let grad = grad.to_dtype(DType::F32)?.contiguous()?;
        let addresses = [address(value.as_tensor())?, address(&grad)?, address(&moments[0])?, address(&moments[1])?];
        table.extend(addresses.map(|address| address as i64));
        table.extend([value.elem_count() as i64, pieces as i64, multiplier.to_bits() as i64]);
        pieces += value.elem_count().div_ceil(PIECE);
        grads.push(grad);
    }
    let table = Tensor::from_vec(table, COLUMNS * trained.len(), device.device())?;
    let (keep, rest) = (settings.betas, (1. - settings.betas.0, 1. - settings.betas.1));
    let corrections = settings.corrections(step);
    let stepping = Stepping {
        first_keep: keep.0 as f32,
        first_share: rest.0 as f32,
        second_keep: keep.1 as f32,
        second_share: rest.1 as f32,
        root: corrections.1.sqrt() as f32,
        eps: settings.eps as f32,
        rate: settings.learning_rate / corrections.0,
        shrink: settings.learning_rate * settings.weight_decay,
        most: settings.max_grad_norm,
    };
    // SAFETY: the kernels write both
    let (squares, norm) = unsafe { (room(&device, pieces, DType::F64)?, room(&device, 1, DType::F64)?) };
    let launch =
        |name: &str| Launch::new(&ADAMW, name, &device)?.tensor(&table)?.value(trained.len() as i32).tensor(&squares);
    // SAFETY: the kernels' arguments; nobody else reads variables and moments meanwhile
    unsafe {
        launch("gradient_squares")?.run([pieces, 1, 1], 256, 64)?;
        launch("adamw")?.tensor(&norm)?.value(stepping).run([pieces, 1, 1], 256, 64)?;
    }
    Ok(norm)
}
