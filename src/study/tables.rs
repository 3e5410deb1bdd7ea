//! The tables of a study, for pages, spreadsheets and papers alike.

use anyhow::{Context, Result};

use super::plan::{Method, Plan};
use super::published::{self, MEASURED_BY};
use super::quantity::Quantity;
use super::statistics::{Estimate, Statistics};
use crate::evaluation::scores::{Group, Metric};

/// A table of words and numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The name of its files.
    pub name: &'static str,
    /// What it is called.
    pub title: String,
    /// What it tells, and how it was taken.
    pub note: String,
    /// Its columns' heads.
    pub header: Vec<String>,
    /// How many columns hold words; the others hold numbers.
    pub words: usize,
    /// Its rows, as long as the header.
    pub rows: Vec<Vec<Field>>,
}

/// A field of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// What it says.
    pub text: String,
    /// Whether it stands out.
    pub mark: Mark,
}

/// How a field stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It does not.
    None,
    /// It is the best of its column, or a difference that is no accident.
    Best,
    /// It is the second best.
    Second,
}

/// The lists of prompts that are reported apart.
pub const GROUPS: [Group; 2] = [Group::Unstylised, Group::Stylised];

/// All tables of a study; those that would say nothing are left out.
pub fn tables(plan: &Plan, statistics: &Statistics) -> Vec<Table> {
    let scores: Vec<Quantity> = Quantity::scores().filter(|q| statistics.has_any(*q)).collect();
    let findings: Vec<Quantity> = Quantity::findings().filter(|q| statistics.has_any(*q)).collect();
    let all = [
        beside_published(plan, statistics, Beside::METHODS),
        beside_published(plan, statistics, Beside::ABLATIONS),
        methods(plan, statistics, &Kind::SCORES, &scores),
        differences(plan, statistics, &Kind::SCORES, &scores),
        methods(plan, statistics, &Kind::FINDINGS, &findings),
        differences(plan, statistics, &Kind::FINDINGS, &findings),
        Some(pooled(plan, statistics, &scores)),
        Some(subjects(plan, statistics, &[&scores[..], &findings].concat())),
        Some(prompts(plan, statistics, &[&scores[..], &findings].concat())),
    ];
    all.into_iter().flatten().collect()
}

/// What a table is about.
struct Kind {
    /// Names of its table and of that of its differences.
    names: [&'static str; 2],
    /// The same for people; what the differences are taken to follows.
    titles: [&'static str; 2],
    note: &'static str,
}

impl Kind {
    const SCORES: Self = Self {
        names: ["methods", "differences"],
        titles: ["All methods", "Differences to"],
        note: "CLIP-T is given by both conventions.",
    };
    const FINDINGS: Self = Self {
        names: ["truth", "truth-differences"],
        titles: ["What the judge sees", "What the judge sees, differences to"],
        note: "In the world of this base every attribute has a name: the share of pictures in which its judge finds what \
               the photos show and the prompt asks for. \"subject\" is the mean over the subject's own attributes.",
    };
}

/// A table of the paper.
struct Beside {
    name: &'static str,
    title: &'static str,
    rows: &'static [&'static str],
}

impl Beside {
    const METHODS: Self = Self { name: "table1", title: "Methods (Table 1)", rows: &published::METHODS };
    const ABLATIONS: Self = Self { name: "ablation", title: "Ablations (figure 7)", rows: &published::ABLATIONS };
}

/// Means with their intervals beside the published figures.
fn beside_published(plan: &Plan, statistics: &Statistics, table: Beside) -> Option<Table> {
    let method = |key: &str| plan.methods.iter().find(|method| method.published.as_deref() == Some(key));
    if table.rows.iter().filter(|key| method(key).is_some()).count() < 2 {
        return None;
    }
    let metrics = [Metric::ClipT, Metric::ClipI, Metric::Dino];
    let mut header = vec!["method".to_string(), "in the study".into(), "prompts".into()];
    for metric in metrics {
        header.extend([format!("{}, {}", metric.name(), base_name(plan)), format!("{}, {MEASURED_BY}", metric.name())]);
    }
    let mut rows = Vec::new();
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        let first = rows.len();
        for published in table.rows.iter().filter_map(|key| published::row(key)) {
            let ours = method(published.key);
            let mut row = [published.name, ours.map_or("", |method| &method.name), group.name()].map(plain).to_vec();
            for metric in metrics {
                row.push(plain(estimate(ours.and_then(|method| statistics.mean(&method.name, group, metric.into())))));
                row.push(plain(number(published.get(group, metric))));
            }
            rows.push(row);
        }
        mark_best(&mut rows[first..], 3);
    }
    let note = format!(
        "Measured on {} with this study's encoders, beside what the paper publishes: figures of different bases and \
         encoders compare by order and distance within a column only. Means over subjects with 95 % intervals.",
        base_name(plan)
    );
    Some(Table { name: table.name, title: table.title.into(), note, header, words: 3, rows })
}

