//! A table of words and numbers, as spreadsheets and papers read it.

use anyhow::{Context, Result};

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

/// A field that does not stand out.
pub(super) fn plain(text: impl Into<String>) -> Field {
    Field { text: text.into(), mark: Mark::None }
}

/// Marks the best and the second best of a column of numbers, as the paper does.
pub(super) fn mark_best(rows: &mut [Vec<Field>], column: usize) {
    let value = |row: &[Field]| row[column].text.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    let mut values: Vec<f64> = rows.iter().filter_map(|row| value(row)).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values.dedup();
    let [best, second, ..] = values[..] else { return };
    for row in rows {
        row[column].mark = match value(row) {
            Some(value) if value == best => Mark::Best,
            Some(value) if value == second => Mark::Second,
            _ => Mark::None,
        };
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

/// Text that no spreadsheet takes for a formula; numbers with a sign stay numbers, also with an interval.
fn harmless(text: &str) -> String {
    let number = |part: &str| part.trim_matches(['[', ']', ',']).parse::<f64>().is_ok();
    let formula = text.starts_with(['=', '@', '+', '-']) && text != "-" && !text.split(' ').all(number);
    if formula { format!("'{text}") } else { text.into() }
}

/// Text as LaTeX prints it.
fn escaped(text: &str) -> String {
    // the end of the row above would take these for its argument, also behind spaces
    let mut out = String::from(if text.trim_start().starts_with(['[', '*']) { "{}" } else { "" });
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '\\' => out += "\\textbackslash{}",
            '<' => out += "\\textless{}",
            '>' => out += "\\textgreater{}",
            '|' => out += "\\textbar{}",
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
        let mut rows = vec![
            row("A & \"b\"", "0.5 [0.4, 0.6]", "-"),
            row("50 %", "0.7", "0.1"),
            row("=x, y", "0.6", "-"),
            row("[1]", "-", "-"),
            row(" *", "-", "-"),
            row("=1+2", "-", "-"),
            row("+1-x|<y>", "-", "-"),
        ];
        (1..3).for_each(|column| mark_best(&mut rows, column));
        let header = ["method", "CLIP_T", "DINO"].map(String::from).to_vec();
        Table { name: "t", title: "T".into(), note: String::new(), header, words: 1, rows }
    }

    #[test]
    fn the_best_are_marked_where_there_is_a_choice() {
        let marks: Vec<_> = table().rows.iter().map(|row| [row[1].mark, row[2].mark]).collect();
        assert_eq!(marks[..3], [[Mark::None; 2], [Mark::Best, Mark::None], [Mark::Second, Mark::None]]);
    }

    #[test]
    fn spreadsheets_and_latex_take_any_word() -> Result<()> {
        let csv = String::from_utf8(table().csv()?)?;
        let expected = "method,CLIP_T,DINO\n\"A & \"\"b\"\"\",\"0.5 [0.4, 0.6]\",-\n50 %,0.7,0.1\n\"'=x, y\",0.6,-\n\
                        [1],-,-\n *,-,-\n'=1+2,-,-\n'+1-x|<y>,-,-\n";
        assert_eq!(csv, expected);
        for number in ["+0.10 [-0.20, +0.30]", "-0.5", "-"] {
            assert_eq!(harmless(number), number);
        }
        let latex = table().latex();
        for part in [
            "{lrr}",
            "CLIP\\_T",
            "A \\& \"b\" & 0.5 [0.4, 0.6] & -",
            "50 \\% & \\textbf{0.7}",
            "\\underline{0.6}",
            "\\\\\n{}[1] & -",
            "\\\\\n{} * & -",
            "+1-x\\textbar{}\\textless{}y\\textgreater{} & - & -",
        ] {
            assert!(latex.contains(part), "{part} in {latex}");
        }
        Ok(())
    }
}
