//! A subject cut out of its photos by colours and edges: GrabCut (Rother et al. 2004) on all photos at once. The
//! subject's colours are those that the photos share, the background's are each photo's own, and the border of a photo is
//! rather background.

use image::imageops::{self, FilterType};
use image::{GrayImage, Luma, RgbImage};

use super::colour::{Colour, Mixture, ODD, rather, square};
use super::grid::{Grid, NEIGHBOURS};
use super::tidy::tidied;
use super::{Made, Map};

/// How cuts are made. The weights are in nats, as the colours' are.
#[derive(Clone, Debug)]
pub struct Cutting {
    /// Longer side at which colours are learnt, in pixels; the border is then followed in the whole photo.
    pub side: u32,
    /// Rounds of cutting and learning colours anew.
    pub rounds: usize,
    /// What it costs to part two neighbours of one colour.
    pub smoothness: f64,
    /// How much rather the outermost pixels are background.
    pub border: f64,
    /// What the surest place on a map counts.
    pub map: f64,
}

impl Default for Cutting {
    fn default() -> Self {
        Self { side: 256, rounds: 5, smoothness: 20., border: 8., map: 3. }
    }
}

/// The share of a photo's shorter side that counts as its border.
const BORDER: f64 = 0.02;

/// A mask is as sure as it stays the same where every pixel is so much more or less the subject's, in nats.
const DOUBT: f64 = 2.;

/// Pixels of a photo that colours are learnt from, at most.
const LEARNT: usize = 20_000;

/// The longer side of a photo in which a border is followed; in larger ones the mask is enlarged.
const FINEST: u32 = 1536;

/// Where costs in nats become whole numbers.
const SCALE: f64 = 1000.;

/// A photo at the size at which it is cut.
struct Small {
    image: RgbImage,
    /// How much rather each pixel is the subject's by its place alone, in nats.
    place: Vec<f64>,
    /// Whether it is, as far as is known.
    subject: Vec<f64>,
    /// Whether it is background, as far as is known.
    background: Vec<f64>,
}

impl Cutting {
    /// Cuts the subject out of each photo; where there are maps, one a photo, they say where it may be.
    pub fn cut(&self, photos: &[&RgbImage], maps: Option<&[Map]>) -> Vec<Made> {
        let mut smalls: Vec<Small> =
            photos.iter().enumerate().map(|(i, photo)| self.begin(photo, maps.map(|maps| &maps[i]))).collect();
        let mut preferences = Vec::new();
        for _ in 0..self.rounds {
            let groups: Vec<_> = smalls.iter().map(|small| weighted(&small.image, &small.subject)).collect();
            let subject = Mixture::of(&groups.concat()).common(&groups);
            preferences = smalls.iter().map(|small| preference(small, &subject)).collect();
            for (small, preference) in smalls.iter_mut().zip(&preferences) {
                let found = self.parted(&small.image, preference, 0., None);
                // of nothing, and of everything, nothing can be learnt
                if found.contains(&true) && found.contains(&false) {
                    small.subject = found.iter().map(|&inside| f64::from(inside)).collect();
                    small.background = inverse(&small.subject);
                }
            }
        }
        let all = photos.iter().zip(&smalls).zip(&preferences);
        all.map(|((photo, small), preference)| self.finish(photo, small, preference)).collect()
    }

    /// What is known before the first cut: the border is background, and the subject is where the map says so, or, without
    /// one, what has other colours than the border.
    fn begin(&self, photo: &RgbImage, map: Option<&Map>) -> Small {
        let image = reduced(photo, self.side);
        let (width, height) = image.dimensions();
        let room = ((BORDER * f64::from(width.min(height))) as u32).max(1);
        let is_border = |x: u32, y: u32| x < room || y < room || x + room >= width || y + room >= height;
        let places = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let border: Vec<f64> = places().map(|(x, y)| f64::from(is_border(x, y))).collect();
        let edge = border.iter().map(|border| -self.border * border);
        let Some(map) = map else {
            let around = Mixture::of(&weighted(&image, &border));
            let unlike = |pixel| (around.cost(colour(pixel)) / ODD).powi(2);
            let subject = image.pixels().zip(&border).map(|(pixel, border)| unlike(pixel) * (1. - border)).collect();
            let place = edge.collect();
            return Small { image, place, subject, background: border };
        };
        let subject: Vec<f64> = places().map(|(x, y)| map.at(x, y, width, height)).collect();
        let place = edge.zip(&subject).map(|(edge, likely)| edge + self.map * (2. * likely - 1.)).collect();
        let background = border.iter().zip(&subject).map(|(border, likely)| border * (1. - likely)).collect();
        Small { image, place, subject, background }
    }