fn header(words: &[&str], columns: &[Quantity]) -> Vec<String> {
    words.iter().copied().chain(columns.iter().map(|quantity| quantity.name())).map(String::from).collect()
}

fn methods(plan: &Plan, statistics: &Statistics, kind: &Kind, columns: &[Quantity]) -> Option<Table> {
    if columns.is_empty() {
        return None;
    }
    let mut rows = Vec::new();
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        let first = rows.len();
        for method in &plan.methods {
            let count = columns.iter().map(|quantity| statistics.pictures(&method.name, group, *quantity)).max();
            let title = if method.title == method.name { "" } else { &method.title };
            let mut row = vec![plain(&method.name), plain(title), plain(group.name())];
            row.push(plain(count.unwrap_or_default().to_string()));
            row.extend(columns.iter().map(|quantity| plain(estimate(statistics.mean(&method.name, group, *quantity)))));
            rows.push(row);
        }
        mark_best(&mut rows[first..], 4);
    }
    let note = format!(
        "Means over {} subjects of the means over {} training seeds and their pictures, on {}. In brackets the 95 % \
         interval of a bootstrap over {}. {}",
        plan.subjects.len(),
        plan.seeds.len(),
        base_name(plan),
        if plan.subjects.len() == 1 { "seeds" } else { "subjects" },
        kind.note
    );
    let header = header(&["method", "what", "prompts", "pictures"], columns);
    Some(Table { name: kind.names[0], title: kind.titles[0].into(), note, header, words: 3, rows })
}

fn differences(plan: &Plan, statistics: &Statistics, kind: &Kind, columns: &[Quantity]) -> Option<Table> {
    if plan.methods.len() < 2 || columns.is_empty() {
        return None;
    }
    let compared = |method: &&Method| method.name != plan.baseline;
    let mut rows = Vec::new();
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        for method in plan.methods.iter().filter(compared) {
            let field =
                |quantity: &Quantity| match statistics.difference(&method.name, &plan.baseline, group, *quantity) {
                    None => plain("-"),
                    Some(gap) => {
                        let sure = gap.interval.is_some_and(|[low, high]| low > 0. || high < 0.);
                        Field { text: signed(gap), mark: if sure { Mark::Best } else { Mark::None } }
                    }
                };
            let words = [format!("{} less {}", method.name, plan.baseline), group.name().into()].map(plain);
            rows.push(words.into_iter().chain(columns.iter().map(field)).collect());
        }
    }
    let note = "The mean over subjects and seeds of the difference on the same subject, seed, prompts and noise, with its \
                95 % interval. Differences whose interval leaves out 0 stand out.";
    let title = format!("{} {}", kind.titles[1], plan.baseline);
    let header = header(&["method", "prompts"], columns);
    Some(Table { name: kind.names[1], title, note: note.into(), header, words: 2, rows })
}

