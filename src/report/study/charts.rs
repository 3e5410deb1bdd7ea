//! Charts of a study: methods against each other.

use std::fmt::Write;

use super::super::chart::{Axis, COLOURS, ROOM, SIZE, across, columns, framed, levels, up};
use super::super::html::escape;
use super::group_title;
use crate::evaluation::scores::{Group, Metric};
use crate::study::statistics::{Estimate, Statistics};
use crate::study::{Plan, Quantity};

/// A mark around the origin of the method of that number.
fn mark(number: usize, size: f64) -> String {
    let (s, d) = (size, size * 1.3);
    // colours that come again have other shapes then
    let path = match (number + number / COLOURS) % 4 {
        0 => format!("M{s} 0A{s} {s} 0 1 1 {:.1} 0A{s} {s} 0 1 1 {s} 0Z", -s),
        1 => format!("M{0:.1} {0:.1}H{1:.1}V{1:.1}H{0:.1}Z", -s * 0.9, s * 0.9),
        2 => format!("M0 {0:.1}L{1:.1} 0L0 {1:.1}L{0:.1} 0Z", -d, d),
        _ => format!("M0 {0:.1}L{1:.1} {2:.1}H{0:.1}Z", -d, d, d * 0.8),
    };
    format!("<path class=\"m{}\" d=\"{path}\"/>", number % COLOURS)
}

/// Which mark is whose.
pub(super) fn legend(plan: &Plan) -> String {
    let one = |(i, method): (usize, &crate::study::plan::Method)| {
        let title = if method.title == method.name { String::new() } else { format!(" {}", escape(&method.title)) };
        let (mark, name) = (mark(i, 5.), escape(&method.name));
        format!(
            "<span><svg viewBox=\"-8 -8 16 16\" width=\"16\" height=\"16\" aria-hidden=\"true\">{mark}</svg><b>{name}</b>{title}</span>"
        )
    };
    format!("<p class=\"legend\">{}</p>", plan.methods.iter().enumerate().map(one).collect::<String>())
}

/// A quantity's name on an axis.
fn name(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::Score(metric) => metric.name(),
        quantity => quantity.name(),
    }
}

/// How well the prompt is followed across, a likeness upwards: each method on each subject, and in the mean.
pub(super) fn scatter(plan: &Plan, statistics: &Statistics, group: Group, [across_it, up_it]: [Quantity; 2]) -> String {
    let of_subject = |method: &str, subject: &str| {
        let value = |quantity| statistics.of_subject(method, subject, group, quantity);
        Some((value(across_it)?, value(up_it)?))
    };
    let mut subjects = Vec::new();
    let mut means = Vec::new();
    for (i, method) in plan.methods.iter().enumerate() {
        let points = plan.subjects.iter().filter_map(|subject| of_subject(&method.name, &subject.name));
        subjects.extend(points.map(|point| (i, point)));
        let mean = |quantity| statistics.mean(&method.name, group, quantity);
        means.extend(mean(across_it).zip(mean(up_it)).map(|pair| (i, pair)));
    }
    let ends = |estimate: &Estimate| estimate.interval.unwrap_or([estimate.mean; 2]);
    // subjects differ by far more than methods do: the axes are for the means, where those have intervals
    let few = means.iter().any(|(_, mean)| mean.0.interval.is_none() || mean.1.interval.is_none());
    let shown = || subjects.iter().filter(|_| few);
    let x = shown().map(|(_, p)| p.0).chain(means.iter().flat_map(|(_, m)| ends(&m.0)));
    let y = shown().map(|(_, p)| p.1).chain(means.iter().flat_map(|(_, m)| ends(&m.1)));
    let (Some(x), Some(y)) = (Axis::around(x), Axis::around(y)) else { return String::new() };
    subjects.retain(|(_, point)| x.holds(point.0) && y.holds(point.1));
    let mut svg = String::new();
    levels(&mut svg, &y, name(up_it));
    columns(&mut svg, &x, name(across_it));
    for (i, (a, b)) in &subjects {
        let _ = write!(
            svg,
            "<g class=\"one\" transform=\"translate({:.1} {:.1})\">{}</g>",
            across(&x, *a),
            up(&y, *b),
            mark(*i, 2.6)
        );
    }
    let mut labels = Vec::new();
    for (i, (a, b)) in &means {
        let (at_x, at_y) = (across(&x, a.mean), up(&y, b.mean));
        let ([left, right], [low, high]) = (ends(a).map(|v| across(&x, v)), ends(b).map(|v| up(&y, v)));
        let colour = i % COLOURS;
        let _ = write!(
            svg,
            "<path class=\"spread s{colour}\" d=\"M{left:.1} {at_y:.1}H{right:.1}M{at_x:.1} {low:.1}V{high:.1}\"/>"
        );
        let _ = write!(svg, "<g class=\"mean\" transform=\"translate({at_x:.1} {at_y:.1})\">{}</g>", mark(*i, 6.));
        labels.push((at_x, at_y, *i));
    }
    for (at_x, at_y, i, label_y) in apart(labels) {
        let name = &plan.methods[i].name;
        let class = if *name == plan.ours { "label ours" } else { "label" };
        let (dx, anchor) = if at_x > SIZE.0 * 0.8 { (-12., "end") } else { (12., "start") };
        let label_x = at_x + dx;
        if (label_y - at_y).abs() > LINE {
            let _ = write!(svg, "<path class=\"lead\" d=\"M{at_x:.1} {at_y:.1}L{label_x:.1} {:.1}\"/>", label_y - 4.);
        }
        let _ = write!(
            svg,
            "<text class=\"{class}\" x=\"{label_x:.1}\" y=\"{label_y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escape(name)
        );
    }
    framed(&format!("{}, {}", self::name(up_it), group_title(group)), &svg)
}

