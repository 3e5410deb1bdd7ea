//! Charts as SVG, in the page's own colours and typeface: they read in the dark, in the light and on paper.

use std::fmt::Write;

use super::html::escape;

/// How charts look.
pub(super) const STYLE: &str = include_str!("chart.css");

/// A chart's width and height.
pub(super) const SIZE: (f64, f64) = (440., 340.);

/// Room around the plot: left, top, right, bottom.
pub(super) const ROOM: [f64; 4] = [52., 28., 16., 44.];

/// How many colours and marks there are before they come again.
pub(super) const COLOURS: usize = 8;

/// An axis: the numbers that its ends stand for, and a step that people count in.
pub(super) struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Around the values, with some room.
    pub(super) fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return None;
        }
        let spread = (high - low).max(0.01 * high.abs()).max(1e-3);
        let step = step(spread);
        let (low, high) = (low - 0.06 * spread, high + 0.06 * spread);
        Some(Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step })
    }

    /// From nothing to a value above it.
    pub(super) fn up_to(high: f64) -> Self {
        let high = high.max(1e-3);
        let step = step(high);
        Self { low: 0., high: (high / step).ceil() * step, step }
    }

    /// Whether a value lies on it.
    pub(super) fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    pub(super) fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|i| self.low + i as f64 * self.step)
    }

    /// A tick as short as its step allows.
    fn text(&self, value: f64) -> String {
        let digits = (-self.step.log10().floor()).clamp(0., 6.) as usize;
        let text = format!("{value:.digits$}");
        if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { text.replace('-', "") } else { text }
    }
}

/// A round step, of which about four make a spread.
fn step(spread: f64) -> f64 {
    let rough = spread / 4.;
    let unit = 10f64.powf(rough.log10().floor());
    [1., 2., 5., 10.].into_iter().map(|n| n * unit).find(|step| *step >= rough).unwrap_or(rough)
}

pub(super) fn across(axis: &Axis, value: f64) -> f64 {
    ROOM[0] + axis.share(value) * (SIZE.0 - ROOM[0] - ROOM[2])
}

pub(super) fn up(axis: &Axis, value: f64) -> f64 {
    SIZE.1 - ROOM[3] - axis.share(value) * (SIZE.1 - ROOM[1] - ROOM[3])
}

/// The frame of a chart with its title; what is in it comes between.
pub(super) fn framed(title: &str, inside: &str) -> String {
    let (title, (width, height)) = (escape(title), SIZE);
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"{title}\"><text class=\"title\" x=\"{}\" y=\"16\">{title}</text>{inside}</svg>\n",
        ROOM[0]
    )
}

/// Lines across with their numbers at the left.
pub(super) fn levels(svg: &mut String, axis: &Axis, name: &str) {
    for tick in axis.ticks() {
        let y = up(axis, tick);
        let (left, right, text) = (ROOM[0], SIZE.0 - ROOM[2], axis.text(tick));
        let _ = write!(svg, "<path class=\"line\" d=\"M{left} {y:.1}H{right}\"/>");
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            left - 6.,
            y + 4.
        );
    }
    let middle = (ROOM[1] + SIZE.1 - ROOM[3]) / 2.;
    let name = escape(name);
    let _ = write!(
        svg,
        "<text class=\"name\" transform=\"translate(12 {middle}) rotate(-90)\" text-anchor=\"middle\">{name}</text>"
    );
}

/// Lines upwards with their numbers below.
pub(super) fn columns(svg: &mut String, axis: &Axis, name: &str) {
    let (top, bottom) = (ROOM[1], SIZE.1 - ROOM[3]);
    for tick in axis.ticks() {
        let (at, text) = (across(axis, tick), axis.text(tick));
        let _ = write!(svg, "<path class=\"line\" d=\"M{at:.1} {top}V{bottom}\"/>");
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            bottom + 15.
        );
    }
    let (middle, below, name) = ((ROOM[0] + SIZE.0 - ROOM[2]) / 2., SIZE.1 - 8., escape(name));
    let _ = write!(svg, "<text class=\"name\" x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{name}</text>");
}

/// Points of a line, at most: a chart has fewer pixels.
const POINTS: usize = 300;

/// A line of the colour of that number through points between the ends of the axes; what lies beyond them is cut.
pub(super) fn line(svg: &mut String, (x, y): (&Axis, &Axis), points: &[(f64, f64)], colour: usize) {
    let step = points.len().div_ceil(POINTS).max(1);
    let mut path = String::new();
    for (a, b) in points.iter().step_by(step) {
        let command = if path.is_empty() { 'M' } else { 'L' };
        let _ = write!(path, "{command}{:.1} {:.1}", across(x, *a), up(y, b.clamp(y.low, y.high)));
    }
    let _ = write!(svg, "<path class=\"course s{}\" d=\"{path}\"/>", colour % COLOURS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values_in_round_steps() {
        for values in [vec![0.401, 0.682], vec![1.3], vec![-0.02, 0.03], vec![0.5, 0.5001], vec![12., 980.]] {
            let axis = Axis::around(values.iter().copied()).unwrap();
            assert!(values.iter().all(|v| (0. ..=1.).contains(&axis.share(*v))), "{values:?}");
            assert!((3..=9).contains(&axis.ticks().count()), "{values:?} {}", axis.ticks().count());
            let texts: Vec<String> = axis.ticks().map(|tick| axis.text(tick)).collect();
            assert!(texts.windows(2).all(|pair| pair[0] != pair[1]), "{texts:?}");
        }
        assert!(Axis::around(std::iter::empty()).is_none());
        for high in [0., 0.07, 1., 20., 600.] {
            let axis = Axis::up_to(high);
            assert!(axis.low == 0. && axis.high >= high && (2..=6).contains(&axis.ticks().count()), "{high}");
        }
    }

    #[test]
    fn lines_stay_in_their_chart_and_are_short() {
        let axes = (Axis::up_to(2000.), Axis::up_to(1.));
        let points: Vec<_> = (0..2000).map(|i| (f64::from(i), if i == 0 { 9. } else { 0.5 })).collect();
        let mut svg = String::new();
        line(&mut svg, (&axes.0, &axes.1), &points, 9);
        assert!(svg.contains("class=\"course s1\"") && svg.matches('L').count() < POINTS, "{}", svg.len());
        assert!(svg.contains(&format!("M{:.1} {:.1}L", across(&axes.0, 0.), up(&axes.1, axes.1.high))), "{svg}");
    }
}
