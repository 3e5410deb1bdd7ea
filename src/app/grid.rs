//! Sheets on which settings change from column to column and from row to row.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use clap::ValueEnum;

use super::Observer;
use super::names::words;
use super::studio::Studio;
use crate::files::digest;
use crate::images;
use crate::images::png::save_sheet_over_ours;
use crate::report::contact_sheet;
use crate::sampling::{Order, Style};
use crate::settings::SamplerName;

/// A setting and the values that it takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    setting: &'static Setting,
    /// The values as they were typed.
    pub values: Vec<String>,
}

/// Something that can change on a sheet.
#[derive(Debug)]
struct Setting {
    name: &'static str,
    /// Whether a style could take the value.
    set: fn(&mut Style, &str) -> Option<()>,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// All that can change.
static SETTINGS: [Setting; 9] = [
    Setting { name: "reference", set: |style, value| put(&mut style.special.dial.reference, value) },
    Setting { name: "low", set: |style, value| put(&mut style.special.dial.low, value) },
    Setting { name: "high", set: |style, value| put(&mut style.special.dial.high, value) },
    Setting { name: "guidance", set: |style, value| put(&mut style.guidance, value) },
    Setting { name: "guidance-rescale", set: |style, value| put(&mut style.guidance_rescale, value) },
    Setting { name: "steps", set: |style, value| put(&mut style.steps, value) },
    Setting {
        name: "sampler",
        set: |style, value| {
            style.sampler = SamplerName::from_str(value, true).ok()?;
            Some(())
        },
    },
    Setting { name: "strength", set: |style, value| put(&mut style.special.start.as_mut()?.strength, value) },
    Setting { name: "variations", set: |style, value| put(&mut style.special.variation.as_mut()?.1, value) },
];

fn put<T: FromStr>(place: &mut T, value: &str) -> Option<()> {
    *place = value.parse().ok()?;
    Some(())
}

/// All samplers, for messages.
fn samplers() -> String {
    let names = SamplerName::value_variants().iter().filter_map(SamplerName::to_possible_value);
    names.map(|name| name.get_name().to_string()).collect::<Vec<_>>().join(", ")
}

/// The option that sets what a sheet calls `name`.
pub fn option(name: &str) -> String {
    format!("--{}", if name == "reference" { "reference-strength" } else { name })
}

impl Axis {
    /// The setting that changes along it.
    pub fn name(&self) -> &'static str {
        self.setting.name
    }
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, values) = text.split_once('=').ok_or("give a setting and its values, e.g. guidance=5,7.5,12.5")?;
        let setting = SETTINGS.iter().find(|setting| setting.name == name.trim()).ok_or_else(|| {
            format!("{name:?} is none of {}", SETTINGS.each_ref().map(|setting| setting.name).join(", "))
        })?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_string()).collect();
        if values.iter().any(String::is_empty) {
            return Err("a value is missing".into());
        }
        if let Some(twice) = (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
            return Err(format!("{} is there twice", values[twice]));
        }
        Ok(Self { setting, values })
    }
}

/// A way of drawing on a sheet, and what is written below its picture.
pub(super) struct Cell<'a> {
    pub(super) style: Style<'a>,
    pub(super) caption: String,
}

/// All ways of drawing on a sheet: rows of the second axis, in which the first changes.
///
/// # Errors
/// If a style cannot take a value; the message has both.
pub(super) fn cells<'a>(style: &Style<'a>, axes: &[Axis]) -> Result<Vec<Cell<'a>>, String> {
    let mut cells = vec![Cell { style: style.clone(), caption: String::new() }];
    for axis in axes.iter().rev() {
        let mut wider = Vec::with_capacity(cells.len() * axis.values.len());
        for cell in &cells {
            for value in &axis.values {
                let (mut style, name) = (cell.style.clone(), axis.setting.name);
                (axis.setting.set)(&mut style, value).ok_or_else(|| match name {
                    "strength" if style.special.start.is_none() => "strength: only with --from".into(),
                    "variations" if style.special.variation.is_none() => "variations: only with --variations".into(),
                    "sampler" => format!("sampler={value}: it is one of {}", samplers()),
                    _ => format!("{name}={value}: give what {} takes", option(name)),
                })?;
                let separator = if cell.caption.is_empty() { "" } else { ", " };
                wider.push(Cell { style, caption: format!("{}{separator}{name} {value}", cell.caption) });
            }
        }
        cells = wider;
    }
    Ok(cells)
}

