//! Pictures side by side: a row a prompt, a column a method, the subject's photos in front.

use std::fmt::Write;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};

use super::super::html::{Page, escape};
use super::StudyInput;
use crate::evaluation::prompts::without_placeholder;
use crate::evaluation::scores::Group;
use crate::images::{self, pictures_in};
use crate::model::tokenizer::PLACEHOLDER;
use crate::study::ledger::{adapter_folder, picture};
use crate::study::plan::Subject;
use crate::study::{Cell, Training};

/// Pictures of prompts that a page shows; more would be no page.
const MOST: usize = 1000;

/// Their longer side.
const SIDE: u32 = 160;

/// The trainings of a subject with the first seed, one a method.
struct OfSubject<'a> {
    subject: &'a Subject,
    trainings: Vec<Training<'a>>,
    cells: Vec<Cell<'a>>,
}

/// Adds the comparison rows and the grids.
pub(super) fn add(page: &mut Page, input: &StudyInput) -> Result<()> {
    let mut subjects = of_subjects(input)?;
    let (columns, of_plan) = (input.plan.methods.len() + 1, subjects.len());
    // a prompt of each side by side, and two more
    subjects.truncate((MOST / (3 * columns)).max(1));
    let rows = (MOST / (columns * subjects.len()).max(1)).saturating_sub(1).max(1);
    let some = match subjects.len() < of_plan {
        true => format!(" The first {} of {of_plan} subjects.", subjects.len()),
        false => String::new(),
    };
    let seed = input.plan.seeds.first().copied().unwrap_or_default();
    let text =
        format!("A stylised prompt for each subject, by all methods, from the same noise; training seed {seed}.{some}");
    page.section("Side by side (figures 6 and 8)", &text);
    let mut chosen = Vec::new();
    for (i, subject) in subjects.iter().enumerate() {
        let all: Vec<&Cell> = of_list(subject, Group::Stylised).collect();
        let known: Vec<&Cell> = all.iter().copied().filter(|cell| knows(input, subject, cell)).collect();
        let cells = if known.is_empty() { all } else { known };
        chosen.extend(cells.get(i % cells.len().max(1)).map(|cell| (subject, *cell)));
    }
    let truth = chosen.iter().any(|(subject, cell)| knows(input, subject, cell));
    let mut html = head(input, truth);
    for (subject, cell) in chosen {
        row(&mut html, input, subject, cell, Columns { photo: true, truth })?;
    }
    page.markup(&(html + "</tbody></table></div>"));
    let all = subjects.iter().map(|subject| subject.cells.len()).max().unwrap_or_default();
    let shown =
        if rows < all { format!(" {rows} prompts of each subject, the first of both lists.") } else { String::new() };
    page.section("Subject by subject", &format!("All methods from the same noise; training seed {seed}.{shown}"));
    for (i, subject) in subjects.iter().enumerate() {
        let mut html = String::new();
        let _ = writeln!(
            html,
            "<details{}><summary>{}</summary>",
            if i == 0 { " open" } else { "" },
            escape(&subject.subject.name)
        );
        html += "<div class=\"photos\">";
        for photo in photos(input.folder, subject)?.iter().take(columns) {
            html += &thumbnail(photo, "photo")?;
        }
        html += "</div>";
        let (plain, styled) = (
            of_list(subject, Group::Unstylised).collect::<Vec<_>>(),
            of_list(subject, Group::Stylised).collect::<Vec<_>>(),
        );
        let styles = styled.len().min(rows / 2).max(rows.saturating_sub(plain.len()));
        let cells = plain.into_iter().take(rows - styles.min(rows)).chain(styled.into_iter().take(styles));
        let truth = cells.clone().any(|cell| knows(input, subject, cell));
        html += &head(input, truth);
        for cell in cells {
            row(&mut html, input, subject, cell, Columns { photo: false, truth })?;
        }
        page.markup(&(html + "</tbody></table></div></details>\n"));
    }
    Ok(())
}

fn of_subjects<'a>(input: &'a StudyInput) -> Result<Vec<OfSubject<'a>>> {
    let mut all: Vec<OfSubject> = Vec::new();
    let seed = input.plan.seeds.first();
    for training in input.plan.trainings()?.into_iter().filter(|training| Some(&training.seed) == seed) {
        let subject = training.subject;
        match all.last_mut().filter(|last| last.subject.name == subject.name) {
            Some(last) => last.trainings.push(training),
            None => {
                let cells = training.cells().filter(|cell| cell.picture == 0).collect();
                all.push(OfSubject { subject, trainings: vec![training], cells });
            }
        }
    }
    Ok(all)
}

