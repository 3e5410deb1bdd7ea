//! What the paper publishes, for the tables to stand beside what is measured.

use crate::evaluation::scores::{Group, Metric};

/// A row of the paper's tables.
pub struct Published {
    /// What plans call it.
    pub key: &'static str,
    /// What the paper calls it.
    pub name: &'static str,
    /// CLIP-T, CLIP-I and DINO-I of unstylised, then of stylised prompts.
    values: [[f64; 3]; 2],
}

/// What measured them.
pub const MEASURED_BY: &str = "paper, SD 1.4";

/// Table 1 and the table of figure 7; Custom Diffusion is A, the whole method F.
const ROWS: [Published; 10] = [
    row_of("textual-inversion", "Textual Inversion", [[0.725, 0.765, 0.537], [0.742, 0.698, 0.418]]),
    row_of("dreambooth", "DreamBooth", [[0.777, 0.788, 0.616], [0.795, 0.696, 0.467]]),
    row_of("a", "Custom Diffusion", [[0.770, 0.792, 0.634], [0.774, 0.718, 0.505]]),
    row_of("elite", "ELITE", [[0.756, 0.777, 0.589], [0.718, 0.741, 0.548]]),
    row_of("dreammatcher", "DreamMatcher", [[0.768, 0.792, 0.637], [0.766, 0.703, 0.503]]),
    row_of("b", "A + RRA", [[0.755, 0.822, 0.690], [0.746, 0.755, 0.591]]),
    row_of("c", "B + L_ra", [[0.755, 0.823, 0.691], [0.749, 0.757, 0.595]]),
    row_of("d", "C + FDTE", [[0.758, 0.805, 0.656], [0.772, 0.717, 0.513]]),
    row_of("e", "D + MDL", [[0.760, 0.811, 0.670], [0.765, 0.726, 0.537]]),
    row_of("f", "Equilibrated Diffusion", [[0.782, 0.810, 0.670], [0.790, 0.755, 0.584]]),
];

/// The rows of Table 1.
pub const METHODS: [&str; 6] = ["textual-inversion", "dreambooth", "a", "elite", "dreammatcher", "f"];

/// The rows of the ablations.
pub const ABLATIONS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Which of them are compared: each with what it adds a part to, the two losses with each other, the whole with nothing.
pub const STEPS: [[&str; 2]; 7] = [["b", "a"], ["c", "b"], ["d", "c"], ["e", "d"], ["f", "d"], ["f", "e"], ["f", "a"]];

/// The row of the whole method.
pub const WHOLE: &str = "f";

const fn row_of(key: &'static str, name: &'static str, values: [[f64; 3]; 2]) -> Published {
    Published { key, name, values }
}

/// A row by its key.
pub fn row(key: &str) -> Option<&'static Published> {
    ROWS.iter().find(|row| row.key == key)
}

/// All keys, for messages.
pub fn names() -> String {
    ROWS.map(|row| row.key).join(", ")
}

impl Published {
    /// A published value; the paper tells neither plain cosines nor what pictures should be.
    pub fn get(&self, group: Group, metric: Metric) -> Option<f64> {
        let list = match group {
            Group::Unstylised => self.values[0],
            Group::Stylised => self.values[1],
            Group::Other => return None,
        };
        match metric {
            Metric::ClipT => Some(list[0]),
            Metric::Cosine | Metric::ClipTrue | Metric::DinoTrue => None,
            Metric::ClipI => Some(list[1]),
            Metric::Dino => Some(list[2]),
        }
    }
}
