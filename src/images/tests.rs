//! Every kind of file, made here: what is read of it, and that a part of it is refused.

use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use moxcms::ColorProfile;

use super::*;

/// A progressive JPEG of 24 x 16 pixels: left (200, 40, 60), right (30, 120, 220).
const PROGRESSIVE: &str = "\
    /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8X\
    GBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/wgAR\
    CAAQABgDASIAAhEBAxEB/8QAFgABAQEAAAAAAAAAAAAAAAAABAAG/8QAFwEAAwEAAAAAAAAAAAAAAAAAAwYHCP/aAAwDAQACEAMQAAABxiTJ\
    I+KqqWfP/8QAFhABAQEAAAAAAAAAAAAAAAAAAxAA/9oACAEBAAEFAsNGf//EABoRAAAHAAAAAAAAAAAAAAAAAAEDBhA1grL/2gAIAQMBAT8B\
    VUOdXQN//8QAGhEAAAcAAAAAAAAAAAAAAAAAAQMFEDSBsf/aAAgBAgEBPwFFnl3gt//EABYQAQEBAAAAAAAAAAAAAAAAAAEQAP/aAAgBAQAG\
    PwLNZ//EABYQAQEBAAAAAAAAAAAAAAAAABDBAP/aAAgBAQABPyHRYn//2gAMAwEAAgADAAAAEPw//8QAFBEBAAAAAAAAAAAAAAAAAAAAEP/a\
    AAgBAwEBPxAL/8QAFBEBAAAAAAAAAAAAAAAAAAAAEP/aAAgBAgEBPxAi/8QAFxAAAwEAAAAAAAAAAAAAAAAAEIHwAP/aAAgBAQABPxDUZox/\
    /9k=";

/// The same as a CMYK JPEG with Adobe's marker.
const CMYK: &str = "\
    /9j/7gAOQWRvYmUAZAAAAAAA/9sAQwACAQEBAQECAQEBAgICAgIEAwICAgIFBAQDBAYFBgYGBQYGBgcJCAYHCQcGBggLCAkKCgoKCgYICwwL\
    CgwJCgoK/8AAFAgAEAAYBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgMEBQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAAB\
    fQECAwAEEQUSITFBBhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJChYXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hp\
    anN0dXZ3eHl6g4SFhoeIiYqSk5SVlpeYmZqio6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5\
    +v/aAA4EQwBNAFkASwAAPwD9IK/J+vzvr9/K/Kv/AIOaP+aJ/wDcyf8AuLr6g/4Ju/8AM5/9w7/26r9QP+Dbv/ms3/cu/wDuTor8q6+oK/UC\
    iv6qK/L+v5f6K/Kv/g5o/wCaJ/8Acyf+4uvqD/gm7/zOf/cO/wDbqv1A/wCDbv8A5rN/3Lv/ALk6K/KuvqCv1Aor/9k=";

/// The same as a lossy WebP.
const LOSSY_WEBP: &str = "\
    UklGRl4AAABXRUJQVlA4IFIAAAAQBACdASoYABAAPjEUiEKiISEYBAAgAwSgCdMoRgCgAfgBXf+4AAcxQAD+8a/67X8H+u1/wGPS2NjO6NoZ\
    MEzP/8y3pdIW8//mXZcS4zkQKeAA";

const LEFT: [u8; 3] = [200, 40, 60];
const RIGHT: [u8; 3] = [30, 120, 220];

fn picture() -> RgbImage {
    RgbImage::from_fn(24, 16, |x, _| Rgb(if x < 12 { LEFT } else { RIGHT }))
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("an encoded picture");
    bytes.into_inner()
}

fn fixture(text: &str) -> Vec<u8> {
    STANDARD.decode(text).expect("base64")
}

fn whole(bytes: &[u8]) -> Read {
    read_bytes(bytes, Path::new("a")).expect("a picture")
}

fn refused(bytes: &[u8]) -> String {
    match read_bytes(bytes, Path::new("the-file")) {
        Ok(_) => "it was read".to_string(),
        Err(error) => format!("{error:#}"),
    }
}

fn close(image: &RgbImage, expected: &RgbImage, most: u8) {
    assert_eq!(image.dimensions(), expected.dimensions());
    let gaps = image.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b));
    let largest = gaps.max().unwrap_or(0);
    assert!(largest <= most, "{largest}");
}