/// Draws all pictures in all ways, and a sheet of each; gives the files.
///
/// # Errors
/// As [`Studio::draw`], also if a sheet cannot be written.
pub(super) fn draw_grid(
    studio: &Studio,
    cells: &[Cell],
    orders: &[Order],
    (columns, out): (usize, &Path),
    observer: &mut dyn Observer,
) -> Result<Vec<PathBuf>> {
    let mut drawn = Vec::with_capacity(cells.len());
    for cell in cells {
        drawn.push(studio.draw(&cell.style, orders, out, observer)?);
    }
    let mut files = drawn.concat();
    let captions: Vec<&str> = cells.iter().map(|cell| cell.caption.as_str()).collect();
    for (i, order) in orders.iter().enumerate() {
        let shown: Vec<PathBuf> = drawn.iter().map(|files| files[i].clone()).collect();
        let names = shown.iter().filter_map(|file| file.file_name());
        let names: String = names.map(|name| name.to_string_lossy()).collect();
        let told = digest(names.as_bytes(), 4);
        let sheet = out.join(format!("{}-{}-{told}-contact-sheet.png", words(&order.prompt), order.seed));
        save_sheet(&sheet, &shown, &captions, columns)?;
        let cut = if shown.len() > SHEET { format!(", the first {SHEET} of {}", shown.len()) } else { String::new() };
        observer.info(&format!("Sheet of {:?}: {}{cut}", order.prompt, sheet.display()));
        files.push(sheet);
    }
    Ok(files)
}

/// Pictures of a sheet; more would be no overview, and fill the memory.
pub(super) const SHEET: usize = 200;

/// Writes the pictures of `files` on one sheet.
///
/// # Errors
/// If one cannot be read, or the sheet cannot be written.
pub(super) fn save_sheet(path: &Path, files: &[PathBuf], captions: &[&str], columns: usize) -> Result<()> {
    let cells = files.iter().zip(captions).take(SHEET);
    let cells = cells.map(|(file, caption)| Ok((images::open(file)?, caption.to_string())));
    save_sheet_over_ours(path, &contact_sheet(&cells.collect::<Result<Vec<_>>>()?, columns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::eqdiff::rra::ReferenceNoise;
    use crate::sampling::Special;

    #[test]
    fn the_first_axis_changes_within_a_row() -> Result<(), String> {
        let style = Style {
            negative: "",
            sampler: SamplerName::Ddim,
            steps: 5,
            guidance: 7.,
            guidance_rescale: 0.,
            size: (64, 64),
            reference: None,
            reference_noise: ReferenceNoise::Clean,
            special: Special::default(),
        };
        let axes = ["reference=0, 0.5", "guidance=5,7.5,12.5"].map(|text| text.parse::<Axis>());
        let axes = [axes[0].clone()?, axes[1].clone()?];
        let cells = cells(&style, &axes)?;
        let found: Vec<_> = cells.iter().map(|c| (c.style.special.dial.reference, c.style.guidance)).collect();
        assert_eq!(found, [(0., 5.), (0.5, 5.), (0., 7.5), (0.5, 7.5), (0., 12.5), (0.5, 12.5)]);
        assert_eq!(cells[3].caption, "guidance 7.5, reference 0.5");
        let sampler = super::cells(&style, &["sampler=euler-a,unipc".parse()?])?;
        assert_eq!(sampler[0].style.sampler, SamplerName::EulerA);
        for (wrong, part) in [("steps=2,x", "steps=x"), ("strength=0.5", "--from"), ("sampler=best", "sampler=best")] {
            let said = super::cells(&style, &[wrong.parse()?]).err().unwrap_or_default();
            assert!(said.contains(part), "{said}");
        }
        for (wrong, part) in [
            ("guidance", "values"),
            ("colour=1", "reference, low"),
            ("steps=1,,2", "missing"),
            ("low=1,0,1", "1 is there twice"),
        ] {
            assert!(wrong.parse::<Axis>().is_err_and(|said| said.contains(part)), "{wrong}");
        }
        Ok(())
    }
}
