//! Pictures as CLIP and DINO take them.

use candle_core::{Device, Result, Tensor, bail};
use image::RgbImage;

use super::resample::{Window, bicubic};

/// How a picture becomes an encoder's input: its shorter side resized, its middle cut out, its
/// channels normalised. It follows the image processors of Hugging Face's transformers with their
/// Pillow backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// The shorter side after resizing, in pixels.
    pub shortest_edge: usize,
    /// Side of the square that is kept, in pixels.
    pub crop: usize,
    /// Mean of the channels, in levels from 0 to 1.
    pub mean: [f32; 3],
    /// Their standard deviation.
    pub std: [f32; 3],
}

impl Preprocess {
    /// For a CLIP whose pictures have `image_size` pixels a side (224 for ViT-B/32).
    pub fn clip(image_size: usize) -> Self {
        Self {
            shortest_edge: image_size,
            crop: image_size,
            mean: [0.48145466, 0.4578275, 0.40821073],
            std: [0.26862954, 0.261_302_6, 0.275_777_1],
        }
    }

    /// For a DINO whose pictures have `image_size` pixels a side: DINO's own evaluation resizes to
    /// 256 and keeps 224, other sizes in proportion.
    pub fn dino(image_size: usize) -> Self {
        Self {
            shortest_edge: (image_size * 256 + 112) / 224,
            crop: image_size,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }

    /// The input for one picture of any size: [1, 3, crop, crop], f32, on the CPU.
    ///
    /// # Errors
    /// If the picture is empty, or the settings keep more than the resized picture has.
    pub fn pixels(&self, image: &RgbImage) -> Result<Tensor> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            bail!("the picture has no pixels")
        }
        if self.crop > self.shortest_edge {
            bail!("cannot crop {} pixels out of a shorter side of {}", self.crop, self.shortest_edge)
        }
        let (width, height) = self.resized(width, height);
        let (left, top) = ((width - self.crop) / 2, (height - self.crop) / 2);
        let cropped = bicubic(image, width, height, Window { left, top, width: self.crop, height: self.crop });
        self.normalised(&cropped)
    }

    /// The same of the whole picture, squeezed into the square.
    ///
    /// # Errors
    /// If the picture is empty.
    pub fn squashed(&self, image: &RgbImage) -> Result<Tensor> {
        if image.is_empty() {
            bail!("the picture has no pixels")
        }
        let side = self.crop;
        self.normalised(&bicubic(image, side, side, Window { left: 0, top: 0, width: side, height: side }))
    }

    fn normalised(&self, square: &RgbImage) -> Result<Tensor> {
        let channel = |c: usize| {
            let (mean, std) = (self.mean[c], self.std[c]);
            square.iter().skip(c).step_by(3).map(move |&level| (f32::from(level) / 255. - mean) / std)
        };
        let values: Vec<f32> = (0..3).flat_map(channel).collect();
        Tensor::from_vec(values, (1, 3, self.crop, self.crop), &Device::Cpu)
    }

    /// Width and height after resizing: the longer side is rounded down.
    fn resized(&self, width: usize, height: usize) -> (usize, usize) {
        let edge = self.shortest_edge;
        if width <= height { (edge, edge * height / width) } else { (edge * width / height, edge) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::resample::tests::pattern;
    use super::*;
    use candle_core::DType;

    #[test]
    fn sizes_follow_the_processors() {
        let clip = Preprocess::clip(224);
        assert_eq!(clip.resized(300, 200), (336, 224));
        assert_eq!(clip.resized(224, 331), (224, 331));
        assert_eq!(clip.resized(331, 200), (370, 224)); // 370.72
        let dino = Preprocess::dino(224);
        assert_eq!((dino.shortest_edge, dino.crop), (256, 224));
        assert_eq!(dino.resized(90, 160), (256, 455));
        assert_eq!(Preprocess::dino(64).shortest_edge, 73);
    }

    #[test]
    fn pixels_agree_with_the_processors() -> Result<()> {
        // pixel_values of CLIPImageProcessor and ViTImageProcessor (transformers 5.23) for the same
        // pattern: mean of each channel's absolute values, and one value of each.
        let cases = [
            (Preprocess::clip(224), (331, 200), [0.851128, 0.744448, 0.88391], [-0.638987, 0.168897, 1.77618]),
            (Preprocess::clip(224), (90, 161), [0.850545, 0.778968, 0.828544], [0.0909346, 2.07488, -0.385275]),
            (Preprocess::dino(224), (300, 200), [0.996619, 0.836482, 1.09276], [1.92354, 1.27311, 1.35024]),
            (Preprocess::dino(224), (91, 160), [0.99717, 0.902021, 1.00279], [-0.850672, 1.81583, -1.02013]),
        ];
        for (preprocess, (w, h), sums, values) in cases {
            let pixels = preprocess.pixels(&pattern(w, h))?;
            assert_eq!(pixels.dims(), [1, 3, preprocess.crop, preprocess.crop]);
            let means = pixels.to_dtype(DType::F64)?.abs()?.mean((0, 2, 3))?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            let line = pixels.get(0)?.narrow(1, 17, 1)?.narrow(2, 30, 1)?.flatten_all()?.to_vec1::<f32>()?;
            for (got, expected) in means.iter().chain(&line).zip(sums.iter().chain(&values)) {
                assert!((got - expected).abs() < 1e-5, "{w}x{h}: {means:?} {line:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn extreme_pictures_are_no_trouble() -> Result<()> {
        let clip = Preprocess::clip(32);
        assert_eq!(clip.pixels(&pattern(1, 1))?.dims(), [1, 3, 32, 32]);
        assert_eq!(clip.pixels(&pattern(1, 20_000))?.dims(), [1, 3, 32, 32]);
        assert!(clip.pixels(&RgbImage::new(0, 5)).is_err());
        assert!(Preprocess { crop: 40, ..clip }.pixels(&pattern(4, 4)).is_err());
        Ok(())
    }
}