/// Every format with how far its pixels may be off.
fn files() -> Vec<(&'static str, Vec<u8>, u8)> {
    vec![
        ("png", encoded(picture(), ImageFormat::Png), 0),
        ("bmp", encoded(picture(), ImageFormat::Bmp), 0),
        ("tiff", encoded(picture(), ImageFormat::Tiff), 0),
        ("gif", encoded(picture(), ImageFormat::Gif), 4),
        ("lossless webp", encoded(picture(), ImageFormat::WebP), 0),
        ("lossy webp", fixture(LOSSY_WEBP), 60),
        ("jpeg", encoded(picture(), ImageFormat::Jpeg), 60),
        ("progressive", fixture(PROGRESSIVE), 60),
        ("cmyk", fixture(CMYK), 60),
    ]
}

#[test]
fn every_format_is_read_by_its_content() {
    for (name, bytes, most) in files() {
        let read = read_bytes(&bytes, Path::new("a.png")).expect(name);
        assert!(read.warnings.is_empty() && read.stored == (24, 16), "{name}");
        close(&read.image, &picture(), most);
        for (x, colour) in [(4, LEFT), (20, RIGHT)] {
            let found = read.image.get_pixel(x, 8).0;
            assert!(found.iter().zip(colour).all(|(a, b)| a.abs_diff(b) < 8), "{name}: {found:?}");
        }
    }
}

#[test]
fn what_is_cut_short_is_refused() {
    for (name, bytes, _) in files() {
        let ends = if name == "gif" { bytes.len() - 2 } else { bytes.len() };
        for end in [20, ends / 4, ends / 2, ends * 3 / 4, ends - 9, ends - 1] {
            let error = refused(&bytes[..end]);
            assert!(error.contains("the-file") && error != "it was read", "{name} up to {end}: {error}");
        }
        let more = [bytes, b"what a camera appended".to_vec()].concat();
        whole(&more);
    }
    let jpeg = encoded(picture(), ImageFormat::Jpeg);
    assert!(refused(&jpeg[..jpeg.len() / 2]).contains("cut short"));
    assert!(refused(&encoded(picture(), ImageFormat::Png)[..99]).contains("cut short"));
    // the end of a thumbnail is not the end of the picture
    let thumbnail = [b"Exif\0\0".as_slice(), &jpeg].concat();
    let with = with_segment(&jpeg, 0xe1, &thumbnail);
    assert_eq!(whole(&with).image, whole(&jpeg).image);
    assert!(refused(&with[..with.len() - 40]).contains("cut short"));
    // an end marker does not mend it
    let scan = jpeg.windows(2).rposition(|w| w == [0xff, 0xda]).expect("a scan") + 14;
    for share in [0, 1, 4, 7] {
        let cut = scan + (jpeg.len() - 2 - scan) * share / 8;
        let mended = [&jpeg[..cut], b"\xff\xd9"].concat();
        assert!(refused(&mended).contains("cut short"), "{share} of 8: {}", refused(&mended));
    }
    // two pictures in one file: the first counts
    assert_eq!(whole(&[jpeg.clone(), jpeg.clone()].concat()).image, whole(&jpeg).image);
}

/// A JPEG with one more segment at its beginning.
fn with_segment(jpeg: &[u8], marker: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, marker], &length, content, &jpeg[2..]].concat()
}

/// A PNG with one more chunk behind its header.
fn with_chunk(png: &[u8], kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(content);
    let length = (content.len() as u32).to_be_bytes();
    [&png[..33], &length, kind, content, &crc.sum().to_be_bytes(), &png[33..]].concat()
}

