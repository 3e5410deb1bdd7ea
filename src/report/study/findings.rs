//! What a study found, in sentences.

use super::{counted, group_title};
use crate::evaluation::judge::Attribute;
use crate::evaluation::scores::{Group, Metric};
use crate::study::statistics::Side::{self, Less, More, Unsure};
use crate::study::statistics::{Estimate, Statistics};
use crate::study::tables::{GROUPS, other_whole, signed};
use crate::study::{Plan, Quantity};

/// Which methods the sentences are about.
pub(super) fn compared(plan: &Plan) -> String {
    let named =
        [&plan.ours, &plan.baseline].map(|name| plan.method(name).map_or(name.clone(), |method| method.named()));
    let [ours, baseline] = named;
    let whole =
        other_whole(plan).map(|(published, whole, _)| format!(" The paper's {} is {}.", published.name, whole.named()));
    format!("{ours} beside {baseline}.{}", whole.unwrap_or_default())
}

/// A sentence for each list of prompts on how our method stands to the baseline.
pub(super) fn findings(plan: &Plan, statistics: &Statistics) -> Vec<String> {
    if plan.ours == plan.baseline {
        return Vec::new();
    }
    let (ours, baseline) = (&plan.ours, &plan.baseline);
    let sentence = |group| {
        let gap = |metric: Metric| statistics.difference(ours, baseline, group, metric.into());
        let gaps = [gap(Metric::ClipT)?, gap(Metric::ClipI)?, gap(Metric::Dino)?];
        let prompts = group_title(group);
        if gaps.iter().any(|gap| gap.interval.is_none()) {
            let (subjects, [text, clip, dino]) = (counted(gaps[0].subjects, "subject"), gaps.map(signed));
            return Some(format!(
                "With {prompts} and {subjects}, {ours} less {baseline}, too few to say more: CLIP-T {text}, CLIP-I \
                 {clip}, DINO-I {dino}."
            ));
        }
        let [follows, clip, dino] = gaps.map(|gap| gap.side());
        let place = likeness([clip, dino]).map(|looks| match (follows, looks) {
            (Less, Less) => "is to the lower left of",
            (Less, Unsure) => "follows the prompt less than",
            (Less, More) => "looks more like the subject and follows the prompt less than",
            (Unsure, Less) => "looks less like the subject than",
            (Unsure, Unsure) => "cannot be told from",
            (Unsure, More) => "looks more like the subject than",
            (More, Less) => "follows the prompt better and looks less like the subject than",
            (More, Unsure) => "follows the prompt better than",
            (More, More) => "is to the upper right of",
        });
        let [text, clip, dino] = gaps.map(said);
        let place = place.unwrap_or("less");
        Some(format!("With {prompts}, {ours} {place} {baseline}: CLIP-T {text}, CLIP-I {clip}, DINO-I {dino}."))
    };
    let judged = |(group, asked): (Group, Attribute)| {
        let gap = |quantity| statistics.difference(ours, baseline, group, quantity);
        Some(format!(
            "{ours} less {baseline}, to the judge, with {}: the subject's attributes {}, the {} of the prompt {}.",
            group_title(group),
            said(gap(Quantity::Subject)?),
            asked.name(),
            said(gap(Quantity::Judged(asked))?)
        ))
    };
    let asked = GROUPS.into_iter().zip([Attribute::Place, Attribute::Style]);
    GROUPS.into_iter().filter_map(sentence).chain(asked.filter_map(judged)).collect()
}

/// The side that one of two measures of a likeness is surely on, or both are; none if they contradict each other.
fn likeness(sides: [Side; 2]) -> Option<Side> {
    match sides {
        [Less, More] | [More, Less] => None,
        [Unsure, side] | [side, _] => Some(side),
    }
}

