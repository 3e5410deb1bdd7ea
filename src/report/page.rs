//! The report of a run: the subject, how it was trained, what was drawn and how it scores.

use std::borrow::Cow;

use anyhow::Result;
use image::{DynamicImage, GrayImage, RgbImage};

use super::html::{Card, Figure, Page, Row};
use crate::evaluation::judge::{Finding, shares};
use crate::evaluation::scores::{Evaluation, Group, Metric, Scores, number, title};

/// A photo of the subject, and what training saw in it.
pub struct PhotoRow {
    /// Its file's name.
    pub name: String,
    /// The photo.
    pub photo: RgbImage,
    /// White where the subject is.
    pub mask: Option<GrayImage>,
    /// Its low and high frequency band.
    pub bands: Option<(RgbImage, RgbImage)>,
}

/// The pictures of one prompt.
pub struct Drawing {
    /// The prompt; empty where it is not known.
    pub prompt: String,
    /// The prompt's list.
    pub group: Group,
    /// The picture in question first, then those of the same prompt and seed that were drawn otherwise.
    pub cells: Vec<Cell>,
}

/// A picture of a [`Drawing`].
pub struct Cell {
    /// How it was drawn, or its file.
    pub caption: String,
    /// The picture.
    pub picture: RgbImage,
    /// Its scores.
    pub scores: Scores,
    /// What the base's judge finds in it, if there is one.
    pub findings: Vec<Finding>,
}

/// What goes into a report; what is empty is left out of it.
#[derive(Default)]
pub struct ReportInput {
    /// The page's title, such as "S* dog on mini".
    pub title: String,
    /// A sentence or two below it.
    pub introduction: String,
    /// The subject's photos.
    pub photos: Vec<PhotoRow>,
    /// Names and values of the settings.
    pub settings: Vec<(String, String)>,
    /// The losses over the steps, as a picture.
    pub loss_curve: Option<RgbImage>,
    /// Everything that was drawn.
    pub drawings: Vec<Drawing>,
    /// The scores.
    pub evaluation: Option<Evaluation>,
}

/// Lays out the report.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn report_page(input: &ReportInput) -> Result<Page> {
    let mut page = Page::new(&input.title, &input.introduction);
    if let Some(evaluation) = &input.evaluation {
        add_scores(&mut page, evaluation);
    }
    add_photos(&mut page, &input.photos)?;
    for group in Group::ALL {
        add_drawings(&mut page, group, &input.drawings)?;
    }
    if let Some(curve) = &input.loss_curve {
        page.section("Training", "What each part of the loss came to, step by step.");
        page.wide(&picture(curve, "losses over the training steps", String::new()))?;
    }
    if !input.settings.is_empty() {
        page.section("Settings", "");
        page.list(&input.settings);
    }
    Ok(page)
}

fn add_scores(page: &mut Page, evaluation: &Evaluation) {
    let metrics = evaluation.metrics();
    page.section("Scores", &explanation(evaluation, &metrics));
    let mut header = vec!["prompts", "pictures drawn", "pictures"];
    header.extend(metrics.iter().map(|m| m.name()));
    let row = |words: [String; 3], strong, value: &dyn Fn(Metric) -> String| Row {
        cells: words.into_iter().chain(metrics.iter().map(|&m| value(m))).collect(),
        strong,
    };
    let mut rows = Vec::new();
    for (name, count, with) in evaluation.measured.rows() {
        let first = [name.to_string(), "with the adapter".into(), count.to_string()];
        rows.push(row(first, false, &|m| number(with.get(m))));
        for (way, other) in &evaluation.others {
            let Some(other) = other.row(name) else { continue };
            let words = |second: &str| [String::new(), second.into(), String::new()];
            rows.push(row(words(&title(way)), false, &|m| number(other.get(m))));
            rows.push(row(words("difference"), true, &|m| difference(with.get(m), other.get(m))));
        }
    }
    page.table(&header, 2, &rows);
    add_findings(page, evaluation);
}

