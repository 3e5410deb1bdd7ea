//! What processors can do.

use std::sync::OnceLock;

use super::{amx, x86};

/// What this processor can do, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// 16 lanes, products of bf16 pairs summed in f32, and those of whole tiles.
    Amx,
    /// 16 lanes and products of bf16 pairs.
    Avx512Bf16,
    /// 16 lanes.
    Avx512,
    /// 8 lanes with fused multiply-add.
    Avx2,
    /// What the compiler makes of plain arrays: SSE2 on x86-64, NEON on aarch64.
    Portable,
}

/// The variable that forces a narrower level.
const VARIABLE: &str = "EQDIFF_SIMD";

impl Level {
    /// All, best first.
    pub const ALL: [Self; 5] = [Self::Amx, Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Portable];

    /// Its name, as `EQDIFF_SIMD` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Amx => "amx",
            Level::Avx512Bf16 => "avx512bf16",
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        }
    }

    /// The level that `EQDIFF_SIMD` asks for, if it is set.
    fn wanted() -> Result<Option<Self>, String> {
        match std::env::var(VARIABLE) {
            Err(std::env::VarError::NotPresent) => Ok(None),
            Ok(name) if name.is_empty() => Ok(None),
            Ok(name) => Self::named(&name).map(Some),
            Err(std::env::VarError::NotUnicode(name)) => Self::named(&name.to_string_lossy()).map(Some),
        }
    }

    fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|level| level.name() == name);
        found.ok_or_else(|| format!("{VARIABLE} is {name:?}: one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Whether `EQDIFF_SIMD`, if it is set, names a level; the program asks before it computes anything.
///
/// # Errors
/// If it does not. The message has the names that there are.
pub fn check_level() -> Result<(), String> {
    Level::wanted().map(|_| ())
}

/// The level in use: the processor's, or the one that `EQDIFF_SIMD` asks for if the processor has it.
pub fn level() -> Level {
    #[cfg(test)]
    if let Some(level) = crate::ops::testing::forced_level() {
        return level;
    }
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let best = detected();
        Level::wanted().ok().flatten().map_or(best, |level| level.max(best))
    })
}

/// The best level of this processor.
fn detected() -> Level {
    match x86::detect() {
        Level::Avx512Bf16 if amx::detect() => Level::Amx,
        level => level,
    }
}

/// The levels that tests can try here: the processor's and all narrower ones, or all where their instructions are played.
#[cfg(test)]
pub(crate) fn testable_levels() -> Vec<Level> {
    Level::ALL.into_iter().filter(|&level| x86::PLAYED || level >= detected()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_a_name_and_no_other_is_taken() {
        for level in Level::ALL {
            assert_eq!(Level::named(level.name()), Ok(level));
        }
        for name in ["avx", "AVX2", "sse", " "] {
            let error = Level::named(name).unwrap_err();
            assert!(Level::ALL.iter().all(|level| error.contains(level.name())) && error.contains(name), "{error}");
        }
    }
}
