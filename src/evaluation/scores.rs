//! What an evaluation found: per picture, per group and in all; as a table and as JSON.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::judge::{Finding, shares};
use crate::files::{read_text, write_whole};

/// Which list a prompt comes from. The paper reports the lists apart, since what serves one (a
/// stronger likeness) can cost the other (style).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Photos of the subject elsewhere.
    Unstylised,
    /// Paintings, drawings and other renderings.
    Stylised,
    /// Pictures from a folder, of no list.
    Other,
}

impl Group {
    /// All groups, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Unstylised, Self::Stylised, Self::Other];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unstylised => "unstylised",
            Self::Stylised => "stylised",
            Self::Other => "pictures",
        }
    }
}

/// A metric, or the cosine behind CLIP-T.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// CLIPScore of picture and prompt: 2.5 * max(cosine, 0).
    ClipT,
    /// The plain cosine of picture and prompt, neither scaled nor clipped.
    Cosine,
    /// CLIP's cosine to the subject's photos.
    ClipI,
    /// DINO's cosine to the subject's photos.
    Dino,
    /// CLIP's cosine to the picture that the prompt should give, where that is known.
    ClipTrue,
    /// DINO's.
    DinoTrue,
}

/// The metrics in the order of tables: key in JSON, name in tables.
const METRICS: [(Metric, &str, &str); 6] = [
    (Metric::ClipT, "clip_t", "CLIP-T"),
    (Metric::Cosine, "clip_t_cosine", "cosine"),
    (Metric::ClipI, "clip_i", "CLIP-I"),
    (Metric::Dino, "dino", "DINO-I"),
    (Metric::ClipTrue, "clip_true", "CLIP-true"),
    (Metric::DinoTrue, "dino_true", "DINO-true"),
];

impl Metric {
    /// All of them, in the order of tables.
    pub const ALL: [Self; METRICS.len()] =
        [METRICS[0].0, METRICS[1].0, METRICS[2].0, METRICS[3].0, METRICS[4].0, METRICS[5].0];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        METRICS[self as usize].2
    }
}

/// Values of the metrics that were measured; the others are absent, in JSON too.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores([Option<f32>; METRICS.len()]);

impl Scores {
    /// The value of a metric, if it was measured.
    pub fn get(&self, metric: Metric) -> Option<f32> {
        self.0[metric as usize]
    }

    /// Sets the value of a metric.
    pub fn set(&mut self, metric: Metric, value: f32) {
        self.0[metric as usize] = Some(value);
    }

    /// Means over those pictures that have a value.
    fn mean<'a>(all: impl Iterator<Item = &'a Scores> + Clone) -> Self {
        Self(Metric::ALL.map(|metric| {
            let values: Vec<f64> = all.clone().filter_map(|s| s.get(metric)).map(f64::from).collect();
            (!values.is_empty()).then(|| (values.iter().sum::<f64>() / values.len() as f64) as f32)
        }))
    }
}

impl Serialize for Scores {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(METRICS.iter().filter_map(|(metric, key, _)| Some((key, self.get(*metric)?))))
    }
}

impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let known = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
        Ok(Self(METRICS.map(|(_, key, _)| known.get(key).and_then(|value| value.as_f64()).map(|value| value as f32))))
    }
}

/// A picture's scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageScores {
    /// Its file, relative to the evaluation's folder.
    pub file: String,
    /// What it was drawn from; empty where that is not known.
    pub prompt: String,
    /// The prompt's list.
    pub group: Group,
    /// Its values.
    #[serde(flatten)]
    pub scores: Scores,
    /// What the base's judge finds in it; empty where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// The means of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupMeans {
    /// The group.
    pub group: Group,
    /// How many pictures it has.
    pub count: usize,
    /// Their means.
    #[serde(flatten)]
    pub means: Scores,
    /// Shares of pictures in which the base's judge finds what it should, by attribute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub judge: BTreeMap<String, f32>,
}

/// Scores of a set of pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Means over all pictures.
    pub all: Scores,
    /// Means of each group that has pictures.
    pub groups: Vec<GroupMeans>,
    /// Every picture.
    pub images: Vec<ImageScores>,
}

impl Measured {
    /// Takes the means of `images`.
    pub fn new(images: Vec<ImageScores>) -> Self {
        let group = |group: Group| {
            let members = images.iter().filter(move |i| i.group == group);
            let count = members.clone().count();
            let judge = || shares(members.clone().flat_map(|i| &i.findings));
            (count > 0).then(|| GroupMeans {
                group,
                count,
                means: Scores::mean(members.clone().map(|i| &i.scores)),
                judge: judge().into_iter().map(|(attribute, share)| (attribute.into(), share)).collect(),
            })
        };
        let groups = Group::ALL.into_iter().filter_map(group).collect();
        Self { all: Scores::mean(images.iter().map(|i| &i.scores)), groups, images }
    }

