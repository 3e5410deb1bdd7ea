//! A mask proposed from one photo: what differs from the colours of its border.

use image::imageops::{self, FilterType};
use image::{GrayImage, Luma, RgbImage};

/// Photos are looked at with so many pixels on their longer side.
const LOOKED_AT: u32 = 256;

/// Colours that the border is described by.
const COLOURS: usize = 6;

/// Share of the sides that counts as border.
const BORDER: f64 = 0.04;

/// White where the subject seems to be, as large as the photo. On a plain ground that is right, on a lively one a
/// beginning to correct.
pub(super) fn propose(photo: &RgbImage) -> GrayImage {
    let (width, height) = photo.dimensions();
    let longer = width.max(height).max(1);
    let side = |n: u32| (n * LOOKED_AT.min(longer) / longer).max(2);
    let small = imageops::blur(&imageops::resize(photo, side(width), side(height), FilterType::Triangle), 1.);
    let ground = border_colours(&small);
    let distance: Vec<f64> = small
        .pixels()
        .map(|pixel| ground.iter().map(|colour| apart(&feature(pixel.0), colour)).fold(f64::INFINITY, f64::min).sqrt())
        .collect();
    let threshold = otsu(&distance);
    let inside: Vec<bool> = distance.iter().map(|&d| d > threshold).collect();
    let (w, h) = (small.width() as usize, small.height() as usize);
    let inside = filled(&largest(&inside, w, h), w, h);
    let mask = GrayImage::from_fn(small.width(), small.height(), |x, y| {
        Luma([if inside[y as usize * w + x as usize] { 255 } else { 0 }])
    });
    let mut mask = imageops::resize(&mask, width, height, FilterType::Triangle);
    mask.iter_mut().for_each(|value| *value = if *value >= 128 { 255 } else { 0 });
    mask
}

/// A colour with its brightness weighted less, since light falls unevenly on a ground.
fn feature(rgb: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = rgb.map(f64::from);
    [0.5 * (r + g + b) / 3., r - g, 0.5 * (r + g) - b]
}

fn apart(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The means of the border's pixels in groups, the farthest one first.
fn border_colours(image: &RgbImage) -> Vec<[f64; 3]> {
    let (width, height) = image.dimensions();
    let rim = ((width.min(height) as f64 * BORDER).ceil() as u32).max(1);
    let outside = |x: u32, y: u32| x < rim || y < rim || x >= width - rim || y >= height - rim;
    let border = image.enumerate_pixels().filter(|&(x, y, _)| outside(x, y));
    let pixels: Vec<[f64; 3]> = border.map(|(_, _, pixel)| feature(pixel.0)).collect();
    let mut colours = vec![pixels[0]];
    let nearest = |colours: &[[f64; 3]], pixel: &[f64; 3]| {
        let distances = colours.iter().map(|colour| apart(pixel, colour)).enumerate();
        distances.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.))
    };
    while colours.len() < COLOURS {
        let farthest = pixels.iter().max_by(|a, b| nearest(&colours, a).1.total_cmp(&nearest(&colours, b).1));
        colours.extend(farthest.copied());
    }
    for _ in 0..8 {
        let mut sums = vec![([0.; 3], 0.); colours.len()];
        for pixel in &pixels {
            let (sum, count) = &mut sums[nearest(&colours, pixel).0];
            sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
            *count += 1.;
        }
        // a colour that little of the border has is the subject, where that is cut off
        colours = sums.iter().filter(|(_, n)| *n > 0.02 * pixels.len() as f64).map(|(s, n)| s.map(|s| s / n)).collect();
    }
    colours
}

/// The value that splits values into two groups that differ most (Otsu).
fn otsu(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(1e-6, f64::max);
    let mut counts = [0f64; 128];
    values.iter().for_each(|value| counts[(value / most * 127.) as usize] += 1.);
    let (all, sum) = (values.len() as f64, counts.iter().enumerate().map(|(i, n)| i as f64 * n).sum::<f64>());
    let (mut below, mut sum_below, mut best, mut split) = (0., 0., 0., 0);
    for (i, n) in counts.iter().enumerate() {
        below += n;
        sum_below += i as f64 * n;
        if below == 0. || below == all {
            continue;
        }
        let apart = sum_below / below - (sum - sum_below) / (all - below);
        let between = below * (all - below) * apart * apart;
        if between > best {
            (best, split) = (between, i);
        }
    }
    (split as f64 + 1.) / 127. * most
}

/// The largest connected part.
fn largest(inside: &[bool], width: usize, height: usize) -> Vec<bool> {
    let mut seen = vec![false; inside.len()];
    let mut best = Vec::new();
    for start in 0..inside.len() {
        if inside[start] && !seen[start] {
            let part = flood(start, width, height, &mut seen, |i| inside[i]);
            if part.len() > best.len() {
                best = part;
            }
        }
    }
    let mut mask = vec![false; inside.len()];
    best.into_iter().for_each(|i| mask[i] = true);
    mask
}

/// Without holes: all that the border cannot reach.
fn filled(inside: &[bool], width: usize, height: usize) -> Vec<bool> {
    let mut outside = vec![false; inside.len()];
    for i in 0..inside.len() {
        let (x, y) = (i % width, i / width);
        let rim = x == 0 || y == 0 || x + 1 == width || y + 1 == height;
        if rim && !inside[i] && !outside[i] {
            flood(i, width, height, &mut outside, |i| !inside[i]);
        }
    }
    outside.into_iter().map(|outside| !outside).collect()
}

fn flood(start: usize, width: usize, height: usize, seen: &mut [bool], belongs: impl Fn(usize) -> bool) -> Vec<usize> {
    let (mut part, mut next) = (Vec::new(), vec![start]);
    seen[start] = true;
    while let Some(i) = next.pop() {
        part.push(i);
        let (x, y) = (i % width, i / width);
        let beside = [
            (x > 0, i.wrapping_sub(1)),
            (x + 1 < width, i + 1),
            (y > 0, i.wrapping_sub(width)),
            (y + 1 < height, i + width),
        ];
        for (_, j) in beside.into_iter().filter(|(there, _)| *there) {
            if !seen[j] && belongs(j) {
                seen[j] = true;
                next.push(j);
            }
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn a_thing_on_a_plain_ground_is_found() {
        let thing = |x: u32, y: u32| (x as i64 - 200).pow(2) + (y as i64 - 150).pow(2) < 80 * 80;
        let hole = |x: u32, y: u32| (x as i64 - 200).pow(2) + (y as i64 - 150).pow(2) < 20 * 20;
        let photo = RgbImage::from_fn(400, 320, |x, y| {
            let light = (x / 8) as u8; // it falls from one side
            Rgb(if thing(x, y) && !hole(x, y) { [190, 60, 40] } else { [120 + light, 130 + light, 140 + light] })
        });
        let mask = propose(&photo);
        assert_eq!(mask.dimensions(), photo.dimensions());
        let (mut both, mut either) = (0., 0.);
        for (x, y, level) in mask.enumerate_pixels() {
            let (a, b) = (level.0[0] > 0, thing(x, y));
            both += f64::from(u8::from(a && b));
            either += f64::from(u8::from(a || b));
        }
        assert!(both / either > 0.93, "{}", both / either);
        // nothing to find is no reason to fail
        assert_eq!(propose(&RgbImage::new(3, 200)).dimensions(), (3, 200));
    }
}
