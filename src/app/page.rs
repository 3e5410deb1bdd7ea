//! `report.html`: the subject, what was drawn, how it scores, how it was trained.

use std::path::Path;

use anyhow::{Context, Result, bail};
use image::RgbImage;

use super::names::words;
use crate::adapter::Adapter;
use crate::evaluation::scores::{Evaluation, ImageScores, Scores, title};
use crate::images;
use crate::images::png::{SHEET, save_png};
use crate::method::eqdiff::fdte::split_bands;
use crate::report::overview;
use crate::report::page::{Cell, Drawing, PhotoRow, ReportInput, report_page};
use crate::subject::{self, Subject};

/// The subject that an adapter brings along.
///
/// # Errors
/// If its photos or masks cannot be read, or are not those that it was trained on.
pub fn subject(adapter: &Adapter) -> Result<Subject> {
    let (photos, masks) = adapter.photos();
    if !photos.is_dir() {
        bail!("{} has no photos of its subject: eqdiff import --subject takes some along", adapter.folder.display());
    }
    let subject = subject::find(&subject::Request {
        subject: &adapter.manifest.subject,
        images: Some(&photos),
        masks: Some(&masks),
        class: Some(&adapter.manifest.class),
        ..subject::Request::default()
    })?;
    if subject.digest() != adapter.manifest.photos {
        bail!("the photos or masks in {} are not those that it was trained on", adapter.folder.display());
    }
    Ok(subject)
}

/// What gives the picture that a prompt should give of the subject, as far as that is known: of a bundled one, some.
pub fn truth(subject: &Subject) -> impl Fn(&str) -> Option<RgbImage> + use<> {
    let bundled = subject.is_bundled().then(|| subject.name.clone());
    move |prompt| subject::truth(bundled.as_deref()?, &words(prompt))
}

/// The picture of a run at one glance.
pub const OVERVIEW: &str = "overview.png";

/// Writes the page of pictures that lie in `folder`, and [`OVERVIEW`] beside them.
///
/// # Errors
/// If a picture cannot be read, or the page cannot be written.
pub fn write(path: &Path, adapter: &Adapter, subject: &Subject, folder: &Path, evaluation: &Evaluation) -> Result<()> {
    let manifest = &adapter.manifest;
    let settings = &manifest.settings;
    let photo = |photo: &subject::Photo| {
        let square = photo.square(manifest.side as u32);
        let (low, high) = split_bands(&images::to_picture(&square), &settings.fdte.split(manifest.side));
        PhotoRow {
            name: photo.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            photo: photo.image.clone(),
            mask: Some(photo.mask.clone()),
            bands: Some((images::from_picture(&low), images::from_picture(&high))),
        }
    };
    let toml = toml::Table::try_from(settings).context("cannot list the settings")?;
    let lines = toml.iter().flat_map(|(section, table)| {
        let entries = table.as_table().into_iter().flatten();
        entries.map(move |(key, value)| (format!("{section}.{key}"), value.to_string()))
    });
    let input = ReportInput {
        title: manifest.called(),
        introduction: format!(
            "The subject {}, taught to the base {} in {} steps, and drawn from {} prompts.",
            manifest.subject,
            manifest.base,
            manifest.steps,
            evaluation.measured.images.len()
        ),
        photos: subject.photos.iter().map(photo).collect(),
        settings: lines.collect(),
        loss_curve: loss_curve(adapter),
        drawings: drawings(subject, folder, evaluation)?,
        evaluation: Some(evaluation.clone()),
    };
    if let Some(overview) = overview(&input) {
        save_png(&folder.join(OVERVIEW), &overview, &SHEET)?;
    }
    report_page(&input)?.write(path)
}

/// Each picture with those of the same prompt that were drawn otherwise.
fn drawings(subject: &Subject, folder: &Path, evaluation: &Evaluation) -> Result<Vec<Drawing>> {
    let measured = &evaluation.measured;
    let compared = !evaluation.others.is_empty();
    let truth = truth(subject);
    let drawing = |(i, first): (usize, &ImageScores)| {
        let caption = if compared { "with the adapter".to_string() } else { first.file.clone() };
        let cell = |caption: String, image: &ImageScores| -> Result<Cell> {
            let picture = images::open(&folder.join(&image.file))?;
            Ok(Cell { caption, picture, scores: image.scores, findings: image.findings.clone() })
        };
        let mut cells = vec![cell(caption, first)?];
        for (way, other) in &evaluation.others {
            if let Some(image) = other.images.get(i) {
                cells.push(cell(title(way), image)?);
            }
        }
        cells.extend(truth(&first.prompt).map(|picture| Cell {
            caption: "as it should be".into(),
            picture,
            scores: Scores::default(),
            findings: Vec::new(),
        }));
        Ok(Drawing { prompt: first.prompt.clone(), group: first.group, cells })
    };
    measured.images.iter().enumerate().map(drawing).collect()
}

/// The picture that training left; an adapter from elsewhere may have none.
fn loss_curve(adapter: &Adapter) -> Option<RgbImage> {
    images::open(&adapter.folder.join("loss.png")).ok()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::base::Clip;
    use crate::evaluation::metrics::unit;
    use crate::evaluation::prompts::{builtin, fill, kind_of};
    use crate::evaluation::scorer::{clip_features, text_features};

    /// What PyTorch's CLIPModel says of the embedded weights: the mean cosine of the dog's true pictures and their prompts,
    /// the eight unstylised ones and the eight stylised ones.
    const DOG: [f32; 2] = [0.4644, 0.3774];

    #[test]
    fn the_embedded_clip_knows_true_pictures_by_their_prompts() -> Result<()> {
        let clip = Clip::load("mini", true, &Device::Cpu)?;
        for name in subject::bundled() {
            let subject = subject::find(&subject::Request { subject: &name, ..subject::Request::default() })?;
            let prompts = builtin(kind_of(&name));
            let all = prompts.unstylised.iter().chain(&prompts.stylised).map(|text| fill(text, &format!("S* {name}")));
            let pairs = all.filter_map(|prompt| Some((truth(&subject)(&prompt)?, prompt)));
            let (pictures, prompts): (Vec<_>, Vec<_>) = pairs.unzip();
            let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
            let (pictures_seen, texts) = (clip_features(&clip, &pictures)?, text_features(&clip, &prompts)?);
            let cosines = unit(&pictures_seen)?.matmul(&unit(&texts)?.t()?)?;
            let best = cosines.argmax(1)?.to_vec1::<u32>()?;
            let told = best.iter().enumerate().filter(|(i, best)| *i as u32 == **best).count();
            assert!(told * 4 >= pictures.len() * 3, "{name}: {told} of {}", pictures.len());
            if name == "dog" {
                let own: Vec<f32> = cosines.to_vec2::<f32>()?.iter().enumerate().map(|(i, row)| row[i]).collect();
                let means = [&own[..8], &own[8..]].map(|list| list.iter().sum::<f32>() / list.len() as f32);
                assert!(means.iter().zip(DOG).all(|(mean, right)| (mean - right).abs() < 1e-3), "{means:?}");
            }
        }
        Ok(())
    }
}
