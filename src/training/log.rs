//! The losses of a training, step by step: as CSV and as a picture.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::events;
use crate::files::read_text;
use crate::report::loss_curve;

/// One step's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The step, from 1.
    pub step: usize,
    /// The total and the loss terms, in the order of the log's names; none where a term does not apply.
    pub losses: Vec<Option<f64>>,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
}

/// All records of a training.
pub struct Log {
    names: Vec<&'static str>,
    records: Vec<Record>,
}

impl Log {
    /// An empty log of the total and of those terms.
    pub fn new(terms: &[&'static str]) -> Self {
        Self { names: [&["total"], terms].concat(), records: Vec::new() }
    }

    /// Names of the losses.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Reads what an interrupted training logged up to step `steps`.
    ///
    /// # Errors
    /// If the file is missing or damaged, or was written by a training with other terms.
    pub fn read(&mut self, path: &Path, steps: usize) -> Result<()> {
        let damaged = || format!("{} is damaged", path.display());
        let text = read_text(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        if !reader.headers().with_context(damaged)?.iter().eq(self.header()) {
            bail!("{} has other columns than {}", path.display(), self.header().collect::<Vec<_>>().join(","));
        }
        for row in reader.records() {
            let row = row.with_context(damaged)?;
            let number = |i: usize| match row.get(i).unwrap_or_default() {
                "" => Ok(None),
                field => field.parse::<f64>().map(Some).with_context(damaged),
            };
            let step = number(0)?.with_context(|| format!("{} has a row without a step", path.display()))? as usize;
            if step <= steps {
                let losses = (1..=self.names.len()).map(number).collect::<Result<_>>()?;
                let gradient_norm = number(self.names.len() + 1)?.unwrap_or(f64::NAN);
                self.records.push(Record { step, losses, gradient_norm });
            }
        }
        Ok(())
    }

    /// Adds a step's losses, named in any order.
    ///
    /// # Errors
    /// If a loss is of no name that is known; the message has the step and the name.
    pub fn push(&mut self, step: usize, losses: &[(&str, f64)], gradient_norm: f64) -> Result<()> {
        let mut values = vec![None; self.names.len()];
        for (name, value) in losses {
            let Some(i) = self.names.iter().position(|known| known == name) else {
                bail!("the loss {name} of step {step} has no place in the log");
            };
            values[i] = Some(*value);
        }
        self.records.push(Record { step, losses: values, gradient_norm });
        Ok(())
    }

    /// The last step.
    pub fn last(&self) -> Option<&Record> {
        self.records.last()
    }

    fn header(&self) -> impl Iterator<Item = &str> {
        ["step"].into_iter().chain(self.names.iter().copied()).chain(["gradient_norm"])
    }

    /// The log as CSV.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(self.header())?;
        for record in &self.records {
            let losses = record.losses.iter().map(|loss| loss.map(|l| l.to_string()).unwrap_or_default());
            let row: Vec<String> =
                [record.step.to_string()].into_iter().chain(losses).chain([record.gradient_norm.to_string()]).collect();
            writer.write_record(row)?;
        }
        writer.into_inner().context("cannot write the losses as CSV")
    }

    /// The log as TensorBoard reads it.
    pub fn events(&self) -> Vec<u8> {
        events::file(self.records.iter().map(|record| {
            let losses = self.names.iter().zip(&record.losses).filter_map(|(name, loss)| Some((*name, (*loss)?)));
            (record.step, losses.chain([("gradient_norm", record.gradient_norm)]))
        }))
    }

    /// The losses that there are by name, as (step, value).
    pub fn series(&self) -> Vec<(&'static str, Vec<(f64, f64)>)> {
        let points = |i: usize| self.records.iter().filter_map(move |r| Some((r.step as f64, r.losses[i]?)));
        let series = self.names.iter().enumerate().map(|(i, name)| (*name, points(i).collect::<Vec<_>>()));
        series.filter(|(_, points)| !points.is_empty()).collect()
    }

    /// Draws the losses.
    ///
    /// # Errors
    /// If the picture cannot be written.
    pub fn draw(&self, path: &Path) -> Result<()> {
        loss_curve(path, &self.series())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_where_it_stopped() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("loss.csv");
        let mut log = Log::new(&["denoise", "prior"]);
        log.push(1, &[("denoise", 0.5), ("total", 0.75)], 1.)?;
        log.push(2, &[("total", 0.5), ("prior", 0.25), ("denoise", 0.25)], 2.)?;
        std::fs::write(&path, log.csv()?)?;
        assert_eq!(std::fs::read_to_string(&path)?.lines().next(), Some("step,total,denoise,prior,gradient_norm"));
        let mut again = Log::new(&["denoise", "prior"]);
        again.read(&path, 1)?;
        assert_eq!(again.records, log.records[..1]);
        assert_eq!(again.records[0].losses, [Some(0.75), Some(0.5), None]);
        assert!(Log::new(&["other"]).read(&path, 1).is_err());
        std::fs::write(&path, "step,total,denoise,prior,gradient_norm\n1,0.7x,0.5,,1\n")?;
        assert!(Log::new(&["denoise", "prior"]).read(&path, 1).is_err_and(|e| e.to_string().contains("damaged")));
        assert!(log.push(3, &[("unheard of", 1.)], 0.).unwrap_err().to_string().contains("unheard of"));
        Ok(())
    }
}
