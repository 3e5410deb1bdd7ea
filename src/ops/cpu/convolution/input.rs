//! What a convolution reads.

/// Pixels [batch, height, width, channels] that are convolved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    /// Their values; with `doubled`, those of the pixels of half the size.
    pub(crate) values: &'a [f32],
    /// Samples.
    pub(crate) batch: usize,
    /// Size, doubled if `doubled`.
    pub(crate) height: usize,
    /// See `height`.
    pub(crate) width: usize,
    /// Values of a pixel.
    pub(crate) channels: usize,
    /// Whether each stored pixel stands for two by two.
    pub(crate) doubled: bool,
}

impl<'a> Input<'a> {
    /// Offset of a pixel.
    #[inline(always)]
    pub(crate) fn at(&self, sample: usize, y: usize, x: usize) -> usize {
        let pixel = if self.doubled {
            (sample * self.height.div_ceil(2) + y / 2) * self.width.div_ceil(2) + x / 2
        } else {
            (sample * self.height + y) * self.width + x
        };
        pixel * self.channels
    }

    /// `length` values from a pixel on.
    #[inline(always)]
    pub(crate) fn from(&self, sample: usize, y: usize, x: usize, length: usize) -> &'a [f32] {
        &self.values[self.at(sample, y, x)..][..length]
    }
}
