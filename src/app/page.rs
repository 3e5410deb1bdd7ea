//! `report.html`: the subject, what was drawn, how it scores, how it was trained.

use std::path::Path;

use anyhow::{Context, Result};
use image::RgbImage;

use crate::adapter::Adapter;
use crate::evaluation::report::Evaluation;
use crate::images;
use crate::method::fdte::split_bands;
use crate::report::page::{Drawing, Photo, ReportInput, report_page};
use crate::subject::{self, Subject};

/// The subject that an adapter brings along.
pub fn subject(adapter: &Adapter) -> Result<Subject> {
    let (photos, masks) = adapter.photos();
    subject::find(&subject::Request {
        subject: &adapter.manifest.subject,
        images: Some(&photos),
        masks: Some(&masks),
        class: Some(&adapter.manifest.class),
        ..subject::Request::default()
    })
}

/// Writes the page.
pub fn write(
    path: &Path,
    adapter: &Adapter,
    subject: &Subject,
    drawings: Vec<Drawing>,
    evaluation: Evaluation,
) -> Result<()> {
    let manifest = &adapter.manifest;
    let settings = &manifest.settings;
    let photo = |photo: &subject::Photo| {
        let square = photo.square(manifest.side as u32);
        let (low, high) = split_bands(&images::to_picture(&square), &settings.fdte.split(manifest.side));
        Photo {
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
        title: format!("{} {}", manifest.placeholder, manifest.class),
        introduction: format!(
            "The subject {}, taught to the base {} in {} steps, and drawn from {} prompts.",
            manifest.subject,
            manifest.base,
            manifest.steps,
            drawings.len()
        ),
        photos: subject.photos.iter().map(photo).collect(),
        settings: lines.collect(),
        loss_curve: loss_curve(adapter),
        drawings,
        evaluation: Some(evaluation),
    };
    report_page(&input)?.write(path)
}

/// The picture that training left; an adapter from elsewhere may have none.
fn loss_curve(adapter: &Adapter) -> Option<RgbImage> {
    images::open(&adapter.folder.join("loss.png")).ok()
}
