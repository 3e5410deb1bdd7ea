//! The pictures of a folder, and what is left out of them.

use std::cmp::Ordering;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::format::{CONVERT, HEAD, Kind, kind};
use super::png::is_sheet;
use super::shown;

/// A mask beside its photo is called `NAME` and one of these.
const MASK_ENDINGS: [&str; 3] = ["-masklabel", "-mask", "_mask"];

/// How our own sheets of pictures are called; those of older versions are told by that alone.
const SHEET: &str = "contact-sheet.png";

/// What a folder holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Its pictures, by name. Some may turn out to be damaged when they are read.
    pub pictures: Vec<PathBuf>,
    /// Files that look like pictures but cannot be used, and why. Files that do not are not told of.
    pub left_out: Vec<(PathBuf, String)>,
}

impl Listing {
    /// A line for each file that was left out.
    pub fn warnings(&self) -> Vec<String> {
        self.left_out.iter().map(|(path, why)| format!("left out {}: {why}", shown(path))).collect()
    }

    /// Takes a file in, or leaves it out. `head` reads its beginning.
    pub(crate) fn judge(&mut self, path: PathBuf, head: impl FnOnce(&Path) -> std::io::Result<Vec<u8>>) {
        if is_hidden(&path) || path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SHEET)) {
            return;
        }
        let (content, unreadable) = match head(&path) {
            Ok(content) => (content, None),
            // that it may not be read is for the user to mend too
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => (vec![1], None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        if is_sheet(&content) {
            return;
        }
        match (kind(&content, &path), unreadable) {
            (Kind::Other, _) => {}
            (_, Some(why)) => self.left_out.push((path, why)),
            (Kind::Foreign(_) | Kind::Misnamed(_), _) if content.is_empty() => {
                self.left_out.push((path, "it is empty".into()));
            }
            (Kind::Foreign(what), _) => self.left_out.push((path, format!("it is {what}: {CONVERT}"))),
            // a damaged picture is for the user to mend: reading it says what is wrong
            (Kind::Picture(_) | Kind::Misnamed(_), _) => self.pictures.push(path),
        }
    }

    /// Sorts, and takes out the masks that lie beside their photos.
    pub(crate) fn sorted(mut self) -> Self {
        self.pictures.sort();
        self.left_out.sort();
        let stems: Vec<_> =
            self.pictures.iter().filter_map(|path| path.file_stem().map(|s| s.to_os_string())).collect();
        self.pictures.retain(|path| {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            // "cat-mask.png" may be a photo of a mask, but not beside a "cat.jpg"
            let of_photo = |ending: &&str| {
                let photo = stem.strip_suffix(*ending);
                photo.is_some_and(|photo| *ending == MASK_ENDINGS[0] || stems.iter().any(|other| other == photo))
            };
            !MASK_ENDINGS.iter().any(of_photo)
        });
        self
    }
}

/// The stems that a mask beside `photo` may have.
pub(crate) fn mask_stems(photo: &Path) -> Vec<std::ffi::OsString> {
    let stem = photo.file_stem().unwrap_or_default();
    let with = |ending: &&str| {
        let mut name = stem.to_os_string();
        name.push(ending);
        name
    };
    MASK_ENDINGS.iter().map(with).collect()
}

/// Whether a file or folder is one of a system or of another program: `.DS_Store`, `._IMG.jpg`, `@eaDir`.
pub(crate) fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || name.starts_with('@') || name == "__MACOSX"
}

/// The beginning of a file, which tells what it is.
pub(crate) fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        let what = if meta.is_dir() { "it is a folder" } else { "it is no ordinary file" };
        return Err(std::io::Error::other(what));
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// What pictures a folder holds.
///
/// # Errors
/// If the folder cannot be read.
pub fn list(folder: &Path) -> Result<Listing> {
    let entries = || std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>();
    let entries = entries().with_context(|| format!("cannot read the folder {}", shown(folder)))?;
    let mut listing = Listing::default();
    for entry in entries {
        listing.judge(entry.path(), head);
    }
    Ok(listing.sorted())
}

/// The pictures in a folder, by name.
///
/// # Errors
/// If the folder cannot be read or has none; the message says what was left out.
pub fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = list(folder)?;
    if listing.pictures.is_empty() {
        bail!("{}", none_in(folder, "pictures", &listing));
    }
    Ok(listing.pictures)
}

