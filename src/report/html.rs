//! A page in one HTML file: styles inside, pictures as data, nothing fetched, no script but one of our own.

use std::borrow::Cow;
use std::fmt::Write;
use std::io::{Cursor, ErrorKind};
use std::path::Path;

use crate::files::{read_text, write_whole};
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbImage};

const STYLE: &str = include_str!("page.css");

/// Longest side of an embedded thumbnail, in pixels: shown 192 wide, crisp on dense screens too, and
/// small enough that a page of a hundred pictures stays a file to mail.
const THUMBNAIL: u32 = 384;

/// A picture, what it shows, and what is to be known about it in smaller print.
pub struct Figure<'a> {
    /// The picture.
    pub image: Cow<'a, RgbImage>,
    /// What it shows.
    pub caption: String,
    /// Smaller print; may be empty.
    pub note: String,
}

/// Pictures that belong together, under a title.
pub struct Card<'a> {
    /// The title.
    pub title: String,
    /// The pictures, side by side.
    pub pictures: Vec<Figure<'a>>,
}

/// A table's row.
pub struct Row {
    /// As many as the header has.
    pub cells: Vec<String>,
    /// Whether it stands out and ends a block of rows.
    pub strong: bool,
}

/// How a page ends that this program wrote.
const SIGNATURE: &str = "Written by eqdiff";

/// Whether a page may be written here: a file that is there already is one of this program's.
///
/// # Errors
/// If it is not; the message names it.
pub fn check_ours(path: &Path) -> Result<()> {
    let why = match read_text(path) {
        Ok(text) if text.contains(SIGNATURE) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Ok(_) => String::new(),
        Err(error) => format!(" ({error})"),
    };
    bail!(
        "{} is there already and no page of eqdiff{why}: move it away, or give another name with --out",
        path.display()
    )
}

/// A page that grows downwards. All text given to it is plain text.
pub struct Page {
    title: String,
    introduction: String,
    body: String,
    in_section: bool,
    /// More styles, and a script.
    extra: (&'static str, &'static str),
    /// Seconds after which a browser reads the page again.
    refreshed: Option<u32>,
}

impl Page {
    /// An empty page with a title and an introduction.
    pub fn new(title: &str, introduction: &str) -> Self {
        let (title, introduction) = (escape(title), escape(introduction));
        Self { title, introduction, body: String::new(), in_section: false, extra: ("", ""), refreshed: None }
    }

    /// Adds styles to those of all pages.
    pub(super) fn style(&mut self, css: &'static str) {
        self.extra.0 = css;
    }

    /// Runs a script when the page is there.
    pub(super) fn script(&mut self, code: &'static str) {
        self.extra.1 = code;
    }

    /// Has browsers read the page again every so many seconds: it is written anew.
    pub(super) fn refresh(&mut self, seconds: u32) {
        self.refreshed = Some(seconds);
    }

    /// Adds what is HTML already.
    pub(super) fn markup(&mut self, html: &str) {
        self.body.push_str(html);
    }

    /// Starts a section: heading and a paragraph, which may be empty.
    pub fn section(&mut self, heading: &str, text: &str) {
        if self.in_section {
            self.add(format_args!("</section>\n"));
        }
        self.in_section = true;
        self.add(format_args!("<section><h2>{}</h2>\n", escape(heading)));
        if !text.is_empty() {
            self.add(format_args!("<p>{}</p>\n", escape(text)));
        }
    }

    /// Adds a table. The first `text_columns` hold words and are aligned left, the others numbers.
    pub fn table(&mut self, header: &[&str], text_columns: usize, rows: &[Row]) {
        let class = |column: usize| if column < text_columns { " class=\"text\"" } else { "" };
        self.add(format_args!("<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr>"));
        for (i, cell) in header.iter().enumerate() {
            self.add(format_args!("<th scope=\"col\"{}>{}</th>", class(i), escape(cell)));
        }
        self.add(format_args!("</tr></thead>\n<tbody>\n"));
        for row in rows {
            self.add(format_args!("<tr{}>", if row.strong { " class=\"strong\"" } else { "" }));
            for (i, cell) in row.cells.iter().enumerate() {
                self.add(format_args!("<td{}>{}</td>", class(i), escape(cell)));
            }
            self.add(format_args!("</tr>\n"));
        }
        self.add(format_args!("</tbody></table></div>\n"));
    }

    /// Adds a list of names and values.
    pub fn list<K: AsRef<str>, V: AsRef<str>>(&mut self, entries: &[(K, V)]) {
        self.add(format_args!("<dl>\n"));
        for (name, value) in entries {
            self.add(format_args!("<dt>{}</dt><dd>{}</dd>\n", escape(name.as_ref()), escape(value.as_ref())));
        }
        self.add(format_args!("</dl>\n"));
    }

    /// Adds a row of pictures.
    ///
    /// # Errors
    /// If a picture cannot be encoded.
    pub fn pictures(&mut self, pictures: &[Figure]) -> Result<()> {
        self.add(format_args!("<div class=\"row\">\n"));
        for picture in pictures {
            self.figure(picture, "", &thumbnail(&picture.image))?;
        }
        self.add(format_args!("</div>\n"));
        Ok(())
    }

    /// Adds titled groups of pictures, as many beside each other as there is room for.
    ///
    /// # Errors
    /// If a picture cannot be encoded.
    pub fn cards(&mut self, cards: &[Card]) -> Result<()> {
        self.add(format_args!("<div class=\"cards\">\n"));
        for card in cards {
            self.add(format_args!("<div class=\"card\"><h3>{}</h3>\n", escape(&card.title)));
            self.pictures(&card.pictures)?;
            self.add(format_args!("</div>\n"));
        }
        self.add(format_args!("</div>\n"));
        Ok(())
    }

