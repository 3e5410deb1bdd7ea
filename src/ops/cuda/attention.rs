//! Attention that keeps no map, in bf16.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::launch::{Launch, Module, module, plain, room};
use crate::ops::attention::Sizes;

const FORWARD: Module = module!("attention");
const BACKWARD: Module = module!("attention_backward");

/// Widths of a head that kernels are compiled for.
const WIDTHS: [usize; 6] = [16, 32, 48, 64, 80, 160];

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attending {
    batch: i32,
    queries: i32,
    keys: i32,
    heads: i32,
    head: i32,
    sharing: i32,
    causal: i32,
    fixed: i32,
    pitch: i32,
    scale: f32,
}

// SAFETY: plain numbers
unsafe impl DeviceRepr for Attending {}

/// What the backward pass needs beside the inputs and the result.
pub(crate) struct Kept {
    /// The logarithm of the softmax's sum [batch, heads, queries].
    log_sums: Tensor,
    /// Each head's attention to the column [batch, heads, queries], if there is one.
    columns: Option<Tensor>,
}

impl Sizes {
    fn attending(&self, pitch: usize) -> Attending {
        Attending {
            batch: self.batch as i32,
            queries: self.queries as i32,
            keys: self.keys as i32,
            heads: self.heads as i32,
            head: self.head() as i32,
            sharing: self.sharing as i32,
            causal: self.causal as i32,
            fixed: self.fixed as i32,
            pitch: pitch as i32,
            scale: self.scale(),
        }
    }

    /// The width that its kernels are compiled for.
    fn compiled(&self) -> Option<usize> {
        WIDTHS.into_iter().find(|&width| self.head() <= width && self.head().is_multiple_of(8))
    }
}

/// Whether there is a kernel for an attention of `q`.
pub(crate) fn serves(sizes: &Sizes, q: &Tensor) -> bool {
    q.dtype() == DType::BF16 && sizes.compiled().is_some()
}

/// Bytes of `rows` rows of a head in shared memory.
fn rows_bytes(rows: usize, width: usize) -> usize {
    rows * (width + 8) * 2
}

fn width(sizes: &Sizes) -> Result<usize> {
    sizes.compiled().ok_or_else(|| candle_core::Error::msg(format!("no kernel for heads of {}", sizes.head())))
}

/// The result [batch, queries, width], with the column's attention as last channel if there is one.
pub(crate) fn forward(sizes: Sizes, [q, k, v]: [&Tensor; 3], column: Option<&Tensor>) -> Result<(Tensor, Kept)> {
    let (compiled, inputs) = (width(&sizes)?, [plain(q, DType::BF16)?, plain(k, DType::BF16)?, plain(v, DType::BF16)?]);
    let column = column.map(|column| plain(column, DType::F32)).transpose()?;
    let Sizes { batch, queries, heads, .. } = sizes;
    let pitch = sizes.width + column.is_some() as usize;
    let statistic = (batch, heads, queries);
    // SAFETY: the kernels write all of them
    let (y, log_sums, columns) = unsafe {
        let columns = if column.is_some() { Some(room(q, statistic, DType::F32)?) } else { None };
        (room(q, (batch, queries, pitch), DType::BF16)?, room(q, statistic, DType::F32)?, columns)
    };
    let attending = sizes.attending(pitch);
    let mut launch = Launch::new(&FORWARD, &format!("attend_{compiled}"), q)?;
    for input in &inputs {
        launch = launch.tensor(input)?;
    }
    let launch = launch.maybe(column.as_ref())?.tensor(&y)?.tensor(&log_sums)?.maybe(columns.as_ref())?;
    // SAFETY: the kernel's arguments
    unsafe { launch.value(attending).run([queries.div_ceil(64), heads, batch], 128, rows_bytes(256, compiled))? };
    if let Some(columns) = &columns {
        let launch = Launch::new(&FORWARD, "attend_column", q)?.tensor(columns)?.tensor(&y)?.value(attending);
        // SAFETY: the kernel's arguments
        unsafe { launch.run([queries.div_ceil(128), batch, 1], 128, 0)? };
    }
    Ok((y, Kept { log_sums, columns }))
}

/// Gradients of q, k and v, from the result `y` and its gradient.
pub(crate) fn backward(
    sizes: Sizes,
    [q, k, v]: [&Tensor; 3],
    column: Option<&Tensor>,
    kept: &Kept,
    [y, dy]: [&Tensor; 2],
) -> Result<[Tensor; 3]> {
    let compiled = width(&sizes)?;
    let [q, k, v] = [plain(q, DType::BF16)?, plain(k, DType::BF16)?, plain(v, DType::BF16)?];
    let [y, dy] = [plain(y, DType::BF16)?, plain(dy, DType::BF16)?];
    let column = column.map(|column| plain(column, DType::F32)).transpose()?;
    let Sizes { batch, queries, keys, heads, .. } = sizes;
    let attending = sizes.attending(sizes.width + column.is_some() as usize);
    // SAFETY: the kernels write all of them; the shares, if there is a column that somebody reads them for
    let (means, share, dq, dk, dv) = unsafe {
        (
            room(&q, (batch, heads, queries), DType::F32)?,
            room(&q, (batch, queries), DType::F32)?,
            room(&q, q.shape(), DType::BF16)?,
            room(&q, k.shape(), DType::BF16)?,
            room(&q, v.shape(), DType::BF16)?,
        )
    };
    let launch = Launch::new(&BACKWARD, "attend_means", &q)?.tensor(&y)?.tensor(&dy)?.maybe(kept.columns.as_ref())?;
    let launch = launch.tensor(&means)?.tensor(&share)?.value(attending);
    // SAFETY: the kernel's arguments
    unsafe { launch.run([queries.div_ceil(4), heads, batch], 128, 0)? };
    // without the column's channel
    let rows = if column.is_some() { dy.narrow(2, 0, sizes.width)?.contiguous()? } else { dy };
    let gradient = |kernel: &str| -> Result<Launch> {
        let mut launch = Launch::new(&BACKWARD, &format!("{kernel}_{compiled}"), &q)?;
        for input in [&q, &k, &v, &rows, &kept.log_sums, &means] {
            launch = launch.tensor(input)?;
        }
        launch.maybe(column.as_ref())?.tensor(&share)
    };
    let shared = rows_bytes(256, compiled);
    let launch = gradient("attend_keys")?.tensor(&dk)?.tensor(&dv)?.value(attending);
    // SAFETY: the kernel's arguments
    unsafe { launch.run([keys.div_ceil(64), heads, batch], 128, shared)? };
    let launch = gradient("attend_queries")?.tensor(&dq)?.value(attending);
    // SAFETY: the kernel's arguments
    unsafe { launch.run([queries.div_ceil(64), heads, batch], 128, shared)? };
    Ok([dq, dk, dv])
}