/// The order that people count in: `2.png` is before `10.png`. Lists stay in the order of bytes ([`Listing`]), since
/// which photo is a training's first, and what its photos' digest is, must not change.
pub fn by_number(one: &Path, other: &Path) -> Ordering {
    let pieces = |path: &Path| -> Vec<(u8, usize, Vec<u8>)> {
        let bytes = path.as_os_str().as_encoded_bytes();
        let numbers = bytes.chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit());
        let piece = |piece: &[u8]| match piece {
            [first, ..] if first.is_ascii_digit() => {
                let number = &piece[piece.iter().take_while(|digit| **digit == b'0').count()..];
                (b'0', number.len(), number.to_vec()) // of two numbers the longer one is greater
            }
            other => (other[0], 0, Vec::new()),
        };
        numbers.map(piece).collect()
    };
    (pieces(one), one).cmp(&(pieces(other), other))
}

/// The message for a folder without pictures.
pub(crate) fn none_in(folder: &Path, what: &str, listing: &Listing) -> String {
    let mut message = format!("there are no {what} (PNG, JPEG, WebP, TIFF, BMP, GIF) in {}", shown(folder));
    for warning in listing.warnings() {
        message += &format!("\n  {warning}");
    }
    message
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::super::png::save_sheet_over_ours;
    use super::*;

    #[test]
    fn folders_are_listed_by_content_and_what_is_left_out_is_said() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        RgbImage::new(4, 4).save(at("b.png"))?;
        let png = std::fs::read(at("b.png"))?;
        for name in ["a", "c.jpg", "d.dat", "cat.png", "cat-mask.png", "e_mask.png", "f-masklabel.png"] {
            std::fs::write(at(name), &png)?;
        }
        for name in ["._b.png", ".hidden.png", SHEET] {
            std::fs::write(at(name), &png)?;
        }
        // what shows other pictures says so, whatever it is called
        for name in ["overview.png", "preview.png"] {
            save_sheet_over_ours(&at(name), &RgbImage::new(4, 4))?;
        }
        for (name, content) in [
            ("README.txt", b"text".as_slice()),
            ("subject.json", b"{}"),
            ("b.txt", b"a caption"),
            ("Thumbs.db", b"\xd0\xcf\x11\xe0"),
            (".DS_Store", b"\0\0\0\x01Bud1"),
            ("IMG_3.HEIC", b"x"),
            ("film.mov", b"x"),
            ("empty.jpg", b""),
            ("damaged.webp", b"x"),
        ] {
            std::fs::write(at(name), content)?;
        }
        std::fs::create_dir(at("folder.png"))?;
        std::fs::create_dir(at("masks"))?;
        let listing = list(folder.path())?;
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names: Vec<String> = listing.pictures.iter().map(name).collect();
        assert_eq!(names, ["a", "b.png", "c.jpg", "cat.png", "d.dat", "damaged.webp", "e_mask.png"]);
        let left: Vec<String> = listing.left_out.iter().map(|(path, _)| name(path)).collect();
        assert_eq!(left, ["IMG_3.HEIC", "empty.jpg", "film.mov", "folder.png"]);
        let warnings = listing.warnings().join("; ");
        for part in ["IMG_3.HEIC: it is HEIC", "convert it", "empty.jpg: it is empty", "a video", "it is a folder"] {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
        Ok(())
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let sorted = ["0.png", "01.png", "1.png", "2.png", "10.png", "a-2-9.png", "a-10-1.png", "a.png", "a2.png"];
        let huge = ["99999999999999999999.png", "100000000000000000000.png"];
        for names in [&sorted[..], &huge] {
            let mut paths: Vec<PathBuf> = names.iter().rev().map(PathBuf::from).collect();
            paths.sort_by(|one, other| by_number(one, other));
            let expected: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            assert_eq!(paths, expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_and_odd_names_are_no_trouble() -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir()?;
        let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff\n.png"));
        RgbImage::new(4, 4).save_with_format(&odd, image::ImageFormat::Png)?;
        std::os::unix::fs::symlink(&odd, folder.path().join("link.png"))?;
        std::os::unix::fs::symlink("nowhere", folder.path().join("broken.png"))?;
        let listing = list(folder.path())?;
        assert_eq!((listing.pictures.len(), listing.left_out.len()), (2, 1));
        assert!(listing.warnings()[0].contains("broken.png"));
        for path in &listing.pictures {
            super::super::open(path)?;
        }
        std::fs::write(&odd, "damaged")?;
        let error = format!("{:#}", super::super::open(&odd).expect_err("damaged"));
        assert!(!error.contains('\n') && error.contains("\\n"), "{error}");
        let empty = tempfile::tempdir()?;
        std::fs::write(empty.path().join("a.heic"), "x")?;
        let error = pictures_in(empty.path()).expect_err("no pictures").to_string();
        assert!(error.contains("no pictures") && error.contains("a.heic"), "{error}");
        Ok(())
    }
}