fn packed(content: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn values_of_any_form_come_to_three_bytes_on_white() {
    let on_white = |value: u32, alpha: u32| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
    let place = |x: u32, y: u32| (x * 10 % 256, (255 - 16 * y) % 256);
    let rgba = RgbaImage::from_fn(24, 16, |x, y| Rgba([place(x, y).0 as u8, 7, 200, place(x, y).1 as u8]));
    let laid = RgbImage::from_fn(24, 16, |x, y| {
        let (value, alpha) = place(x, y);
        Rgb([on_white(value, alpha), on_white(7, alpha), on_white(200, alpha)])
    });
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Bmp] {
        let read = whole(&encoded(rgba.clone(), format));
        assert_eq!(read.image, laid, "{format:?}");
        let alpha = read.alpha.expect("an alpha channel");
        assert!(alpha.enumerate_pixels().all(|(x, y, level)| level.0[0] as u32 == place(x, y).1));
    }
    let gray = GrayAlphaImage::from_fn(24, 16, |x, y| LumaA([place(x, y).0 as u8, place(x, y).1 as u8]));
    let read = whole(&encoded(gray, ImageFormat::Png));
    assert!(read.image.enumerate_pixels().all(|(x, y, p)| p.0 == [on_white(place(x, y).0, place(x, y).1); 3]));
    let deep = image::ImageBuffer::<Luma<u16>, _>::from_fn(24, 16, |x, _| Luma([x as u16 * 2600]));
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        let read = whole(&encoded(deep.clone(), format));
        assert!(
            read.image.enumerate_pixels().all(|(x, _, p)| p.0 == [((x * 2600 + 128) / 257) as u8; 3]),
            "{format:?}"
        );
    }
}

#[test]
fn pictures_stand_upright() {
    let stored = RgbImage::from_fn(3, 2, |x, y| Rgb([x as u8 * 100, y as u8 * 100, 0]));
    for exif in 1..=8u8 {
        let tiff = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[exif], &[0; 7]].concat();
        let png = with_chunk(&encoded(stored.clone(), ImageFormat::Png), b"eXIf", &tiff);
        let read = whole(&png);
        let mut expected = DynamicImage::ImageRgb8(stored.clone());
        expected.apply_orientation(image::metadata::Orientation::from_exif(exif).expect("an orientation"));
        assert_eq!((read.image, read.stored), (expected.into_rgb8(), (3, 2)), "{exif}");
        let jpeg =
            with_segment(&encoded(stored.clone(), ImageFormat::Jpeg), 0xe1, &[b"Exif\0\0".as_slice(), &tiff].concat());
        assert_eq!(whole(&jpeg).image.dimensions(), if exif > 4 { (2, 3) } else { (3, 2) });
    }
}

fn with_profile(image: impl Into<DynamicImage>, profile: &[u8]) -> Vec<u8> {
    let content = [b"profile\0\0".as_slice(), &packed(profile)].concat();
    with_chunk(&encoded(image, ImageFormat::Png), b"iCCP", &content)
}

#[test]
fn colours_become_srgb() {
    let profile = |profile: ColorProfile| profile.encode().expect("a profile");
    let srgb = whole(&with_profile(picture(), &profile(ColorProfile::new_srgb())));
    assert_eq!((srgb.image, srgb.warnings), (picture(), Vec::new()));
    // by the primaries and the curve of each space
    let colour = RgbImage::from_pixel(4, 4, Rgb([180, 120, 90]));
    for (space, expected) in
        [(ColorProfile::new_display_p3(), [190, 117, 84]), (ColorProfile::new_adobe_rgb(), [199, 121, 88])]
    {
        let found = whole(&with_profile(colour.clone(), &profile(space))).image.get_pixel(1, 1).0;
        assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 1), "{found:?} is not {expected:?}");
    }
    let linear = profile(ColorProfile::new_gray_with_gamma(1.));
    let gray = whole(&with_profile(GrayImage::from_pixel(4, 4, Luma([55])), &linear));
    assert!(
        gray.image.get_pixel(0, 0).0.iter().all(|value| value.abs_diff(128) <= 1),
        "{:?}",
        gray.image.get_pixel(0, 0)
    );
    // transparent pixels keep their opacity, and are converted before they are laid on white
    let rgba = RgbaImage::from_pixel(4, 4, Rgba([180, 120, 90, 0]));
    let clear = whole(&with_profile(rgba, &profile(ColorProfile::new_display_p3())));
    assert_eq!((clear.image.get_pixel(0, 0).0, clear.alpha.map(|a| a.get_pixel(0, 0).0[0])), ([255; 3], Some(0)));
}

