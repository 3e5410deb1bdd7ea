//! Contact sheets: pictures in a grid, with captions.

use image::imageops;
use image::{Rgb, RgbImage};
use plotters::prelude::*;

use super::font::font;
use super::heat::enlarged;

const GAP: u32 = 8;
const LINE: u32 = 16;
const LINES: usize = 3;

/// A grid of pictures with captions below them, wrapped to at most three lines.
pub fn contact_sheet(cells: &[(RgbImage, String)], columns: usize) -> RgbImage {
    let columns = columns.clamp(1, cells.len().max(1));
    let shown: Vec<RgbImage> = cells.iter().map(|(image, _)| enlarged(image)).collect();
    let width = shown.iter().map(|i| i.width()).max().unwrap_or(0);
    let height = shown.iter().map(|i| i.height()).max().unwrap_or(0);
    let captions: Vec<Vec<String>> = cells.iter().map(|(_, caption)| wrapped(caption, width)).collect();
    let lines = captions.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let (cell_width, cell_height) = (width + GAP, height + GAP + lines * LINE);
    let rows = cells.len().div_ceil(columns) as u32;
    let size = (columns as u32 * cell_width + GAP, rows * cell_height + GAP);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    let place = |i: usize| {
        let (row, column) = ((i / columns) as u32, (i % columns) as u32);
        (GAP + column * cell_width, GAP + row * cell_height)
    };
    for (i, image) in shown.iter().enumerate() {
        let (x, y) = place(i);
        imageops::replace(&mut sheet, image, x as i64, y as i64);
    }
    let canvas = BitMapBackend::with_buffer(&mut sheet, size).into_drawing_area();
    for (i, lines) in captions.iter().enumerate() {
        let (x, y) = place(i);
        for (j, line) in lines.iter().enumerate() {
            let at = (x as i32, (y + height + 2 + j as u32 * LINE) as i32);
            // text that does not fit is cut by the canvas, nothing else can go wrong in memory
            let _ = canvas.draw(&Text::new(line.as_str(), at, font(13.)));
        }
    }
    drop(canvas);
    sheet
}

/// `text` in lines of at most `width` pixels; what does not fit in the last line ends in an ellipsis.
fn wrapped(text: &str, width: u32) -> Vec<String> {
    let fits = |line: &str| font(13.).layout_box(line).is_ok_and(|(low, high)| (high.0 - low.0) as u32 <= width);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if fits(&format!("{line} {word}")) => *line += &format!(" {word}"),
            _ => lines.push(word.to_string()),
        }
    }
    if lines.len() > LINES {
        lines.truncate(LINES);
        if let Some(last) = lines.last_mut() {
            *last += "…";
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_visible_on_contact_sheets() {
        let cell = |text: &str| (RgbImage::from_pixel(128, 128, Rgb([200; 3])), text.to_string());
        let sheet = contact_sheet(&[cell("a caption"), cell(&"very long words ".repeat(30)), cell("")], 2);
        assert_eq!(sheet.width(), 2 * (256 + 8) + 8);
        let dark = sheet.pixels().filter(|p| p.0[0] < 100).count();
        assert!(dark > 100, "{dark} dark pixels");
    }
}
