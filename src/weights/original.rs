//! Single files in the layout of the first Stable Diffusion, as they are shared: the three models under prefixes, with
//! names of their own.

use anyhow::{Result, bail};

/// A model within the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The denoiser.
    Unet,
    /// The autoencoder.
    Vae,
    /// The text encoder.
    Text,
}

/// Where the layers of a numbered block are today.
#[derive(Clone, Copy)]
enum Blocks {
    /// The first `#` counts layers and downsamplers from 1 on, so many a level.
    Down,
    /// It counts layers, as many a level.
    Up,
    /// It counts levels.
    Level,
    /// It counts levels from the last on.
    Mirrored,
}

/// Beginnings of names: then and now. `#` is a number then; `{level}` and `{layer}` are what it is now.
type Beginnings = &'static [(&'static str, &'static str, Blocks)];
/// Parts of a layer: then and now.
type Layers = &'static [(&'static str, &'static str)];

const UNET: Beginnings = &[
    ("time_embed.0", "time_embedding.linear_1", Blocks::Level),
    ("time_embed.2", "time_embedding.linear_2", Blocks::Level),
    ("input_blocks.0.0", "conv_in", Blocks::Level),
    ("input_blocks.#.0.op", "down_blocks.{level}.downsamplers.0.conv", Blocks::Down),
    ("input_blocks.#.0", "down_blocks.{level}.resnets.{layer}", Blocks::Down),
    ("input_blocks.#.1", "down_blocks.{level}.attentions.{layer}", Blocks::Down),
    ("middle_block.0", "mid_block.resnets.0", Blocks::Level),
    ("middle_block.1", "mid_block.attentions.0", Blocks::Level),
    ("middle_block.2", "mid_block.resnets.1", Blocks::Level),
    ("output_blocks.#.0", "up_blocks.{level}.resnets.{layer}", Blocks::Up),
    ("output_blocks.#.1.conv", "up_blocks.{level}.upsamplers.0.conv", Blocks::Up),
    ("output_blocks.#.2.conv", "up_blocks.{level}.upsamplers.0.conv", Blocks::Up),
    ("output_blocks.#.1", "up_blocks.{level}.attentions.{layer}", Blocks::Up),
    ("out.0", "conv_norm_out", Blocks::Level),
    ("out.2", "conv_out", Blocks::Level),
];
const UNET_LAYERS: Layers = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

const VAE: Beginnings = &[
    ("encoder.conv_in", "encoder.conv_in", Blocks::Level),
    ("encoder.down.#.block", "encoder.down_blocks.{level}.resnets", Blocks::Level),
    ("encoder.down.#.downsample", "encoder.down_blocks.{level}.downsamplers.0", Blocks::Level),
    ("encoder.mid.block_1", "encoder.mid_block.resnets.0", Blocks::Level),
    ("encoder.mid.attn_1", "encoder.mid_block.attentions.0", Blocks::Level),
    ("encoder.mid.block_2", "encoder.mid_block.resnets.1", Blocks::Level),
    ("encoder.norm_out", "encoder.conv_norm_out", Blocks::Level),
    ("encoder.conv_out", "encoder.conv_out", Blocks::Level),
    ("decoder.conv_in", "decoder.conv_in", Blocks::Level),
    ("decoder.mid.block_1", "decoder.mid_block.resnets.0", Blocks::Level),
    ("decoder.mid.attn_1", "decoder.mid_block.attentions.0", Blocks::Level),
    ("decoder.mid.block_2", "decoder.mid_block.resnets.1", Blocks::Level),
    ("decoder.up.#.block", "decoder.up_blocks.{level}.resnets", Blocks::Mirrored),
    ("decoder.up.#.upsample", "decoder.up_blocks.{level}.upsamplers.0", Blocks::Mirrored),
    ("decoder.norm_out", "decoder.conv_norm_out", Blocks::Level),
    ("decoder.conv_out", "decoder.conv_out", Blocks::Level),
    ("quant_conv", "quant_conv", Blocks::Level),
    ("post_quant_conv", "post_quant_conv", Blocks::Level),
];
const VAE_LAYERS: Layers = &[
    ("nin_shortcut", "conv_shortcut"),
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
];