/// Between the labels of two lines.
const LINE: f64 = 12.;

/// The heights of labels of marks, moved down until none covers another, and up again from below the plot.
fn apart(mut marks: Vec<(f64, f64, usize)>) -> Vec<(f64, f64, usize, f64)> {
    marks.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut labels: Vec<(f64, f64, usize, f64)> = Vec::with_capacity(marks.len());
    let near = |a: f64, b: f64| (a - b).abs() < 60.;
    for (x, y, i) in marks {
        let above = labels.iter().filter(|other| near(other.0, x)).map(|other| other.3);
        let label = above.fold(y - 6., |label, other| if label < other + LINE { other + LINE } else { label });
        labels.push((x, y, i, label));
    }
    for at in (0..labels.len()).rev() {
        let (x, label) = (labels[at].0, labels[at].3.min(SIZE.1 - ROOM[3]));
        let below = labels[at + 1..].iter().filter(|other| near(other.0, x)).map(|other| other.3 - LINE);
        labels[at].3 = below.fold(label, f64::min);
    }
    labels
}

/// A metric's mean for each method, side by side.
pub(super) fn bars(plan: &Plan, statistics: &Statistics, group: Group, metric: Metric) -> String {
    let means: Vec<Option<Estimate>> =
        plan.methods.iter().map(|method| statistics.mean(&method.name, group, metric.into())).collect();
    let known = means.iter().flatten();
    let ends =
        known.flat_map(|estimate| estimate.interval.unwrap_or([estimate.mean; 2]).into_iter().chain([estimate.mean]));
    let Some(axis) = Axis::around(ends) else { return String::new() };
    let mut svg = String::new();
    levels(&mut svg, &axis, metric.name());
    let (bottom, slot) = (SIZE.1 - ROOM[3], (SIZE.0 - ROOM[0] - ROOM[2]) / means.len() as f64);
    let width = (slot * 0.64).min(56.);
    for (i, (method, mean)) in plan.methods.iter().zip(&means).enumerate() {
        let middle = ROOM[0] + (i as f64 + 0.5) * slot;
        let name = escape(&method.name);
        let class = if method.name == plan.ours { "tick ours" } else { "tick" };
        let turned = means.len() > 8 || method.name.len() > 8;
        let place = if turned { "rotate(-24)" } else { "" };
        let anchor = if turned { "end" } else { "middle" };
        let _ = write!(
            svg,
            "<text class=\"{class}\" transform=\"translate({middle:.1} {}) {place}\" text-anchor=\"{anchor}\">{name}</text>",
            bottom + 16.
        );
        let Some(Estimate { mean, interval, .. }) = mean else { continue };
        let (top, left, colour) = (up(&axis, *mean), middle - width / 2., i % COLOURS);
        let _ = write!(
            svg,
            "<rect class=\"m{colour}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"/>",
            bottom - top
        );
        let mut above = top;
        if let Some(ends) = interval {
            let [low, high] = ends.map(|end| up(&axis, end));
            let _ = write!(svg, "<path class=\"whisker\" d=\"M{middle:.1} {low:.1}V{high:.1}\"/>");
            above = high;
        }
        let _ = write!(
            svg,
            "<text class=\"value\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{mean:.3}</text>",
            above - 4.
        );
    }
    framed(&format!("{}, {}", metric.name(), group_title(group)), &svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_differ() {
        let marks: std::collections::HashSet<String> = (0..2 * COLOURS).map(|number| mark(number, 5.)).collect();
        assert_eq!(marks.len(), 2 * COLOURS);
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        let bottom = SIZE.1 - ROOM[3];
        let mut marks = vec![(10., 50., 0), (20., 52., 1), (15., 51., 2), (300., 50., 3)];
        marks.extend((4..12).map(|i| (10. + 8. * i as f64, bottom - i as f64, i)));
        let placed = apart(marks);
        assert!(placed.iter().all(|label| label.3 <= bottom), "{placed:?}");
        for (i, a) in placed.iter().enumerate() {
            for b in &placed[..i] {
                assert!((a.0 - b.0).abs() >= 60. || (a.3 - b.3).abs() >= LINE, "{placed:?}");
            }
        }
    }
}
