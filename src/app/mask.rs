//! Masks for photos that have none.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::{DynamicImage, GrayImage, RgbImage};

use super::places::OUTPUTS;
use super::{Machine, Note, Observer, Usage};
use crate::base::{Base, MINI, device, load_sam};
use crate::files::{check_writable, make_folder};
use crate::images::png::{is_ours, save_over_ours};
use crate::images::{self, shown};
use crate::model::sam::Prompt;
use crate::report::html::{Card, Figure, Page, check_ours};
use crate::report::overlay;
use crate::segmentation::{AttentionCut, Cutting, Looking, Made, MaskMaker, PlainCut, anything, around, overlap};
use crate::subject::{self, WEAK};

/// Which photos to make masks for, and how. What is not given is found or has a default.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff mask --help`
pub struct Request {
    pub photos: Vec<PathBuf>,
    pub class: Option<String>,
    pub way: Way,
    pub sam: Option<Anything>,
    pub base: Option<String>,
    pub out: Option<PathBuf>,
    pub compare: bool,
    pub machine: Machine,
}

/// How masks are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// What the base looks at when it reads the class word, then a cut by colours
    #[default]
    Attention,
    /// A cut by colours alone, without any model: for plain backgrounds
    Plain,
}

/// What Segment Anything cuts.
#[derive(Clone, Debug)]
pub struct Anything {
    /// `mobile`, `vit-b`, or a file.
    pub model: String,
    /// What it is asked for; if that is nothing, for what the masks cover that are made otherwise.
    pub prompt: Prompt,
}

impl Anything {
    fn is_pointed(&self) -> bool {
        self.prompt != Prompt::default()
    }
}

/// Masks that were made.
#[derive(Clone, Debug)]
pub struct Masks {
    /// One for each photo.
    pub masks: Vec<MaskFile>,
    /// The page that shows them all.
    pub page: PathBuf,
}

/// A mask that was made.
#[derive(Clone, Debug)]
pub struct MaskFile {
    /// Its photo.
    pub photo: PathBuf,
    /// White where the subject is; as large as the upright photo.
    pub mask: PathBuf,
    /// The photo with all else dimmed.
    pub overlay: PathBuf,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
    /// What it shares with the mask that was there, as a part of what either covers, if they were compared.
    pub overlap: Option<f64>,
}

impl MaskFile {
    /// Whether it should be looked at, and perhaps drawn by hand.
    pub fn is_weak(&self) -> bool {
        self.confidence < WEAK
    }
}

/// A photo in need of a mask.
struct Bare {
    path: PathBuf,
    image: RgbImage,
    /// The mask that it has already, to compare with.
    given: Option<GrayImage>,
}

/// Makes masks, and a page that shows which to redo.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if something cannot be read, computed or written.
pub fn mask(request: &Request, observer: &mut dyn Observer) -> Result<Masks> {
    let bare = photos(request, observer)?;
    let class = class(request)?;
    let out = out(request);
    check_writable(&out)?;
    let page = out.join("masks.html");
    check_ours(&page)?;
    let names = names(&bare);
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            bail!(Usage(format!(
                "{}: another photo has that name too: make its masks in a call of its own",
                shown(&bare[i].path)
            )));
        }
        let path = out.join(format!("{name}.png"));
        if path.exists() && !is_ours(&path) {
            bail!(Usage(format!(
                "{} is there already and not from eqdiff: name another folder with --out",
                shown(&path)
            )));
        }
    }
    let images: Vec<&RgbImage> = bare.iter().map(|photo| &photo.image).collect();
    let made = made(request, &images, &class, observer)?;
    make_folder(&out.join("overlays"))?;
    let mut masks = Vec::with_capacity(bare.len());
    for ((photo, name), made) in bare.iter().zip(&names).zip(&made) {
        let path = out.join(format!("{name}.png"));
        save_over_ours(&path, &DynamicImage::ImageLuma8(made.mask.clone()).to_rgb8())?;
        let laid = out.join("overlays").join(format!("{name}.png"));
        save_over_ours(&laid, &overlay(&photo.image, &made.mask))?;
        let file = MaskFile {
            photo: photo.path.clone(),
            mask: path,
            overlay: laid,
            confidence: made.confidence,
            overlap: photo.given.as_ref().map(|given| overlap(given, &made.mask)),
        };
        say(&file, observer);
        masks.push(file);
    }
    report(&masks, &bare, &made)?.write(&page)?;
    if let Some(shares) = masks.iter().map(|mask| mask.overlap).collect::<Option<Vec<f64>>>() {
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        observer.info(&format!("Overlap with the masks that were there: {mean:.3} (mean of intersection over union)"));
    }
    observer.info(&format!("Masks: {}, all on {}", shown(&out), shown(&page)));
    Ok(Masks { masks, page })
}