/// The names of the text encoder are today's.
const TEXT: Beginnings = &[("", "", Blocks::Level)];

impl Part {
    fn prefix(self) -> &'static str {
        match self {
            Self::Unet => "model.diffusion_model.",
            Self::Vae => "first_stage_model.",
            Self::Text => "cond_stage_model.transformer.",
        }
    }

    /// Names of this model's tensors, now and in the file.
    pub fn names<'a>(self, names: &[&'a str]) -> Vec<(String, &'a str)> {
        let (beginnings, layers) = match self {
            Self::Unet => (UNET, UNET_LAYERS),
            Self::Vae => (VAE, VAE_LAYERS),
            Self::Text => (TEXT, &[][..]),
        };
        let own: Vec<(&str, &str)> = names.iter().filter_map(|n| Some((n.strip_prefix(self.prefix())?, *n))).collect();
        let number = |beginning: &str, end: &str| {
            let of = |(name, _): &(&str, &str)| {
                name.strip_prefix(beginning).and_then(|rest| rest.split_once(end)).and_then(|(n, _)| n.parse().ok())
            };
            own.iter().filter_map(of).collect::<Vec<usize>>()
        };
        // the first downsampler is the last of the first level
        let per_level = number("input_blocks.", ".0.op.").into_iter().min().unwrap_or(usize::MAX);
        let levels = number("decoder.up.", ".block.").into_iter().max().map_or(1, |last| last.saturating_add(1));
        let place = |blocks: Blocks, n: usize| match blocks {
            Blocks::Down => (n.saturating_sub(1) / per_level.max(1), n.saturating_sub(1) % per_level.max(1)),
            Blocks::Up => (n / per_level.max(1), n % per_level.max(1)),
            Blocks::Level => (n, 0),
            Blocks::Mirrored => (levels.saturating_sub(n.saturating_add(1)), 0),
        };
        let today = |name: &str| {
            beginnings.iter().find_map(|&(then, now, blocks)| {
                let (n, rest) = after(name, then)?;
                let (level, layer) = place(blocks, n);
                let now = now.replace("{level}", &level.to_string()).replace("{layer}", &layer.to_string());
                Some(format!("{now}{}", with_layer(rest, layers)))
            })
        };
        own.iter().filter_map(|(name, full)| Some((today(name)?, *full))).collect()
    }
}

/// The number at `#` and what follows, if `name` begins so.
fn after<'a>(name: &'a str, beginning: &str) -> Option<(usize, &'a str)> {
    let (n, rest) = match beginning.split_once('#') {
        None => (0, name.strip_prefix(beginning)?),
        Some((before, behind)) => {
            let rest = name.strip_prefix(before)?;
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            (rest[..digits].parse().ok()?, rest[digits..].strip_prefix(behind)?)
        }
    };
    (rest.is_empty() || rest.starts_with('.') || beginning.is_empty()).then_some((n, rest))
}

/// `.0.nin_shortcut.weight` with the layer's part as it is called today.
fn with_layer(rest: &str, layers: Layers) -> String {
    for (then, now) in layers {
        if let Some((before, behind)) = rest.split_once(&format!(".{then}."))
            && before.trim_start_matches('.').bytes().all(|byte| byte.is_ascii_digit())
        {
            return format!("{before}.{now}.{behind}");
        }
    }
    rest.to_string()
}

