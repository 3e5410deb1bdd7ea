//! What a study found, in sentences.

use crate::evaluation::judge::Attribute;
use crate::evaluation::scores::{Group, Metric};
use crate::study::statistics::{Estimate, Statistics};
use crate::study::tables::{GROUPS, signed};
use crate::study::{Plan, Quantity};

use super::group_title;
use Side::{Less, More, Unsure};

/// A sentence for each list of prompts on how our method stands to the baseline.
pub(super) fn findings(plan: &Plan, statistics: &Statistics) -> Vec<String> {
    if plan.ours == plan.baseline {
        return Vec::new();
    }
    let (ours, baseline) = (&plan.ours, &plan.baseline);
    let sentence = |group| {
        let gap = |metric: Metric| statistics.difference(ours, baseline, group, metric.into());
        let (text, clip, dino) = (gap(Metric::ClipT)?, gap(Metric::ClipI)?, gap(Metric::Dino)?);
        let place = match (side(&text), side(&dino)) {
            (Less, Less) => "is to the lower left of",
            (Less, Unsure) => "follows the prompt less than",
            (Less, More) => "looks more like the subject and follows the prompt less than",
            (Unsure, Less) => "looks less like the subject than",
            (Unsure, Unsure) => "cannot be told from",
            (Unsure, More) => "looks more like the subject than",
            (More, Less) => "follows the prompt better and looks less like the subject than",
            (More, Unsure) => "follows the prompt better than",
            (More, More) => "is to the upper right of",
        };
        Some(format!(
            "With {}, {ours} {place} {baseline}: CLIP-T {}, CLIP-I {}, DINO-I {}.",
            group_title(group),
            said(text),
            said(clip),
            said(dino)
        ))
    };
    let judged = |(group, asked): (Group, Attribute)| {
        let gap = |quantity| statistics.difference(ours, baseline, group, quantity);
        Some(format!(
            "To the judge, with {}: the subject's attributes {}, the {} of the prompt {}.",
            group_title(group),
            said(gap(Quantity::Subject)?),
            asked.name(),
            said(gap(Quantity::Judged(asked))?)
        ))
    };
    let asked = GROUPS.into_iter().zip([Attribute::Place, Attribute::Style]);
    GROUPS.into_iter().filter_map(sentence).chain(asked.filter_map(judged)).collect()
}

/// What a difference says.
enum Side {
    Less,
    Unsure,
    More,
}

/// On which side of none a difference surely is.
fn side(gap: &Estimate) -> Side {
    match gap.interval {
        Some([_, high]) if high < 0. => Less,
        Some([low, _]) if low > 0. => More,
        _ => Unsure,
    }
}

/// A difference, and whether it may be none.
fn said(gap: Estimate) -> String {
    let note = match gap.interval {
        None => " (too few for an interval)",
        Some(_) if matches!(side(&gap), Unsure) => " (may be chance)",
        Some(_) => "",
    };
    signed(gap) + note
}
