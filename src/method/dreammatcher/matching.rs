//! Which place of the reference each place of the picture looks like.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::subspace::leading;

/// Vectors [side * side, width] of the places of a square.
#[derive(Clone, Debug)]
pub struct Places {
    /// Places along a side.
    pub side: usize,
    /// Values of a place.
    pub width: usize,
    /// Row by row.
    pub values: Vec<f32>,
}

impl Places {
    /// Of a tensor [h, h, C].
    ///
    /// # Errors
    /// If it is no square.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let (side, columns, width) = tensor.dims3()?;
        if side != columns {
            bail!("{columns}x{side} places: only squares are matched");
        }
        let values = tensor.detach().to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        Ok(Self { side, width, values })
    }

    /// The same as a tensor [side * side, width].
    ///
    /// # Errors
    /// If there is no room.
    pub fn tensor(&self) -> Result<Tensor> {
        Tensor::from_slice(&self.values, (self.side * self.side, self.width), &Device::Cpu)
    }

    /// Bilinearly at another side. With `corners` the outermost places stay where they are.
    pub fn at(&self, side: usize, corners: bool) -> Self {
        if side == self.side {
            return self.clone();
        }
        let along = |i: usize| {
            let at = if corners {
                i as f32 * (self.side - 1) as f32 / (side.max(2) - 1) as f32
            } else {
                ((i as f32 + 0.5) * self.side as f32 / side as f32 - 0.5).max(0.)
            };
            let low = (at as usize).min(self.side - 1);
            (low, (low + 1).min(self.side - 1), at - low as f32)
        };
        let place = |y: usize, x: usize| &self.values[(y * self.side + x) * self.width..][..self.width];
        let mut values = Vec::with_capacity(side * side * self.width);
        for y in 0..side {
            let (top, bottom, down) = along(y);
            for x in 0..side {
                let (left, right, across) = along(x);
                let [a, b, c, d] = [place(top, left), place(top, right), place(bottom, left), place(bottom, right)];
                values.extend((0..self.width).map(|i| {
                    let upper = a[i] + (b[i] - a[i]) * across;
                    let lower = c[i] + (d[i] - c[i]) * across;
                    upper + (lower - upper) * down
                }));
            }
        }
        Self { side, values, ..*self }
    }

    /// With every vector of length 1.
    fn unit(mut self) -> Self {
        for place in self.values.chunks_mut(self.width) {
            let length = place.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            place.iter_mut().for_each(|x| *x /= length);
        }
        self
    }
}

/// What one picture's pass leaves of the up blocks 1 and 2, whose outputs are matched.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Up block 1, half the latents' side.
    pub second: Places,
    /// Up block 2, the latents' side.
    pub third: Places,
}

/// Unit descriptors of the places of reference and picture: both blocks' outputs, each on the principal directions of both
/// pictures together, `dims` of them (second, third), or all that there are.
///
/// # Errors
/// If sizes differ.
pub fn descriptors(reference: &Outputs, picture: &Outputs, dims: [usize; 2]) -> Result<[Places; 2]> {
    let side = reference.third.side;
    let wide = |outputs: &Outputs| outputs.second.at(side, true);
    let third = joint(&reference.third, &picture.third, dims[1])?;
    let second = joint(&wide(reference), &wide(picture), dims[0])?;
    let beside = |a: &Places, b: &Places| {
        let pairs = a.values.chunks(a.width).zip(b.values.chunks(b.width));
        let values = pairs.flat_map(|(a, b)| [a, b].concat()).collect();
        Places { side, width: a.width + b.width, values }.unit()
    };
    Ok([0, 1].map(|i| beside(&third[i], &second[i])))
}

/// Both on the first `dims` principal directions of all their vectors, centred together. Where those are all directions that
/// there are, the centred vectors themselves: they only differ by a turn, which no cosine sees.
fn joint(a: &Places, b: &Places, dims: usize) -> Result<[Places; 2]> {
    let (count, width) = (a.side * a.side, a.width);
    let all = Tensor::cat(&[a.tensor()?, b.tensor()?], 0)?.to_dtype(DType::F64)?;
    let centred = all.broadcast_sub(&all.mean_keepdim(0)?)?;
    let reduced = if dims >= width.min(2 * count) {
        centred
    } else {
        let covariance = centred.t()?.contiguous()?.matmul(&centred)?;
        centred.matmul(&leading(covariance.flatten_all()?.to_vec1()?, width, dims)?)?
    };
    let width = reduced.dim(1)?;
    let values = reduced.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let (first, second) = values.split_at(count * width);
    Ok([first, second].map(|values| Places { side: a.side, width, values: values.to_vec() }))
}

/// The correspondence of a picture with a reference at one side.
pub struct Match {
    /// Cosines [picture's places, reference's places].
    pub cosines: Tensor,
    /// The reference's place for each of the picture's.
    pub to_reference: Vec<u32>,
    /// The picture's place for each of the reference's.
    pub to_picture: Vec<u32>,
    /// How far, in places, each of the picture's places is from where its way to the reference and back ends.
    pub error: Vec<f32>,
}

impl Match {
    /// Of [`descriptors`], brought to `side`.
    ///
    /// # Errors
    /// If the cosines cannot be computed.
    pub fn new([reference, picture]: [&Places; 2], side: usize) -> Result<Self> {
        let [reference, picture] = [reference, picture].map(|places| places.at(side, false).unit());
        let cosines = picture.tensor()?.matmul(&reference.tensor()?.t()?)?;
        let to_reference = cosines.argmax(1)?.to_vec1::<u32>()?;
        let to_picture = cosines.argmax(0)?.to_vec1::<u32>()?;
        let away = |(place, &there): (usize, &u32)| {
            let back = to_picture[there as usize] as usize;
            let gap = |a: usize, b: usize| a.abs_diff(b) as f32;
            gap(back % side, place % side).hypot(gap(back / side, place / side))
        };
        let error = to_reference.iter().enumerate().map(away).collect();
        Ok(Self { cosines, to_reference, to_picture, error })
    }

    /// How much of the reference each place takes: the foreground, where the way there and back ends nearby. `threshold` is
    /// a share of the side and of the foreground's.
    pub fn keep(&self, foreground: &[f32], threshold: f32) -> Vec<f32> {
        let confident = self.confidence(foreground, threshold);
        confident.iter().zip(foreground).map(|(confident, foreground)| confident * foreground).collect()
    }

    /// 1 where the way to the reference and back ends nearby.
    pub fn confidence(&self, foreground: &[f32], threshold: f32) -> Vec<f32> {
        let side = foreground.len().isqrt() as f32;
        let limit = threshold * side * foreground.iter().sum::<f32>() / foreground.len() as f32;
        self.error.iter().map(|&error| (error < limit) as u8 as f32).collect()
    }
}

/// Attention that a word gets [n, n places] as a soft mask at `side`: stretched to [0, 1], nearest.
pub fn foreground(attention: &[f32], side: usize) -> Vec<f32> {
    let small = attention.len().isqrt();
    let (least, most) = attention.iter().fold((f32::MAX, f32::MIN), |(least, most), &x| (least.min(x), most.max(x)));
    let stretched = |x: f32| if most > least { (x - least) / (most - least) } else { 0. };
    let places = (0..side).flat_map(|y| (0..side).map(move |x| (y * small / side) * small + x * small / side));
    places.map(|place| stretched(attention[place])).collect()
}
