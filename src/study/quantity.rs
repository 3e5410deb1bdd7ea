//! What is counted of a picture: its scores, and what the base's judge finds in it.

use super::ledger::Entry;
use crate::evaluation::judge::Attribute;
use crate::evaluation::scores::Metric;

/// A number that a picture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// A metric's value.
    Score(Metric),
    /// The mean over the subject's attributes of how much of each the judge finds as it should be.
    Subject,
    /// How much of an attribute the judge finds as it should be.
    Judged(Attribute),
}

const SCORES: usize = Metric::ALL.len();

/// How many there are.
pub(super) const COUNT: usize = SCORES + 1 + Attribute::ALL.len();

impl From<Metric> for Quantity {
    fn from(metric: Metric) -> Self {
        Self::Score(metric)
    }
}

impl Quantity {
    /// All scores, in the order of tables.
    pub fn scores() -> impl Iterator<Item = Self> {
        Metric::ALL.into_iter().map(Self::Score)
    }

    /// All that a judge finds, in the order of tables.
    pub fn findings() -> impl Iterator<Item = Self> {
        [Self::Subject].into_iter().chain(Attribute::ALL.into_iter().map(Self::Judged))
    }

    /// Its name in tables; CLIP-T goes by two conventions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Score(Metric::ClipT) => "CLIP-T (2.5 max(cos, 0))",
            Self::Score(Metric::Cosine) => "CLIP-T (cosine)",
            Self::Score(metric) => metric.name(),
            Self::Subject => "subject",
            Self::Judged(attribute) => attribute.name(),
        }
    }

    /// Its value for a picture, if it has one.
    pub(super) fn of(self, entry: &Entry) -> Option<f64> {
        let judged = |attribute: Attribute| entry.judge.get(attribute.name()).map(|&share| f64::from(share));
        match self {
            Self::Score(metric) => entry.scores.get(metric).map(f64::from),
            Self::Judged(attribute) => judged(attribute),
            Self::Subject => {
                let own = Attribute::ALL.into_iter().filter(|attribute| attribute.is_of_subject());
                let shares: Vec<f64> = own.filter_map(judged).collect();
                (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
            }
        }
    }

    /// Its number, below [`COUNT`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Score(metric) => metric as usize,
            Self::Subject => SCORES,
            Self::Judged(attribute) => SCORES + 1 + attribute as usize,
        }
    }
}
