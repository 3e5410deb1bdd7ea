//! Masks without crumbs.

use image::{GrayImage, Luma};

/// Pieces smaller than this part of the largest are crumbs, or holes that are none.
const CRUMB: f64 = 0.05;
const HOLE: f64 = 0.003;

/// The mask without small pieces beside the largest one, and without pinholes.
pub(super) fn tidied(mask: &GrayImage) -> GrayImage {
    let without = |mask: &GrayImage, level: u8, share: f64| {
        let pieces = pieces(mask, level);
        let largest = pieces.iter().map(Vec::len).max().unwrap_or(0);
        let subject = mask.iter().filter(|&&level| level > 0).count();
        let whole = if level > 0 { largest } else { subject };
        let mut tidied = mask.clone();
        for (x, y) in pieces.into_iter().filter(|piece| (piece.len() as f64) < share * whole as f64).flatten() {
            tidied.put_pixel(x, y, Luma([255 - level]));
        }
        tidied
    };
    without(&without(mask, 255, CRUMB), 0, HOLE)
}

/// The connected pieces of one level.
fn pieces(mask: &GrayImage, level: u8) -> Vec<Vec<(u32, u32)>> {
    let (width, height) = mask.dimensions();
    let mut seen = vec![false; (width * height) as usize];
    let mut pieces = Vec::new();
    for start in 0..seen.len() {
        let (x, y) = (start as u32 % width, start as u32 / width);
        if std::mem::replace(&mut seen[start], true) || mask.get_pixel(x, y).0[0] != level {
            continue;
        }
        let (mut piece, mut next) = (vec![(x, y)], 0);
        while let Some(&(x, y)) = piece.get(next) {
            next += 1;
            let beside = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
            for (x, y) in beside.into_iter().filter(|&(x, y)| x < width && y < height) {
                let place = (y * width + x) as usize;
                if mask.get_pixel(x, y).0[0] == level && !std::mem::replace(&mut seen[place], true) {
                    piece.push((x, y));
                }
            }
        }
        pieces.push(piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_go_and_handles_stay() {
        let body = |x: u32, y: u32| (4..36).contains(&x) && (4..36).contains(&y);
        let handle = |x: u32, y: u32| (10..20).contains(&x) && (10..20).contains(&y);
        let clean = GrayImage::from_fn(60, 40, |x, y| Luma([if body(x, y) && !handle(x, y) { 255 } else { 0 }]));
        let mut rough = clean.clone();
        for (x, y) in [(50, 3), (51, 3), (58, 39)] {
            rough.put_pixel(x, y, Luma([255]));
        }
        rough.put_pixel(30, 30, Luma([0]));
        assert_eq!(tidied(&rough), clean);
        assert_eq!(tidied(&GrayImage::new(5, 5)), GrayImage::new(5, 5));
    }
}
