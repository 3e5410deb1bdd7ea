//! Embedded colour profiles: pixels become sRGB, which is what models were trained on.

use anyhow::{Result, bail};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

/// A profile that moves no colour by more than so many levels is sRGB: its pixels stay as they are.
const ROUNDING: u8 = 1;

/// Larger profiles are no profiles.
const LARGEST: usize = 16 << 20;

/// Converts rows of pixels of three channels, or four of which the last is alpha. A profile that cannot be
/// used is ignored, with a warning.
pub(super) fn rgb_to_srgb(
    values: &mut [u8],
    width: usize,
    channels: usize,
    profile: &[u8],
    warnings: &mut Vec<String>,
) {
    let layout = if channels == 4 { Layout::Rgba } else { Layout::Rgb };
    let converted = (|| {
        let Some(profile) = parsed(profile, DataColorSpace::Rgb)? else { return Ok(()) };
        let convert = profile.create_transform_8bit(layout, &ColorProfile::new_srgb(), layout, options())?;
        let known: Vec<u8> =
            colours().flat_map(|rgb| [rgb[0], rgb[1], rgb[2], 255].into_iter().take(channels)).collect();
        let mut moved = vec![0; known.len()];
        convert.transform(&known, &mut moved)?;
        if alike(&known, &moved) {
            return Ok(());
        }
        let mut row = vec![0; width * channels];
        for pixels in values.chunks_exact_mut(width * channels) {
            convert.transform(pixels, &mut row)?;
            pixels.copy_from_slice(&row);
        }
        anyhow::Ok(())
    })();
    note(converted, warnings);
}

/// The sRGB level of each gray level.
pub(super) fn gray_to_srgb(profile: &[u8], warnings: &mut Vec<String>) -> [u8; 256] {
    let grays: [u8; 256] = std::array::from_fn(|i| i as u8);
    let table = (|| {
        let Some(profile) = parsed(profile, DataColorSpace::Gray)? else { return Ok(grays) };
        let convert = profile.create_transform_8bit(Layout::Gray, &ColorProfile::new_srgb(), Layout::Rgb, options())?;
        let mut colours = vec![0; 3 * 256];
        convert.transform(&grays, &mut colours)?;
        let table = std::array::from_fn(|i| colours[3 * i]);
        anyhow::Ok(if alike(&grays, &table) { grays } else { table })
    })();
    table.unwrap_or_else(|error| {
        note(Err(error), warnings);
        grays
    })
}

/// Whether a profile is for gray pixels.
pub(super) fn is_gray(profile: &[u8]) -> bool {
    profile.get(16..20) == Some(b"GRAY")
}

/// Rows of four inks (0: none) as sRGB, by their profile or else by the plain rule that inks absorb light.
pub(super) fn inks_to_rgb(
    mut inks: Vec<u8>,
    width: usize,
    profile: Option<&[u8]>,
    warnings: &mut Vec<String>,
) -> Vec<u8> {
    let convert = profile.map(|profile| {
        let profile = parsed(profile, DataColorSpace::Cmyk)?;
        let Some(profile) = profile else { return Ok(None) };
        // four inks are laid out like four channels
        Ok(Some(profile.create_transform_8bit(Layout::Rgba, &ColorProfile::new_srgb(), Layout::Rgb, options())?))
    });
    let convert = convert.unwrap_or(Ok(None)).unwrap_or_else(|error| {
        note(Err(error), warnings);
        None
    });
    let mut row = vec![0; width * 3];
    let mut done = 0;
    for start in (0..inks.len()).step_by((width * 4).max(1)) {
        let pixels = &inks[start..(start + width * 4).min(inks.len())];
        if convert.as_ref().is_none_or(|convert| convert.transform(pixels, &mut row).is_err()) {
            for (rgb, ink) in row.chunks_exact_mut(3).zip(pixels.chunks_exact(4)) {
                let light = |ink: u8, black: u8| ((255 - ink as u32) * (255 - black as u32) + 127) / 255;
                rgb.copy_from_slice(&[0, 1, 2].map(|i| light(ink[i], ink[3]) as u8));
            }
        }
        // three values take the place of four that have been read
        inks[done..done + row.len()].copy_from_slice(&row);
        done += row.len();
    }
    inks.truncate(done);
    inks
}

fn options() -> TransformOptions {
    TransformOptions { prefer_fixed_point: false, ..TransformOptions::default() }
}

fn parsed(profile: &[u8], space: DataColorSpace) -> Result<Option<ColorProfile>> {
    if profile.is_empty() {
        return Ok(None);
    }
    if profile.len() > LARGEST {
        bail!("it takes {} MiB", profile.len() >> 20);
    }
    let profile = ColorProfile::new_from_slice(profile)?;
    if profile.color_space != space {
        bail!("it is for {:?} pixels, not {space:?}", profile.color_space);
    }
    Ok(Some(profile))
}

/// A grid over all colours, and all grays.
fn colours() -> impl Iterator<Item = [u8; 3]> {
    let level = |i: usize| (i * 255 / 8) as u8;
    let grid = (0..9 * 9 * 9).map(move |i| [level(i / 81), level(i / 9 % 9), level(i % 9)]);
    grid.chain((0..=255).map(|gray| [gray; 3]))
}

fn alike(before: &[u8], after: &[u8]) -> bool {
    before.iter().zip(after).all(|(a, b)| a.abs_diff(*b) <= ROUNDING)
}

fn note(result: Result<()>, warnings: &mut Vec<String>) {
    if let Err(error) = result {
        warnings.push(format!("its colour profile is left aside: {error}"));
    }
}
