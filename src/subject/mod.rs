//! The thing in the photos: finding its pictures and masks, and bringing them to one form.

mod caption;
mod crop;
mod fit;
mod masks;
mod photos;
mod store;

use std::path::Path;

use anyhow::{Context, Result, bail};
use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};
use sha2::{Digest, Sha256};

use crate::files::{make_folder, write_whole};
use crate::images::{Mask, shown};
pub use store::BUNDLED;
use store::{ASSETS, Store};

/// Photos larger than this on their shorter side are reduced: models see at most 512 pixels.
const LARGEST_SIDE: u32 = 1024;

/// Photos with a shorter side below this show nothing.
const SMALLEST_SIDE: u32 = 16;

/// Photos whose longer side is more than so many times the shorter one are distorted too much.
const WIDEST: f64 = 2.;

/// A photo and the subject's place in it.
#[derive(Clone, Debug)]
pub struct Photo {
    /// Where it came from, for messages.
    pub path: std::path::PathBuf,
    /// The picture, upright.
    pub image: RgbImage,
    /// 255 where the subject is, else 0; as large as the picture.
    pub mask: GrayImage,
    /// Width and height of the file, before any reduction.
    pub file_size: (u32, u32),
    /// Where the mask came from, for messages.
    pub mask_source: String,
    /// What `NAME.txt` beside it says that it shows, the placeholder before the class word; none without such a file.
    pub caption: Option<String>,
}

/// The subject of a customisation.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name, from its folder.
    pub name: String,
    /// Its ordinary noun.
    pub class: String,
    /// Its photos, sorted by name.
    pub photos: Vec<Photo>,
    /// What the user should know, but can live with.
    pub warnings: Vec<String>,
}

/// A mask that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// 255 where the subject is, else 0; as large as the photo.
    pub mask: GrayImage,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
}

/// Masks that are less sure than this should be looked at.
pub const WEAK: f64 = 0.8;

/// Makes masks of photos that have none.
pub trait MaskMaker {
    /// The masks of all photos of a subject of that class.
    ///
    /// # Errors
    /// If it cannot compute.
    fn masks(&mut self, photos: &[&RgbImage], class: &str) -> Result<Vec<Made>>;
}

/// What becomes of photos that are not square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crop {
    /// They are squeezed.
    #[default]
    None,
    /// The largest square around the subject is cut out.
    Subject,
}

/// Where to look for a subject.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// A folder, or a name that is looked up here, in `subjects/` and among the bundled ones.
    pub subject: &'a str,
    /// The photos' folder, if it is another one.
    pub images: Option<&'a Path>,
    /// The masks' folder, relative to the photos' or the current one.
    pub masks: Option<&'a Path>,
    /// The class word, if the folder's name does not tell.
    pub class: Option<&'a str>,
    /// Whether black marks the subject.
    pub invert_masks: bool,
    /// What becomes of photos that are not square.
    pub crop: Crop,
    /// Whether nobody looks at masks: a photo without one is taken as a whole.
    pub whole: bool,
}

/// Finds and reads a subject.
///
/// # Errors
/// If photos or masks are missing, unreadable or make no sense; the message names the file.
pub fn find(request: &Request) -> Result<Subject> {
    found(request, None)
}

/// The same, with masks made where there are none.
///
/// # Errors
/// As [`find`], and if masks cannot be made.
pub fn find_or_make(request: &Request, maker: &mut dyn MaskMaker) -> Result<Subject> {
    found(request, Some(maker))
}

fn found(request: &Request, maker: Option<&mut dyn MaskMaker>) -> Result<Subject> {
    let store = match request.images {
        Some(folder) if folder.is_dir() => Store::Disk(folder.to_path_buf()),
        Some(folder) => bail!("there is no folder {} with photos", shown(folder)),
        None => Store::of_subject(request.subject)?,
    };
    let (name, class) = named(&store, request)?;
    let (photos, mut warnings) = photos::read_all(&store, request, &class, maker)?;
    if photos.len() < 2 {
        warnings.push("there is one photo only: reference attention looks at other photos, give 4 to 6".to_string());
    }
    for photo in &photos {
        if photo.coverage() == 1. && !request.whole {
            warnings.push(format!("the mask of {} is all white: it hides nothing", shown(&photo.path)));
        }
    }
    Ok(Subject { name, class, photos, warnings })
}

/// The name of a subject that is called so, as one file or folder can have it: that of a path is its last part.
pub fn name(called: &str) -> Option<String> {
    Store::name(called)
}

/// A subject's name and class word, without reading its photos.
///
/// # Errors
/// If there is no such subject, or it has no class word.
pub fn identify(request: &Request) -> Result<(String, String)> {
    named(&Store::of_subject(request.subject)?, request)
}

fn named(store: &Store, request: &Request) -> Result<(String, String)> {
    let name = Store::name(request.subject).with_context(|| format!("no subject named {:?}", request.subject))?;
    let class = match request.class {
        Some(class) if class.trim().is_empty() => bail!("the class word is empty: give the ordinary noun, e.g. dog"),
        Some(class) => class.trim().to_string(),
        None => store.class().unwrap_or_else(|| class_of(&name)),
    };
    if class.is_empty() {
        bail!("give the class word (e.g. --class dog): {name:?} has none in it");
    }
    Ok((name, class))
}