fn pooled(plan: &Plan, statistics: &Statistics, columns: &[Quantity]) -> Table {
    let header = header(&["method", "prompts"], columns);
    let mut rows = Vec::new();
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        let first = rows.len();
        for method in &plan.methods {
            let value = |quantity: &Quantity| plain(number(statistics.pooled(&method.name, group, *quantity)));
            rows.push([&method.name, group.name()].map(plain).into_iter().chain(columns.iter().map(value)).collect());
        }
        mark_best(&mut rows[first..], 2);
    }
    let note = "Means over all pictures alike: the same as above where every subject has as many.";
    Table { name: "pooled", title: "Pooled means".into(), note: note.into(), header, words: 2, rows }
}

fn subjects(plan: &Plan, statistics: &Statistics, columns: &[Quantity]) -> Table {
    let header = header(&["subject", "method", "prompts"], columns);
    let mut rows = Vec::new();
    for subject in &plan.subjects {
        for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
            for method in &plan.methods {
                let of = |quantity| statistics.of_subject(&method.name, &subject.name, group, quantity);
                let value = |quantity: &Quantity| plain(number(of(*quantity)));
                let words = [&subject.name, &method.name, group.name()].map(plain);
                rows.push(words.into_iter().chain(columns.iter().map(value)).collect());
            }
        }
    }
    let note = "Means over each subject's training seeds.";
    Table { name: "subjects", title: "Subject by subject".into(), note: note.into(), header, words: 3, rows }
}

fn prompts(plan: &Plan, statistics: &Statistics, columns: &[Quantity]) -> Table {
    let header = header(&["prompt", "prompts", "method"], columns);
    let unstylised =
        plan.prompts.live.iter().chain(plan.prompts.object.iter().filter(|p| !plan.prompts.live.contains(p)));
    let all = unstylised.map(|prompt| (Group::Unstylised, prompt));
    let all = all.chain(plan.prompts.style.iter().map(|prompt| (Group::Stylised, prompt)));
    let mut rows = Vec::new();
    for (group, prompt) in all {
        for method in &plan.methods {
            let of = |quantity: &Quantity| statistics.of_prompt(&method.name, prompt, group, *quantity);
            let values: Vec<Option<f64>> = columns.iter().map(of).collect();
            if values.iter().any(Option::is_some) {
                let words = [prompt, group.name(), &method.name].map(plain);
                rows.push(words.into_iter().chain(values.into_iter().map(|value| plain(number(value)))).collect());
            }
        }
    }
    let note = "Means over all pictures of a prompt.";
    Table { name: "prompts", title: "Prompt by prompt".into(), note: note.into(), header, words: 3, rows }
}

/// The base without the folders that it lies in.
pub fn base_name(plan: &Plan) -> &str {
    plan.base.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(&plan.base)
}

fn plain(text: impl Into<String>) -> Field {
    Field { text: text.into(), mark: Mark::None }
}

/// A value as papers give it, or a dash.
pub fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| unsigned(&format!("{value:.3}")))
}

/// Numbers without the sign of a nought.
fn unsigned(text: &str) -> String {
    text.replace("-0.000", "0.000")
}

fn estimate(estimate: Option<Estimate>) -> String {
    match estimate {
        None => "-".into(),
        Some(Estimate { mean, interval: None }) => number(Some(mean)),
        Some(Estimate { mean, interval: Some([low, high]) }) => unsigned(&format!("{mean:.3} [{low:.3}, {high:.3}]")),
    }
}

/// A difference with its interval.
pub fn signed(Estimate { mean, interval }: Estimate) -> String {
    let interval = interval.map(|[low, high]| format!(" [{low:+.3}, {high:+.3}]")).unwrap_or_default();
    unsigned(&format!("{mean:+.3}{interval}")).replace("+0.000", "0.000")
}