    /// Which pixels are the subject's; `only` those are in question, the others are as `found` says.
    fn parted(&self, image: &RgbImage, preference: &[f64], doubt: f64, only: Option<(&[bool], &[bool])>) -> Vec<bool> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let mut grid = Grid::new(width, height);
        let pixels: Vec<Colour> = image.pixels().map(colour).collect();
        let contrast = contrast(&pixels, width);
        let mut tied = vec![[0.; 4]; pixels.len()];
        for (pixel, ties) in tied.iter_mut().enumerate() {
            for (tie, (dx, dy)) in ties.iter_mut().zip(&NEIGHBOURS[4..]) {
                let (x, y) = ((pixel % width) as i32 + dx, (pixel / width) as i32 + dy);
                if (0..width as i32).contains(&x) && y < height as i32 {
                    let other = pixels[y as usize * width + x as usize];
                    let length = f64::from(dx * dx + dy * dy).sqrt();
                    let apart = square(std::array::from_fn(|i| pixels[pixel][i] - other[i]));
                    *tie = self.smoothness * (-contrast * apart).exp() / length;
                }
            }
        }
        for pixel in 0..pixels.len() {
            let cost = match only {
                Some((open, found)) if !open[pixel] => {
                    if found[pixel] {
                        super::grid::HARD
                    } else {
                        -super::grid::HARD
                    }
                }
                _ => ((preference[pixel] + doubt) * SCALE) as i32,
            };
            grid.prefer(pixel, cost);
            for (i, tie) in tied[pixel].iter().enumerate() {
                grid.tie(pixel, 4 + i, (tie * SCALE) as i32);
            }
        }
        grid.cut()
    }

    fn finish(&self, photo: &RgbImage, small: &Small, preference: &[f64]) -> Made {
        let (width, height) = small.image.dimensions();
        let mask = |found: &[bool]| {
            let level = |x, y| Luma([if found[(y * width + x) as usize] { 255 } else { 0 }]);
            tidied(&GrayImage::from_fn(width, height, level))
        };
        let [less, same, more] =
            [-DOUBT, 0., DOUBT].map(|doubt| mask(&self.parted(&small.image, preference, doubt, None)));
        let is_empty = same.iter().all(|&level| level == 0);
        let confidence = if is_empty { 0. } else { overlap(&less, &more) };
        let fine = reduced(photo, FINEST);
        let mut mask = self.followed(&fine, &same);
        if mask.dimensions() != photo.dimensions() {
            mask = imageops::resize(&mask, photo.width(), photo.height(), FilterType::Nearest);
        }
        Made { mask, confidence }
    }

    /// A small mask in the size of its photo: its border is cut again there, within the width of a small pixel.
    fn followed(&self, photo: &RgbImage, small: &GrayImage) -> GrayImage {
        if photo.dimensions() == small.dimensions() {
            return small.clone();
        }
        let (width, height) = photo.dimensions();
        let large = imageops::resize(small, width, height, FilterType::Triangle);
        // around the border, linear interpolation leaves the levels between
        let open: Vec<bool> = large.iter().map(|level| (1..255).contains(level)).collect();
        let found: Vec<bool> = large.iter().map(|&level| level >= 128).collect();
        let (inside, outside): (Vec<f64>, Vec<f64>) =
            large.iter().map(|&l| (f64::from(l == 255), f64::from(l == 0))).unzip();
        let (subject, background) = (Mixture::of(&weighted(photo, &inside)), Mixture::of(&weighted(photo, &outside)));
        let preference: Vec<f64> = photo
            .pixels()
            .zip(&open)
            .map(|(pixel, open)| if *open { rather(&subject, &background, colour(pixel)) } else { 0. })
            .collect();
        let parted = self.parted(photo, &preference, 0., Some((&open, &found)));
        GrayImage::from_fn(width, height, |x, y| Luma([if parted[(y * width + x) as usize] { 255 } else { 0 }]))
    }
}

/// How much rather each pixel is the subject's.
fn preference(small: &Small, subject: &Mixture) -> Vec<f64> {
    let background = Mixture::of(&weighted(&small.image, &small.background));
    let all = small.image.pixels().zip(&small.place);
    all.map(|(pixel, place)| rather(subject, &background, colour(pixel)) + place).collect()
}

fn inverse(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| 1. - value).collect()
}

/// Colours with their weights; every so manieth of many.
fn weighted(image: &RgbImage, weights: &[f64]) -> Vec<(Colour, f64)> {
    let step = weights.len().div_ceil(LEARNT).max(1);
    let all = image.pixels().zip(weights).step_by(step);
    all.filter(|(_, weight)| **weight > 0.).map(|(pixel, weight)| (colour(pixel), *weight)).collect()
}

fn colour(pixel: &image::Rgb<u8>) -> Colour {
    pixel.0.map(f64::from)
}

