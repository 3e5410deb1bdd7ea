//! What a job says: a JSON object a line, in a file that its process writes itself, so that a server may end and another
//! read on.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::pictures::reference;

/// Bytes that are read at once; also the longest line.
const PIECE: u64 = 1 << 20;

/// Reads a log from where it stands.
pub(super) struct Reader {
    path: PathBuf,
    /// Bytes that were read, up to the end of a line.
    pub at: u64,
}

impl Reader {
    pub(super) fn new(path: PathBuf, at: u64) -> Self {
        Self { path, at }
    }

    /// The whole lines that have come since, each with where the next begins. What does not open has none.
    pub(super) fn lines(&mut self) -> Vec<(u64, Value)> {
        let piece = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.at))?;
            let mut piece = Vec::new();
            file.take(PIECE).read_to_end(&mut piece)?;
            Ok(piece)
        };
        let piece = piece().unwrap_or_default();
        let whole = match piece.iter().rposition(|&byte| byte == b'\n') {
            Some(last) => &piece[..=last],
            None if piece.len() as u64 == PIECE => &piece[..], // no line is so long
            None => return Vec::new(),
        };
        let line = |line: &[u8]| {
            self.at += line.len() as u64;
            (self.at, understood(&String::from_utf8_lossy(line)))
        };
        whole.split_inclusive(|&byte| byte == b'\n').map(line).collect()
    }
}

/// A line as an event. What is no JSON was written by the system or by a panic, and is shown as it is.
fn understood(line: &str) -> Value {
    let plain = || json!({"event": "said", "text": line.trim_end()});
    let mut event: Value = serde_json::from_str(line).unwrap_or_else(|_| plain());
    if !event["event"].is_string() {
        event = plain();
    }
    if event["event"] == "picture" {
        let address = event["path"].as_str().and_then(|path| reference(Path::new(path)));
        event = json!({"event": "picture", "picture": address});
    }
    event
}

/// Points of a curve that a page is sent at most.
const MOST_POINTS: usize = 600;

/// What a whole log says.
#[derive(Default)]
pub(super) struct Summary {
    /// Texts in order, with their kinds.
    pub said: Vec<Value>,
    /// Steps of a training with their losses, thinned out.
    pub points: Vec<Value>,
    pub pictures: Vec<Value>,
    /// The last progress.
    pub progress: Option<Value>,
    /// How its last run ended: an exit code.
    pub end: Option<i64>,
    /// The last error.
    pub error: Option<String>,
    /// Bytes that were read.
    pub at: u64,
}

impl Summary {
    /// Reads a log.
    pub(super) fn of(path: PathBuf) -> Self {
        let mut reader = Reader::new(path, 0);
        let mut summary = Self::default();
        loop {
            let lines = reader.lines();
            if lines.is_empty() {
                break;
            }
            lines.into_iter().for_each(|(_, event)| summary.take(event));
        }
        summary.at = reader.at;
        let stride = summary.points.len().div_ceil(MOST_POINTS).max(1);
        let last = summary.points.len().saturating_sub(1);
        let mut i = 0usize..;
        summary.points.retain(|_| i.next().is_some_and(|i| i.is_multiple_of(stride) || i == last));
        summary
    }

    fn take(&mut self, event: Value) {
        match event["event"].as_str().unwrap_or_default() {
            "progress" => {
                if event["work"] == "Training" && event["values"].as_object().is_some_and(|values| !values.is_empty()) {
                    self.points.push(json!([event["done"], event["values"]]));
                }
                self.progress = Some(event);
            }
            "picture" if !event["picture"].is_null() => self.pictures.push(event["picture"].clone()),
            "end" => self.end = event["code"].as_i64(),
            "begin" => (self.end, self.error, self.progress) = (None, None, None),
            kind => {
                if kind == "error" {
                    self.error = event["text"].as_str().map(str::to_string);
                }
                self.said.push(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_come() -> anyhow::Result<()> {
        use std::io::Write;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("1.log");
        let mut file = File::create(&path)?;
        let mut reader = Reader::new(path.clone(), 0);
        assert!(reader.lines().is_empty());
        write!(file, "{{\"event\":\"info\",\"text\":\"a\"}}\nthread panicked\n{{\"event\":")?;
        let lines = reader.lines();
        assert_eq!(
            (lines.len(), &lines[1].1["event"], &lines[1].1["text"]),
            (2, &"said".into(), &"thread panicked".into())
        );
        assert!(reader.lines().is_empty());
        writeln!(file, "\"picture\",\"path\":\"outputs/samples/clock/a.png\"}}")?;
        assert_eq!(reader.lines()[0].1["picture"]["file"], "a.png");
        for step in 1..=1000 {
            let values = json!({"total": 1. / f64::from(step)});
            writeln!(
                file,
                "{}",
                json!({"event": "progress", "work": "Training", "done": step, "of": 1000, "values": values})
            )?;
        }
        writeln!(file, "{{\"event\":\"error\",\"text\":\"no\"}}\n{{\"event\":\"end\",\"code\":130}}")?;
        let summary = Summary::of(path);
        assert!(summary.points.len() <= MOST_POINTS + 1, "{}", summary.points.len());
        assert_eq!(summary.points.last().map(|point| &point[0]), Some(&1000.into()));
        assert_eq!((summary.end, summary.error.as_deref(), summary.pictures.len()), (Some(130), Some("no"), 1));
        Ok(())
    }
}