/// Marks the best and the second best of each column of numbers, as the paper does.
fn mark_best(rows: &mut [Vec<Field>], words: usize) {
    let value = |field: &Field| field.text.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    for column in words..rows.first().map_or(0, Vec::len) {
        let mut values: Vec<f64> = rows.iter().filter_map(|row| value(&row[column])).collect();
        values.sort_by(|a, b| b.total_cmp(a));
        values.dedup();
        if values.len() < 2 {
            continue;
        }
        for row in &mut *rows {
            row[column].mark = match value(&row[column]) {
                Some(value) if value == values[0] => Mark::Best,
                Some(value) if value == values[1] => Mark::Second,
                _ => Mark::None,
            };
        }
    }
}

impl Table {
    /// As a spreadsheet reads it.
    ///
    /// # Errors
    /// Never; the library that writes CSV could.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.header)?;
        for row in &self.rows {
            writer.write_record(row.iter().map(|field| harmless(&field.text)))?;
        }
        writer.into_inner().context("cannot write a table as CSV")
    }

    /// As a LaTeX table with the package booktabs.
    pub fn latex(&self) -> String {
        let columns = "l".repeat(self.words) + &"r".repeat(self.header.len() - self.words);
        let line = |fields: Vec<String>| fields.join(" & ") + " \\\\\n";
        let mut text = format!("% {}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n", self.title);
        text += &line(self.header.iter().map(|head| escaped(head)).collect());
        text += "\\midrule\n";
        for row in &self.rows {
            let field = |field: &Field| match field.mark {
                Mark::None => escaped(&field.text),
                Mark::Best => format!("\\textbf{{{}}}", escaped(&field.text)),
                Mark::Second => format!("\\underline{{{}}}", escaped(&field.text)),
            };
            text += &line(row.iter().map(field).collect());
        }
        text + "\\bottomrule\n\\end{tabular}\n"
    }
}

/// Text that no spreadsheet takes for a formula; numbers with a sign stay numbers.
fn harmless(text: &str) -> String {
    let formula = text.starts_with(['=', '@', '+', '-']) && text.len() > 1 && !text[1..].starts_with(char::is_numeric);
    if formula { format!("'{text}") } else { text.into() }
}

/// Text as LaTeX prints it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '\\' => out += "\\textbackslash{}",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |words: &str, a: &str, b: &str| vec![plain(words), plain(a), plain(b)];
        let mut rows =
            vec![row("A & \"b\"", "0.5 [0.4, 0.6]", "-"), row("50 %", "0.7", "0.1"), row("=x, y", "0.6", "-")];
        mark_best(&mut rows, 1);
        let header = ["method", "CLIP_T", "DINO"].map(String::from).to_vec();
        Table { name: "t", title: "T".into(), note: String::new(), header, words: 1, rows }
    }

    #[test]
    fn the_best_are_marked_where_there_is_a_choice() {
        let marks: Vec<_> = table().rows.iter().map(|row| [row[1].mark, row[2].mark]).collect();
        assert_eq!(marks, [[Mark::None; 2], [Mark::Best, Mark::None], [Mark::Second, Mark::None]]);
    }

    #[test]
    fn spreadsheets_and_latex_take_any_word() -> Result<()> {
        let csv = String::from_utf8(table().csv()?)?;
        let expected = "method,CLIP_T,DINO\n\"A & \"\"b\"\"\",\"0.5 [0.4, 0.6]\",-\n50 %,0.7,0.1\n\"'=x, y\",0.6,-\n";
        assert_eq!(csv, expected);
        let latex = table().latex();
        for part in
            ["{lrr}", "CLIP\\_T", "A \\& \"b\" & 0.5 [0.4, 0.6] & -", "50 \\% & \\textbf{0.7}", "\\underline{0.6}"]
        {
            assert!(latex.contains(part), "{part} in {latex}");
        }
        Ok(())
    }
}
