//! What the program shows people: PNG files with their parameters, contact sheets, loss curves.

use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result, anyhow};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::adapter::write_whole;

/// How a picture was drawn, in the layout that AUTOMATIC1111's viewers read.
#[allow(missing_docs)] // the names of that layout
pub struct Parameters<'a> {
    pub prompt: &'a str,
    pub negative: &'a str,
    pub steps: usize,
    pub sampler: &'a str,
    pub guidance: f64,
    pub seed: u64,
    pub width: u32,
    pub height: u32,
    pub model: &'a str,
}

impl std::fmt::Display for Parameters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        writeln!(f, "{}", self.prompt)?;
        if !self.negative.is_empty() {
            writeln!(f, "Negative prompt: {}", self.negative)?;
        }
        // values with a comma, colon or line break are quoted
        let model = if self.model.contains([',', ':', '\n']) { format!("{:?}", self.model) } else { self.model.into() };
        let Self { steps, sampler, guidance, seed, width, height, .. } = self;
        write!(
            f,
            "Steps: {steps}, Sampler: {sampler}, CFG scale: {guidance}, Seed: {seed}, Size: {width}x{height}, \
             Model: {model}, Version: eqdiff {}",
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// Writes a PNG with text chunks; a failure leaves no half file.
///
/// # Errors
/// If the file cannot be written; the message names it.
pub fn save_png(path: &Path, image: &RgbImage, text: &[(&str, &str)]) -> Result<()> {
    let bytes = png_bytes(image, text).with_context(|| format!("cannot encode {}", path.display()))?;
    write_whole(path, &bytes)
}

/// A PNG file's content.
///
/// # Errors
/// If the picture has no pixels.
pub fn png_bytes(image: &RgbImage, text: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (key, value) in text {
        let latin = value.chars().all(|c| (c as u32) < 256);
        if latin {
            encoder.add_text_chunk(key.to_string(), value.to_string())?;
        } else {
            encoder.add_itxt_chunk(key.to_string(), value.to_string())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()?;
    Ok(bytes)
}

/// The only typeface of the program, registered with the plotter once.
fn font(size: f64) -> FontDesc<'static> {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // a face that cannot be read would show as missing text, which the tests look for
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    FontDesc::new(FontFamily::SansSerif, size, FontStyle::Normal)
}

/// Shown side of a picture on a contact sheet, at least.
const CELL: u32 = 256;
const GAP: u32 = 8;
const LINE: u32 = 16;
const LINES: usize = 3;

/// A grid of pictures with captions below them, wrapped to at most three lines.
pub fn contact_sheet(cells: &[(RgbImage, String)], columns: usize) -> RgbImage {
    let columns = columns.clamp(1, cells.len().max(1));
    let shown: Vec<RgbImage> = cells.iter().map(|(image, _)| enlarged(image)).collect();
    let width = shown.iter().map(|i| i.width()).max().unwrap_or(CELL);
    let height = shown.iter().map(|i| i.height()).max().unwrap_or(CELL);
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

/// Small pictures enlarged by a whole factor, so that captions fit below them.
fn enlarged(image: &RgbImage) -> RgbImage {
    let factor = (CELL / image.width().max(1)).max(1);
    let (width, height) = (image.width() * factor, image.height() * factor);
    imageops::resize(image, width, height, FilterType::CatmullRom)
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

const COLOURS: [RGBColor; 5] = [
    RGBColor(40, 40, 40),
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
];

/// Draws series of (step, value) as light lines with their smoothed course over them.
///
/// # Errors
/// If the file cannot be written.
pub fn loss_curve(path: &Path, series: &[(&str, Vec<(f64, f64)>)]) -> Result<()> {
    let size = (960, 540);
    let mut image = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    let finite = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let series: Vec<(&str, Vec<(f64, f64)>)> = series.iter().map(|(name, points)| (*name, finite(points))).collect();
    let last = series.iter().flat_map(|(_, points)| points).map(|p| p.0).fold(2f64, f64::max);
    // a few spikes shall not flatten everything else
    let mut values: Vec<f64> = series.iter().flat_map(|(_, points)| points).map(|p| p.1).collect();
    values.sort_by(f64::total_cmp);
    let top = values.get((values.len() * 99 / 100).min(values.len().saturating_sub(1))).copied().unwrap_or(1.);
    {
        let canvas = BitMapBackend::with_buffer(&mut image, size).into_drawing_area();
        let drawn = (|| {
            let mut chart = ChartBuilder::on(&canvas)
                .margin(16)
                .x_label_area_size(40)
                .y_label_area_size(56)
                .build_cartesian_2d(0f64..last, 0f64..top.max(1e-6) * 1.1)?;
            chart
                .configure_mesh()
                .light_line_style(WHITE)
                .bold_line_style(RGBColor(225, 225, 225))
                .x_desc("step")
                .y_desc("loss")
                .axis_desc_style(font(16.))
                .label_style(font(13.))
                .x_label_formatter(&|x| format!("{x:.0}"))
                .draw()?;
            for ((name, points), colour) in series.iter().zip(COLOURS.iter().cycle()) {
                chart.draw_series(LineSeries::new(points.iter().copied(), colour.mix(0.2)))?;
                chart
                    .draw_series(LineSeries::new(smoothed(points), colour.stroke_width(2)))?
                    .label(*name)
                    .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
            }
            let mut legend = chart.configure_series_labels();
            legend
                .label_font(font(14.))
                .background_style(WHITE.mix(0.9))
                .border_style(RGBColor(200, 200, 200))
                .draw()?;
            canvas.present()
        })();
        drawn.map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
    }
    save_png(path, &image, &[])
}

/// A running mean over a tenth of the points, at least one.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = (points.len() / 20).max(1);
    let mean = |i: usize| {
        let window = &points[i.saturating_sub(reach)..(i + reach + 1).min(points.len())];
        (points[i].0, window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64)
    };
    (0..points.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_laid_out_for_viewers() {
        let mut parameters = Parameters {
            prompt: "a S* dog",
            negative: "",
            steps: 50,
            sampler: "DDIM",
            guidance: 7.5,
            seed: 42,
            width: 512,
            height: 256,
            model: "sd14",
        };
        let version = env!("CARGO_PKG_VERSION");
        let line = format!(
            "Steps: 50, Sampler: DDIM, CFG scale: 7.5, Seed: 42, Size: 512x256, Model: sd14, Version: eqdiff {version}"
        );
        assert_eq!(parameters.to_string(), format!("a S* dog\n{line}"));
        (parameters.negative, parameters.model) = ("blurry", "a,b");
        let text = parameters.to_string();
        assert!(text.starts_with("a S* dog\nNegative prompt: blurry\nSteps") && text.contains("Model: \"a,b\""));
    }

    #[test]
    fn text_chunks_survive_and_half_files_do_not() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.png");
        let image = RgbImage::from_pixel(3, 2, Rgb([1, 2, 3]));
        save_png(&path, &image, &[("parameters", "latin"), ("title", "日本")])?;
        let reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path)?)).read_info()?;
        assert_eq!(reader.info().uncompressed_latin1_text[0].text, "latin");
        assert_eq!(reader.info().utf8_text[0].get_text()?, "日本");
        assert_eq!(image::open(&path)?.to_rgb8(), image);
        let nowhere = folder.path().join("none/a.png");
        assert!(save_png(&nowhere, &image, &[]).is_err_and(|e| e.to_string().contains("none")));
        Ok(())
    }

    #[test]
    fn captions_are_visible_on_contact_sheets() {
        let cell = |text: &str| (RgbImage::from_pixel(128, 128, Rgb([200; 3])), text.to_string());
        let sheet = contact_sheet(&[cell("a caption"), cell(&"very long words ".repeat(30)), cell("")], 2);
        assert_eq!(sheet.width(), 2 * (256 + 8) + 8);
        let dark = sheet.pixels().filter(|p| p.0[0] < 100).count();
        assert!(dark > 100, "{dark} dark pixels");
    }

    #[test]
    fn any_number_of_points_can_be_plotted() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for points in [vec![], vec![(1., 0.5)], vec![(1., f64::NAN), (2., 1.), (3., 0.)]] {
            loss_curve(&folder.path().join("loss.png"), &[("total", points)])?;
        }
        Ok(())
    }
}