#[test]
fn damaged_profiles_are_left_aside_with_a_warning() {
    let garbage = vec![7u8; 300];
    let mut wrong = ColorProfile::new_gray_with_gamma(1.).encode().expect("a profile");
    wrong.truncate(200);
    for profile in [garbage, wrong] {
        let read = whole(&with_profile(picture(), &profile));
        assert_eq!(read.image, picture());
        assert!(read.warnings.len() == 1 && read.warnings[0].contains("profile"), "{:?}", read.warnings);
    }
    let unpackable = with_chunk(&encoded(picture(), ImageFormat::Png), b"iCCP", b"profile\0\0no zlib");
    let read = whole(&unpackable);
    assert!(read.image == picture() && read.warnings[0].contains("profile"));
    let bomb = with_profile(picture(), &vec![0; 70 << 20]);
    assert!(bomb.len() < 200_000);
    let read = read_bytes(&bomb, Path::new("a"));
    assert!(read.is_err() || read.is_ok_and(|read| read.image == picture() && !read.warnings.is_empty()));
}

#[test]
fn sizes_are_checked_before_memory_is_taken() {
    let mut png = encoded(GrayImage::new(1, 1), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0x7f, 0xbc, 0, 0, 0x7f, 0xbc]);
    let mut crc = flate2::Crc::new();
    crc.update(&png[12..29]);
    png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let error = refused(&png);
    assert!(error.contains("32700x32700") && error.contains("512") && error.contains("the-file"), "{error}");
    let mut gif = encoded(picture(), ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert!(refused(&gif).contains("65535x65535"));
    let mut jpeg = fixture(PROGRESSIVE);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc2]).expect("a frame");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x70, 0, 0x70, 0]);
    assert!(refused(&jpeg).contains("28672x28672"));
    let mut bmp = encoded(picture(), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0, 0, 1, 0, 0, 0, 1, 0]);
    assert!(refused(&bmp).contains("the-file"));
}

