//! Progress on the standard error: bars on a terminal, a line now and then in a log, an object a line for programs.

use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{signals, told};
use crate::app::{Note, Observer};
use crate::images::steers;

/// How progress is shown.
pub(super) enum Shown {
    /// Bars for people.
    Bar(ProgressBar),
    /// Lines, the last at that time.
    Lines(Instant),
    /// JSON for programs, the last at that time.
    Json(Instant),
}

/// Shows what a use case tells, and asks the keyboard whether to stop.
pub(super) struct Console {
    shown: Shown,
    work: Work,
}

/// The work in hand.
#[derive(Default)]
struct Work {
    name: &'static str,
    units: usize,
    /// Done before it began here.
    before: usize,
    done: usize,
    began: Option<Instant>,
    values: String,
}

/// How often a log hears of progress.
const EVERY: Duration = Duration::from_secs(10);

/// How often a program hears of it.
const JSON_EVERY: Duration = Duration::from_millis(200);

impl Console {
    /// Listens to Ctrl-C from now on.
    pub(super) fn new(json: bool) -> Self {
        Self::asking(json, || {})
    }

    /// The same, and calls `asked` when Ctrl-C comes: for what does not ask whether to stop, but waits.
    pub(super) fn asking(json: bool, asked: impl Fn() + Send + 'static) -> Self {
        signals::listen(move || {
            let text = "Stopping soon; what is finished is kept (once more to stop at once)";
            say(&if json { event("info", text) } else { format!("\n{text}") });
            asked();
        });
        let now = Instant::now();
        let shown = match (json, stderr().is_terminal()) {
            (true, _) => Shown::Json(now),
            (false, true) => Shown::Bar(ProgressBar::hidden()),
            (false, false) => Shown::Lines(now),
        };
        Self { shown, work: Work::default() }
    }

    fn line(&self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| say(text)),
            _ => say(text),
        }
    }
}

impl Work {
    fn seconds_left(&self) -> Option<f64> {
        let took = self.began?.elapsed().as_secs_f64();
        let here = self.done.checked_sub(self.before).filter(|&done| done > 0)?;
        Some(took / here as f64 * self.units.saturating_sub(self.done) as f64)
    }

    fn describe(&self) -> String {
        let Self { name, units, done, values, .. } = self;
        let left = self.seconds_left().map(|left| format!(", {} left", clock(left))).unwrap_or_default();
        format!("{name} {done}/{units}{left}{values}")
    }
}

impl Observer for Console {
    fn tell(&mut self, note: Note) {
        if let Shown::Json(_) = self.shown {
            let path = |path: &Path| path.display().to_string();
            let json = match note {
                Note::Info(text) => event("info", text),
                Note::Warning(text) => event("warning", told(text)),
                Note::Picture(file) => harmless(&json!({"event": "picture", "path": path(file)})),
            };
            return self.line(&json);
        }
        match note {
            Note::Info(text) => self.line(text),
            Note::Warning(text) => self.line(&format!("Warning: {}", told(text))),
            Note::Picture(_) => {}
        }
    }

    fn begin(&mut self, work: &'static str, units: usize, done: usize) {
        self.work = Work { name: work, units, before: done, done, began: Some(Instant::now()), values: String::new() };
        if let Shown::Bar(bar) = &mut self.shown {
            *bar = ProgressBar::new(units as u64);
            if let Ok(style) = ProgressStyle::with_template("{msg:<18} {wide_bar} {pos}/{len}  {per_sec}  {eta} left") {
                bar.set_style(style);
            }
            bar.set_message(work);
            bar.set_position(done as u64);
            bar.reset_eta();
        }
    }

    fn advance(&mut self, units: usize, values: &[(&str, f64)]) {
        self.work.done += units;
        self.work.values = values.iter().map(|(name, value)| format!("  {name} {value:.3}")).collect();
        let last = self.work.done >= self.work.units;
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.inc(units as u64);
                if !values.is_empty() {
                    bar.set_message(format!("{}{}", self.work.name, self.work.values));
                }
            }
            Shown::Lines(told) if told.elapsed() >= EVERY && !last => {
                *told = Instant::now();
                self.line(&self.work.describe());
            }
            Shown::Json(told) if told.elapsed() >= JSON_EVERY || last || !values.is_empty() => {
                *told = Instant::now();
                let Work { name, units, done, .. } = &self.work;
                let values: serde_json::Map<_, _> = values.iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
                let left = self.work.seconds_left();
                let json = json!({"event": "progress", "work": name, "done": done, "of": units, "seconds_left": left,
                                  "values": values});
                self.line(&harmless(&json));
            }
            _ => {}
        }
    }

    fn end(&mut self) {
        match &self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Lines(_) if self.work.units > 0 => {
                let Work { name, units, done, began, values, .. } = &self.work;
                let took = clock(began.map_or(0., |began| began.elapsed().as_secs_f64()));
                self.line(&format!("{name} {done}/{units} in {took}{values}"));
            }
            _ => {}
        }
    }

    fn stopped(&self) -> bool {
        signals::stopped()
    }
}

/// An event with a text, for programs.
pub(super) fn event(kind: &str, text: &str) -> String {
    harmless(&json!({"event": kind, "text": text}))
}

/// The event with which what did not fail ends, for programs.
pub(super) fn end(code: u8) -> String {
    json!({"event": "end", "code": code}).to_string()
}

/// Writes a line to the standard error. Nobody may listen any more: that is no reason to stop working.
pub(super) fn say(line: &str) {
    let _ = writeln!(stderr(), "{}", printable(line));
}

/// Seconds as people read them: 1:05, 2:03:04.
fn clock(seconds: f64) -> String {
    let all = seconds.round() as u64;
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Text of several lines without what names and prompts from elsewhere could steer a terminal with.
pub(super) fn printable(text: &str) -> String {
    let sign = |c: char| if steers(c) && c != '\n' && c != '\t' { c.escape_default().to_string() } else { c.into() };
    text.chars().map(sign).collect()
}

/// JSON in a line, without what could steer a terminal: such characters are escaped as JSON does it, so that they
/// are still what they were.
fn harmless(json: &serde_json::Value) -> String {
    let sign = |c: char| match steers(c) {
        true => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>(),
        false => c.to_string(),
    };
    json.to_string().chars().map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_texts_are_readable() {
        assert_eq!([clock(5.4), clock(65.), clock(7384.)], ["0:05", "1:05", "2:03:04"]);
        assert_eq!(printable("a\x1b[31mb\nc\x07"), "a\\u{1b}[31mb\nc\\u{7}");
    }

    #[test]
    fn lines_for_programs_stay_json() -> Result<(), serde_json::Error> {
        let said = json!({"text": "a\u{9b}31m\u{202e}b\n\u{7f}\"日"});
        let line = printable(&harmless(&said));
        assert!(!line.contains(steers), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line)?, said);
        Ok(())
    }

    #[test]
    fn time_left_counts_what_was_done_here() {
        let began = Instant::now().checked_sub(Duration::from_secs(10));
        let work = Work { name: "Training", units: 100, before: 50, done: 60, began, values: "  total 0.5".into() };
        let left = work.seconds_left().unwrap_or_default();
        assert!((left - 40.).abs() < 1., "{left}");
        assert!(work.describe().starts_with("Training 60/100, 0:40 left"), "{}", work.describe());
        assert_eq!(Work { done: 50, ..work }.seconds_left(), None);
    }
}