    /// The rows of a table: name, number of pictures, means. "all" is there where it says more than
    /// the groups.
    pub fn rows(&self) -> Vec<(&'static str, usize, Scores)> {
        let mut rows: Vec<_> = self.groups.iter().map(|g| (g.group.name(), g.count, g.means)).collect();
        if rows.len() != 1 {
            rows.push(("all", self.images.len(), self.all));
        }
        rows
    }

    /// The means of the row of that name.
    pub fn row(&self, name: &str) -> Option<Scores> {
        self.rows().into_iter().find(|(row, _, _)| *row == name).map(|(_, _, scores)| scores)
    }
}

/// A whole evaluation, as `eval --json` writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The subject's name.
    pub subject: String,
    /// How many photos of it the pictures were compared with.
    pub photos: usize,
    /// The CLIP that CLIP-T and CLIP-I were taken with.
    pub clip: String,
    /// The DINO that DINO-I was taken with.
    pub dino: String,
    /// The pictures in question.
    #[serde(flatten)]
    pub measured: Measured,
    /// Pictures of the same prompts and seeds drawn otherwise, by the name of the way: `without_adapter`.
    #[serde(flatten)]
    pub others: BTreeMap<String, Measured>,
}

/// Pictures of the base alone, among [`Evaluation::others`].
pub const WITHOUT_ADAPTER: &str = "without_adapter";

/// A way of drawing as people read it.
pub fn title(way: &str) -> String {
    if way == WITHOUT_ADAPTER { "without the adapter".into() } else { way.replace('_', " ") }
}

impl Evaluation {
    /// The metrics that were measured on any picture.
    pub fn metrics(&self) -> Vec<Metric> {
        Metric::ALL.into_iter().filter(|&m| self.measured.all.get(m).is_some()).collect()
    }

    /// Pictures whose prompt is not known: they count for likeness, but not for CLIP-T.
    pub fn without_prompt(&self) -> usize {
        self.measured.images.iter().filter(|image| image.prompt.is_empty()).count()
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// If the file cannot be written; the message names it.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(self).context("cannot write the scores as JSON")?;
        json.push(b'\n');
        write_whole(path, &json)
    }
}

/// Whether scores may be written here: a file that is there already has scores of this program.
///
/// # Errors
/// If it does not; the message names it.
pub fn check_ours(path: &Path) -> Result<()> {
    let why = match read_text(path) {
        Ok(text) if serde_json::from_str::<Evaluation>(&text).is_ok() => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Ok(_) => String::new(),
        Err(error) => format!(" ({error})"),
    };
    bail!("{} is there already and holds no scores of eqdiff{why}: give another name with --json", path.display())
}

/// The evaluation for a terminal: a line per group, other ways of drawing beside the first.
pub fn table(evaluation: &Evaluation) -> String {
    let metrics = evaluation.metrics();
    let room = |metric: &Metric| (metric.name().len() + 2).max(8);
    let titles: String = metrics.iter().map(|m| format!("{:>1$}", m.name(), room(m))).collect();
    let mut columns = vec![("with the adapter".to_string(), &evaluation.measured)];
    columns.extend(evaluation.others.iter().map(|(way, measured)| (title(way), measured)));
    let compared = columns.len() > 1;
    let widest = columns.iter().map(|(title, _)| title.len() + 2).max().unwrap_or(0).max(titles.len());
    let width = if compared { widest + 2 } else { 0 };
    let cells = |scores: Option<Scores>| {
        let cell = |m: &Metric| format!("{:>1$}", number(scores.and_then(|s| s.get(*m))), room(m));
        metrics.iter().map(cell).collect::<String>()
    };
    let line = |first: String, cell: &dyn Fn(&str, &Measured) -> String| {
        let cells: String =
            columns.iter().map(|(title, measured)| format!("{:width$}", cell(title, measured))).collect();
        (first + &cells).trim_end().to_string()
    };
    let mut lines = Vec::new();
    if compared {
        lines.push(line(format!("{:20}", ""), &|title, _| format!("  {title}")));
    }
    lines.push(line(format!("{:12}{:>8}", "", "pictures"), &|_, _| titles.clone()));
    for (name, count, _) in evaluation.measured.rows() {
        lines.push(line(format!("{name:12}{count:>8}"), &|_, measured| cells(measured.row(name))));
    }
    let unknown = evaluation.without_prompt();
    if unknown > 0 && metrics.contains(&Metric::ClipT) {
        lines.push(format!("CLIP-T and its cosine are without the {unknown} pictures whose prompt is not known."));
    }
    lines.join("\n") + "\n" + &judged(&columns)
}