fn of_list<'a>(subject: &'a OfSubject<'a>, group: Group) -> impl Iterator<Item = &'a Cell<'a>> {
    subject.cells.iter().filter(move |cell| cell.group == group)
}

/// Whether it is known what a cell's picture should be.
fn knows(input: &StudyInput, of: &OfSubject, cell: &Cell) -> bool {
    (input.truth)(of.subject, &cell.named).is_some()
}

fn head(input: &StudyInput, truth: bool) -> String {
    let column = |name: &str| format!("<th scope=\"col\">{}</th>", escape(name));
    let columns: String = input.plan.methods.iter().map(|method| column(&method.name)).collect();
    let columns = columns + &if truth { column("as it should be") } else { String::new() };
    format!(
        "<div class=\"scroll\" tabindex=\"0\"><table class=\"grid\"><thead><tr><td></td>{columns}</tr></thead><tbody>\n"
    )
}

/// What a row has beside the methods' pictures.
#[derive(Clone, Copy)]
struct Columns {
    /// The subject's first photo in front, where rows are of several subjects.
    photo: bool,
    /// What it should be, as far as that is known, at the end.
    truth: bool,
}

/// A prompt's pictures.
fn row(html: &mut String, input: &StudyInput, subject: &OfSubject, cell: &Cell, columns: Columns) -> Result<()> {
    let prompt = without_placeholder(&cell.named, PLACEHOLDER);
    let front = match photos(input.folder, subject)?.first().filter(|_| columns.photo) {
        Some(path) => thumbnail(path, &subject.subject.name)?,
        None => String::new(),
    };
    let _ = write!(html, "<tr><th scope=\"row\">{front}<span>{}</span></th>", escape(&prompt));
    for training in &subject.trainings {
        let alike = |own: &Cell| (own.group, own.template, own.picture) == (cell.group, cell.template, cell.picture);
        let path = training.cells().find(alike).map(|own| picture(input.folder, training, &own)).unwrap_or_default();
        let shown = if path.is_file() { thumbnail(&path, &training.method.name)? } else { "–".into() };
        let _ = write!(html, "<td>{shown}</td>");
    }
    if columns.truth {
        let truth = (input.truth)(subject.subject, &cell.named);
        let shown = truth.map_or(Ok("–".into()), |picture| small(picture, "as it should be"))?;
        let _ = write!(html, "<td>{shown}</td>");
    }
    *html += "</tr>\n";
    Ok(())
}

/// The subject's photos, as any of its trainings keeps them.
fn photos(study: &Path, subject: &OfSubject) -> Result<Vec<std::path::PathBuf>> {
    let folders = subject.trainings.iter().map(|training| adapter_folder(study, training).join("photos"));
    folders.filter(|folder| folder.is_dir()).map(|folder| pictures_in(&folder)).next().unwrap_or(Ok(Vec::new()))
}

/// A small picture of a file.
fn thumbnail(path: &Path, alt: &str) -> Result<String> {
    small(images::open(path)?, alt)
        .with_context(|| format!("cannot show {}: remove it, and what made it makes it again", path.display()))
}

/// A small picture that is decoded when it is scrolled to.
fn small(image: RgbImage, alt: &str) -> Result<String> {
    let longest = image.width().max(image.height()).max(1);
    let side = |v: u32| ((u64::from(v) * u64::from(SIDE.min(longest)) / u64::from(longest)) as u32).max(1);
    let (width, height) = (side(image.width()), side(image.height()));
    let image = if longest > SIDE { imageops::resize(&image, width, height, FilterType::CatmullRom) } else { image };
    let mut jpeg = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut jpeg, 84);
    image.write_with_encoder(encoder)?;
    let (alt, data) = (escape(alt), STANDARD.encode(jpeg.into_inner()));
    Ok(format!(
        "<img alt=\"{alt}\" loading=\"lazy\" decoding=\"async\" width=\"{width}\" height=\"{height}\" src=\"data:image/jpeg;base64,{data}\">"
    ))
}