    /// Adds a picture in its own size, or as wide as the page.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn wide(&mut self, picture: &Figure) -> Result<()> {
        self.figure(picture, " class=\"wide\"", &picture.image)
    }

    /// The whole file.
    pub fn to_html(&self) -> String {
        let Self { title, introduction, body, in_section, extra: (css, script), refreshed } = self;
        let end = if *in_section { "</section>\n" } else { "" };
        let script = if script.is_empty() { String::new() } else { format!("<script>\n{script}</script>\n") };
        let refresh = refreshed
            .map_or_else(String::new, |seconds| format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">\n"));
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n{refresh}<title>{title}</title>\n\
             <style>\n{STYLE}{css}</style>\n</head>\n<body>\n\
             <header><h1>{title}</h1>\n<p>{introduction}</p></header>\n<main>\n{body}{end}</main>\n\
             <footer>{SIGNATURE} {version}.</footer>\n{script}</body>\n</html>\n"
        )
    }

    /// Writes the file; it is there as a whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written; the message names it.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_whole(path, self.to_html().as_bytes())
    }

    fn figure(&mut self, picture: &Figure, class: &str, image: &RgbImage) -> Result<()> {
        let mut png = Cursor::new(Vec::new());
        image.write_to(&mut png, ImageFormat::Png).with_context(|| format!("cannot encode {}", picture.caption))?;
        let (caption, note) = (escape(&picture.caption), escape(&picture.note));
        let (width, height) = image.dimensions();
        self.add(format_args!("<figure{class}><img alt=\"{caption}\" width=\"{width}\" height=\"{height}\" "));
        self.body.push_str("src=\"data:image/png;base64,");
        STANDARD.encode_string(png.into_inner(), &mut self.body);
        self.add(format_args!("\"><figcaption>{caption}"));
        if !note.is_empty() {
            self.add(format_args!("<small>{note}</small>"));
        }
        self.add(format_args!("</figcaption></figure>\n"));
        Ok(())
    }

    fn add(&mut self, text: std::fmt::Arguments) {
        let _ = self.body.write_fmt(text); // writing to a string cannot fail
    }
}

/// Text as HTML shows it, in elements and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The picture with at most [`THUMBNAIL`] pixels a side.
fn thumbnail(image: &RgbImage) -> Cow<'_, RgbImage> {
    let (width, height) = image.dimensions();
    let longest = width.max(height);
    if longest <= THUMBNAIL {
        return Cow::Borrowed(image);
    }
    let side = |v: u32| ((u64::from(v) * u64::from(THUMBNAIL) / u64::from(longest)) as u32).max(1);
    Cow::Owned(imageops::resize(image, side(width), side(height), FilterType::CatmullRom))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: u32, height: u32) -> RgbImage {
        RgbImage::from_pixel(width, height, image::Rgb([200, 30, 60]))
    }

    fn picture(image: &RgbImage) -> Figure<'_> {
        Figure { image: Cow::Borrowed(image), caption: "\"a\" & b".into(), note: "<small>".into() }
    }

    #[test]
    fn all_text_is_escaped() {
        let evil = "</style><script>alert('x' & \"y\")</script>";
        let mut page = Page::new(evil, evil);
        page.section(evil, evil);
        page.list(&[(evil, evil)]);
        page.table(&[evil], 1, &[Row { cells: vec![evil.into()], strong: false }]);
        let image = plain(2, 2);
        let pictures = vec![Figure { image: Cow::Borrowed(&image), caption: evil.into(), note: evil.into() }];
        page.cards(&[Card { title: evil.into(), pictures }]).unwrap();
        let html = page.to_html();
        assert!(!html.contains("<script") && !html.contains("alert('"));
        assert_eq!(html.matches("&lt;/style&gt;&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)").count(), 13);
    }

    #[test]
    fn nothing_is_fetched_and_every_element_is_closed() {
        let mut page = Page::new("t", "i");
        let image = plain(3, 2);
        page.section("one", "");
        page.pictures(&[picture(&image), picture(&image)]).unwrap();
        page.section("two", "text");
        page.wide(&picture(&image)).unwrap();
        page.table(&["a", "b"], 1, &[Row { cells: vec!["x".into(), "1".into()], strong: true }]);
        let html = page.to_html();
        assert!(!html.contains("http") && !html.contains("url(") && !html.contains("@import"));
        for tag in ["html", "head", "body", "main", "header", "section", "figure", "div", "table", "tr", "p", "small"] {
            let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert_eq!(html.matches("<section>").count(), 2);
    }

    #[test]
    fn pictures_come_back_from_their_data() {
        let image = RgbImage::from_fn(5, 4, |x, y| image::Rgb([x as u8 * 40, y as u8 * 50, 7]));
        let mut page = Page::new("t", "");
        page.pictures(&[picture(&image)]).unwrap();
        let html = page.to_html();
        let data = html.split("base64,").nth(1).unwrap().split('"').next().unwrap();
        let decoded = image::load_from_memory(&STANDARD.decode(data).unwrap()).unwrap();
        assert_eq!(decoded.to_rgb8(), image);
    }

    #[test]
    fn thumbnails_keep_the_shape_and_do_not_grow() {
        assert_eq!(thumbnail(&plain(512, 256)).dimensions(), (384, 192));
        assert_eq!(thumbnail(&plain(9000, 2)).dimensions(), (384, 1));
        assert_eq!(thumbnail(&plain(128, 128)).dimensions(), (128, 128));
    }

    #[test]
    fn a_page_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let page = Page::new("t", "i");
        page.write(&folder.path().join("report.html")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("report.html")).unwrap(), page.to_html());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = page.write(&folder.path().join("none/report.html")).unwrap_err();
        assert!(format!("{error:#}").contains("none/report.html"));
    }
}
