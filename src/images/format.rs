//! What a file is: by its content, and where that says nothing by its name.

use std::path::Path;

/// So many bytes of a file's beginning tell what it is.
pub(super) const HEAD: usize = 512;

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    Jpeg,
    WebP,
    Bmp,
    Tiff,
    Gif,
}

/// What the beginning and the name of a file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A picture that can be read.
    Picture(Format),
    /// A picture (or a video, or a page) that cannot be read: what it is.
    Foreign(&'static str),
    /// Named like a picture, but something else.
    Misnamed(&'static str),
    /// No picture, and none promised.
    Other,
}

/// What to do with a [`Kind::Foreign`].
pub(super) const CONVERT: &str = "convert it to PNG or JPEG";

/// Names of formats that are read.
const READ: [&str; 13] =
    ["png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "tif", "tiff", "gif", "mpo"];

/// Names of formats that are not, and what they are.
const FOREIGN: [(&[&str], &str); 14] = [
    (&["heic", "heif", "hif", "heics"], HEIC),
    (&["avif", "avifs"], AVIF),
    (&["jxl"], "JPEG XL"),
    (&["jp2", "j2k", "jpf", "jpx", "jpm"], "JPEG 2000"),
    (RAW_NAMES, RAW),
    (&["psd", "psb"], "a Photoshop document"),
    (&["xcf", "kra", "afphoto", "clip"], "a document of a painting program"),
    (&["svg", "svgz"], "SVG, a vector drawing"),
    (&["pdf", "ps", "eps", "ai"], "a document to print"),
    (&["mov", "mp4", "m4v", "avi", "mkv", "webm", "3gp", "mpg", "mpeg", "wmv"], VIDEO),
    (&["exr"], "OpenEXR"),
    (&["hdr"], "Radiance HDR"),
    (&["ico", "cur", "icns"], "an icon"),
    (&["tga", "dds", "ppm", "pgm", "pbm", "pnm", "pam", "qoi", "pcx", "jxr", "wdp"], "of a format that is not read"),
];

/// Raw files have the content of TIFFs, which would show a thumbnail at best.
const RAW_NAMES: &[&str] = &[
    "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "orf", "rw2", "raf", "pef", "srw", "raw", "rwl",
    "3fr", "iiq", "x3f",
];

const RAW: &str = "a camera's raw file";
const HEIC: &str = "HEIC, as phones write it";
const AVIF: &str = "AVIF";
const VIDEO: &str = "a video";

/// Magic numbers of what is not read: where, what, which.
const MAGIC: [(usize, &[u8], &str); 16] = [
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"gimp xcf", "a document of a painting program"),
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"<svg", "SVG, a vector drawing"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "of a format that is not read"),
    (0, b"qoif", "of a format that is not read"),
    (0, b"\x1a\x45\xdf\xa3", VIDEO),
    (8, b"AVI LIST", VIDEO),
    (0, b"FUJIFILMCCD-RAW", RAW),
];

/// What a file is that begins with `head`.
pub(super) fn kind(head: &[u8], name: &Path) -> Kind {
    let extension = name.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let extension = extension.as_str();
    if let Some(format) = readable(head) {
        let raw = format == Format::Tiff && (RAW_NAMES.contains(&extension) || head.get(8..10) == Some(b"CR"));
        return if raw { Kind::Foreign(RAW) } else { Kind::Picture(format) };
    }
    if let Some(what) = foreign(head) {
        return Kind::Foreign(what);
    }
    if let Some((_, what)) = FOREIGN.iter().find(|(names, _)| names.contains(&extension)) {
        return Kind::Foreign(what);
    }
    if READ.contains(&extension) { Kind::Misnamed(content(head)) } else { Kind::Other }
}

fn readable(head: &[u8]) -> Option<Format> {
    let begins = |magic: &[u8]| head.starts_with(magic);
    if begins(b"\x89PNG\r\n\x1a\n") {
        Some(Format::Png)
    } else if begins(b"\xff\xd8\xff") {
        Some(Format::Jpeg)
    } else if begins(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        Some(Format::WebP)
    } else if begins(b"GIF87a") || begins(b"GIF89a") {
        Some(Format::Gif)
    } else if begins(b"II*\0") || begins(b"MM\0*") || begins(b"II+\0") || begins(b"MM\0+") {
        Some(Format::Tiff)
    } else if begins(b"BM") && head.get(14..18).is_some_and(|size| (12..=124).contains(&size[0]) && size[1..] == [0; 3])
    {
        Some(Format::Bmp)
    } else {
        None
    }
}

