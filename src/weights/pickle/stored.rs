//! Where a pickle says that a tensor lies beside it, and what is there.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

/// Where a tensor lies.
pub(super) struct Stored {
    /// The name of its storage.
    pub key: String,
    pub dtype: DType,
    /// In values, as are the strides.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl Stored {
    /// Its values out of its storage's bytes.
    pub(super) fn read(&self, storage: &[u8]) -> Result<Tensor> {
        let width = self.dtype.size_in_bytes();
        // so that it takes no more room than it has in the file
        let count = self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let count = count.filter(|&count| count <= storage.len() / width).context("it is larger than its values")?;
        let mut chosen = Vec::with_capacity(count * width);
        for index in 0..count {
            let (mut rest, mut place) = (index, Some(self.offset));
            for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
                place = place.and_then(|place| place.checked_add((rest % size).checked_mul(stride)?));
                rest /= size;
            }
            let start = place.and_then(|place| place.checked_mul(width)).unwrap_or(usize::MAX);
            let value =
                storage.get(start..).and_then(|values| values.get(..width)).context("it lies beyond its values")?;
            chosen.extend_from_slice(value);
        }
        Ok(Tensor::from_raw_buffer(&chosen, self.dtype, &self.shape, &Device::Cpu)?)
    }
}
