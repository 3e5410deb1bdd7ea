//! The losses of a training over its steps, as a picture.

use std::path::Path;

use anyhow::{Result, anyhow};
use image::{Rgb, RgbImage};
use plotters::prelude::*;

use super::font::font;
use crate::images::png::save_png;

const COLOURS: [RGBColor; 5] = [
    RGBColor(40, 40, 40),
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
];

/// Losses as they are drawn.
pub(super) struct Losses<'a> {
    /// The finite ones by name, as (step, value).
    pub(super) series: Vec<(&'a str, Vec<(f64, f64)>)>,
    /// The last step.
    pub(super) last: f64,
    /// What all but a few stay below: spikes shall not flatten everything else.
    pub(super) top: f64,
}

impl<'a> Losses<'a> {
    pub(super) fn new(series: &[(&'a str, Vec<(f64, f64)>)]) -> Self {
        let finite = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
        };
        let series: Vec<_> = series.iter().map(|(name, points)| (*name, finite(points))).collect();
        let last = series.iter().flat_map(|(_, points)| points).map(|p| p.0).fold(2f64, f64::max);
        let mut values: Vec<f64> = series.iter().flat_map(|(_, points)| points).map(|p| p.1).collect();
        values.sort_by(f64::total_cmp);
        let top = values.get((values.len() * 99 / 100).min(values.len().saturating_sub(1))).copied().unwrap_or(1.);
        Self { series, last, top: top.max(1e-6) }
    }
}

/// Draws series of (step, value) as light lines with their smoothed course over them.
///
/// # Errors
/// If the file cannot be written.
pub fn loss_curve(path: &Path, series: &[(&str, Vec<(f64, f64)>)]) -> Result<()> {
    let size = (960, 540);
    let mut image = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    let Losses { series, last, top } = Losses::new(series);
    {
        let canvas = BitMapBackend::with_buffer(&mut image, size).into_drawing_area();
        let drawn = (|| {
            let mut chart = ChartBuilder::on(&canvas)
                .margin(16)
                .x_label_area_size(40)
                .y_label_area_size(56)
                .build_cartesian_2d(0f64..last, 0f64..top * 1.1)?;
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
pub(super) fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
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
    fn any_number_of_points_can_be_plotted() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for points in [vec![], vec![(1., 0.5)], vec![(1., f64::NAN), (2., 1.), (3., 0.)]] {
            loss_curve(&folder.path().join("loss.png"), &[("total", points)])?;
        }
        Ok(())
    }
}