/// What the base's judge finds: a line per attribute, the groups of each way of drawing side by side.
fn judged(columns: &[(String, &Measured)]) -> String {
    let groups: Vec<&GroupMeans> = columns.iter().flat_map(|(_, measured)| &measured.groups).collect();
    let all = columns.iter().flat_map(|(_, measured)| &measured.images).flat_map(|image| &image.findings);
    let attributes: Vec<&str> = shares(all).into_iter().map(|(attribute, _)| attribute).collect();
    if attributes.is_empty() {
        return String::new();
    }
    let line = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>12}")).collect();
        format!("{first:20}{cells}\n")
    };
    let mut text = "\nShare of pictures in which the base's judge finds it:\n".to_string();
    if columns.len() > 1 {
        let title = |(title, measured): &(String, &Measured)| {
            let width = 12 * measured.groups.len();
            format!("{title:>width$}")
        };
        text += &format!("{:20}{}\n", "", columns.iter().map(title).collect::<String>());
    }
    text += &line("", groups.iter().map(|g| g.group.name().to_string()).collect());
    for attribute in attributes {
        text += &line(attribute, groups.iter().map(|g| number(g.judge.get(attribute).copied())).collect());
    }
    text
}

/// A value for people: three digits, as papers give them, or a dash.
pub fn number(value: Option<f32>) -> String {
    value.map_or("-".into(), |v| format!("{v:.3}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn image(prompt: &str, group: Group, values: [f32; 4]) -> ImageScores {
        let mut scores = Scores::default();
        Metric::ALL.into_iter().zip(values).for_each(|(metric, value)| scores.set(metric, value));
        ImageScores { file: format!("{prompt}.png"), prompt: prompt.into(), group, scores, findings: vec![] }
    }

    pub(crate) fn example() -> Evaluation {
        let measured = Measured::new(vec![
            image("a dog at the beach", Group::Unstylised, [0.75, 0.3, 0.8, 0.6]),
            image("a mosaic of a dog", Group::Stylised, [0.8, 0.32, 0.7, 0.4]),
            image("a dog in space", Group::Unstylised, [0.5, 0.2, 0.9, 0.7]),
        ]);
        let base = Measured::new(vec![
            image("a dog at the beach", Group::Unstylised, [0.8, 0.32, 0.5, 0.3]),
            image("a mosaic of a dog", Group::Stylised, [0.85, 0.34, 0.4, 0.2]),
        ]);
        let (clip, dino) = ("ViT-B/32".to_string(), "ViT-S/16".to_string());
        let others = [(WITHOUT_ADAPTER.to_string(), base)].into();
        Evaluation { subject: "dog".into(), photos: 5, clip, dino, measured, others }
    }

    #[test]
    fn means_are_taken_by_group_and_over_all() {
        let measured = example().measured;
        let summary: Vec<_> =
            measured.rows().into_iter().map(|(n, c, s)| (n, c, number(s.get(Metric::ClipI)))).collect();
        assert_eq!(
            summary,
            [("unstylised", 2, "0.850".into()), ("stylised", 1, "0.700".into()), ("all", 3, "0.800".into())]
        );
        assert_eq!(measured.groups[0].means.get(Metric::Cosine), Some(0.25));
        assert_eq!(Measured::new(vec![]).all, Scores::default());
        assert_eq!(Measured::new(measured.images[..1].to_vec()).rows().len(), 1);
    }

    #[test]
    fn the_table_is_aligned_and_shows_only_what_was_measured() {
        let mut evaluation = example();
        let expected = "
                      with the adapter                  without the adapter
            pictures  CLIP-T  cosine  CLIP-I  DINO-I    CLIP-T  cosine  CLIP-I  DINO-I
unstylised         2   0.625   0.250   0.850   0.650     0.800   0.320   0.500   0.300
stylised           1   0.800   0.320   0.700   0.400     0.850   0.340   0.400   0.200
all                3   0.683   0.273   0.800   0.567     0.825   0.330   0.450   0.250
";
        assert_eq!(format!("\n{}", table(&evaluation)), expected);
        evaluation.others.clear();
        let only_dino = |i: &ImageScores| {
            let mut scores = Scores::default();
            scores.set(Metric::Dino, i.scores.get(Metric::Dino).unwrap());
            ImageScores { group: Group::Other, scores, ..i.clone() }
        };
        evaluation.measured = Measured::new(evaluation.measured.images.iter().map(only_dino).collect());
        assert_eq!(table(&evaluation), "            pictures  DINO-I\npictures           3   0.567\n");
    }

    #[test]
    fn json_goes_there_and_back() {
        let evaluation = example();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.json");
        evaluation.write_json(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"group\": \"unstylised\"") && text.contains("\"without_adapter\""));
        assert_eq!(serde_json::from_str::<Evaluation>(&text).unwrap(), evaluation);
        let error = evaluation.write_json(Path::new("/nowhere/scores.json")).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/scores.json"));
    }
}
