//! FDTE, the frequency-aware decoupled textual embedding: which band of a photo's spectrum a training
//! sample shows, and which concept embedding stands for `S*` in it (equations 3 to 5).

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use rand::RngExt;
use rustfft::FftPlanner;
use rustfft::num_complex::Complex64;
use serde::{Deserialize, Serialize};

use crate::images::Picture;

/// Which part of the image's spectrum a training sample shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Band {
    /// Low frequencies: colours and coarse shape.
    Low,
    /// High frequencies: edges and texture.
    High,
    /// The photo as it is.
    Original,
}

impl Band {
    /// All bands, in the order of the released code.
    pub const ALL: [Band; 3] = [Band::Low, Band::High, Band::Original];

    /// A band drawn with probabilities `p` of low, high and original (normalised by their sum).
    pub fn draw(p: [f64; 3], rng: &mut impl rand::Rng) -> Self {
        let x = rng.random::<f64>() * p.iter().sum::<f64>();
        if x < p[0] {
            Band::Low
        } else if x < p[0] + p[1] {
            Band::High
        } else {
            Band::Original
        }
    }
}

/// Whose filter: the two differ in everything but the transform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// The released code's: square, gray, magnitude; it made the published numbers.
    #[default]
    Released,
    /// The paper's equations 3 and 4: disc, colour, real part.
    Paper,
}

/// The region of the centred spectrum that a cutoff f encloses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The half-open square [c - f, c + f).
    Square,
    /// The closed disc of radius f.
    Disc,
}

/// How an image is split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// Cutoff of the low-pass, in frequency bins.
    pub low_cutoff: usize,
    /// Cutoff of the high-pass, in frequency bins.
    pub high_cutoff: usize,
    /// Shape of the pass region.
    pub region: Region,
    /// Whether the channel mean is filtered and repeated three times.
    pub gray: bool,
    /// Whether the magnitude of the inverse transform is taken, else its real part.
    pub magnitude: bool,
}

/// Low and high band of `image`.
pub fn split_bands(image: &Picture, split: &Split) -> (Picture, Picture) {
    let mut low = Picture { values: vec![0.; image.values.len()], ..*image };
    let mut high = low.clone();
    split_channels(
        image.height,
        image.width,
        |i| image.values[i],
        split,
        |band, i, value| match band {
            Band::Low => low.values[i] = value,
            _ => high.values[i] = value,
        },
    );
    (low, high)
}

/// The low and high band of an image's channels, one after the other: `value` gives what is at a place in rows of
/// RGB values, `put` is told what is there in a band. One channel's spectrum is all the memory that is taken.
pub fn split_channels(
    height: usize,
    width: usize,
    value: impl Fn(usize) -> f64,
    split: &Split,
    mut put: impl FnMut(Band, usize, f64),
) {
    let scale = 1. / (height * width) as f64;
    let mut spectrum = vec![Complex64::ZERO; height * width];
    for channel in 0..if split.gray { 1 } else { 3 } {
        for (i, number) in spectrum.iter_mut().enumerate() {
            let value =
                if split.gray { (0..3).map(|c| value(3 * i + c)).sum::<f64>() / 3. } else { value(3 * i + channel) };
            *number = Complex64::new(value, 0.);
        }
        fft2(&mut spectrum, height, width, false);
        let is_inside =
            |i: usize, cutoff| inside(centred(i / width, height), centred(i % width, width), cutoff, split.region);
        // few numbers are low frequencies: they wait while the high ones are transformed
        let low: Vec<(usize, Complex64)> =
            (0..spectrum.len()).filter(|&i| is_inside(i, split.low_cutoff)).map(|i| (i, spectrum[i])).collect();
        for band in [Band::High, Band::Low] {
            if band == Band::High {
                for (i, number) in spectrum.iter_mut().enumerate() {
                    if is_inside(i, split.high_cutoff) {
                        *number = Complex64::ZERO;
                    }
                }
            } else {
                spectrum.fill(Complex64::ZERO);
                low.iter().for_each(|&(i, number)| spectrum[i] = number);
            }
            fft2(&mut spectrum, height, width, true);
            for (i, number) in spectrum.iter().enumerate() {
                let value = scale * if split.magnitude { number.norm() } else { number.re };
                if split.gray {
                    (0..3).for_each(|c| put(band, 3 * i + c, value));
                } else {
                    put(band, 3 * i + channel, value);
                }
            }
        }
    }
}

/// Offset of frequency bin `i` from the centre (n / 2, rounded down) of the shifted spectrum.
fn centred(i: usize, n: usize) -> i64 {
    ((i + n / 2) % n) as i64 - (n / 2) as i64
}

fn inside(row: i64, column: i64, cutoff: usize, region: Region) -> bool {
    let f = cutoff as i64;
    match region {
        Region::Square => (-f..f).contains(&row) && (-f..f).contains(&column),
        Region::Disc => row * row + column * column <= f * f,
    }
}

/// The unnormalised two-dimensional transform of row-major `data`.
fn fft2(data: &mut [Complex64], height: usize, width: usize, inverse: bool) {
    /// Columns that are transformed together: a cache line of each row is used whole.
    const TOGETHER: usize = 4;
    let mut planner = FftPlanner::new();
    let mut plan = |n| if inverse { planner.plan_fft_inverse(n) } else { planner.plan_fft_forward(n) };
    plan(width).process(data);
    let down = plan(height);
    let mut columns = vec![Complex64::ZERO; TOGETHER * height];
    for first in (0..width).step_by(TOGETHER) {
        let count = TOGETHER.min(width - first);
        let columns = &mut columns[..count * height];
        for y in 0..height {
            (0..count).for_each(|x| columns[x * height + y] = data[y * width + first + x]);
        }
        down.process(columns);
        for y in 0..height {
            (0..count).for_each(|x| data[y * width + first + x] = columns[x * height + y]);
        }
    }
}