/// What a prompt should give of a bundled subject, whose world is drawn by a program: the picture `truth/NAME.png` of its
/// folder, if there is one.
pub fn truth(subject: &str, name: &str) -> Option<RgbImage> {
    let store = Store::Bundled(ASSETS.get_dir(subject)?);
    Some(store.picture(&Path::new("truth").join(format!("{name}.png"))).ok()?.image)
}

/// The names of the subjects that are part of the program.
pub fn bundled() -> Vec<String> {
    ASSETS.dirs().filter_map(|dir| Some(dir.path().file_name()?.to_string_lossy().into_owned())).collect()
}

/// One photo of a folder with its mask, as [`find`] takes it, and what the user should know of it.
///
/// # Errors
/// If it or its mask is missing, unreadable or makes no sense.
pub fn photo(folder: &Path, file: &Path) -> Result<(Photo, Vec<String>)> {
    photos::read_one(&Store::Disk(folder.to_path_buf()), file, "")
}

/// Copies a bundled subject into an empty folder.
///
/// # Errors
/// If there is none of that name, or it cannot be written.
pub fn copy_bundled(name: &str, folder: &Path) -> Result<()> {
    let dir = ASSETS.get_dir(name).with_context(|| format!("no subject {name:?} is bundled"))?;
    let mut dirs = vec![dir];
    while let Some(inner) = dirs.pop() {
        dirs.extend(inner.dirs());
        for file in inner.files() {
            let path = folder.join(file.path().strip_prefix(dir.path())?);
            path.parent().map(make_folder).transpose()?;
            write_whole(&path, file.contents())?;
        }
    }
    Ok(())
}

/// The class word of a subject: what its folder says, else the name without its number.
pub fn class_word(subject: &str) -> Option<String> {
    let told = Store::of_subject(subject).ok().and_then(|store| store.class());
    told.or_else(|| Store::name(subject).map(|name| class_of(&name))).filter(|class| !class.is_empty())
}

/// "cat_toy" is a cat toy, "dog2" a dog.
fn class_of(name: &str) -> String {
    let word = name.trim_end_matches(|c: char| c.is_ascii_digit() || "_- ".contains(c));
    word.replace(['_', '-'], " ").to_lowercase().trim().to_string()
}

impl Subject {
    /// A line for each photo: its size, its mask, and how much of it the subject covers.
    pub fn summary(&self) -> String {
        let line = |photo: &Photo| {
            let (width, height) = photo.file_size;
            let size = format!("{width}x{height}");
            let share = 100. * photo.coverage();
            let caption = photo.caption.as_ref().map_or_else(String::new, |caption| format!("  caption {caption:?}"));
            format!("  {}  {size:>11}  subject {share:4.1} %  mask {}{caption}", shown(&photo.path), photo.mask_source)
        };
        self.photos.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Checks that no photo's subject vanishes where masks have `side` x `side` values.
    ///
    /// # Errors
    /// If one does; the message names its photo.
    pub fn check_at(&self, side: usize) -> Result<()> {
        for photo in &self.photos {
            if photo.subject_at(side).is_empty() {
                bail!(
                    "the subject of {} is too small: of {:.3} % of the picture nothing is left at {side}x{side} latents; \
                     cut the photo closer around it (--crop subject), or give another mask than {}",
                    shown(&photo.path),
                    100. * photo.coverage(),
                    photo.mask_source
                );
            }
        }
        Ok(())
    }

    /// Whether these are the photos and masks of the bundled subject of that name.
    pub fn is_bundled(&self) -> bool {
        let photos = || {
            let store = Store::Bundled(ASSETS.get_dir(&self.name)?);
            let request = Request { subject: &self.name, ..Request::default() };
            Some(photos::read_all(&store, &request, &self.class, None).ok()?.0)
        };
        photos().is_some_and(|photos| Self { photos, ..self.clone() }.digest() == self.digest())
    }

    /// Tells these photos and masks from others.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for photo in &self.photos {
            hash.update(photo.image.width().to_le_bytes());
            hash.update(photo.image.as_raw());
            hash.update(photo.mask.as_raw());
            if let Some(caption) = &photo.caption {
                hash.update(caption);
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Photo {
    /// The picture squeezed into a square, as training takes it.
    pub fn square(&self, side: u32) -> RgbImage {
        imageops::resize(&self.image, side, side, FilterType::CatmullRom)
    }

    /// The picture at a size at which its shorter side is `side`.
    pub fn covering(&self, side: u32) -> RgbImage {
        let (width, height) = self.image.dimensions();
        let scaled = |length: u32| (u64::from(length) * u64::from(side) / u64::from(width.min(height))) as u32;
        imageops::resize(&self.image, scaled(width), scaled(height), FilterType::Triangle)
    }

    /// The mask squeezed into a square, nearest.
    pub fn subject_at(&self, side: usize) -> Mask {
        Mask::from_gray(&self.mask).at(side)
    }

    /// The share of the picture that the subject covers.
    pub fn coverage(&self) -> f64 {
        let inside = self.mask.iter().filter(|&&v| v > 0).count();
        inside as f64 / self.mask.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests;
