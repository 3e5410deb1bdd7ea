//! A file's pixels as they are stored, and the memory that they may take.

use anyhow::{Result, bail};
use image::DynamicImage;
use image::metadata::Orientation;

/// Bytes that a picture may take in all the forms that it goes through; a photo of 12000 x 9000 pixels takes
/// 324 MB. A damaged header can ask for any amount, and memory that is not there ends the process.
pub(super) const LARGEST: u64 = 512 << 20;

/// A decoded file.
pub(super) struct Stored {
    /// The pixels as they are stored, in the file's own colours.
    pub image: DynamicImage,
    /// How they have to be turned to stand upright.
    pub orientation: Orientation,
    /// The profile that says what the colours mean.
    pub profile: Option<Vec<u8>>,
    /// Whether the colours come from a palette.
    pub indexed: bool,
    /// What the user should know, but can live with.
    pub warnings: Vec<String>,
}

impl Stored {
    /// Nothing yet, but for what stands beside the pixels.
    pub(super) fn of(orientation: Orientation, profile: Option<Vec<u8>>) -> Self {
        let (image, indexed, warnings) = (DynamicImage::new_rgb8(0, 0), false, Vec::new());
        Self { image, orientation, profile, indexed, warnings }
    }
}

/// Refuses what takes more memory than [`LARGEST`], before it is taken.
///
/// # Errors
/// If `bytes` are too many, or there are no pixels.
pub(super) fn check_size(width: u32, height: u32, bytes: u64) -> Result<()> {
    if width == 0 || height == 0 {
        bail!("it has no pixels");
    }
    if bytes > LARGEST {
        bail!(
            "{width}x{height} pixels are too many: they take {} MiB, and {} are allowed (make the picture smaller)",
            bytes >> 20,
            LARGEST >> 20
        );
    }
    Ok(())
}