/// What the base's judge finds, by attribute.
fn add_findings(page: &mut Page, evaluation: &Evaluation) {
    let ways = std::iter::once(("with the adapter".to_string(), &evaluation.measured))
        .chain(evaluation.others.iter().map(|(way, measured)| (title(way), measured)));
    let groups: Vec<_> =
        ways.flat_map(|(way, m)| m.groups.iter().map(move |g| (format!("{}, {way}", g.group.name()), g))).collect();
    let all = evaluation.measured.images.iter().flat_map(|image| &image.findings);
    let row = |(attribute, _): (&'static str, f32)| Row {
        cells: std::iter::once(attribute.to_string())
            .chain(groups.iter().map(|(_, group)| number(group.judge.get(attribute).copied())))
            .collect(),
        strong: false,
    };
    let rows: Vec<Row> = shares(all).into_iter().map(row).collect();
    if rows.is_empty() {
        return;
    }
    let text = "Every attribute has a name in this base's world: the share of pictures in which its judge finds what the \
                photos show and the prompt asks for.";
    page.section("What the judge finds", text);
    let header: Vec<&str> =
        std::iter::once("attribute").chain(groups.iter().map(|(title, _)| title.as_str())).collect();
    page.table(&header, 1, &rows);
}

/// What the measured metrics mean, and what measured them.
fn explanation(evaluation: &Evaluation, metrics: &[Metric]) -> String {
    let mut sentences = Vec::new();
    if metrics.contains(&Metric::ClipT) {
        sentences
            .push("CLIP-T tells how well a picture follows its prompt (2.5 times the cosine of the two).".to_string());
    }
    let likeness: Vec<_> =
        metrics.iter().filter(|m| matches!(m, Metric::ClipI | Metric::Dino)).map(|m| m.name()).collect();
    if !likeness.is_empty() {
        let (names, verb) = (likeness.join(" and "), if likeness.len() > 1 { "tell" } else { "tells" });
        let photos = evaluation.photos;
        sentences.push(format!(
            "{names} {verb} how much it looks like the subject: the mean cosine to its {photos} photos."
        ));
    }
    if metrics.iter().any(|m| matches!(m, Metric::ClipTrue | Metric::DinoTrue)) {
        sentences
            .push("CLIP-true and DINO-true compare it with what its prompt should give, where that is known.".into());
    }
    sentences.push("Higher is better.".into());
    let of_dino = |metric: &Metric| matches!(metric, Metric::Dino | Metric::DinoTrue);
    let clip = metrics.iter().any(|m| !of_dino(m)).then(|| format!("CLIP: {}", evaluation.clip));
    let dino = metrics.contains(&Metric::Dino).then(|| format!("DINO: {}", evaluation.dino));
    let encoders: Vec<_> = [clip, dino].into_iter().flatten().collect();
    if !encoders.is_empty() {
        sentences.push(format!("{}.", encoders.join(", ")));
    }
    sentences.join(" ")
}

fn add_drawings(page: &mut Page, group: Group, drawings: &[Drawing]) -> Result<()> {
    let members: Vec<_> = drawings.iter().filter(|d| d.group == group).collect();
    let compared = members.iter().any(|d| d.cells.len() > 1);
    let heading = match group {
        Group::Unstylised => "The subject elsewhere",
        Group::Stylised => "The subject in other styles",
        Group::Other => "Pictures",
    };
    if members.is_empty() {
        return Ok(());
    }
    let text = "The same prompt from the same noise, with the adapter and without it.";
    page.section(heading, if compared { text } else { "" });
    let cards: Vec<_> = members.into_iter().map(drawing_card).collect();
    page.cards(&cards)
}

fn drawing_card(drawing: &Drawing) -> Card<'_> {
    let file = drawing.cells.first().map(|cell| cell.caption.clone()).unwrap_or_default();
    let title = if drawing.prompt.is_empty() { file } else { drawing.prompt.clone() };
    let pictures = drawing.cells.iter().map(|cell| picture(&cell.picture, &cell.caption, note(cell)));
    Card { title, pictures: pictures.collect() }
}

fn add_photos(page: &mut Page, photos: &[PhotoRow]) -> Result<()> {
    if photos.is_empty() {
        return Ok(());
    }
    let bands = "The low band of a photo holds its shapes and colours, the high band its detail, around gray.";
    page.section("The subject", if photos.iter().any(|p| p.bands.is_some()) { bands } else { "" });
    let cards: Vec<_> = photos.iter().map(photo_card).collect();
    page.cards(&cards)
}

fn photo_card(photo: &PhotoRow) -> Card<'_> {
    let mut pictures = vec![picture(&photo.photo, "photo", String::new())];
    if let Some(mask) = &photo.mask {
        let image = Cow::Owned(DynamicImage::ImageLuma8(mask.clone()).into_rgb8());
        pictures.push(Figure { image, caption: "mask".into(), note: coverage(mask) });
    }
    if let Some((low, high)) = &photo.bands {
        pictures.push(picture(low, "low band", String::new()));
        pictures.push(picture(high, "high band", String::new()));
    }
    Card { title: photo.name.clone(), pictures }
}

