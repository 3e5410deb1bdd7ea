//! What an evaluation found: per picture, per group and in all; as a table and as JSON.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::files::write_whole;

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
    /// CLIPScore of picture and prompt.
    ClipT,
    /// The plain cosine of picture and prompt.
    Cosine,
    /// CLIP's cosine to the subject's photos.
    ClipI,
    /// DINO's cosine to the subject's photos.
    Dino,
}

impl Metric {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::ClipT, Self::Cosine, Self::ClipI, Self::Dino];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClipT => "CLIP-T",
            Self::Cosine => "cosine",
            Self::ClipI => "CLIP-I",
            Self::Dino => "DINO-I",
        }
    }
}

/// Values of the metrics that were measured; the others are absent, in JSON too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// CLIP-T: 2.5 * max(cosine, 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_t: Option<f32>,
    /// CLIP-T's cosine, neither scaled nor clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_t_cosine: Option<f32>,
    /// CLIP-I.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_i: Option<f32>,
    /// DINO-I.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dino: Option<f32>,
}

impl Scores {
    /// The value of a metric, if it was measured.
    pub fn get(&self, metric: Metric) -> Option<f32> {
        match metric {
            Metric::ClipT => self.clip_t,
            Metric::Cosine => self.clip_t_cosine,
            Metric::ClipI => self.clip_i,
            Metric::Dino => self.dino,
        }
    }

    /// Means over those pictures that have a value.
    fn mean<'a>(all: impl Iterator<Item = &'a Scores> + Clone) -> Self {
        let mean = |metric: Metric| {
            let values: Vec<f64> = all.clone().filter_map(|s| s.get(metric)).map(f64::from).collect();
            (!values.is_empty()).then(|| (values.iter().sum::<f64>() / values.len() as f64) as f32)
        };
        Self {
            clip_t: mean(Metric::ClipT),
            clip_t_cosine: mean(Metric::Cosine),
            clip_i: mean(Metric::ClipI),
            dino: mean(Metric::Dino),
        }
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
            let members = images.iter().filter(move |i| i.group == group).map(|i| &i.scores);
            let count = members.clone().count();
            (count > 0).then(|| GroupMeans { group, count, means: Scores::mean(members) })
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
    /// Pictures of the same prompts and seeds by the base alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_adapter: Option<Measured>,
}

impl Evaluation {
    /// The metrics that were measured on any picture.
    pub fn metrics(&self) -> Vec<Metric> {
        Metric::ALL.into_iter().filter(|&m| self.measured.all.get(m).is_some()).collect()
    }

    /// The base's row for a row of [`Measured::rows`], if it was measured.
    pub fn without(&self, name: &str) -> Option<Scores> {
        let rows = self.without_adapter.as_ref()?.rows();
        rows.into_iter().find(|(n, _, _)| *n == name).map(|(_, _, scores)| scores)
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

/// The evaluation for a terminal: a line per group, the base's means beside the adapter's.
pub fn table(evaluation: &Evaluation) -> String {
    let metrics = evaluation.metrics();
    let compared = evaluation.without_adapter.is_some();
    let cells = |scores: Option<Scores>| {
        let cell = |&metric: &Metric| format!("{:>8}", number(scores.and_then(|s| s.get(metric))));
        metrics.iter().map(cell).collect::<String>()
    };
    let titles: String = metrics.iter().map(|m| format!("{:>8}", m.name())).collect();
    let (with, without) = ("  with the adapter", "  without the adapter");
    let width = if compared { titles.len().max(with.len()) + 2 } else { 0 };
    let mut lines = Vec::new();
    if compared {
        lines.push(format!("{:20}{with:width$}{without}", ""));
    }
    let right = if compared { titles.as_str() } else { "" };
    lines.push(format!("{:12}{:>8}{titles:width$}{right}", "", "pictures"));
    for (name, count, scores) in evaluation.measured.rows() {
        let right = if compared { cells(evaluation.without(name)) } else { String::new() };
        lines.push(format!("{name:12}{count:>8}{:width$}{right}", cells(Some(scores))));
    }
    lines.join("\n") + "\n"
}

/// A value for people: three digits, as papers give them, or a dash.
pub fn number(value: Option<f32>) -> String {
    value.map_or("-".into(), |v| format!("{v:.3}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn image(prompt: &str, group: Group, values: [f32; 4]) -> ImageScores {
        let [clip_t, cosine, clip_i, dino] = values.map(Some);
        let scores = Scores { clip_t, clip_t_cosine: cosine, clip_i, dino };
        ImageScores { file: format!("{prompt}.png"), prompt: prompt.into(), group, scores }
    }

    pub fn example() -> Evaluation {
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
        Evaluation { subject: "dog".into(), photos: 5, clip, dino, measured, without_adapter: Some(base) }
    }

    #[test]
    fn means_are_taken_by_group_and_over_all() {
        let measured = example().measured;
        let summary: Vec<_> = measured.rows().into_iter().map(|(n, c, s)| (n, c, number(s.clip_i))).collect();
        assert_eq!(
            summary,
            [("unstylised", 2, "0.850".into()), ("stylised", 1, "0.700".into()), ("all", 3, "0.800".into())]
        );
        assert_eq!(measured.groups[0].means.clip_t_cosine, Some(0.25));
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
        evaluation.without_adapter = None;
        let only_dino = |i: &ImageScores| {
            let scores = Scores { dino: i.scores.dino, ..Scores::default() };
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
