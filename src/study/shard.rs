//! A part of a study: one of several processes, on one machine or many, that share its folder.

use std::ops::Range;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// Part `index` (from 0) of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

/// A part as it is typed: `I/N`, or `/N` where the environment knows which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Typed {
    index: Option<usize>,
    count: usize,
}

impl FromStr for Typed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (index, count) = text.trim().split_once('/')?;
            let index = if index.is_empty() { None } else { Some(index.parse::<usize>().ok()?) };
            let count = count.parse::<usize>().ok()?;
            (count > 0 && index.is_none_or(|index| (1..=count).contains(&index))).then_some(Self { index, count })
        };
        parse().ok_or_else(|| "I/N with I from 1 to N, or /N where a cluster's job knows its I".into())
    }
}

impl Shard {
    /// Everything.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// The part that was typed, else the one that the variables of a cluster's job tell.
    ///
    /// # Errors
    /// If they contradict each other, or do not say how many parts there are.
    pub fn of(typed: Option<Typed>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| -> Result<Option<usize>> {
            let text = variable(name).filter(|text| !text.is_empty());
            text.map(|text| text.parse().with_context(|| format!("{name}={text} is no number"))).transpose()
        };
        if let Some(Typed { index: Some(index), count }) = typed {
            return Ok(Self { index: index - 1, count });
        }
        let (index, counted, source) = if let Some(task) = number("SLURM_ARRAY_TASK_ID")? {
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let index = task.checked_sub(first).context("SLURM_ARRAY_TASK_ID is below SLURM_ARRAY_TASK_MIN")? / step;
            (index, number("SLURM_ARRAY_TASK_COUNT")?, "SLURM_ARRAY_TASK_ID")
        } else if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            (index, None, "JOB_COMPLETION_INDEX")
        } else if let Some(Typed { count, .. }) = typed {
            bail!("--shard /{count} needs a job of Slurm or Kubernetes around it: give --shard I/{count}");
        } else {
            return Ok(Self::WHOLE);
        };
        let count = typed.map(|typed| typed.count).or(counted);
        let count = count.with_context(|| format!("{source} is {index}: give --shard /N with the number of parts"))?;
        ensure!(index < count, "{source} tells part {} of {count}: there are fewer", index + 1);
        Ok(Self { index, count })
    }

    /// Whether it is all there is.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }

    /// Its share of `all` things: neighbours, so that those of a subject stay together.
    pub fn share(self, all: usize) -> Range<usize> {
        let at = |index: usize| (all as u128 * index as u128 / self.count as u128) as usize;
        at(self.index)..at(self.index + 1)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(typed: Option<&str>, variables: &[(&str, &str)]) -> Result<String> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        let typed = typed.map(|text| text.parse().map_err(anyhow::Error::msg)).transpose()?;
        Ok(Shard::of(typed, variable)?.to_string())
    }

    #[test]
    fn parts_are_typed_or_told_by_the_job() -> Result<()> {
        let slurm = [("SLURM_ARRAY_TASK_ID", "6"), ("SLURM_ARRAY_TASK_MIN", "2"), ("SLURM_ARRAY_TASK_STEP", "2")];
        let counted = [&slurm[..], &[("SLURM_ARRAY_TASK_COUNT", "5")]].concat();
        let kubernetes = [("JOB_COMPLETION_INDEX", "0")];
        assert_eq!(of(None, &[])?, "1/1");
        assert_eq!(of(Some("2/3"), &counted)?, "2/3");
        assert_eq!(of(None, &counted)?, "3/5");
        assert_eq!(of(Some("/8"), &counted)?, "3/8");
        assert_eq!(of(Some("/4"), &kubernetes)?, "1/4");
        assert!(of(None, &kubernetes).is_err() && of(None, &slurm).is_err() && of(Some("/4"), &[]).is_err());
        assert!(of(Some("/2"), &counted).is_err());
        for wrong in ["0/2", "3/2", "1", "a/2", "1/0", "-1/2", "/"] {
            assert!(of(Some(wrong), &[]).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn parts_are_disjoint_and_whole() {
        for (all, count) in [(0, 3), (1, 3), (7, 3), (341, 64), (5, 5)] {
            let shares = (0..count).map(|index| Shard { index, count }.share(all));
            assert!(shares.clone().flatten().eq(0..all), "{all} {count}");
            let sizes: Vec<usize> = shares.map(|share| share.len()).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
    }
}