fn foreign(head: &[u8]) -> Option<&'static str> {
    if head.get(4..8) == Some(b"ftyp") {
        return Some(brand(head));
    }
    MAGIC.iter().find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic))).map(|m| m.2)
}

/// The ISO container holds HEIC, AVIF, raw files and videos, told apart by brands.
fn brand(head: &[u8]) -> &'static str {
    let size = head.get(..4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let brands = head.get(8..size.clamp(8, head.len().max(8))).unwrap_or_default();
    let has = |known: &[&[u8; 4]]| brands.chunks_exact(4).any(|b| known.iter().any(|k| b == k.as_slice()));
    if has(&[b"avif", b"avis"]) {
        AVIF
    } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        HEIC
    } else if has(&[b"crx "]) {
        RAW
    } else {
        VIDEO
    }
}

/// What is in a file that is called a picture and is none.
fn content(head: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(head).to_lowercase();
    if head.is_empty() {
        "it is empty"
    } else if text.starts_with("version https://git-lfs") {
        "it is a git-lfs pointer: fetch the file itself (git lfs pull)"
    } else if text.trim_start().starts_with("<!doctype html") || text.trim_start().starts_with("<html") {
        "it is a web page: download the picture itself"
    } else if head.iter().all(|&byte| byte == 0) {
        "there are zeros only in its beginning: copy it again"
    } else {
        "it is no PNG, JPEG, WebP, TIFF, BMP or GIF"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_asked_before_the_name() {
        let of = |head: &[u8], name: &str| kind(head, Path::new(name));
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        for name in ["a.png", "a.jpg", "a.heic", "a", "a.txt"] {
            assert_eq!(of(png, name), Kind::Picture(Format::Png), "{name}");
        }
        let bmp = [b"BM".as_slice(), &[0; 12], &[40, 0, 0, 0]].concat();
        for (head, format) in [
            (b"\xff\xd8\xff\xe0\0\x10JFIF".as_slice(), Format::Jpeg),
            (b"RIFF\0\0\0\0WEBPVP8 ", Format::WebP),
            (b"GIF89a\0\0", Format::Gif),
            (b"II*\0\x08\0\0\0", Format::Tiff),
            (b"MM\0*\0\0\0\x08", Format::Tiff),
            (&bmp, Format::Bmp),
        ] {
            assert_eq!(of(head, "a.jpg"), Kind::Picture(format));
        }
        assert_eq!(of(b"BMW is a make of cars", "a.txt"), Kind::Other);
    }

    #[test]
    fn what_is_not_read_is_known_by_content_or_name() {
        let of = |head: &[u8], name: &str| kind(head, Path::new(name));
        for (head, name, what) in [
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".as_slice(), "a.jpg", HEIC),
            (b"\0\0\0\x18ftypmif1\0\0\0\0avifmif1", "a", AVIF),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a.jpg", VIDEO),
            (b"x", "IMG_3.HEIC", HEIC),
            (b"x", "a.avif", AVIF),
            (b"II*\0\x08\0\0\0", "a.NEF", RAW),
            (b"II*\0\x10\0\0\0CR\x02\0", "a.tif", RAW),
            (b"8BPS\0\x01", "a.png", "a Photoshop document"),
            (b"%PDF-1.7", "scan", "a PDF"),
            (b"\xff\x0a\0", "a.jpg", "JPEG XL"),
        ] {
            assert_eq!(of(head, name), Kind::Foreign(what), "{name}");
        }
        for (head, name) in [(b"".as_slice(), "README.txt"), (b"{}", "subject.json"), (b"a dog", "a.txt"), (b"", "a")] {
            assert_eq!(of(head, name), Kind::Other, "{name}");
        }
        let Kind::Misnamed(why) = of(b"<!DOCTYPE html><html>", "a.jpg") else { panic!("a web page") };
        assert!(why.contains("web page"));
        assert!(matches!(of(b"", "a.PNG"), Kind::Misnamed("it is empty")));
        assert!(matches!(of(&[0; 99], "a.jpg"), Kind::Misnamed(why) if why.contains("zeros")));
    }
}
