//! Configuration files of models, checked while they are read: they may come from anybody.

use std::fmt::Display;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a configuration file says.
pub trait Config: DeserializeOwned {
    /// Settings that would change what is computed, with the only value of each that is served, as JSON; absent ones and
    /// null have no effect.
    const ONLY: &'static [(&'static str, &'static str)];

    /// Checks every value that something is divided by, counted to or allocated for.
    ///
    /// # Errors
    /// With the first key whose value makes no sense.
    fn check(&self) -> Result<()>;

    /// Reads and checks.
    ///
    /// # Errors
    /// If the text is no JSON, lacks a key or has one that is not served; the message names it.
    fn from_json(text: &str) -> Result<Self> {
        let all: Value = serde_json::from_str(text)?;
        ensure!(all.is_object(), "it is no JSON object");
        for (key, served) in Self::ONLY {
            let served: Value = serde_json::from_str(served).context(*key)?;
            let (Some(have), Some(want)) = (all.get(key), Some(&served)) else { continue };
            let same = have == want || matches!((have.as_f64(), want.as_f64()), (Some(a), Some(b)) if a == b);
            ensure!(same || have.is_null(), "{key} = {have} is not served, only {want}");
        }
        let config: Self = serde_json::from_value(all.clone()).map_err(|error| named::<Self>(all, error))?;
        config.check()?;
        Ok(config)
    }
}

/// The error with the key that it is about, which the parser does not tell: without it, it is another.
fn named<T: DeserializeOwned>(all: Value, error: serde_json::Error) -> anyhow::Error {
    let said = error.to_string();
    let Value::Object(all) = all else { return error.into() };
    // a file of more keys than any model has is not worth the search
    if all.len() > 1000 {
        return error.into();
    }
    let culprit = all.keys().find(|key| {
        let others = all.iter().filter(|(other, _)| other != key).map(|(key, value)| (key.clone(), value.clone()));
        serde_json::from_value::<T>(Value::Object(others.collect())).err().is_none_or(|error| error.to_string() != said)
    });
    match culprit {
        Some(key) => anyhow::Error::from(error).context(key.clone()),
        None => error.into(),
    }
}

/// Refuses a value outside `range`.
///
/// # Errors
/// If it is outside; the message names the key.
pub fn within<T: PartialOrd + Display>(key: &str, value: T, range: RangeInclusive<T>) -> Result<()> {
    if !range.contains(&value) {
        bail!("{key} = {value}: it must be from {} to {}", range.start(), range.end());
    }
    Ok(())
}

/// Refuses a number of `parts` that does not divide a `whole`, 0 included.
///
/// # Errors
/// If it does not; the message names the key.
pub fn divides(key: &str, parts: usize, whole: usize) -> Result<()> {
    ensure!(parts > 0 && whole.is_multiple_of(parts), "{key} = {parts}: it must divide {whole}");
    Ok(())
}

