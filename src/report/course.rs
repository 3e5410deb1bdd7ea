//! A training as it goes: its losses and what it draws by now, on a page that is written anew and read again.

use std::borrow::Cow;

use anyhow::Result;
use image::RgbImage;

use super::chart::{self, Axis, columns, framed, levels, line};
use super::html::{Figure, Page, escape};
use super::loss_curve::{Losses, smoothed};

/// Seconds after which a browser reads the page again.
const REFRESH: u32 = 5;

/// How a training stands.
pub struct Course<'a> {
    /// What is taught, e.g. `S* dog`.
    pub title: String,
    /// Steps that were taken, and of how many.
    pub steps: (usize, usize),
    /// How to go on, if it was stopped.
    pub stopped: Option<String>,
    /// Losses by name, as (step, value).
    pub losses: Vec<(&'a str, Vec<(f64, f64)>)>,
    /// Previews by step, the newest first.
    pub previews: Vec<(usize, RgbImage)>,
}

/// Lays out the page. That of a training which was stopped or has reached its end is not read again.
///
/// # Errors
/// If a preview cannot be encoded.
pub fn course_page(course: &Course) -> Result<Page> {
    let (taken, all) = course.steps;
    let mut introduction = format!("{taken} of {all} steps.");
    if let Some(command) = &course.stopped {
        introduction += &format!(" Stopped. Go on with: {command}");
    }
    let mut page = Page::new(&course.title, &introduction);
    page.style(chart::STYLE);
    if taken < all && course.stopped.is_none() {
        page.refresh(REFRESH);
    }
    page.section("Losses", "Lines are means over a tenth of the steps.");
    page.markup(&losses(&Losses::new(&course.losses)));
    let figure = |(step, image): &(usize, RgbImage)| Figure {
        image: Cow::Owned(image.clone()),
        caption: format!("step {step}"),
        note: String::new(),
    };
    if let Some((newest, older)) = course.previews.split_first() {
        page.section("What it draws", "");
        page.wide(&figure(newest))?;
        page.pictures(&older.iter().map(figure).collect::<Vec<_>>())?;
    }
    Ok(page)
}

fn losses(losses: &Losses) -> String {
    let Losses { series, last, top } = losses;
    let (x, y) = (Axis::up_to(*last), Axis::up_to(*top));
    let mut svg = String::new();
    levels(&mut svg, &y, "loss");
    columns(&mut svg, &x, "step");
    let mut legend = String::new();
    for (i, (name, points)) in series.iter().enumerate() {
        line(&mut svg, (&x, &y), &smoothed(points), i);
        let (colour, name) = (i % chart::COLOURS, escape(name));
        let value = points.last().map_or_else(String::new, |(_, value)| format!(" {value:.4}"));
        legend += &format!(
            "<span><svg viewBox=\"0 0 16 16\" width=\"16\" height=\"16\" aria-hidden=\"true\"><path class=\"course s{colour}\" \
             d=\"M0 8H16\"/></svg><b>{name}</b>{value}</span>"
        );
    }
    format!("<p class=\"legend\">{legend}</p><div class=\"charts two\">{}</div>", framed("Total and its terms", &svg))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(taken: usize, stopped: Option<&str>) -> String {
        let line = |factor: f64| (1..=taken).map(|step| (step as f64, factor / step as f64)).collect::<Vec<_>>();
        let preview = |step| (step, RgbImage::new(4, 4));
        let course = Course {
            title: "S* <dog>".into(),
            steps: (taken, 8),
            stopped: stopped.map(String::from),
            losses: vec![("total", line(1.)), ("prior", line(0.5))],
            previews: vec![preview(4), preview(2)],
        };
        course_page(&course).unwrap().to_html()
    }

    #[test]
    fn a_training_that_goes_on_is_read_again() {
        let html = course(5, None);
        assert!(html.contains("http-equiv=\"refresh\" content=\"5\"") && html.contains("5 of 8 steps"), "{html}");
        assert_eq!((html.matches("class=\"course s").count(), html.matches("<figure").count()), (4, 2));
        assert!(html.contains("<b>prior</b> 0.1000") && html.contains("S* &lt;dog&gt;"), "{html}");
        assert!(html.find("step 4") < html.find("step 2"));
        assert!(!course(8, None).contains("refresh") && !html.contains("src=\"http"));
        assert!(course(0, None).contains("0 of 8 steps") && !html.contains("Stopped"));
        let stopped = course(5, Some("eqdiff train --resume --out <a>"));
        assert!(stopped.contains("Stopped. Go on with: eqdiff train --resume --out &lt;a&gt;"), "{stopped}");
        assert!(!stopped.contains("refresh"));
    }
}
