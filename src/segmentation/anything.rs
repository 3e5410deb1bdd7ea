//! Segment Anything: a network that was trained on eleven million photos cuts out whatever is pointed at.

use anyhow::Result;
use image::{GrayImage, Luma, RgbImage};

use super::tidy::tidied;
use super::{Made, between};
use crate::model::Sam;
use crate::model::sam::{Masks, Prompt};

/// A mask is as sure as it stays the same where every place is so much more or less the subject's: the authors' stability.
const DOUBT: f32 = 1.;

/// Cuts out of a photo what is asked for.
///
/// # Errors
/// If the prompt is empty, or the network cannot compute.
pub fn anything(sam: &Sam, photo: &RgbImage, prompt: &Prompt) -> Result<Made> {
    Ok(best(&sam.masks(&sam.look(photo)?, prompt)?, photo.dimensions()))
}

/// What a mask covers, as a box and a point deep inside; nothing of an empty one.
pub fn around(mask: &GrayImage) -> Option<Prompt> {
    let inside = || mask.enumerate_pixels().filter(|(.., level)| level.0[0] > 127).map(|(x, y, _)| (x, y));
    let (left, right) = (inside().map(|(x, _)| x).min()?, inside().map(|(x, _)| x).max()?);
    let (top, bottom) = (inside().map(|(_, y)| y).min()?, inside().map(|(_, y)| y).max()?);
    let (x, y) = deepest(mask)?;
    let place = |x: u32, y: u32| [f64::from(x), f64::from(y)];
    Some(Prompt { points: vec![(place(x, y), true)], corners: Some([place(left, top), place(right, bottom)]) })
}

/// The pixel of a mask that is farthest from its edge, in steps along rows and columns.
fn deepest(mask: &GrayImage) -> Option<(u32, u32)> {
    let (width, height) = (mask.width() as usize, mask.height() as usize);
    let mut depth: Vec<u32> = mask.iter().map(|&level| if level > 127 { u32::MAX } else { 0 }).collect();
    let at = |depth: &[u32], x: usize, y: usize, dx: isize, dy: isize| {
        let (x, y) = (x.checked_add_signed(dx), y.checked_add_signed(dy));
        let beside = x.zip(y).filter(|&(x, y)| x < width && y < height);
        beside.map_or(0, |(x, y)| depth[y * width + x]).saturating_add(1)
    };
    for y in 0..height {
        for x in 0..width {
            depth[y * width + x] = depth[y * width + x].min(at(&depth, x, y, -1, 0)).min(at(&depth, x, y, 0, -1));
        }
    }
    for y in (0..height).rev() {
        for x in (0..width).rev() {
            depth[y * width + x] = depth[y * width + x].min(at(&depth, x, y, 1, 0)).min(at(&depth, x, y, 0, 1));
        }
    }
    let most = depth.iter().copied().max().filter(|&most| most > 0)?;
    let deepest: Vec<usize> = (0..depth.len()).filter(|&i| depth[i] == most).collect();
    let middle = deepest[deepest.len() / 2];
    Some(((middle % width) as u32, (middle / width) as u32))
}

/// The mask that the network likes best, at the photo's size. It is as sure as the network is, and as it is stable.
fn best(masks: &Masks, (width, height): (u32, u32)) -> Made {
    let best = (0..masks.logits.len()).max_by(|&a, &b| masks.shares[a].total_cmp(&masks.shares[b])).unwrap_or(0);
    let logits = &masks.logits[best];
    let above = |bound: f32| logits.iter().filter(|&&logit| logit > bound).count();
    let stability = above(DOUBT) as f64 / above(-DOUBT).max(1) as f64;
    let mask = GrayImage::from_fn(width, height, |x, y| {
        let place = |pixel: u32| (f64::from(pixel) + 0.5) * masks.scale - 0.5;
        Luma([if between(logits, masks.side, place(x), place(y)) > 0. { 255 } else { 0 }])
    });
    Made { mask: tidied(&mask), confidence: f64::from(masks.shares[best]).clamp(0., 1.).min(stability) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_becomes_a_box_and_a_point_deep_inside() {
        // a disc with a handle
        let inside = |x: u32, y: u32| (x as i32 - 12).pow(2) + (y as i32 - 10).pow(2) < 50 || (y == 10 && x < 30);
        let mask = GrayImage::from_fn(40, 24, |x, y| Luma([if inside(x, y) { 255 } else { 0 }]));
        let prompt = around(&mask);
        assert_eq!(prompt.as_ref().and_then(|prompt| prompt.corners), Some([[0., 3.], [29., 17.]]));
        let points = prompt.map(|prompt| prompt.points).unwrap_or_default();
        assert!(matches!(points[..], [([x, y], true)] if (x - 12.).hypot(y - 10.) < 2.), "{points:?}");
        assert_eq!(around(&GrayImage::new(5, 5)), None);
        // all of a photo is inside, and its middle the farthest from what is not
        let whole = around(&GrayImage::from_pixel(5, 3, Luma([255])));
        assert_eq!(whole.map(|prompt| prompt.points), Some(vec![([2., 1.], true)]));
    }

    #[test]
    fn the_best_mask_is_taken_in_the_photos_size() {
        let half = |sign: f32| (0..16).map(|i| if i % 4 < 2 { sign } else { -sign }).collect::<Vec<f32>>();
        let masks = Masks { logits: vec![half(3.), half(-3.)], side: 4, shares: vec![0.2, 0.9], scale: 0.5 };
        let made = best(&masks, (8, 8));
        let column: Vec<u8> = (0..8).map(|x| made.mask.get_pixel(x, 5).0[0]).collect();
        assert_eq!(column, [0, 0, 0, 0, 255, 255, 255, 255]);
        assert!((made.confidence - 0.9).abs() < 1e-6);
        // what a little doubt changes is not sure
        let faint = Masks { logits: vec![half(0.5)], side: 4, shares: vec![1.2], scale: 0.5 };
        assert_eq!(best(&faint, (8, 8)).confidence, 0.);
    }
}