/// A difference, and whether it may be none.
fn said(gap: Estimate) -> String {
    let note = match (gap.interval, gap.side()) {
        (None, _) => " (too few for an interval)",
        (_, Unsure) => " (may be chance)",
        _ => "",
    };
    signed(gap) + note
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::Result;

    use super::*;
    use crate::evaluation::scores::Scores;
    use crate::ops::Precision;
    use crate::study::Entry;

    const METRICS: [Metric; 3] = [Metric::ClipT, Metric::ClipI, Metric::Dino];

    fn plan(ours: &str, baseline: &str) -> Result<Plan> {
        let plan = Plan::read(Path::new("mini"), Precision::F32, true)?;
        Ok(Plan { ours: ours.into(), baseline: baseline.into(), ..plan })
    }

    /// The sentences on so many subjects, on which F less A has these signs; 0: another one on each.
    fn sentences(plan: &Plan, subjects: usize, signs: [f32; 3]) -> Vec<String> {
        let mut statistics = Statistics::new(plan.subjects.len());
        for subject in 0..subjects {
            let turn = if subject % 2 == 0 { 0.25 } else { -0.25 };
            for (method, more) in [("A", 0.), ("F", 1.)] {
                let mut scores = Scores::default();
                for (metric, sign) in METRICS.into_iter().zip(signs) {
                    scores.set(metric, 0.5 + more * if sign == 0. { turn } else { 0.25 * sign });
                }
                statistics.add(&Entry {
                    id: String::new(),
                    subject: subject.to_string(),
                    method: method.into(),
                    seed: 0,
                    group: Group::Stylised,
                    prompt: "a {}".into(),
                    picture: 0,
                    scores,
                    judge: [("word", 0.5), ("style", 0.5 + 0.25 * more)].map(|(n, v)| (n.into(), v)).into(),
                });
            }
        }
        findings(plan, &statistics)
    }

    #[test]
    fn sentences_say_what_is_sure_and_nothing_else() -> Result<()> {
        let (plan, other_way) = (plan("F", "A")?, plan("A", "F")?);
        let all = || [-1f32, 0., 1.].into_iter();
        for [text, clip, dino] in all().flat_map(|a| all().flat_map(move |b| all().map(move |c| [a, b, c]))) {
            let sentence = &sentences(&plan, 6, [text, clip, dino])[0];
            let context = format!("{text} {clip} {dino}: {sentence}");
            let (claim, _) = sentence.split_once(": ").expect("numbers");
            let says = |part: &str| claim.contains(part);
            let chances = [text, clip, dino].iter().filter(|sign| **sign == 0.).count();
            assert_eq!(sentence.matches("(may be chance)").count(), chances, "{context}");
            if clip * dino < 0. {
                assert_eq!(claim, "With stylised prompts, F less A", "{context}");
                continue;
            }
            let looks = if clip == 0. { dino } else { clip };
            let (left, right) = (text < 0. && looks < 0., text > 0. && looks > 0.);
            assert_eq!((says("lower left"), says("upper right")), (left, right), "{context}");
            assert_eq!(says("cannot be told from"), text == 0. && looks == 0., "{context}");
            if !left && !right {
                assert_eq!(
                    [says("follows the prompt less"), says("follows the prompt better")],
                    [text < 0., text > 0.]
                );
                assert_eq!([says("looks less like"), says("looks more like")], [looks < 0., looks > 0.], "{context}");
            }
            // the other way round it says the opposite
            let mirrored = &sentences(&other_way, 6, [text, clip, dino].map(|sign| -sign))[0];
            let swapped = mirrored.replace("A ", "x ").replace(" F:", " A:").replace("x ", "F ");
            assert_eq!(swapped.split_once(": ").map(|(claim, _)| claim), Some(claim), "{context}");
        }
        assert_eq!(
            sentences(&plan, 6, [1., 1., -1.]),
            [
                "With stylised prompts, F less A: CLIP-T +0.250 [+0.250, +0.250], CLIP-I +0.250 [+0.250, +0.250], \
                 DINO-I -0.250 [-0.250, -0.250].",
                "F less A, to the judge, with stylised prompts: the subject's attributes 0.000 [0.000, 0.000] (may be \
                 chance), the style of the prompt +0.250 [+0.250, +0.250]."
            ]
        );
        Ok(())
    }

    #[test]
    fn of_few_subjects_numbers_are_said_and_no_more() -> Result<()> {
        let few = sentences(&plan("F", "A")?, 4, [1., 0., -1.]);
        assert_eq!(
            few[0],
            "With stylised prompts and 4 subjects, F less A, too few to say more: CLIP-T +0.250, CLIP-I 0.000, DINO-I \
             -0.250."
        );
        assert!(few.iter().all(|sentence| sentence.contains("too few") && !sentence.contains("cannot be told")));
        Ok(())
    }

    #[test]
    fn methods_are_told_by_their_titles() -> Result<()> {
        assert_eq!(
            compared(&plan("eqdiff", "A")?),
            "eqdiff (F + the loss on the map of S*, as released) beside A (Custom Diffusion). The paper's Equilibrated \
             Diffusion is F (D + MGDP, the full method)."
        );
        assert_eq!(compared(&plan("F", "A")?), "F (D + MGDP, the full method) beside A (Custom Diffusion).");
        Ok(())
    }
}
