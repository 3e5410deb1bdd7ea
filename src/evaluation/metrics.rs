//! CLIP-T, CLIP-I and DINO-I from features.
//!
//! The definitions are those of Custom Diffusion's evaluation, which the paper's numbers follow: the
//! CLIPScore of Hessel et al. 2021 for text, and DreamBooth's mean cosine over all pairs for looks.

use candle_core::{D, DType, Result, Tensor, bail};

/// The CLIPScore's weight, which spreads usual cosines over 0 to 1.
pub const CLIP_SCORE_WEIGHT: f32 = 2.5;

/// How well pictures fit their prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFit {
    /// Mean CLIPScore: `CLIP_SCORE_WEIGHT` * max(cosine, 0).
    pub score: f32,
    /// Mean cosine, as papers that do not scale it report.
    pub cosine: f32,
    /// Each picture's CLIPScore.
    pub scores: Vec<f32>,
    /// Each picture's cosine.
    pub cosines: Vec<f32>,
}

/// How much pictures look like the concept.
#[derive(Clone, Debug, PartialEq)]
pub struct Likeness {
    /// Mean cosine over all pairs.
    pub mean: f32,
    /// Each picture's mean cosine to the concept's photos.
    pub per_image: Vec<f32>,
}

/// CLIP-T of pictures `images` [n, d] and the prompts they were drawn from, `texts` [n, d].
///
/// # Errors
/// If the shapes differ, or there is nothing to compare.
pub fn clip_t(images: &Tensor, texts: &Tensor) -> Result<TextFit> {
    if images.dims2()? != texts.dims2()? {
        bail!("{:?} pictures' features do not go with {:?} prompts' ones", images.dims(), texts.dims())
    }
    let cosines = (unit(images)? * unit(texts)?)?.sum(D::Minus1)?.to_vec1::<f32>()?;
    let scores: Vec<f32> = cosines.iter().map(|&c| CLIP_SCORE_WEIGHT * c.max(0.)).collect();
    Ok(TextFit { score: mean(&scores), cosine: mean(&cosines), scores, cosines })
}

/// CLIP-I or DINO-I of pictures `images` [n, d] and the concept's photos `concept` [m, d]: the mean
/// over all n * m pairs, no best match and no weights.
///
/// # Errors
/// If the widths differ, or there is nothing to compare.
pub fn pairwise(images: &Tensor, concept: &Tensor) -> Result<Likeness> {
    let per_image = unit(images)?.matmul(&unit(concept)?.t()?)?.mean(D::Minus1)?.to_vec1::<f32>()?;
    Ok(Likeness { mean: mean(&per_image), per_image })
}

/// Rows of length one, in f32; a row of zeros stays one, so that its cosines are 0 and not NaN.
///
/// # Errors
/// If there are no rows, or one is not finite.
pub fn unit(features: &Tensor) -> Result<Tensor> {
    let (rows, _) = features.dims2()?;
    if rows == 0 {
        bail!("there are no features to compare")
    }
    let features = features.to_dtype(DType::F32)?;
    let length = features.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    // a maximum would make a score of 0 of what is no number
    if !length.sum_all()?.to_scalar::<f32>()?.is_finite() {
        bail!("the features are not finite: the encoder is damaged")
    }
    features.broadcast_div(&length.maximum(f32::MIN_POSITIVE)?)
}

fn mean(values: &[f32]) -> f32 {
    (values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn rows<const N: usize>(values: &[[f32; N]]) -> Tensor {
        Tensor::from_slice(values.as_flattened(), (values.len(), N), &Device::Cpu).unwrap()
    }

    fn close(got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {expected:?}");
    }

    #[test]
    fn clip_t_scales_and_clips_each_picture_before_the_mean() -> Result<()> {
        let fit = clip_t(&rows(&[[3., 4.], [1., 0.], [2., 0.]]), &rows(&[[4., 3.], [-5., 0.], [0., 7.]]))?;
        close(&fit.cosines, &[0.96, -1., 0.]);
        close(&fit.scores, &[2.4, 0., 0.]);
        close(&[fit.score, fit.cosine], &[0.8, -0.04 / 3.]);
        Ok(())
    }

    #[test]
    fn likeness_is_the_mean_over_all_pairs() -> Result<()> {
        let likeness = pairwise(&rows(&[[3., 4.], [0., 2.]]), &rows(&[[1., 0.], [0., 5.], [-4., 3.]]))?;
        close(&likeness.per_image, &[(0.6 + 0.8 + 0.) / 3., (0. + 1. + 0.6) / 3.]);
        close(&[likeness.mean], &[0.5]);
        Ok(())
    }

    #[test]
    fn half_precision_and_zeros_give_numbers() -> Result<()> {
        let half = rows(&[[300., 400.]]).to_dtype(DType::F16)?; // its square does not fit f16
        close(&pairwise(&half, &half)?.per_image, &[1.]);
        close(&pairwise(&rows(&[[0., 0.]]), &rows(&[[1., 1.]]))?.per_image, &[0.]);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (two, one) = (rows(&[[1., 0.], [0., 1.]]), rows(&[[1., 0.]]));
        assert!(clip_t(&two, &one).is_err());
        assert!(pairwise(&two, &rows(&[[1., 0., 0.]])).is_err());
        assert!(pairwise(&two.narrow(0, 0, 0).unwrap(), &one).is_err());
        for wrong in [f32::NAN, f32::INFINITY] {
            let wrong = rows(&[[wrong, 0.]]);
            assert!(clip_t(&wrong, &one).is_err() && pairwise(&one, &wrong).is_err());
        }
    }
}
