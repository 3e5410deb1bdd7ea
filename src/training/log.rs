//! The loss curve as CSV and as a picture.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files::write_whole;
use crate::report::loss_curve;

/// One step's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The step, from 1.
    pub step: usize,
    /// The loss terms in the order of [`TERMS`]; none where a term does not apply.
    pub losses: [Option<f64>; TERMS.len()],
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
}

/// Names of the loss terms.
pub const TERMS: [&str; 5] = ["total", "denoise", "prior", "reference", "cross"];

/// All records of a training, on disk beside the adapter.
pub struct Log {
    folder: PathBuf,
    records: Vec<Record>,
}

impl Log {
    /// An empty log.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), records: Vec::new() }
    }

    /// The log of an interrupted training, up to `steps`.
    ///
    /// # Errors
    /// If `loss.csv` is missing or damaged.
    pub fn resume(folder: &Path, steps: usize) -> Result<Self> {
        let path = folder.join("loss.csv");
        let mut log = Self::new(folder);
        let mut reader = csv::Reader::from_path(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for row in reader.records() {
            let row = row.with_context(|| format!("{} is damaged", path.display()))?;
            let number = |i: usize| row.get(i).and_then(|field| field.parse::<f64>().ok());
            let step = number(0).with_context(|| format!("{} has a row without a step", path.display()))? as usize;
            if step <= steps {
                let losses = std::array::from_fn(|i| number(i + 1));
                log.records.push(Record { step, losses, gradient_norm: number(TERMS.len() + 1).unwrap_or(f64::NAN) });
            }
        }
        Ok(log)
    }

    /// Adds a step.
    pub fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    /// Writes `loss.csv` and `loss.png`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save(&self) -> Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = ["step"].into_iter().chain(TERMS).chain(["gradient_norm"]);
        writer.write_record(header)?;
        for record in &self.records {
            let losses = record.losses.iter().map(|loss| loss.map(|l| l.to_string()).unwrap_or_default());
            let row: Vec<String> =
                [record.step.to_string()].into_iter().chain(losses).chain([record.gradient_norm.to_string()]).collect();
            writer.write_record(row)?;
        }
        let bytes = writer.into_inner().context("cannot write the losses as CSV")?;
        write_whole(&self.folder.join("loss.csv"), &bytes)?;
        let series: Vec<(&str, Vec<(f64, f64)>)> = TERMS
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let points = self.records.iter().filter_map(|r| Some((r.step as f64, r.losses[i]?)));
                (*name, points.collect::<Vec<_>>())
            })
            .filter(|(_, points)| !points.is_empty())
            .collect();
        loss_curve(&self.folder.join("loss.png"), &series)
    }
}