/// Settings of FDTE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fdte {
    /// Whether the embedding is decoupled at all; if not, one vector is learnt from the photos as they are.
    pub enabled: bool,
    /// Probabilities of the low band, the high band and the original.
    pub probabilities: [f64; 3],
    /// Whose filter.
    pub filter: Filter,
    /// The released filter's low-pass cutoff, for a side of 512 pixels.
    pub low_cutoff: f64,
    /// The released filter's high-pass cutoff, for a side of 512 pixels.
    pub high_cutoff: f64,
    /// The paper's f_c, for a side of 512 pixels: L = 1 - H.
    pub cutoff: f64,
    /// The word whose token embedding both vectors start from; empty: the class word.
    pub init_word: String,
}

impl Fdte {
    /// How an image of that side is split.
    pub fn split(&self, side: usize) -> Split {
        let bins = |cutoff: f64| ((cutoff * side as f64 / 512.).round() as usize).max(1);
        match self.filter {
            Filter::Released => Split {
                low_cutoff: bins(self.low_cutoff),
                high_cutoff: bins(self.high_cutoff),
                region: Region::Square,
                gray: true,
                magnitude: true,
            },
            Filter::Paper => Split {
                low_cutoff: bins(self.cutoff),
                high_cutoff: bins(self.cutoff),
                region: Region::Disc,
                gray: false,
                magnitude: false,
            },
        }
    }
}

/// The learnt vectors `[d]` that stand for `S*`.
#[derive(Clone, Debug)]
pub struct ConceptEmbedding {
    /// S_LF; without FDTE the only vector.
    pub low: Tensor,
    /// S_HF.
    pub high: Option<Tensor>,
}

impl ConceptEmbedding {
    /// Names of the two vectors among the trained tensors.
    pub const LOW: &'static str = "s_low";
    /// See [`LOW`](Self::LOW).
    pub const HIGH: &'static str = "s_high";

    /// Takes the vectors from `tensors`.
    ///
    /// # Errors
    /// If there is no `s_low`.
    pub fn from_tensors(tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        let Some(low) = tensors.get(Self::LOW) else { candle_core::bail!("there is no concept embedding s_low") };
        Ok(Self { low: low.clone(), high: tensors.get(Self::HIGH).cloned() })
    }

    /// The same with each vector by a number. Without FDTE there is but one, which is taken by `low`.
    ///
    /// # Errors
    /// If the vectors cannot be computed with.
    pub fn weighted(&self, low: f64, high: f64) -> Result<Self> {
        Ok(Self { low: (&self.low * low)?, high: self.high.as_ref().map(|vector| vector * high).transpose()? })
    }

    /// The embedding `[d]` for a band: S_LF, S_HF or their sum. Both vectors take part in each, so that a
    /// step whose samples show one band only still has a gradient (zero) for the other.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn of(&self, band: Band) -> Result<Tensor> {
        let Some(high) = &self.high else { return Ok(self.low.clone()) };
        let (low_share, high_share) = match band {
            Band::Low => (1f32, 0f32),
            Band::High => (0., 1.),
            Band::Original => (1., 1.),
        };
        // a product with the number 0 is cut off the graph, one with a tensor is not
        let part = |vector: &Tensor, share: f32| vector * Tensor::full(share, vector.shape(), vector.device())?;
        part(&self.low, low_share)? + part(high, high_share)?
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn each_band_has_a_gradient_for_both_vectors() -> Result<()> {
        let [low, high] = [[1f32, 2.], [3., 4.]].map(|v| Var::new(&v, &Device::Cpu));
        let (low, high) = (low?, high?);
        let concept = ConceptEmbedding { low: low.as_tensor().clone(), high: Some(high.as_tensor().clone()) };
        let all =
            [(Band::Low, [1., 2.], [1., 0.]), (Band::High, [3., 4.], [0., 1.]), (Band::Original, [4., 6.], [1.; 2])];
        for (band, expected, shares) in all {
            let embedding = concept.of(band)?;
            assert_eq!(embedding.to_vec1::<f32>()?, expected);
            let grads = embedding.sum_all()?.backward()?;
            for (vector, share) in [&low, &high].into_iter().zip(shares) {
                let gradient = grads.get(vector).map(Tensor::to_vec1::<f32>).transpose()?;
                assert_eq!(gradient, Some(vec![share; 2]), "{band:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn papers_bands_add_up_to_the_image() {
        let values: Vec<f64> = (0..9 * 12 * 3).map(|i| ((i * 37 % 101) as f64) / 50. - 1.).collect();
        let image = Picture { height: 9, width: 12, values };
        let split = Split { low_cutoff: 3, high_cutoff: 3, region: Region::Disc, gray: false, magnitude: false };
        let (low, high) = split_bands(&image, &split);
        for ((l, h), x) in low.values.iter().zip(&high.values).zip(&image.values) {
            assert!((l + h - x).abs() < 1e-12);
        }
    }

    #[test]
    fn bands_are_drawn_with_their_probabilities() {
        let mut rng = crate::rng::stream(1, "test", 0);
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[Band::draw([0.1, 0.1, 0.8], &mut rng) as usize] += 1;
        }
        assert!((900..1100).contains(&counts[0]) && (900..1100).contains(&counts[1]), "{counts:?}");
    }
}