fn picture<'a>(image: &'a RgbImage, caption: &str, note: String) -> Figure<'a> {
    Figure { image: Cow::Borrowed(image), caption: caption.into(), note }
}

/// How much of the picture the mask covers, for the eye to check.
fn coverage(mask: &GrayImage) -> String {
    let white = mask.iter().filter(|&&level| level >= 128).count();
    format!("{:.0} % of the picture", 100. * white as f64 / mask.len().max(1) as f64)
}

/// A picture's scores, of which the cosine would only repeat CLIP-T, and what the judge finds in it.
fn note(cell: &Cell) -> String {
    let measured = Metric::ALL.into_iter().filter(|&m| m != Metric::Cosine);
    let scores = measured.filter_map(|m| Some(format!("{}\u{a0}{}", m.name(), number(Some(cell.scores.get(m)?)))));
    let findings = cell.findings.iter().map(|finding| {
        let mark = match (finding.right(), &finding.wanted) {
            (Some(true), _) => "\u{2713}\u{a0}".to_string(),
            (_, Some(wanted)) => format!("\u{2717}\u{a0}not {wanted} but "),
            _ => String::new(),
        };
        format!("{mark}{}", finding.found.replace('_', " "))
    });
    scores.chain(findings).collect::<Vec<_>>().join("\u{2003}")
}

/// How much the adapter adds, with its sign.
fn difference(with: Option<f32>, without: Option<f32>) -> String {
    match (with, without) {
        (Some(with), Some(without)) => format!("{:+.3}", with - without).replace('-', "\u{2212}"),
        _ => number(None),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::evaluation::scores::ImageScores;
    use crate::evaluation::scores::tests::example;

    fn plain(level: u8) -> RgbImage {
        RgbImage::from_pixel(8, 8, image::Rgb([level; 3]))
    }

    pub(crate) fn input() -> ReportInput {
        let evaluation = example();
        let base = evaluation.others.values().next().map_or(&[][..], |b| &b.images);
        let drawing = |(i, image): (usize, &ImageScores)| {
            let mut cells =
                vec![Cell { caption: "with it".into(), picture: plain(90), scores: image.scores, findings: vec![] }];
            let other = |b: &ImageScores| {
                let (caption, picture) = ("without it".into(), plain(160));
                Cell { caption, picture, scores: b.scores, findings: b.findings.clone() }
            };
            cells.extend(base.get(i).map(other));
            Drawing { prompt: image.prompt.clone(), group: image.group, cells }
        };
        let mask = GrayImage::from_fn(8, 8, |x, _| image::Luma([if x < 2 { 255 } else { 0 }]));
        let bands = Some((plain(100), plain(128)));
        ReportInput {
            title: "S* dog".into(),
            introduction: "A run.".into(),
            photos: vec![PhotoRow { name: "photo_0.png".into(), photo: plain(50), mask: Some(mask), bands }],
            settings: vec![("steps".into(), "400".into())],
            loss_curve: Some(plain(255)),
            drawings: evaluation.measured.images.iter().enumerate().map(drawing).collect(),
            evaluation: Some(evaluation),
        }
    }

    #[test]
    fn a_whole_report_shows_everything() {
        let html = report_page(&input()).unwrap().to_html();
        assert_eq!(html.matches("<img").count(), 4 + 1 + 3 + 2);
        for text in
            ["25 % of the picture", "\u{2212}0.175", "+0.350", "CLIP-I\u{a0}0.800", "its 5 photos", "<dt>steps</dt>"]
        {
            assert!(html.contains(text), "{text}");
        }
        assert_eq!(html.matches("<section>").count(), 6);
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let html = report_page(&ReportInput::default()).unwrap().to_html();
        assert!(!html.contains("<section") && !html.contains("<img"));
        let mut input = ReportInput { evaluation: None, settings: vec![], ..input() };
        for drawing in &mut input.drawings {
            drawing.group = Group::Other;
            drawing.cells.truncate(1);
            drawing.cells[0].scores = Scores::default();
        }
        let html = report_page(&input).unwrap().to_html();
        assert!(!html.contains("adapter") && !html.contains("<table") && !html.contains("CLIP"));
        assert_eq!(html.matches("<section>").count(), 3);
    }
}