/// The most channels, layers and pixels or latents along a side that a model of this size of computer has.
pub const CHANNELS: RangeInclusive<usize> = 1..=1 << 14;
/// See [`CHANNELS`].
pub const LAYERS: RangeInclusive<usize> = 1..=100;
/// See [`CHANNELS`].
pub const SIDE: RangeInclusive<usize> = 1..=4096;
/// Epsilon of a normalisation.
pub const EPSILON: RangeInclusive<f64> = 1e-20..=1.;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clip::{ClipConfig, TowerConfig};
    use crate::model::unet::UnetConfig;
    use crate::model::vae::VaeConfig;
    use crate::model::vit::VitConfig;

    /// What is said of a configuration in which the value at `path` is another.
    fn said<T: Config>(whole: &str, path: &str, value: &str) -> String {
        let mut all: Value = serde_json::from_str(whole).expect("JSON");
        *all.pointer_mut(path).expect("a key") = serde_json::from_str(value).expect("JSON");
        T::from_json(&all.to_string()).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    /// Values of a number that is counted to, divided by or allocated for.
    const ABSURD: [&str; 7] = ["0", "-1", "1000000000000", "9223372036854775808", "1e300", "\"8\"", "1.5"];

    fn refuses<T: Config>(whole: &str, numbers: &[&str], others: &[(&str, &str)]) {
        T::from_json(whole).expect("the configuration itself");
        let absurd = numbers.iter().flat_map(|path| ABSURD.map(|value| (*path, value)));
        for (path, value) in absurd.chain(others.iter().copied()) {
            let said = said::<T>(whole, path, value);
            // the key, whatever it is in
            let key = path.split('/').nth(1).unwrap_or_default();
            let named =
                said.contains(key) || (key.ends_with("heads") || key.ends_with("dim")) && said.contains("heads");
            assert!(named, "{path} = {value}: {said}");
        }
    }

    #[test]
    fn absurd_numbers_are_refused() {
        refuses::<UnetConfig>(
            include_str!("../../assets/golden/model/unet/config.json"),
            &[
                "/sample_size",
                "/layers_per_block",
                "/block_out_channels/0",
                "/block_out_channels/3",
                "/cross_attention_dim",
                "/attention_head_dim",
                "/norm_num_groups",
                "/in_channels",
                "/out_channels",
            ],
            &[
                ("/block_out_channels", "[]"),
                ("/block_out_channels", "[16]"),
                ("/down_block_types", "[]"),
                ("/up_block_types/1", "\"AttnUpBlock2D\""),
                ("/attention_head_dim", "[4, 4, 0, 4]"),
                ("/attention_head_dim", "[4]"),
                ("/attention_head_dim", "5"),
                ("/num_attention_heads", "0"),
                ("/sample_size", "12"),
                ("/norm_num_groups", "5"),
                ("/norm_eps", "0"),
                ("/norm_eps", "-1e-5"),
                ("/freq_shift", "8"),
                ("/class_embed_type", "\"timestep\""),
                ("/addition_embed_type", "\"text_time\""),
                ("/time_cond_proj_dim", "256"),
                ("/dual_cross_attention", "true"),
                ("/in_channels", "9"),
            ],
        );
        refuses::<VaeConfig>(
            include_str!("../../assets/golden/model/vae/config.json"),
            &["/layers_per_block", "/block_out_channels/1", "/latent_channels", "/norm_num_groups", "/in_channels"],
            &[
                ("/block_out_channels", "[]"),
                ("/block_out_channels", "[8,8,8,8,8,8,8,8,8]"),
                ("/scaling_factor", "0"),
                ("/shift_factor", "0.1"),
            ],
        );
        let tower = |prefix: &str, keys: &[&str]| keys.iter().map(|key| format!("{prefix}/{key}")).collect::<Vec<_>>();
        let all = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
        let text = [&all[..], &["vocab_size", "max_position_embeddings"]].concat();
        let vision = [&all[..], &["image_size", "patch_size"]].concat();
        let clip =
            [tower("/text_config", &text), tower("/vision_config", &vision), tower("", &["projection_dim"])].concat();
        let clip: Vec<&str> = clip.iter().map(String::as_str).filter(|path| *path != "/projection_dim").collect();
        refuses::<ClipConfig>(include_str!("../../assets/golden/clip/config.json"), &clip, &[]);
        let text = tower("", &text);
        refuses::<TowerConfig>(
            include_str!("../../assets/golden/model/text_encoder/config.json"),
            &text.iter().map(String::as_str).collect::<Vec<_>>(),
            &[("/max_position_embeddings", "2"), ("/hidden_act", "\"relu\""), ("/layer_norm_eps", "0")],
        );
        let vision = tower("", &vision);
        refuses::<VitConfig>(
            include_str!("../../assets/golden/dino/config.json"),
            &vision.iter().map(String::as_str).collect::<Vec<_>>(),
            &[("/patch_size", "225"), ("/qkv_bias", "false")],
        );
    }
}