/// The masks of all photos.
fn made(request: &Request, photos: &[&RgbImage], class: &str, observer: &mut dyn Observer) -> Result<Vec<Made>> {
    let machine = &request.machine;
    let Some(wanted) = &request.sam else { return rough(request, photos, class, observer) };
    check_pointed(&wanted.prompt, photos)?;
    // before a base is loaded and looks: it may be the wrong file
    let sam = load_sam(&wanted.model, machine.offline, &device(&machine.device)?.0)?;
    let rough = if wanted.is_pointed() { Vec::new() } else { rough(request, photos, class, observer)? };
    observer.begin("Cutting", photos.len(), 0);
    let mut made = Vec::with_capacity(photos.len());
    for (i, photo) in photos.iter().enumerate() {
        made.push(match rough.get(i) {
            None => anything(&sam, photo, &wanted.prompt)?,
            Some(rough) => match around(&rough.mask) {
                Some(prompt) => anything(&sam, photo, &prompt)?,
                None => rough.clone(), // it is empty: there is nothing to ask for
            },
        });
        observer.go_on(1)?;
    }
    observer.end();
    Ok(made)
}

/// Those that are made without Segment Anything.
fn rough(request: &Request, photos: &[&RgbImage], class: &str, observer: &mut dyn Observer) -> Result<Vec<Made>> {
    let machine = &request.machine;
    let base = match request.way {
        Way::Attention => Some(machine.base(request.base.as_deref().unwrap_or(MINI), observer)?),
        Way::Plain => None,
    };
    if let Some(base) = &base {
        machine.warn_of_words(std::iter::once(class), base, observer)?;
    }
    with_maker(base.as_ref(), observer, |maker| maker.masks(photos, class))
}

/// Whether what is pointed at is in the photo.
fn check_pointed(prompt: &Prompt, photos: &[&RgbImage]) -> Result<()> {
    match (*prompt == Prompt::default(), photos) {
        (true, _) => {}
        (false, [photo]) => {
            let (width, height) = photo.dimensions();
            let (right, bottom) = (f64::from(width), f64::from(height));
            // a point is in a pixel, a corner may be on the photo's last edge
            let has_point = |[x, y]: &[f64; 2]| (0. ..right).contains(x) && (0. ..bottom).contains(y);
            let has_corner = |[x, y]: &[f64; 2]| (0. ..=right).contains(x) && (0. ..=bottom).contains(y);
            let point = prompt.points.iter().map(|(place, _)| *place).find(|place| !has_point(place));
            let corner = prompt.corners.into_iter().flatten().find(|place| !has_corner(place));
            if let Some([x, y]) = point.or(corner) {
                bail!(Usage(format!("--point, --box: {x},{y} is not in the photo of {width}x{height} pixels")));
            }
        }
        (false, _) => bail!(Usage("--point, --neg-point, --box: what is pointed at is in one photo: give one".into())),
    }
    if let Some([[left, top], [right, bottom]]) = prompt.corners
        && !(left < right && top < bottom)
    {
        bail!(Usage("--box: give the left, upper, right and lower edge".into()));
    }
    if !prompt.points.is_empty() && prompt.corners.is_none() && prompt.points.iter().all(|(_, inside)| !inside) {
        bail!(Usage("--neg-point: it only says what is not wanted: give a --point or a --box too".into()));
    }
    Ok(())
}

/// Calls `work` with what makes masks: a cut by where the base looks, or, without one, by colours alone.
///
/// # Errors
/// Those of the work.
pub(super) fn with_maker<T>(
    base: Option<&Base>,
    observer: &mut dyn Observer,
    work: impl FnOnce(&mut dyn MaskMaker) -> Result<T>,
) -> Result<T> {
    let cutting = Cutting::default();
    let Some(base) = base else { return work(&mut PlainCut(cutting)) };
    let mut tell = |done: usize, all: usize| {
        if done == 1 {
            observer.begin("Looking", all, 0);
        }
        let going = observer.go_on(1);
        if done == all {
            observer.end();
        }
        going
    };
    work(&mut AttentionCut { base, looking: Looking::default(), cutting, tell: &mut tell })
}

fn say(file: &MaskFile, observer: &mut dyn Observer) {
    observer.tell(Note::Picture(&file.mask));
    if file.is_weak() {
        observer.warn(&format!(
            "the mask of {} is only {:.0} % sure: look at {}, and draw it by hand if need be",
            shown(&file.photo),
            100. * file.confidence,
            shown(&file.overlay)
        ));
    }
}

