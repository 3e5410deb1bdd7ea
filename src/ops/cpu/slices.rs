//! Borrowing the numbers of CPU tensors.

use candle_core::{Device, Result, Shape, Storage, StorageRef, Tensor, bail};

/// A new CPU tensor of `shape` made by `f` from the contiguous values of `inputs`.
///
/// # Errors
/// If an input is not an f32 tensor on the CPU.
pub(crate) fn from_slices<const N: usize>(
    inputs: [&Tensor; N],
    shape: impl Into<Shape>,
    f: impl FnOnce([&[f32]; N]) -> Vec<f32>,
) -> Result<Tensor> {
    let values = with_slices(inputs, f)?;
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// What `f` makes of the contiguous values of `inputs`.
pub(crate) fn with_slices<const N: usize, T>(inputs: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let mut contiguous = Vec::with_capacity(N);
    for input in inputs {
        contiguous.push(input.contiguous()?);
    }
    let guards: Vec<_> = contiguous.iter().map(|t| t.storage_and_layout()).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, ((storage, layout), tensor)) in slices.iter_mut().zip(guards.iter().zip(&contiguous)) {
        let offset = layout.start_offset();
        *slice = &values(storage)?[offset..offset + tensor.elem_count()];
    }
    Ok(f(slices))
}

fn values<'a>(storage: &'a StorageRef<'_>) -> Result<&'a [f32]> {
    match &**storage {
        Storage::Cpu(storage) => storage.as_slice::<f32>(),
        _ => bail!("expected a tensor on the CPU"),
    }
}
