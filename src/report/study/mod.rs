//! The page of a study: what came out, in tables and charts, and the pictures side by side.

mod charts;
mod findings;
mod grids;

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;

use super::html::{Page, escape};
use crate::base::MINI;
use crate::evaluation::judge::Attribute;
use crate::evaluation::scores::{Group, Metric};
use crate::study::ledger::Progress;
use crate::study::plan::{Method, Subject, last};
use crate::study::statistics::Statistics;
use crate::study::table::{Mark, Table};
use crate::study::tables::GROUPS;
use crate::study::{Plan, Quantity};

/// What a study's page is made of.
pub struct StudyInput<'a> {
    /// What was planned.
    pub plan: &'a Plan,
    /// How much of it is done.
    pub progress: Progress,
    /// The methods that do not count, since their files are not there.
    pub left_out: &'a [&'a Method],
    /// What came out.
    pub statistics: &'a Statistics,
    /// The same in tables.
    pub tables: &'a [Table],
    /// The study's folder, with the pictures.
    pub folder: &'a Path,
    /// The picture that a prompt should give of a subject, where that is known.
    pub truth: &'a dyn Fn(&Subject, &str) -> Option<RgbImage>,
}

/// The tables that have a row for each subject or prompt: they can be sorted and searched, and come last.
const LONG: [&str; 2] = ["subjects", "prompts"];

/// Lays out the page.
///
/// # Errors
/// If a picture cannot be read or encoded.
pub fn study_page(input: &StudyInput) -> Result<Page> {
    let StudyInput { plan, statistics, tables, .. } = input;
    let mut page = Page::new(&plan.title, &introduction(plan, input.progress, input.left_out));
    page.style(concat!(include_str!("../chart.css"), include_str!("study.css")));
    let sentences = findings::findings(plan, statistics);
    if !sentences.is_empty() {
        page.section("What came out", &findings::compared(plan));
        page.markup(&format!(
            "<ul>{}</ul>",
            sentences.iter().map(|s| format!("<li>{}</li>", escape(s))).collect::<String>()
        ));
    }
    let (long, short): (Vec<&Table>, Vec<&Table>) = tables.iter().partition(|table| LONG.contains(&table.name));
    for shown in short {
        table(&mut page, shown, false)?;
    }
    scatters(&mut page, plan, statistics);
    bars(&mut page, plan, statistics);
    grids::add(&mut page, input)?;
    for shown in long {
        table(&mut page, shown, true)?;
    }
    page.script(include_str!("study.js"));
    Ok(page)
}

fn introduction(plan: &Plan, Progress { done, all }: Progress, left_out: &[&Method]) -> String {
    let Plan { subjects, methods, seeds, .. } = plan;
    let encoders = match plan.encoders() {
        [MINI, MINI] if plan.base == MINI => "its own CLIP and DINO".to_string(),
        [clip, dino] => format!("the CLIP of {clip} and the DINO of {dino}"),
    };
    let mut text = format!(
        "{}, {}, {} each, on the base {}; {}, scored by {encoders}.",
        counted(subjects.len(), "subject"),
        counted(methods.len() - left_out.len(), "method"),
        counted(seeds.len(), "training seed"),
        last(&plan.base),
        counted(all, "picture")
    );
    for method in left_out {
        let _ = write!(text, " {} is left out: its files are not there.", method.name);
    }
    if done < all {
        let _ = write!(text, " {} of {all} pictures are missing so far.", all - done);
    }
    text
}

/// So many things.
fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A table with links to its other forms.
fn table(page: &mut Page, table: &Table, long: bool) -> Result<()> {
    page.section(&table.title, &table.note);
    let mut html = String::new();
    if long {
        html += "<p><input type=\"search\" class=\"filter\" placeholder=\"only rows with…\" aria-label=\"only rows with\"></p>";
    }
    let class = if long { " class=\"sort\"" } else { "" };
    let _ = write!(
        html,
        "<div class=\"scroll{}\" tabindex=\"0\"><table{class}>\n<thead><tr>",
        if long { " long" } else { "" }
    );
    let side = |column: usize| if column < table.words { " class=\"text\"" } else { "" };
    for (i, head) in table.header.iter().enumerate() {
        let head = escape(head);
        let head = if long { format!("<button type=\"button\">{head}</button>") } else { head };
        let _ = write!(html, "<th scope=\"col\"{}>{head}</th>", side(i));
    }
    html += "</tr></thead>\n<tbody>\n";
    for row in &table.rows {
        html += "<tr>";
        for (i, field) in row.iter().enumerate() {
            let text = if i < table.words { escape(&field.text) } else { escape(&field.text).replace('-', "\u{2212}") };
            // the interval in smaller print below its mean
            let (mean, interval) = match text.split_once(" [").filter(|_| i >= table.words) {
                Some((mean, interval)) => (mean, format!("<small>[{interval}</small>")),
                None => (text.as_str(), String::new()),
            };
            let mean = match field.mark {
                Mark::None => mean.to_string(),
                Mark::Best => format!("<b>{mean}</b>"),
                Mark::Second => format!("<u>{mean}</u>"),
            };
            let _ = write!(html, "<td{}>{mean}{interval}</td>", side(i));
        }
        html += "</tr>\n";
    }
    html += "</tbody></table></div>\n";
    let link = |kind: &str, ending: &str, label: &str, content: &[u8]| {
        let (name, data) = (table.name, STANDARD.encode(content));
        format!("<a download=\"{name}.{ending}\" href=\"data:{kind};base64,{data}\">{label}</a>")
    };
    let csv = link("text/csv;charset=utf-8", "csv", "CSV", &table.csv()?);
    let latex = link("application/x-tex;charset=utf-8", "tex", "LaTeX", table.latex().as_bytes());
    let _ = write!(html, "<p class=\"links\">{csv} {latex}</p>");
    page.markup(&html);
    Ok(())
}

