//! `eqdiff bench --count`: what a case asks of a CUDA device, told by a driver that counts.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// Kernels of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Family {
    launches: f64,
    /// Read and written, each value once for each launch.
    bytes: f64,
    /// Of products alone.
    flop: f64,
}

/// What one run of a case asks for.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Counts {
    case: String,
    families: BTreeMap<String, Family>,
    /// Of kernels.
    launches: f64,
    /// Of cuBLAS.
    products: f64,
    allocations: f64,
    uploads: f64,
    synchronisations: f64,
    /// The most bytes that were taken at once, weights included.
    peak: f64,
}

const GIB: f64 = (1u64 << 30) as f64;

impl Counts {
    /// The difference between two runs and one, each after one that warms up; `command` makes a process of so many.
    ///
    /// # Errors
    /// If a process fails, or the machine's driver does not count.
    pub(super) fn of(case: &str, command: impl Fn(u16) -> Result<Command>) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for what is counted")?;
        let report = |runs: u16| -> Result<String> {
            let path = folder.path().join(runs.to_string());
            let output = command(runs)?.env("PLAYED_RUN", "0").env("PLAYED_REPORT", &path).output();
            let output = output.context("cannot start this program again")?;
            if !output.status.success() {
                bail!("the case {case} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
            }
            std::fs::read_to_string(&path).context(
                "this machine's driver does not count: tests/cuda/driver has one that does, which \
                 scripts/check-cuda.sh driver builds and runs",
            )
        };
        Self::between(case, &report(1)?, &report(2)?)
    }

    fn between(case: &str, fewer: &str, more: &str) -> Result<Self> {
        let (before, mut after) = (Report::read(fewer)?, Report::read(more)?);
        for (name, family) in &mut after.families {
            let Family { launches, bytes, flop } = before.families.get(name).copied().unwrap_or_default();
            family.launches -= launches;
            family.bytes -= bytes;
            family.flop -= flop;
        }
        after.families.retain(|_, family| family.launches > 0.);
        let difference = |name| after.total(name) - before.total(name);
        Ok(Self {
            case: case.into(),
            launches: difference("launches"),
            products: difference("products"),
            allocations: difference("allocations"),
            uploads: difference("uploads"),
            synchronisations: difference("synchronisations"),
            peak: after.total("peak"),
            families: after.families,
        })
    }

    /// A table, the kinds that move most first, and a line of what there is beside kernels.
    pub(super) fn table(&self) -> String {
        let row = |name: &str, of: &Family| {
            format!("{name:<20} {:>8} {:>9.2} {:>9.3}\n", of.launches, of.bytes / GIB, of.flop / 1e12)
        };
        let mut families: Vec<_> = self.families.iter().collect();
        families.sort_by(|a, b| b.1.bytes.total_cmp(&a.1.bytes));
        let sum = |of: fn(&Family) -> f64| self.families.values().map(of).sum::<f64>();
        let all = Family { launches: sum(|of| of.launches), bytes: sum(|of| of.bytes), flop: sum(|of| of.flop) };
        let mut text = format!("{:<20} {:>8} {:>9} {:>9}\n", self.case, "launches", "GiB", "TFLOP");
        text.extend(families.iter().map(|(name, family)| row(name, family)));
        text += &row("all", &all);
        let Self { launches, products, allocations, uploads, synchronisations, peak, .. } = self;
        text + &format!(
            "{launches} launches, {products} products, {allocations} allocations, {uploads} uploads, {synchronisations} \
             synchronisations, peak {:.2} GiB",
            peak / GIB
        )
    }
}

/// What a driver reports of a process.
#[derive(Default)]
struct Report {
    totals: BTreeMap<String, f64>,
    families: BTreeMap<String, Family>,
}

impl Report {
    /// `total NAME COUNT` and `family LAUNCHES BYTES FLOP NAME`, a line each; others are for people.
    fn read(text: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in text.lines() {
            let number = |text: &str| text.parse::<f64>().with_context(|| format!("{line:?} in a driver's report"));
            match line.splitn(5, ' ').collect::<Vec<_>>()[..] {
                ["total", name, count] => {
                    report.totals.insert(name.into(), number(count)?);
                }
                ["family", launches, bytes, flop, name] => {
                    let family = Family { launches: number(launches)?, bytes: number(bytes)?, flop: number(flop)? };
                    report.families.insert(name.into(), family);
                }
                _ => {}
            }
        }
        Ok(report)
    }

    fn total(&self, name: &str) -> f64 {
        self.totals.get(name).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_the_difference_of_two_reports() {
        let one = "total launches 1\ntotal allocations 10\ntotal peak 2147483648\nfamily 3 100 2e12 products\nfamily 1 5 0 zeros\nkernel 3 a\n";
        let two = "total launches 3\ntotal allocations 14\ntotal peak 2147483648\nfamily 5 300 3e12 products\nfamily 1 5 0 zeros\n";
        let counts = Counts::between("step", one, two).expect("reports");
        let products = Family { launches: 2., bytes: 200., flop: 1e12 };
        assert_eq!(counts.families, BTreeMap::from([("products".to_string(), products)]));
        assert!(
            counts
                .table()
                .ends_with("\n2 launches, 0 products, 4 allocations, 0 uploads, 0 synchronisations, peak 2.00 GiB"),
            "{}",
            counts.table()
        );
        assert!(Counts::between("step", "family 1 x 0 zeros", "").is_err());
    }
}