/// The photos that are asked for: files, those of folders, and those of a bundled subject.
fn photos(request: &Request, observer: &mut dyn Observer) -> Result<Vec<Bare>> {
    if request.photos.is_empty() {
        bail!(Usage("give photos, a folder of them, or a bundled subject".into()));
    }
    let mut bare = Vec::new();
    for path in &request.photos {
        let name = path.display().to_string();
        if request.compare || (!path.exists() && subject::bundled().contains(&name)) {
            let subject = subject::find(&subject::Request { subject: &name, ..Default::default() })?;
            for photo in subject.photos {
                let given = request.compare.then_some(photo.mask);
                bare.push(Bare { path: photo.path, image: photo.image, given });
            }
            continue;
        }
        let files = match path.is_dir() {
            true => {
                images::list(path)?.warnings().iter().for_each(|warning| observer.warn(warning));
                images::pictures_in(path)?
            }
            false => vec![path.clone()],
        };
        for file in files {
            let read = images::read(&file)?;
            read.warnings.iter().for_each(|warning| observer.warn(&format!("{}: {warning}", shown(&file))));
            bare.push(Bare { path: file, image: read.image, given: None });
        }
    }
    Ok(bare)
}

/// The class word: the one given, else that of the folder of the first photo. A cut by colours needs none.
fn class(request: &Request) -> Result<String> {
    let first = request.photos.first().context("no photo")?;
    let folder = if first.is_file() { first.parent().unwrap_or(first) } else { first };
    let class = request.class.as_deref().map(|class| class.trim().to_string());
    match class.or_else(|| subject::class_word(&folder.display().to_string())).filter(|class| !class.is_empty()) {
        Some(class) => Ok(class),
        None if request.way == Way::Plain || request.sam.as_ref().is_some_and(Anything::is_pointed) => {
            Ok(String::new())
        }
        None => bail!(Usage("give the class word, e.g. --class dog".into())),
    }
}

/// Where masks go: where training finds them, if all photos are in one folder; aside, if those that are there are to be
/// compared with.
fn out(request: &Request) -> PathBuf {
    let folder = |path: &PathBuf| if path.is_dir() { Some(path.clone()) } else { path.parent().map(Path::to_path_buf) };
    let mut folders = request.photos.iter().map(|path| folder(path).filter(|_| path.exists()));
    let first = folders.next().flatten();
    let photos = request.photos[0].canonicalize().unwrap_or_else(|_| request.photos[0].clone());
    let name = if photos.is_dir() { photos.file_name() } else { photos.file_stem() };
    match (&request.out, first) {
        (Some(out), _) => out.clone(),
        (None, Some(first)) if !request.compare && folders.all(|other| other.as_ref() == Some(&first)) => {
            first.join("masks")
        }
        (None, _) => Path::new(OUTPUTS).join("masks").join(name.unwrap_or_default()),
    }
}

/// What masks are called: as training looks for them, with the photo's ending where two would have one name.
fn names(bare: &[Bare]) -> Vec<String> {
    let stem = |photo: &Bare| photo.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = |photo: &Bare| photo.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let twice = |photo: &Bare| bare.iter().filter(|other| stem(other) == stem(photo)).count() > 1;
    bare.iter().map(|photo| if twice(photo) { name(photo) } else { stem(photo) }).collect()
}

/// A page of all masks, the weakest first.
fn report(masks: &[MaskFile], bare: &[Bare], made: &[Made]) -> Result<Page> {
    let weak = masks.iter().filter(|mask| mask.is_weak()).count();
    let introduction = match weak {
        0 => "No mask is weak. What is dimmed is background.".to_string(),
        weak => format!(
            "{weak} of {} masks are weak and come first: draw them by hand, or try another way. What is dimmed is background.",
            masks.len()
        ),
    };
    let mut page = Page::new("Masks", &introduction);
    let mut order: Vec<usize> = (0..masks.len()).collect();
    order.sort_by(|&a, &b| masks[a].confidence.total_cmp(&masks[b].confidence));
    let card = |i: usize| {
        let (file, photo) = (&masks[i], &bare[i]);
        let sure = format!("{:.0} % sure", 100. * file.confidence);
        let sure = if file.is_weak() { format!("{sure}: look at it") } else { sure };
        let note =
            file.overlap.map_or_else(String::new, |share| format!("overlap with the mask that was there {share:.3}"));
        let figure = |image, caption: &str, note: &str| Figure { image, caption: caption.into(), note: note.into() };
        let laid = figure(Cow::Owned(overlay(&photo.image, &made[i].mask)), &sure, &note);
        Card { title: shown(&file.photo), pictures: vec![figure(Cow::Borrowed(&photo.image), "photo", ""), laid] }
    };
    page.section("Photos and what was cut out", "");
    page.cards(&order.into_iter().map(card).collect::<Vec<_>>())?;
    Ok(page)
}
