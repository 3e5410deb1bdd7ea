//! Finding and reading the mask of each photo.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage};

use super::store::Store;
use crate::images::{Decoded, decode, is_picture};

/// Gray levels from here on are subject.
const THRESHOLD: u8 = 128;

/// Folders that are looked into without being asked.
const USUAL: [&str; 2] = ["masks", "seg_masks"];

/// A mask beside its photo, `NAME-masklabel.png`.
const LABEL: &str = "-masklabel";

/// Whether a file is a mask that lies among the photos.
pub fn is_mask_label(file: &Path) -> bool {
    file.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with(LABEL))
}

/// Where masks are looked for.
pub struct MaskFinder {
    /// A folder of masks, and the store that it is in if that is not the photos'.
    folders: Vec<(Option<Store>, PathBuf)>,
    /// Whether the user named the folder: then nothing else will do.
    named: bool,
}

impl MaskFinder {
    /// `named` is relative to the photos' folder, else to the current one.
    pub fn new(store: &Store, named: Option<&Path>) -> Result<Self> {
        if let Some(folder) = named {
            let folder: PathBuf = folder.components().collect(); // without a trailing slash
            if store.has_folder(&folder) {
                return Ok(Self { folders: vec![(None, folder)], named: true });
            }
            if folder.is_dir() {
                return Ok(Self { folders: vec![(Some(Store::Disk(folder)), PathBuf::new())], named: true });
            }
            bail!("there is no folder with masks {}, nor {}", store.path(&folder).display(), folder.display());
        }
        let usual = USUAL.iter().map(PathBuf::from).filter(|folder| store.has_folder(folder));
        Ok(Self { folders: usual.map(|folder| (None, folder)).collect(), named: false })
    }

    /// The mask of `photo`, as large as the upright picture, and where it came from.
    pub fn mask(&self, store: &Store, photo: &Path, decoded: &Decoded) -> Result<(GrayImage, String)> {
        for (own, folder) in &self.folders {
            let store = own.as_ref().unwrap_or(store);
            if let Some(file) = in_folder(store, folder, photo) {
                return Ok((read(store, &file, photo, decoded)?, store.path(&file).display().to_string()));
            }
        }
        let stem = photo.file_stem().unwrap_or_default().to_string_lossy();
        let label = PathBuf::from(format!("{stem}{LABEL}.png"));
        if !self.named && store.files(Path::new("")).contains(&label) {
            return Ok((read(store, &label, photo, decoded)?, store.path(&label).display().to_string()));
        }
        if !self.named && decoded.image.color().has_alpha() {
            return Ok((alpha(&decoded.image), "alpha channel".to_string()));
        }
        let looked = |(own, folder): &(Option<Store>, PathBuf)| {
            let folder = own.as_ref().unwrap_or(store).path(folder);
            format!("{0}/{stem}.png, {0}/{stem}/", folder.display())
        };
        let mut places: Vec<String> = self.folders.iter().map(looked).collect();
        if !self.named {
            if places.is_empty() {
                places.push(format!("{}/{{{}}}/", store.path(Path::new("")).display(), USUAL.join(",")));
            }
            places.push(store.path(&label).display().to_string());
            places.push("the photo's alpha channel".to_string());
        }
        bail!("no mask for {}: looked for {}", store.path(photo).display(), places.join(", "))
    }
}

/// `folder/NAME.png`, or the first picture of `folder/NAME/`.
fn in_folder(store: &Store, folder: &Path, photo: &Path) -> Option<PathBuf> {
    let stem = photo.file_stem()?;
    let beside = store.files(folder).into_iter().find(|f| is_picture(f) && f.file_stem() == Some(stem));
    beside.or_else(|| store.files(&folder.join(stem)).into_iter().find(|f| is_picture(f)))
}

fn read(store: &Store, file: &Path, photo: &Path, decoded: &Decoded) -> Result<GrayImage> {
    let path = store.path(file);
    let found = decode(&store.read(file)?).with_context(|| format!("cannot read the mask {}", path.display()))?;
    let mut mask = found.image;
    let (width, height) = (decoded.image.width(), decoded.image.height());
    // a mask without orientation that was drawn on the stored pixels is turned like its photo
    if (mask.width(), mask.height()) == decoded.stored && decoded.stored != (width, height) {
        mask.apply_orientation(decoded.orientation);
    }
    let ratio = |w: u32, h: u32| w as f64 / h as f64;
    if (ratio(mask.width(), mask.height()) / ratio(width, height) - 1.).abs() > 0.02 {
        bail!(
            "the mask {} is {}x{} but its photo {} is {width}x{height}: is it another photo's mask?",
            path.display(),
            mask.width(),
            mask.height(),
            store.path(photo).display()
        );
    }
    let mask = mask.to_luma8();
    let mask = if mask.dimensions() == (width, height) {
        mask
    } else {
        imageops::resize(&mask, width, height, FilterType::Nearest)
    };
    Ok(thresholded(mask))
}

fn alpha(image: &DynamicImage) -> GrayImage {
    let rgba = image.to_rgba8();
    let values = rgba.pixels().map(|pixel| pixel.0[3]).collect();
    thresholded(GrayImage::from_raw(rgba.width(), rgba.height(), values).unwrap_or_default())
}

fn thresholded(mut mask: GrayImage) -> GrayImage {
    for value in mask.iter_mut() {
        *value = if *value >= THRESHOLD { 255 } else { 0 };
    }
    mask
}
