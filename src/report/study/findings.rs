//! What a study found, in sentences.

use crate::evaluation::judge::Attribute;
use crate::evaluation::scores::{Group, Metric};
use crate::study::statistics::{Estimate, Statistics};
use crate::study::tables::{GROUPS, signed};
use crate::study::{Plan, Quantity};

use super::group_title;

/// A sentence for each list of prompts on how our method stands to the baseline.
pub(super) fn findings(plan: &Plan, statistics: &Statistics) -> Vec<String> {
    if plan.ours == plan.baseline {
        return Vec::new();
    }
    let (ours, baseline) = (&plan.ours, &plan.baseline);
    let sentence = |group| {
        let gap = |metric: Metric| statistics.difference(ours, baseline, group, metric.into());
        let (text, clip, dino) = (gap(Metric::ClipT)?, gap(Metric::ClipI)?, gap(Metric::Dino)?);
        let place = match (text.mean > 0., dino.mean > 0.) {
            _ if chance(&text) && chance(&dino) => "cannot be told from",
            (true, true) => "is to the upper right of",
            (true, false) => "follows the prompt better and looks less like the subject than",
            (false, true) => "looks more like the subject and follows the prompt less than",
            (false, false) => "is to the lower left of",
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

/// Whether a difference may be none.
fn chance(gap: &Estimate) -> bool {
    gap.interval.is_some_and(|[low, high]| low <= 0. && high >= 0.)
}

/// A difference, and whether it may be none.
fn said(gap: Estimate) -> String {
    let note = match gap.interval {
        None => " (one training: no interval)",
        Some(_) if chance(&gap) => " (may be chance)",
        Some(_) => "",
    };
    signed(gap) + note
}
