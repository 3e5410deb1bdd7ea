//! Stands in for `cuda` where it is not compiled in: no tensor is on such a device, so nobody gets here.

use candle_core::{CudaDevice, CudaStorage, Device, Error, Result, Tensor};

use super::place::Memory;
use super::weight::Precision;

/// Functions that say that they are not there.
macro_rules! absent {
    ($($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ty),*) -> $result:ty;)*) => {
        $($(#[$doc])* $visibility fn $name($(_: $argument),*) -> $result {
            Err(crate::ops::cuda::error())
        })*
    };
}

fn error() -> Error {
    Error::msg("this build has no CUDA kernels")
}

absent! {
    pub(crate) fn open(usize) -> Result<Device>;
    pub(crate) fn prepare(&CudaDevice, Precision) -> Result<()>;
    pub(crate) fn take(&mut CudaStorage) -> Result<CudaStorage>;
}

#[derive(Debug)]
pub(crate) enum OnDevice {}

impl OnDevice {
    absent! {
        pub(crate) fn of_linear(&Tensor, Precision) -> Result<Self>;
        pub(crate) fn of_convolution(&Tensor, Precision) -> Result<Self>;
    }

    pub(crate) fn values(&self) -> &Tensor {
        match *self {}
    }
}

pub(crate) fn memory(_: &CudaDevice) -> Option<Memory> {
    None
}

pub(crate) mod activation {
    use candle_core::{Result, Tensor};

    use crate::ops::activation::Curve;

    absent! {
        pub(crate) fn forward(Curve, &Tensor) -> Result<Tensor>;
        pub(crate) fn backward(Curve, &Tensor, &Tensor) -> Result<Tensor>;
        pub(crate) fn geglu_forward(&Tensor, &Tensor) -> Result<Tensor>;
        pub(crate) fn geglu_backward(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;
    }
}

pub(crate) mod adamw {
    use candle_core::{Result, Tensor};

    use crate::ops::adamw::{Settings, Trained};

    absent! {
        pub(crate) fn step(&mut [Trained], &Settings, usize) -> Result<Tensor>;
    }
}

pub(crate) mod attention {
    use candle_core::{Result, Tensor};

    use crate::ops::attention::Sizes;

    pub(crate) enum Kept {}

    pub(crate) fn serves(_: &Sizes, _: &Tensor) -> bool {
        false
    }

    absent! {
        pub(crate) fn forward(Sizes, [&Tensor; 3], Option<&Tensor>) -> Result<(Tensor, Kept)>;
        pub(crate) fn backward(Sizes, [&Tensor; 3], Option<&Tensor>, &Kept, [&Tensor; 2]) -> Result<[Tensor; 3]>;
    }
}

pub(crate) mod blend {
    use candle_core::{Result, Tensor};

    absent! {
        pub(crate) fn forward(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)>;
        pub(crate) fn backward(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)>;
    }
}

pub(crate) mod convolution {
    use candle_core::{Result, Tensor};

    use crate::ops::conv::{Around, Window};
    use crate::ops::cuda::OnDevice;
    use crate::ops::cuda::norm::Group;

    absent! {
        pub(crate) fn forward(&Tensor, &OnDevice, Option<&Tensor>, Window, &Around) -> Result<(Tensor, Option<Group>)>;
        pub(crate) fn backward(&Tensor, &OnDevice, Window, (usize, usize), Option<(usize, usize)>) -> Result<Tensor>;
    }
}

pub(crate) mod linear {
    use candle_core::{Result, Tensor};

    absent! {
        pub(crate) fn forward(&Tensor, &Tensor, Option<&Tensor>, Option<&Tensor>, &[usize]) -> Result<Tensor>;
        pub(crate) fn backward(&Tensor, &Tensor, Option<&Tensor>, &[usize]) -> Result<Tensor>;
        pub(crate) fn weight_gradient(&Tensor, &Tensor) -> Result<Tensor>;
        pub(crate) fn column_sums(&Tensor) -> Result<Tensor>;
    }
}

pub(crate) mod norm {
    use candle_core::{Result, Tensor};

    use crate::ops::norm::{GroupNorm, LayerNorm};

    pub(crate) enum Group {}

    impl Group {
        pub(crate) fn backward(&self, _: &GroupNorm, _: &Tensor, _: &Tensor) -> Result<Tensor> {
            match *self {}
        }
    }

    absent! {
        pub(crate) fn group_forward(&GroupNorm, &Tensor) -> Result<Tensor>;
        pub(crate) fn group_backward(&GroupNorm, &Tensor, &Tensor) -> Result<Tensor>;
        pub(crate) fn layer_forward(&LayerNorm, &Tensor) -> Result<Tensor>;
        pub(crate) fn layer_backward(&LayerNorm, &Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor>;
    }
}

pub(crate) mod report {
    use candle_core::CudaDevice;

    use crate::ops::place::Limits;

    pub(crate) fn cards() -> usize {
        0
    }

    pub(crate) fn limits(_: &CudaDevice) -> Option<Limits> {
        None
    }

    pub(crate) fn report() -> Vec<String> {
        vec!["This build has no CUDA: cargo build --release --features cuda makes one that has".into()]
    }
}
