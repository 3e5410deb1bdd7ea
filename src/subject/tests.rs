use std::path::PathBuf;

use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(photos: &[&str]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in photos {
            photo().save(folder.path(name)).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn find(&self, masks: Option<&str>) -> Result<Subject> {
        let path = self.0.path().display().to_string();
        find(&Request { subject: &path, masks: masks.map(Path::new), class: Some("thing"), ..Request::default() })
    }

    fn error(&self, masks: Option<&str>) -> String {
        format!("{:#}", self.find(masks).unwrap_err())
    }
}

fn photo() -> RgbImage {
    RgbImage::from_fn(60, 40, |x, y| Rgb([x as u8 * 4, y as u8 * 6, 9]))
}

/// White in the left half.
fn mask(width: u32, height: u32) -> GrayImage {
    GrayImage::from_fn(width, height, |x, _| Luma([if x < width / 2 { 230 } else { 20 }]))
}

#[test]
fn masks_are_found_in_every_layout() {
    for place in ["masks/a.png", "masks/a.jpg", "seg_masks/a/any name.jpg", "a-masklabel.png"] {
        let folder = Folder::new(&["a.png"]);
        mask(60, 40).save(folder.path(place)).unwrap();
        let subject = folder.find(None).unwrap();
        assert_eq!(subject.photos.len(), 1, "{place}");
        assert!((subject.photos[0].coverage() - 0.5).abs() < 0.02, "{place}");
        assert!(subject.warnings[0].contains("one photo"));
    }
    let folder = Folder::new(&["a.png"]);
    mask(120, 80).save(folder.path("other/a.png")).unwrap();
    let photo = &folder.find(Some("other/")).unwrap().photos[0];
    assert_eq!(photo.mask.dimensions(), (60, 40));
    assert_eq!(photo.subject_at(4).values, [1., 1., 0., 0.].repeat(4));
}

#[test]
fn a_photo_is_not_its_own_mask() {
    let folder = Folder::new(&["a.png"]);
    assert!(folder.error(Some(".")).contains("no mask for"));
    mask(60, 40).save(folder.path("a-mask.png")).unwrap();
    assert!(folder.find(Some(".")).unwrap().photos[0].mask_source.contains("a-mask.png"));
}

#[test]
fn an_alpha_channel_is_a_mask() {
    let folder = Folder::new(&[]);
    let image = RgbaImage::from_fn(60, 40, |x, _| Rgba([10, 20, 30, if x < 30 { 255 } else { 0 }]));
    image.save(folder.path("a.png")).unwrap();
    let photo = &folder.find(None).unwrap().photos[0];
    assert_eq!(photo.coverage(), 0.5);
    assert_eq!((photo.image.get_pixel(0, 0).0, photo.image.get_pixel(59, 0).0), ([10, 20, 30], [255; 3]));
}

#[test]
fn exif_orientation_turns_the_photo_and_its_mask() {
    let folder = Folder::new(&[]);
    let mut jpeg = Vec::new();
    DynamicImage::ImageRgb8(photo()).write_to(&mut std::io::Cursor::new(&mut jpeg), image::ImageFormat::Jpeg).unwrap();
    // an Exif segment that says "rotate by 90 degrees"
    let tiff = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".as_slice()].concat();
    let body = [b"Exif\0\0".as_slice(), &tiff].concat();
    let segment = [&[0xff, 0xe1][..], &(body.len() as u16 + 2).to_be_bytes(), &body].concat();
    jpeg.splice(2..2, segment);
    std::fs::write(folder.path("a.jpg"), jpeg).unwrap();
    mask(60, 40).save(folder.path("masks/a.png")).unwrap();
    let photo = &folder.find(None).unwrap().photos[0];
    assert_eq!((photo.image.dimensions(), photo.mask.dimensions()), ((40, 60), (40, 60)));
    assert_eq!((photo.mask.get_pixel(20, 5).0[0], photo.mask.get_pixel(20, 55).0[0]), (255, 0));
}

#[test]
fn errors_name_the_file() {
    let folder = Folder::new(&[]);
    assert!(folder.error(None).contains("no photos"));
    let folder = Folder::new(&["a.png", "b.png"]);
    assert!(folder.error(None).contains("no mask for") && folder.error(None).contains("a-masklabel.png"));
    mask(60, 40).save(folder.path("masks/a.png")).unwrap();
    assert!(folder.error(None).contains("b.png"));
    GrayImage::new(60, 40).save(folder.path("masks/b.png")).unwrap();
    assert!(folder.error(None).contains("all black"));
    mask(40, 60).save(folder.path("masks/b.png")).unwrap();
    assert!(folder.error(None).contains("40x60"));
    let bytes = std::fs::read(folder.path("masks/a.png")).unwrap();
    std::fs::write(folder.path("masks/b.png"), &bytes[..40]).unwrap();
    assert!(folder.error(None).contains("cannot read the mask"));
    mask(60, 40).save(folder.path("masks/b.png")).unwrap();
    assert_eq!(folder.find(None).unwrap().photos.len(), 2);
    assert!(folder.error(Some("none")).contains("none"));
    RgbImage::new(1, 1).save(folder.path("c.png")).unwrap();
    assert!(folder.error(None).contains("1x1"));
}

#[test]
fn bundled_subjects_are_whole() {
    assert!(bundled().contains(&"dog".to_string()));
    for name in bundled() {
        for masks in [None, Some(Path::new("masks/"))] {
            let subject = find(&Request { subject: &name, masks, ..Request::default() }).unwrap();
            assert!(subject.photos.len() >= 4 && subject.warnings.is_empty(), "{name}");
        }
    }
    let error = find(&Request { subject: "unknown", ..Request::default() }).unwrap_err().to_string();
    assert!(error.contains("subjects/unknown") && error.contains("dog"), "{error}");
}

#[test]
fn the_class_is_read_off_the_name() {
    assert_eq!(["cat_toy", "dog2", "red-vase_01"].map(class_of), ["cat toy", "dog", "red vase"]);
}

#[test]
fn the_digest_tells_photos_apart() {
    let folder = Folder::new(&["a.png"]);
    mask(60, 40).save(folder.path("masks/a.png")).unwrap();
    let before = folder.find(None).unwrap().digest();
    assert_eq!(before, folder.find(None).unwrap().digest());
    GrayImage::from_pixel(60, 40, Luma([255])).save(folder.path("masks/a.png")).unwrap();
    let after = folder.find(None).unwrap();
    assert!(before != after.digest() && after.warnings.iter().any(|w| w.contains("all white")));
}

#[test]
fn masks_beside_photos_are_no_photos() {
    for name in ["a-mask.png", "a_mask.png", "a-masklabel.png"] {
        let folder = Folder::new(&["a.png"]);
        mask(60, 40).save(folder.path(name)).unwrap();
        let subject = folder.find(None).unwrap();
        assert_eq!((subject.photos.len(), subject.photos[0].coverage()), (1, 0.5), "{name}");
    }
    // named after the whole file
    let folder = Folder::new(&["a.png"]);
    mask(60, 40).save(folder.path("masks/a.png.png")).unwrap();
    assert_eq!(folder.find(None).unwrap().photos[0].coverage(), 0.5);
}

#[test]
fn what_is_left_out_is_told() {
    let folder = Folder::new(&["a.png", "b.png"]);
    for name in ["a", "b"] {
        mask(60, 40).save(folder.path(&format!("masks/{name}.png"))).unwrap();
    }
    std::fs::write(folder.path("IMG_3.HEIC"), "x").unwrap();
    std::fs::write(folder.path("README.txt"), "x").unwrap();
    let subject = folder.find(None).unwrap();
    assert_eq!((subject.photos.len(), subject.warnings.len()), (2, 1));
    assert!(subject.warnings[0].contains("left out") && subject.warnings[0].contains("IMG_3.HEIC"));
}

#[test]
fn inverted_masks_are_noticed_and_turned_over() {
    let folder = Folder::new(&["a.png", "b.png"]);
    let is_subject = |x: u32, y: u32| (20..40).contains(&x) && (10..30).contains(&y);
    for name in ["a", "b"] {
        let mask = GrayImage::from_fn(60, 40, |x, y| Luma([if is_subject(x, y) { 0 } else { 255 }]));
        mask.save(folder.path(&format!("masks/{name}.png"))).unwrap();
    }
    let subject = folder.find(None).unwrap();
    assert!(subject.warnings.len() == 2 && subject.warnings[0].contains("--invert-masks"), "{:?}", subject.warnings);
    let path = folder.0.path().display().to_string();
    let request = Request { subject: &path, class: Some("thing"), invert_masks: true, ..Request::default() };
    let subject = find(&request).unwrap();
    assert!(subject.warnings.is_empty(), "{:?}", subject.warnings);
    assert_eq!(subject.photos[0].coverage(), 400. / 2400.);
}

#[test]
fn a_subject_that_vanishes_is_an_error() {
    let folder = Folder::new(&["a.png", "b.png"]);
    mask(60, 40).save(folder.path("masks/a.png")).unwrap();
    GrayImage::from_fn(60, 40, |x, y| Luma([if (x, y) == (31, 21) { 255 } else { 0 }]))
        .save(folder.path("masks/b.png"))
        .unwrap();
    let subject = folder.find(None).unwrap();
    subject.check_at(60).unwrap();
    let error = subject.check_at(8).unwrap_err().to_string();
    assert!(error.contains("b.png") && error.contains("8x8") && error.contains("--crop"), "{error}");
}

#[test]
fn wide_photos_are_told_of_or_cut() {
    let folder = Folder::new(&[]);
    for name in ["a", "b"] {
        let image = RgbImage::from_fn(200, 40, |x, y| Rgb([x as u8, y as u8, 9]));
        image.save(folder.path(&format!("{name}.png"))).unwrap();
        let mask = GrayImage::from_fn(200, 40, |x, _| Luma([if (120..140).contains(&x) { 255 } else { 0 }]));
        mask.save(folder.path(&format!("masks/{name}.png"))).unwrap();
    }
    let subject = folder.find(None).unwrap();
    assert!(subject.warnings.len() == 2 && subject.warnings[0].contains("200x40"), "{:?}", subject.warnings);
    let path = folder.0.path().display().to_string();
    let request = Request { subject: &path, class: Some("thing"), crop: Crop::Subject, ..Request::default() };
    let subject = find(&request).unwrap();
    assert!(subject.warnings.is_empty(), "{:?}", subject.warnings);
    let photo = &subject.photos[0];
    assert_eq!((photo.image.dimensions(), photo.file_size, photo.coverage()), ((40, 40), (200, 40), 0.5));
    assert_eq!(photo.image.get_pixel(0, 0).0[0], 110);
}

#[test]
fn large_photos_are_reduced_with_their_masks() {
    let folder = Folder::new(&[]);
    let image = RgbaImage::from_fn(2048, 1100, |x, _| Rgba([200, 30, 30, if x < 1024 { 255 } else { 0 }]));
    image.save(folder.path("a.png")).unwrap();
    let photo = &folder.find(None).unwrap().photos[0];
    assert_eq!((photo.image.dimensions(), photo.mask.dimensions()), ((1906, 1024), (1906, 1024)));
    assert!((photo.coverage() - 0.5).abs() < 0.001);
    // nothing of the hidden colour shows at the edge
    assert_eq!((photo.image.get_pixel(10, 10).0, photo.image.get_pixel(1800, 10).0), ([200, 30, 30], [255; 3]));
}

#[test]
fn names_are_those_of_real_folders() {
    let folder = Folder::new(&[]);
    let bear = folder.path("bear/x");
    std::fs::create_dir_all(&bear).unwrap();
    let name = |end: &str| Store::name(&format!("{}{end}", bear.parent().unwrap().display()));
    for end in ["", "/", "/.", "/x/..", "//", "/x/../"] {
        assert_eq!(name(end).as_deref(), Some("bear"), "{end}");
    }
    assert_eq!(Store::name("."), std::env::current_dir().unwrap().file_name().map(|n| n.to_string_lossy().into()));
    assert_eq!((Store::name("/"), Store::name("")), (None, None));
    assert_eq!(Store::name("a\nb\x1b").as_deref(), Some("a_b_"));
    assert!(!find(&Request { subject: "a\nb", ..Request::default() }).unwrap_err().to_string().contains('\n'));
}

/// Says that the left half of any photo is the subject, and is not sure.
struct Halves;

impl MaskMaker for Halves {
    fn masks(&mut self, photos: &[&RgbImage], class: &str) -> anyhow::Result<Vec<Made>> {
        assert_eq!(class, "thing");
        let half = |photo: &&RgbImage| {
            let (width, height) = photo.dimensions();
            let mask = GrayImage::from_fn(width, height, |x, _| Luma([if x < width / 2 { 255 } else { 0 }]));
            Made { mask, confidence: 0.5 }
        };
        Ok(photos.iter().map(half).collect())
    }
}

#[test]
fn masks_are_made_where_there_are_none() {
    let folder = Folder::new(&["a.png", "b.png"]);
    mask(60, 40).save(folder.path("masks/a.png")).unwrap();
    let name = folder.path("").display().to_string();
    let request = Request { subject: &name, class: Some("thing"), ..Request::default() };
    let subject = find_or_make(&request, &mut Halves).unwrap();
    let sources: Vec<&str> = subject.photos.iter().map(|photo| photo.mask_source.as_str()).collect();
    assert!(sources[0].ends_with("a.png") && sources[1] == "made, 50 % sure", "{sources:?}");
    assert_eq!(subject.photos[1].coverage(), 0.5);
    assert!(
        subject.warnings.iter().any(|warning| warning.contains("b.png is only 50 % sure")),
        "{:?}",
        subject.warnings
    );
}

#[test]
fn photos_are_taken_as_a_whole_where_nobody_looks_at_masks() {
    let folder = Folder::new(&["a.png", "b.png"]);
    mask(60, 40).save(folder.path("masks/a.png")).unwrap();
    let name = folder.path("").display().to_string();
    let request = Request { subject: &name, class: Some("thing"), ..Request::default() };
    assert!(find(&request).unwrap_err().to_string().contains("no mask for"));
    let subject = find(&Request { whole: true, ..request }).unwrap();
    assert_eq!([0, 1].map(|i| subject.photos[i].coverage()), [0.5, 1.]);
    assert!(subject.warnings.is_empty(), "{:?}", subject.warnings);
    assert!(subject.summary().contains("mask none: all of the photo"));
}

#[test]
fn captions_beside_photos_are_read() {
    let folder = Folder::new(&["a.png", "b.png"]);
    for name in ["masks/a.png", "masks/b.png"] {
        mask(60, 40).save(folder.path(name)).unwrap();
    }
    let before = folder.find(None).unwrap();
    std::fs::write(folder.path("a.txt"), "a thing\non a table\n").unwrap();
    let subject = folder.find(None).unwrap();
    assert_eq!(subject.photos[0].caption.as_deref(), Some("a S* thing on a table"));
    assert!(subject.photos[1].caption.is_none() && subject.digest() != before.digest());
    assert!(subject.summary().contains("caption \"a S* thing on a table\""));
    let long = [b'x'; 3000];
    for (content, part) in [(&b"a cup"[..], "neither"), (b"", "empty"), (b"\xff\xfe", "UTF-8"), (&long, "3000")] {
        std::fs::write(folder.path("a.txt"), content).unwrap();
        let said = folder.error(None);
        assert!(said.contains(part) && said.contains("a.txt"), "{said}");
    }
}