/// A list of prompts as a heading.
fn group_title(group: Group) -> &'static str {
    match group {
        Group::Unstylised => "unstylised prompts",
        Group::Stylised => "stylised prompts",
        Group::Other => "pictures",
    }
}

fn scatters(page: &mut Page, plan: &Plan, statistics: &Statistics) {
    let intervals = if statistics.has_intervals() { " with 95 % intervals" } else { "" };
    page.section(
        "Text against likeness (figure 7)",
        &format!(
            "Large marks are methods{intervals}, small ones their subjects, as far as the axes reach. Upper right is \
             better in both."
        ),
    );
    let mut html = charts::legend(plan) + "<div class=\"charts two\">";
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        for metric in [Metric::ClipI, Metric::Dino] {
            html += &charts::scatter(plan, statistics, group, [Metric::ClipT, metric].map(Quantity::from));
        }
    }
    page.markup(&(html + "</div>"));
    if !statistics.has_any(Quantity::Subject) {
        return;
    }
    page.section(
        "What was asked for against the subject, as the judge sees it",
        "Across, the share of pictures that show the place or style of their prompt; upwards, the share of the subject's \
         attributes that are right. Upper right is better in both.",
    );
    let mut html = charts::legend(plan) + "<div class=\"charts two\">";
    for (group, asked) in GROUPS.into_iter().zip([Attribute::Place, Attribute::Style]) {
        html += &charts::scatter(plan, statistics, group, [Quantity::Judged(asked), Quantity::Subject]);
    }
    page.markup(&(html + "</div>"));
}

fn bars(page: &mut Page, plan: &Plan, statistics: &Statistics) {
    let probabilities = |method: &Method| method.settings.fdte.probabilities;
    let of_figure = plan.methods.windows(2).any(|pair| probabilities(&pair[0]) != probabilities(&pair[1]));
    let intervals = if statistics.has_intervals() { " with 95 % intervals" } else { "" };
    page.section(
        if of_figure { "Method by method (figure 9)" } else { "Method by method" },
        &format!("Means{intervals}; axes do not begin at 0."),
    );
    let mut html = String::from("<div class=\"charts\">");
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        for metric in [Metric::ClipT, Metric::ClipI, Metric::Dino] {
            html += &charts::bars(plan, statistics, group, metric);
        }
    }
    page.markup(&(html + "</div>"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Precision;

    #[test]
    fn introductions_say_what_there_is_and_what_is_missing() -> Result<()> {
        let plan = Plan::read(Path::new("mini"), Precision::F32, true)?;
        assert_eq!(
            introduction(&plan, Progress { done: 17, all: 5280 }, &[]),
            "10 subjects, 11 methods, 3 training seeds each, on the base mini; 5280 pictures, scored by its own CLIP \
             and DINO. 5263 of 5280 pictures are missing so far."
        );
        let other = Plan {
            base: "/models/tiny".into(),
            seeds: vec![0],
            clip: Some(MINI.into()),
            dino: Some("/models/dino".into()),
            ..plan.clone()
        };
        assert_eq!(
            introduction(&other, Progress { done: 9, all: 9 }, &[&other.methods[0]]),
            "10 subjects, 10 methods, 1 training seed each, on the base tiny; 9 pictures, scored by the CLIP of mini \
             and the DINO of dino. TI is left out: its files are not there."
        );
        let foreign = Plan { base: "sd14".into(), clip: Some(MINI.into()), dino: Some(MINI.into()), ..other };
        let text = introduction(&foreign, Progress::default(), &[]);
        assert!(text.ends_with("scored by the CLIP of mini and the DINO of mini."), "{text}");
        Ok(())
    }
}
