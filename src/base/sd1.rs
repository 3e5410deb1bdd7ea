//! Stable Diffusion 1.x's architecture: that of single files, which do not bring it, and of the base that is filled with
//! random weights, for measurements: the same work as the real thing, without its 4 GB.

/// The name of the base with random weights.
pub const RANDOM_SD14: &str = "random-sd14";

const UNET: &str = r#"{
    "sample_size": 64, "layers_per_block": 2, "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 768, "attention_head_dim": 8
}"#;
const VAE: &str = r#"{ "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2 }"#;
const TEXT: &str = r#"{
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "vocab_size": 49408
}"#;
const SCHEDULER: &str = r#"{
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "set_alpha_to_one": false, "clip_sample": false
}"#;

/// CLIP's byte-pair merges, of which its whole tokenizer follows.
pub(super) const MERGES: &str = include_str!("../../assets/clip/merges.txt");

/// Where the noise schedule is described.
pub(super) const SCHEDULER_FILE: &str = "scheduler/scheduler_config.json";

/// A configuration file.
pub(super) fn config(path: &str) -> Option<&'static str> {
    match path {
        "unet/config.json" => Some(UNET),
        "vae/config.json" => Some(VAE),
        "text_encoder/config.json" => Some(TEXT),
        SCHEDULER_FILE => Some(SCHEDULER),
        _ => None,
    }
}