/// GrabCut's beta: the inverse of twice the mean squared difference of neighbours.
fn contrast(pixels: &[Colour], width: usize) -> f64 {
    let apart = |(a, b): (&Colour, &Colour)| square(std::array::from_fn(|i| a[i] - b[i]));
    let rows = pixels.chunks(width).flat_map(|row| row.iter().zip(&row[1..]));
    let columns = pixels.iter().zip(pixels.get(width..).unwrap_or_default());
    let (sum, count) = rows.chain(columns).map(apart).fold((0., 0.), |(sum, count), x| (sum + x, count + 1.));
    if sum > 0. { count / (2. * sum) } else { 0. }
}

fn reduced(photo: &RgbImage, side: u32) -> RgbImage {
    let longer = photo.width().max(photo.height());
    if longer <= side {
        return photo.clone();
    }
    let scaled = |n: u32| (u64::from(n) * u64::from(side) / u64::from(longer)).max(1) as u32;
    imageops::resize(photo, scaled(photo.width()), scaled(photo.height()), FilterType::Triangle)
}

/// What two masks of one size share, as a part of what either covers; 1 if both are empty.
pub fn overlap(a: &GrayImage, b: &GrayImage) -> f64 {
    let (mut both, mut either) = (0u64, 0u64);
    for (a, b) in a.iter().zip(b.iter()) {
        both += u64::from(*a > 127 && *b > 127);
        either += u64::from(*a > 127 || *b > 127);
    }
    if either == 0 { 1. } else { both as f64 / either as f64 }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::rng;

    /// A striped disc at a place, before a background of two colours, all a little noisy; and its mask.
    fn scene(size: (u32, u32), (x, y): (f64, f64), behind: [[u8; 3]; 2], index: u64) -> (RgbImage, GrayImage) {
        let mut rng = rng::stream(0, "scene", index);
        let radius = f64::from(size.0.min(size.1)) * 0.28;
        let inside = |px: u32, py: u32| {
            (f64::from(px) - x * f64::from(size.0)).hypot(f64::from(py) - y * f64::from(size.1)) < radius
        };
        let image = RgbImage::from_fn(size.0, size.1, |px, py| {
            let stripe = (py * 12 / size.1).is_multiple_of(2);
            let level = match inside(px, py) {
                true if stripe => [40, 60, 190],
                true => [230, 220, 60],
                false => behind[usize::from(py * 5 > 3 * size.1)],
            };
            image::Rgb(level.map(|level: u8| level.saturating_add_signed(rng.random_range(-8..=8))))
        });
        (image, GrayImage::from_fn(size.0, size.1, |x, y| Luma([if inside(x, y) { 255 } else { 0 }])))
    }

    const PLACES: [([f64; 2], [[u8; 3]; 2]); 3] = [
        ([0.4, 0.5], [[120, 180, 235], [70, 150, 60]]),
        ([0.6, 0.45], [[170, 80, 60], [160, 70, 50]]),
        ([0.5, 0.6], [[235, 235, 235], [190, 160, 110]]),
    ];

    #[test]
    fn what_photos_share_is_cut_out() {
        for size in [(96, 80), (420, 360)] {
            let scenes: Vec<_> =
                PLACES.iter().enumerate().map(|(i, &([x, y], behind))| scene(size, (x, y), behind, i as u64)).collect();
            let photos: Vec<&RgbImage> = scenes.iter().map(|(photo, _)| photo).collect();
            for (made, (photo, mask)) in Cutting::default().cut(&photos, None).iter().zip(&scenes) {
                assert_eq!(made.mask.dimensions(), photo.dimensions());
                let share = overlap(&made.mask, mask);
                assert!(share > 0.97 && made.confidence > 0.9, "{size:?}: {share} {}", made.confidence);
            }
        }
    }

    /// Two discs alike: which is meant, only the map tells.
    #[test]
    fn a_map_says_which_is_meant() {
        let (one, _) = scene((120, 60), (0.27, 0.5), PLACES[0].1, 0);
        let (other, mask) = scene((120, 60), (0.73, 0.5), PLACES[0].1, 1);
        let photo = RgbImage::from_fn(120, 60, |x, y| *if x < 60 { &one } else { &other }.get_pixel(x, y));
        let coarse = imageops::resize(&mask, 20, 20, FilterType::Triangle);
        let looked: Vec<f32> = coarse.iter().map(|&level| f32::from(level)).collect();
        let cutting = Cutting { map: 30., ..Cutting::default() };
        let made = cutting.cut(&[&photo], Some(&[Map::new(&looked, 20)]));
        assert!(overlap(&made[0].mask, &mask) > 0.8, "{}", overlap(&made[0].mask, &mask));
    }

    #[test]
    fn a_photo_of_one_colour_gives_a_mask_that_is_not_sure() {
        let made = Cutting::default().cut(&[&RgbImage::from_pixel(40, 30, image::Rgb([90; 3]))], None);
        assert_eq!(made[0].mask.dimensions(), (40, 30));
        assert!(made[0].confidence < 0.5, "{}", made[0].confidence);
        assert_eq!(overlap(&GrayImage::new(4, 4), &GrayImage::new(4, 4)), 1.);
    }
}