#[test]
fn what_is_no_picture_is_named() {
    for (content, part) in [
        (b"".as_slice(), "empty"),
        (b"hello", "no picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF"),
    ] {
        let error = refused(content);
        assert!(error.contains(part) && error.contains("the-file"), "{error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("x.png");
    std::fs::create_dir(&place).expect("a folder");
    assert!(format!("{:#}", open(&place).expect_err("a folder")).contains("folder"));
    assert!(format!("{:#}", open(&folder.path().join("none.png")).expect_err("nothing")).contains("none.png"));
    assert_eq!(shown(Path::new("a\nb\u{202e}c\x1b[2J")), "a\\nb\\u{202e}c\\u{1b}[2J");
}

#[test]
fn texts_are_read_in_every_form_and_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.png");
    let png = encoded(picture(), ImageFormat::Png);
    let prompt = |content: Vec<u8>| {
        std::fs::write(&path, content).expect("a file");
        png::read_parameters(&path).expect("a PNG").map(|written| written.prompt)
    };
    let text = "a dog\nin the snow\nSteps: 3, Seed: 1";
    let plain = [b"parameters\0".as_slice(), text.as_bytes()].concat();
    let found = Some("a dog\nin the snow".to_string());
    assert_eq!(prompt(with_chunk(&png, b"tEXt", &plain)), found);
    assert_eq!(
        prompt(with_chunk(&png, b"zTXt", &[b"parameters\0\0".as_slice(), &packed(text.as_bytes())].concat())),
        found
    );
    let international =
        |is_packed: u8, text: &[u8]| [b"parameters\0".as_slice(), &[is_packed], b"\0en\0\0", text].concat();
    assert_eq!(prompt(with_chunk(&png, b"iTXt", &international(0, text.as_bytes()))), found);
    assert_eq!(prompt(with_chunk(&png, b"iTXt", &international(1, &packed(text.as_bytes())))), found);
    assert_eq!(prompt(with_chunk(&png, b"tEXt", b"Title\0a dog")), None);
    assert_eq!(prompt(png.clone()), None);
    let bomb = packed(&vec![b'a'; 64 << 20]);
    assert_eq!(prompt(with_chunk(&png, b"zTXt", &[b"parameters\0\0".as_slice(), &bomb].concat())), None);
    assert_eq!(prompt(encoded(picture(), ImageFormat::Jpeg)), None);
    let exif = exif::tests::with_comment(b"ASCII\0\0\0", text.as_bytes());
    let exif = [b"Exif\0\0".as_slice(), &exif].concat();
    assert_eq!(prompt(with_segment(&encoded(picture(), ImageFormat::Jpeg), 0xe1, &exif)), found);
    assert!(png::read_parameters(&folder.path().join("none.png")).is_err());
}

/// A profile of four inks with a table of two values for each: white without ink, else as `lab` says.
fn inks_profile(lab: impl Fn([bool; 4]) -> [u8; 3]) -> Vec<u8> {
    let mut table = b"mft1\0\0\0\0\x04\x03\x02\0".to_vec();
    for i in 0..9 {
        table.extend(if i % 4 == 0 { 65536i32 } else { 0 }.to_be_bytes());
    }
    (0..4).for_each(|_| table.extend(0..=255u8));
    for i in 0..16 {
        table.extend(lab([8, 4, 2, 1].map(|bit| i & bit != 0)));
    }
    (0..3).for_each(|_| table.extend(0..=255u8));
    let white = [b"XYZ \0\0\0\0".as_slice(), &[0, 0, 0xf6, 0xd6, 0, 1, 0, 0, 0, 0, 0xd3, 0x2d]].concat();
    let mut profile = vec![0u8; 128];
    profile[8] = 2;
    profile[12..24].copy_from_slice(b"prtrCMYKLab ");
    profile[36..40].copy_from_slice(b"acsp");
    profile[68..80].copy_from_slice(&white[8..]);
    profile.extend(2u32.to_be_bytes());
    let first = 128 + 4 + 2 * 12;
    for (name, at, length) in [(b"A2B0", first, table.len()), (b"wtpt", first + table.len(), white.len())] {
        profile.extend(name);
        profile.extend((at as u32).to_be_bytes());
        profile.extend((length as u32).to_be_bytes());
    }
    profile.extend(table);
    profile.extend(white);
    let length = (profile.len() as u32).to_be_bytes();
    profile[..4].copy_from_slice(&length);
    profile
}

#[test]
fn inks_become_srgb_by_their_profile_or_without() {
    let mut warnings = Vec::new();
    // no ink, half of the black, all of cyan and black
    let inks = vec![0, 0, 0, 0, 0, 0, 0, 128, 255, 0, 0, 0, 0, 0, 0, 255];
    let plain = icc::inks_to_rgb(inks.clone(), 2, None, &mut warnings);
    assert_eq!(plain, [255, 255, 255, 127, 127, 127, 0, 255, 255, 0, 0, 0]);
    // cyan is a gray of L* = 50 in this profile
    let lab = |inks: [bool; 4]| match inks {
        [_, _, _, true] => [0, 128, 128],
        [true, ..] => [128, 128, 128],
        _ => [255, 128, 128],
    };
    let profiled = icc::inks_to_rgb(inks.clone(), 2, Some(&inks_profile(lab)), &mut warnings);
    assert!(warnings.is_empty(), "{warnings:?}");
    let gray = |i: usize| profiled[3 * i..3 * i + 3].iter().map(|&v| v as i32).sum::<i32>() / 3;
    assert!(gray(0) > 250 && (gray(2) - 119).abs() < 4 && gray(3) < 5, "{profiled:?}");
    let damaged = icc::inks_to_rgb(inks, 2, Some(b"no profile"), &mut warnings);
    assert!(damaged == plain && warnings[0].contains("profile"));
}

#[test]
fn the_largest_pictures_are_resized_within_the_bound() {
    // wide and low, so that rows between the two passes would take more than the picture
    let image = RgbImage::from_fn(20_000, 1000, |x, _| Rgb([(x / 100) as u8, 0, 0]));
    let small = resized(&image, 200, 900);
    assert!(small.enumerate_pixels().all(|(x, _, p)| p.0[0].abs_diff(x as u8) <= 1));
    let mask = GrayImage::from_fn(20_000, 1000, |x, _| Luma([if x < 5000 { 255 } else { 0 }]));
    let small = resized_mask(&mask, 200, 900);
    assert!(small.enumerate_pixels().all(|(x, _, p)| (p.0[0] > 0) == (x < 50)));
}

#[test]
#[cfg(not(windows))]
fn suggested_commands_can_be_typed() {
    let words = [
        ("outputs/dog-2.b", "outputs/dog-2.b"),
        ("B b", "'B b'"),
        ("it's", "'it'\\''s'"),
        ("~/$HOME", "'~/$HOME'"),
        ("日本", "日本"),
        ("", "''"),
    ];
    for (path, word) in words {
        assert_eq!(typed(path), word);
    }
    assert!(!typed("a\u{1b}[2J").contains('\u{1b}'));
}
