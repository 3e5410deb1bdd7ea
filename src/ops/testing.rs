//! What the unit tests of the operations share: numbers that are always the same, comparisons that notice a NaN, and
//! every level of the processor within one process.

use std::cell::{Cell, RefCell};

use candle_core::{Device, Result, Tensor, Var};
use rand_chacha::ChaCha8Rng;

use super::cpu::simd::{Level, testable_levels};
use crate::rng;

/// A source of tensors.
pub(crate) struct Draw(RefCell<ChaCha8Rng>);

impl Draw {
    /// Always the same for a test of that name.
    pub(crate) fn new(name: &str) -> Self {
        Self(RefCell::new(rng::stream(0, name, 0)))
    }

    /// Normal numbers with a standard deviation.
    pub(crate) fn normal(&self, shape: &[usize], deviation: f64) -> Result<Tensor> {
        rng::normal(shape, &mut self.0.borrow_mut(), &Device::Cpu)? * deviation
    }

    /// Such numbers as a variable.
    pub(crate) fn variable(&self, shape: &[usize], deviation: f64) -> Result<Var> {
        Var::from_tensor(&self.normal(shape, deviation)?)
    }

    /// Such numbers in plain memory.
    pub(crate) fn values(&self, count: usize) -> Vec<f32> {
        self.normal(&[count], 1.).and_then(|values| values.to_vec1()).expect("numbers")
    }
}

/// The greatest difference as a share of the greatest value, or of 1 if all are smaller; NaN if there is one.
pub(crate) fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let greatest = b.iter().fold(1f32, |greatest, b| greatest.max(b.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // `max` of f32 prefers numbers
    differences.fold(0f32, |worst, d| if d > worst || d.is_nan() { d } else { worst }) / greatest
}

/// Panics unless `a` is `b` within `bound`, in the sense of [`gap`].
pub(crate) fn assert_close(a: &Tensor, b: &Tensor, bound: f32, what: &str) -> Result<()> {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let gap = gap(&a.flatten_all()?.to_vec1()?, &b.flatten_all()?.to_vec1()?);
    assert!(gap < bound, "{what}: {gap}");
    Ok(())
}

/// Panics unless two results agree, and the gradients of `variables` from a random gradient of theirs.
pub(crate) fn assert_alike(
    [fast, slow]: [&Tensor; 2],
    variables: &[&Var],
    draw: &Draw,
    bound: f32,
    what: &str,
) -> Result<()> {
    assert_close(fast, slow, bound, what)?;
    let dy = draw.normal(fast.dims(), 1.)?;
    let gradients = |y: &Tensor| (y * &dy)?.sum_all()?.backward();
    let (fast, slow) = (gradients(fast)?, gradients(slow)?);
    for (i, variable) in variables.iter().enumerate() {
        let [fast, slow] = [&fast, &slow].map(|all| all.get(variable).expect("a gradient"));
        assert_close(fast, slow, bound, &format!("{what}, gradient {i}"))?;
    }
    Ok(())
}

thread_local! {
    static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
}

/// The level that this thread computes at, if [`at_every_level`] started it.
pub(crate) fn forced_level() -> Option<Level> {
    FORCED.get()
}

/// Runs `test` at every level that this machine has, or this build plays, on threads of its own.
pub(crate) fn at_every_level(test: impl Fn() -> Result<()> + Sync) {
    for level in testable_levels() {
        eprintln!("at {}", level.name());
        let pool = rayon::ThreadPoolBuilder::new().start_handler(move |_| FORCED.set(Some(level)));
        pool.build().expect("threads").install(&test).expect("no error");
    }
}
