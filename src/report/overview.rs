//! A run at one glance: the subject's photos, and a few prompts drawn in every way.

use image::imageops::FilterType;
use image::{DynamicImage, RgbImage};

use super::contact_sheet;
use super::page::{Drawing, ReportInput};

/// Photos and prompts shown.
const COLUMNS: usize = 5;

/// Photos on top; below them a row for each way of drawing, that without the adapter first; a column for each prompt,
/// spread over all of them. None if nothing was drawn.
pub fn overview(input: &ReportInput) -> Option<RgbImage> {
    let drawings = &input.drawings;
    let rows = drawings.iter().map(|drawing| drawing.cells.len()).min()?;
    let columns = drawings.len().min(COLUMNS);
    let chosen: Vec<&Drawing> = (0..columns).map(|i| &drawings[i * drawings.len() / columns]).collect();
    // the picture in question stands first where it is alone, else below what it is compared with
    let order = (1..rows.min(2)).chain([0]).chain(2..rows);
    let blank = (RgbImage::from_pixel(1, 1, image::Rgb([255; 3])), String::new());
    let (width, height) = chosen[0].cells[0].picture.dimensions();
    let photos = input.photos.iter().map(|row| {
        let photo = DynamicImage::ImageRgb8(row.photo.clone()).resize(width, height, FilterType::CatmullRom);
        (photo.into_rgb8(), row.name.clone())
    });
    let mut cells: Vec<_> = photos.take(columns).collect();
    cells.resize(columns, blank);
    for row in order {
        cells.extend(chosen.iter().map(|drawing| {
            let cell = &drawing.cells[row];
            (cell.picture.clone(), format!("{}: {}", drawing.prompt, cell.caption))
        }));
    }
    Some(contact_sheet(&cells, columns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::page::tests::input;

    #[test]
    fn a_row_for_photos_and_for_each_way() {
        let sheet = overview(&input()).unwrap();
        // three prompts; their last one was not drawn without the adapter
        assert_eq!(sheet.width(), 3 * (256 + 8) + 8);
        assert_eq!(sheet.height() / (256 + 8), 2);
        assert!(overview(&ReportInput::default()).is_none());
    }
}