/// Marks of files that are no Stable Diffusion 1.x: a part of a name, and what it is a sign of. The first that is found
/// counts.
const OTHERS: [(&str, &str); 22] = [
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("cond_stage_model.model.", "Stable Diffusion 2"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux"),
    ("double_stream_modulation", "Flux"),
    ("lora_unet_", "a LoRA, which changes a base but is none"),
    ("lora_te", "a LoRA, which changes a base but is none"),
    (".lora_", "a LoRA, which changes a base but is none"),
    (".lora.", "a LoRA, which changes a base but is none"),
    ("hada_w1", "a LoRA, which changes a base but is none"),
    ("lokr_w", "a LoRA, which changes a base but is none"),
    ("_custom_diffusion.", "a Custom Diffusion adapter, which changes a base but is none"),
    ("control_model.", "a ControlNet, which steers a base but is none"),
    ("controlnet_", "a ControlNet, which steers a base but is none"),
    ("emb_params", "an embedding, which changes a base but is none"),
    ("string_to_param", "an embedding, which changes a base but is none"),
    ("motion_modules.", "a motion module, which changes a base but is none"),
    ("image_proj.", "an IP-Adapter, which steers a base but is none"),
    ("vision_model.", "a CLIP, which is no base"),
    ("model.language_model.", "a language model, which is no base"),
    ("model.layers.", "a language model, which is no base"),
    ("transformer_blocks.0.attn.", "a diffusion transformer"),
];
/// Models that are alone in a file.
const ALONE: [(&str, &str); 4] = [
    ("time_embedding.linear_1.weight", "the UNet alone"),
    ("encoder.conv_in.weight", "a VAE alone"),
    ("text_model.embeddings.token_embedding.weight", "a text encoder alone"),
    ("embeddings.token_embedding.weight", "a text encoder alone"),
];

/// Refuses a file that is no Stable Diffusion 1.x with all that belongs to it.
///
/// # Errors
/// With what it is, or what it lacks.
pub(super) fn refuse_others<'a>(names: &[&str], shape: impl Fn(&str) -> Option<&'a [usize]>) -> Result<()> {
    let has = |part: Part| names.iter().any(|name| name.starts_with(part.prefix()));
    let need = "a base is Stable Diffusion 1.x: UNet, VAE and text encoder in one safetensors file in the original \
        layout, or a folder in the diffusers layout";
    if let Some((_, what)) = OTHERS.iter().find(|(mark, _)| names.iter().any(|name| name.contains(mark))) {
        bail!("it is {what}; {need}");
    }
    if let Some((_, what)) = ALONE.iter().find(|(mark, _)| names.contains(mark)) {
        bail!("it is {what}; {need}");
    }
    // an embedding has the name of its word
    if names.len() <= 2 && names.iter().any(|name| shape(name).is_some_and(|shape| shape.last() == Some(&768))) {
        bail!("it is an embedding, which changes a base but is none; {need}");
    }
    if ![Part::Unet, Part::Vae, Part::Text].into_iter().any(has) {
        bail!("its tensors ({}...) are those of no known model; {need}", names.first().unwrap_or(&"none"));
    }
    for (part, what) in [(Part::Unet, "UNet"), (Part::Vae, "VAE"), (Part::Text, "text encoder")] {
        if !has(part) {
            bail!("it has no {what} ({}*); {need}", part.prefix());
        }
    }
    match shape("model.diffusion_model.input_blocks.0.0.weight") {
        Some([_, 4, ..]) | None => {}
        Some([_, 8, ..]) => bail!("it edits pictures by instruction (8 channels of latents); {need}"),
        Some([_, 9, ..]) => bail!("it fills holes in pictures (inpainting, 9 channels of latents); {need}"),
        Some(shape) => bail!("its first kernel has shape {shape:?}; {need}"),
    }
    match shape("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight") {
        Some([_, 1024]) => bail!("it is Stable Diffusion 2; {need}"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_stable_diffusion_1() {
        let pairs = [
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.3.0.op.bias", "down_blocks.0.downsamplers.0.conv.bias"),
            ("input_blocks.5.0.in_layers.2.weight", "down_blocks.1.resnets.1.conv1.weight"),
            ("input_blocks.4.0.skip_connection.weight", "down_blocks.1.resnets.0.conv_shortcut.weight"),
            ("input_blocks.11.0.emb_layers.1.bias", "down_blocks.3.resnets.1.time_emb_proj.bias"),
            (
                "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight",
                "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight",
            ),
            ("middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
            ("middle_block.2.out_layers.3.weight", "mid_block.resnets.1.conv2.weight"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.5.1.proj_in.weight", "up_blocks.1.attentions.2.proj_in.weight"),
            ("output_blocks.5.2.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"),
            ("output_blocks.11.0.out_layers.0.weight", "up_blocks.3.resnets.2.norm2.weight"),
            ("time_embed.2.weight", "time_embedding.linear_2.weight"),
            ("out.2.bias", "conv_out.bias"),
        ];
        let full: Vec<String> = pairs.iter().map(|(then, _)| format!("model.diffusion_model.{then}")).collect();
        let full: Vec<&str> = full.iter().map(String::as_str).chain(["model_ema.decay", "betas"]).collect();
        let now: Vec<String> = Part::Unet.names(&full).into_iter().map(|(now, _)| now).collect();
        assert_eq!(now, pairs.map(|(_, now)| now));

        let pairs = [
            ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
            ("encoder.down.0.downsample.conv.bias", "encoder.down_blocks.0.downsamplers.0.conv.bias"),
            ("encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"),
            ("encoder.mid.attn_1.norm.weight", "encoder.mid_block.attentions.0.group_norm.weight"),
            ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
            ("decoder.mid.block_2.norm1.bias", "decoder.mid_block.resnets.1.norm1.bias"),
            ("decoder.up.3.block.2.conv1.weight", "decoder.up_blocks.0.resnets.2.conv1.weight"),
            ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
            ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
            ("post_quant_conv.weight", "post_quant_conv.weight"),
        ];
        let full: Vec<String> = pairs.iter().map(|(then, _)| format!("first_stage_model.{then}")).collect();
        let full: Vec<&str> = full.iter().map(String::as_str).collect();
        let now: Vec<String> = Part::Vae.names(&full).into_iter().map(|(now, _)| now).collect();
        assert_eq!(now, pairs.map(|(_, now)| now));
    }

    #[test]
    fn other_files_are_named() {
        let whole = ["model.diffusion_model.out.2.bias", "first_stage_model.x", "cond_stage_model.transformer.x"];
        assert!(refuse_others(&whole, |_| None).is_ok());
        let said = |names: &[&str], shape: &'static [usize]| {
            refuse_others(names, |_| Some(shape)).err().map_or(String::new(), |e| e.to_string())
        };
        for (name, what) in [
            ("conditioner.embedders.0.transformer.x", "it is Stable Diffusion XL"),
            ("cond_stage_model.model.transformer.resblocks.0.ln_1.bias", "it is Stable Diffusion 2"),
            ("model.diffusion_model.double_blocks.0.x", "it is Flux"),
            ("lora_unet_down_blocks_0.alpha", "it is a LoRA"),
            ("unet.up_blocks.0.attn1.to_k.lora_A.weight", "it is a LoRA"),
            ("control_model.zero_convs.0.0.bias", "it is a ControlNet"),
            ("encoder.conv_in.weight", "it is a VAE alone"),
            ("time_embedding.linear_1.weight", "it is the UNet alone"),
            ("text_model.embeddings.token_embedding.weight", "it is a text encoder alone"),
            ("emb_params", "it is an embedding"),
            ("<my-cat>", "it is an embedding"),
            ("model.diffusion_model.out.2.bias", "it has no VAE"),
            ("something.else", "no known model"),
        ] {
            let shape: &[usize] = if name.contains('<') { &[1, 768] } else { &[4] };
            let said = said(&[name], shape);
            assert!(said.contains(what) && said.contains("diffusers layout"), "{name}: {said}");
        }
        assert!(said(&whole, &[320, 9, 3, 3]).contains("inpainting"));
        assert!(said(&[], &[]).contains("no known model"));
    }
}
