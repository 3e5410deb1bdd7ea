//! Reading the values of a tensor.

use std::io;

use candle_core::{DType, Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use super::header::Stored;
use super::source::Source;

/// What can go wrong.
pub(super) enum Failure {
    /// The file cannot be read any more.
    Read(io::Error),
    /// A value is NaN or infinite.
    NotFinite,
    /// Everything else.
    Other(candle_core::Error),
}

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        Self::Other(error)
    }
}

/// Bytes that a core reads, checks and converts while they are in its cache.
const PIECE: usize = 256 << 10;

/// The tensor on `device`: floats in f32, integers as they are.
///
/// For the CPU, f32 values are all that is ever in memory. Other devices are sent values as they are stored, which may
/// be half as much, and widen them there.
pub(super) fn tensor(source: &Source, stored: &Stored, device: &Device) -> Result<Tensor, Failure> {
    let widen = match (stored.dtype, device.is_cpu()) {
        (Dtype::F32, true) => Some(from_f32 as fn(&[u8], &mut [f32])),
        (Dtype::F16, true) => Some(from_f16 as _),
        (Dtype::BF16, true) => Some(from_bf16 as _),
        _ => None,
    };
    let size = stored.dtype.bitsize() / 8;
    if let Some(widen) = widen {
        let mut values = vec![0f32; stored.bytes / size];
        values.par_chunks_mut(PIECE / size).enumerate().try_for_each_init(Vec::new, |bytes, (i, values)| {
            bytes.resize(values.len() * size, 0);
            piece(source, stored, bytes, i * PIECE)?;
            widen(bytes, values);
            Ok::<_, Failure>(())
        })?;
        return Ok(Tensor::from_vec(values, &stored.shape[..], device)?);
    }
    let dtype = match stored.dtype {
        Dtype::BOOL => DType::U8,
        dtype => DType::try_from(dtype).map_err(candle_core::Error::wrap)?,
    };
    let mut bytes = vec![0; stored.bytes];
    let pieces = bytes.par_chunks_mut(PIECE).enumerate();
    pieces.try_for_each(|(i, bytes)| piece(source, stored, bytes, i * PIECE))?;
    let tensor = Tensor::from_raw_buffer(&bytes, dtype, &stored.shape, device)?;
    Ok(if dtype.is_float() { tensor.to_dtype(DType::F32)? } else { tensor })
}

/// The first `count` values in half precision; none of integers.
pub(super) fn first(source: &Source, stored: &Stored, count: usize) -> io::Result<Vec<f16>> {
    let size = stored.dtype.bitsize() / 8;
    let widen = match stored.dtype {
        Dtype::F32 => from_f32 as fn(&[u8], &mut [f32]),
        Dtype::F16 => from_f16,
        Dtype::BF16 => from_bf16,
        _ => return Ok(Vec::new()),
    };
    let mut bytes = vec![0; stored.bytes.min(count * size)];
    source.read(&mut bytes, stored.start)?;
    let mut values = vec![0.; bytes.len() / size];
    widen(&bytes, &mut values);
    Ok(values.into_iter().map(f16::from_f32).collect())
}

fn piece(source: &Source, stored: &Stored, bytes: &mut [u8], offset: usize) -> Result<(), Failure> {
    source.read(bytes, stored.start + offset as u64).map_err(Failure::Read)?;
    if finite(stored.dtype, bytes) { Ok(()) } else { Err(Failure::NotFinite) }
}

/// Whether no value is NaN or infinite: their exponents are all ones.
fn finite(dtype: Dtype, bytes: &[u8]) -> bool {
    let halves = |ones: u16| !bytes.as_chunks().0.iter().any(|&value| u16::from_le_bytes(value) & ones == ones);
    match dtype {
        Dtype::F16 => halves(0x7c00),
        Dtype::BF16 => halves(0x7f80),
        // a sum is computed in vectors, where a search that may end early is not
        Dtype::F32 => {
            let wrong = |&value: &[u8; 4]| (u32::from_le_bytes(value) & 0x7f80_0000 == 0x7f80_0000) as u32;
            bytes.as_chunks().0.iter().map(wrong).sum::<u32>() == 0
        }
        Dtype::F64 => bytes.as_chunks().0.iter().all(|&value| f64::from_le_bytes(value).is_finite()),
        _ => true,
    }
}

fn from_f32(bytes: &[u8], values: &mut [f32]) {
    for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(bytes);
    }
}

fn from_f16(bytes: &[u8], values: &mut [f32]) {
    const GROUP: usize = 1024;
    let mut halves = [f16::ZERO; GROUP];
    for (bytes, values) in bytes.chunks(2 * GROUP).zip(values.chunks_mut(GROUP)) {
        for (half, &bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(bytes);
        }
        halves[..values.len()].convert_to_f32_slice(values);
    }
}

fn from_bf16(bytes: &[u8], values: &mut [f32]) {
    for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = bf16::from_le_bytes(bytes).to_f32();
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::weights::header;

    /// The tensor `x` of a file with these bytes.
    fn read(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, Failure> {
        let view = TensorView::new(dtype, vec![bytes.len() * 8 / dtype.bitsize()], bytes).expect("a tensor");
        let file = Source::Embedded(safetensors::serialize([("x", view)], None).expect("a file").leak());
        let stored = &header::read(&file).expect("a header")["x"];
        let eight = first(&file, stored, 8).expect("values");
        let tensor = tensor(&file, stored, &Device::Cpu)?;
        let values = tensor.to_vec1::<f32>()?;
        assert!(eight.iter().zip(&values).all(|(a, &b)| *a == f16::from_f32(b)));
        Ok(values)
    }

    #[test]
    fn all_floats_become_f32_and_must_be_finite() {
        let values: Vec<f32> = (0..200_003).map(|i| (i % 4001) as f32 / 8. - 250.).collect();
        let encode = |dtype: Dtype, value: f32| match dtype {
            Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
            let bytes: Vec<u8> = values.iter().flat_map(|&value| encode(dtype, value)).collect();
            let Ok(read_back) = read(dtype, &bytes) else { panic!("{dtype:?}") };
            let expected = |&value: &f32| if dtype == Dtype::BF16 { bf16::from_f32(value).to_f32() } else { value };
            assert!(read_back.iter().eq(&values.iter().map(expected).collect::<Vec<_>>()), "{dtype:?}");
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut bytes = bytes.clone();
                let (size, i) = (dtype.bitsize() / 8, 150_001);
                bytes[size * i..][..size].copy_from_slice(&encode(dtype, wrong));
                assert!(matches!(read(dtype, &bytes), Err(Failure::NotFinite)), "{dtype:?} {wrong}");
            }
        }
    }
}
