//! Drawing on several cards of a machine: a worker a card, which takes one block of pictures after the other. A block whose
//! card fails is another's.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use anyhow::{Error, Result};
use candle_core::{Device, DeviceLocation};

use super::{Drawn, Order, Style, blocks, draw};
use crate::base::Base;
use crate::machine::STACK;
use crate::method::Learned;

/// What is drawn with, on one card.
pub struct Set {
    /// The base.
    pub base: Rc<Base>,
    /// What was learnt.
    pub learned: Box<dyn Learned>,
}

/// Loads the same on another card, by its number. Each worker calls it once at most, in its own thread.
pub type Open<'a> = dyn Fn(usize) -> Result<Set> + Sync + 'a;

/// [`draw`], on the numbered `others` too if there is enough to draw. A picture is the same whichever card draws it, if
/// they are of one kind. A card that cannot be used, or fails, is told of, and the others draw what it had taken.
///
/// # Errors
/// As [`draw`], where no card is left.
pub fn draw_on_all(
    base: &Base,
    learned: &dyn Learned,
    others: Option<(&[usize], &Open)>,
    style: &Style,
    orders: &[Order],
    tell: impl FnMut(Drawn) -> Result<()>,
) -> Result<()> {
    // given noise lies on the card that it was read to
    let movable = orders.iter().all(|order| order.init_latents.is_none());
    let Some((others, open)) = others.filter(|(cards, _)| !cards.is_empty() && movable) else {
        return draw(base, learned, style, orders, tell);
    };
    let pool = Pool::new(blocks(base, learned, style, orders.len())?);
    let mut first = pool.take(false);
    std::thread::scope(|scope| {
        let (send, received) = channel();
        let mut workers = Vec::with_capacity(others.len());
        for &card in others {
            let (own, pool) = (send.clone(), &pool);
            let worker = Builder::new().stack_size(STACK);
            match worker.spawn_scoped(scope, move || work(card, open, pool, style, orders, &own)) {
                Ok(worker) => workers.push(worker),
                Err(error) => send.send(Said::Lost { card: format!("cuda:{card}"), steps: 0, error: error.into() })?,
            }
        }
        drop(send);
        let mut front = Front { told: vec![false; orders.len()], again: 0, cards: 1 + others.len(), tell };
        let mut own = || -> Result<()> {
            let mut lost = false;
            loop {
                let taken = first.take().or_else(|| if lost { None } else { pool.take(false) });
                let Some(mut taken) = taken else {
                    // others may give back what they have taken
                    let Ok(said) = received.recv() else { return Ok(()) };
                    front.hear(said)?;
                    continue;
                };
                let mut refused = false;
                let orders = &orders[taken.block.clone()];
                let drawn = draw(base, learned, style, orders, |drawn| {
                    let told = front.hear_all(&received).and_then(|()| front.tell(taken.moved(drawn)));
                    refused = told.is_err();
                    told
                });
                match drawn {
                    Ok(()) => taken.is_drawn = true,
                    Err(error) if refused => return Err(error),
                    Err(error) => {
                        lost = true;
                        let steps = taken.steps;
                        drop(taken); // before anybody hears of it
                        front.hear(Said::Lost { card: name(&base.device), steps, error })?;
                    }
                }
            }
        };
        let result = own();
        pool.close();
        drop(received); // whoever draws still has nobody to tell
        for worker in workers {
            // the scope's own end does not wait for what a thread gives back last: its library and its device
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        result
    })
}

/// Draws what there is with another card, until nothing is left or it fails.
fn work(card: usize, open: &Open, pool: &Pool, style: &Style, orders: &[Order], send: &Sender<Said>) {
    let mut set = None;
    while let Some(mut taken) = pool.take(true) {
        let mut block = || -> Result<()> {
            let Set { base, learned } = match &mut set {
                Some(set) => set,
                none => none.insert(open(card)?),
            };
            draw(base, learned.as_ref(), style, &orders[taken.block.clone()], |drawn| {
                Ok(send.send(Said::Drawn(taken.moved(drawn)))?)
            })
        };
        match block() {
            Ok(()) => taken.is_drawn = true,
            Err(error) => {
                let steps = taken.steps;
                drop(taken); // before anybody hears of it
                let _ = send.send(Said::Lost { card: format!("cuda:{card}"), steps, error }); // if anybody still listens
                return;
            }
        }
    }
}

/// A device as users call it.
fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// What the cards' workers say.
enum Said {
    Drawn(Drawn),
    /// A card failed, after so many steps of a block that it gave back.
    Lost {
        card: String,
        steps: usize,
        error: Error,
    },
}

/// What the caller is told, in its own thread: each picture and each step once.
struct Front<T> {
    /// Which pictures it was told of.
    told: Vec<bool>,
    /// Steps that it was told of and that are taken again.
    again: usize,
    /// Cards that are left.
    cards: usize,
    tell: T,
}

impl<T: FnMut(Drawn) -> Result<()>> Front<T> {
    fn tell(&mut self, drawn: Drawn) -> Result<()> {
        match &drawn {
            Drawn::Picture(i, _) | Drawn::Sketch(i, _) if self.told[*i] => return Ok(()),
            Drawn::Picture(i, _) => self.told[*i] = true,
            Drawn::Steps(steps) => {
                let known = self.again.min(*steps);
                self.again -= known;
                return (self.tell)(Drawn::Steps(steps - known));
            }
            Drawn::Sketch(..) | Drawn::Lost(_) => {}
        }
        (self.tell)(drawn)
    }

    fn hear(&mut self, said: Said) -> Result<()> {
        match said {
            Said::Drawn(drawn) => self.tell(drawn),
            Said::Lost { card, steps, error } => {
                self.again += steps;
                self.cards -= 1;
                if self.cards == 0 {
                    return Err(error.context(card));
                }
                self.tell(Drawn::Lost(format!("{card} draws no more, other cards draw what it had taken: {error:#}")))
            }
        }
    }

    fn hear_all(&mut self, received: &Receiver<Said>) -> Result<()> {
        received.try_iter().try_for_each(|said| self.hear(said))
    }
}

/// Blocks of pictures for whoever can draw.
struct Pool {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    left: VecDeque<Range<usize>>,
    /// Blocks that are being drawn.
    taken: usize,
    is_closed: bool,
}

impl Pool {
    fn new(blocks: impl Iterator<Item = Range<usize>>) -> Self {
        let state = State { left: blocks.collect(), taken: 0, is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The next block, if there is one; who `waits` gets those too that are given back.
    fn take(&self, waits: bool) -> Option<Taken<'_>> {
        let mut state = self.lock();
        loop {
            if let Some(block) = state.left.pop_front() {
                state.taken += 1;
                return Some(Taken { pool: self, block, steps: 0, is_drawn: false });
            }
            if !waits || state.taken == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing more is to be drawn.
    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.left.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block that is being drawn; one that was not drawn goes back.
struct Taken<'a> {
    pool: &'a Pool,
    block: Range<usize>,
    /// Steps that were told of.
    steps: usize,
    is_drawn: bool,
}

impl Taken<'_> {
    /// The same of the whole list.
    fn moved(&mut self, drawn: Drawn) -> Drawn {
        match drawn {
            Drawn::Steps(steps) => {
                self.steps += steps;
                Drawn::Steps(steps)
            }
            Drawn::Picture(i, picture) => Drawn::Picture(self.block.start + i, picture),
            Drawn::Sketch(i, picture) => Drawn::Sketch(self.block.start + i, picture),
            Drawn::Lost(text) => Drawn::Lost(text),
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.taken -= 1;
        if !self.is_drawn && !state.is_closed {
            state.left.push_front(self.block.clone());
        }
        self.pool.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use anyhow::{bail, ensure};
    use candle_core::Tensor;
    use image::RgbImage;

    use super::*;
    use crate::base::MINI;
    use crate::base::texts::Texts;
    use crate::method::eqdiff::rra::ReferenceNoise;
    use crate::method::{BaseAlone, Pass, Recorder};
    use crate::model::attention::{Attention, AttentionProcessor};
    use crate::ops::Precision;
    use crate::sampling::Special;
    use crate::settings::SamplerName;

    const STEPS: usize = 2;
    const PICTURES: usize = 3;

    /// The base alone on a card that fails after so many passes, and says so.
    struct Frail {
        passes: Cell<usize>,
        failed: Arc<AtomicBool>,
        /// Whether pictures are drawn one by one.
        singly: bool,
    }

    impl Frail {
        fn after(passes: usize, failed: &Arc<AtomicBool>) -> Self {
            Self { passes: passes.into(), failed: failed.clone(), singly: true }
        }

        /// A card that holds.
        fn never() -> Self {
            Self::after(usize::MAX, &Arc::default())
        }
    }

    impl Learned for Frail {
        fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> Result<Tensor> {
            BaseAlone.text(base, texts, prompt)
        }

        fn attention<'a>(&'a self, _: Pass<'a>) -> Box<dyn Recorder + 'a> {
            let left = self.passes.get();
            self.passes.set(left.saturating_sub(1));
            Box::new(Work { holds: left > 0, failed: &self.failed })
        }

        fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
            None
        }

        fn guides(&self, _: (usize, usize)) -> bool {
            self.singly
        }
    }

    struct Work<'a> {
        holds: bool,
        failed: &'a AtomicBool,
    }

    impl AttentionProcessor for Work<'_> {
        fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> candle_core::Result<Tensor> {
            if !self.holds {
                self.failed.store(true, Ordering::Relaxed);
                candle_core::bail!("out of memory");
            }
            Ok(self.watched_cross_attention(layer, x, text, None)?.0)
        }
    }

    impl Recorder for Work<'_> {}

    fn mini() -> Result<Base> {
        Base::load(MINI, true, &Device::Cpu, Precision::F32)
    }

    fn set(learned: Frail) -> Result<Set> {
        Ok(Set { base: mini()?.into(), learned: Box::new(learned) })
    }

    /// What the caller was told.
    #[derive(Debug, Default)]
    struct Told {
        pictures: Vec<Option<RgbImage>>,
        steps: usize,
        lost: Vec<String>,
    }

    /// What is told of pictures that this card draws and others; this one goes on when one has `failed`, if it shall.
    fn told((own, others): (&Frail, &[usize]), open: &Open, failed: Option<&AtomicBool>) -> Result<Told> {
        let style = Style {
            negative: "",
            sampler: SamplerName::Ddim,
            steps: STEPS,
            guidance: 4.,
            guidance_rescale: 0.,
            size: (64, 64),
            reference: None,
            reference_noise: ReferenceNoise::Clean,
            special: Special::default(),
        };
        let order = |seed| Order { prompt: "a red ball".into(), seed, init_latents: None };
        let orders: Vec<Order> = (0..PICTURES as u64).map(order).collect();
        let mut told = Told { pictures: vec![None; PICTURES], ..Told::default() };
        let begun = Instant::now();
        draw_on_all(&mini()?, own, Some((others, open)), &style, &orders, |drawn| {
            while failed.is_some_and(|failed| !failed.load(Ordering::Relaxed)) {
                ensure!(begun.elapsed() < Duration::from_secs(100), "nothing fails");
                std::thread::sleep(Duration::from_millis(1));
            }
            match drawn {
                Drawn::Steps(steps) => told.steps += steps,
                Drawn::Picture(i, picture) => {
                    ensure!(told.pictures[i].replace(picture).is_none(), "picture {i} is told of twice");
                }
                Drawn::Sketch(..) => bail!("nobody asked for sketches"),
                Drawn::Lost(text) => told.lost.push(text),
            }
            Ok(())
        })?;
        ensure!(told.pictures.iter().all(Option::is_some) && told.steps == PICTURES * STEPS, "{told:?}");
        Ok(told)
    }

    #[test]
    fn what_a_lost_card_had_taken_is_drawn_by_another() -> Result<()> {
        let whole = told((&Frail::never(), &[1]), &|_| set(Frail::never()), None)?;
        assert_eq!(whole.lost, [""; 0]);

        let failed: Arc<AtomicBool> = Arc::default();
        let closed = |_| -> Result<Set> {
            failed.store(true, Ordering::Relaxed);
            bail!("no such card")
        };
        let without = told((&Frail::never(), &[1]), &closed, Some(&failed))?;
        assert_eq!(without.pictures, whole.pictures);
        assert_eq!(without.lost, ["cuda:1 draws no more, other cards draw what it had taken: no such card"]);

        // the other card fails in the middle of a picture, then this one
        failed.store(false, Ordering::Relaxed);
        let without = told((&Frail::never(), &[1]), &|_| set(Frail::after(1, &failed)), Some(&failed))?;
        assert_eq!(without.pictures, whole.pictures);
        assert!(without.lost.len() == 1 && without.lost[0].starts_with("cuda:1 "), "{:?}", without.lost);
        let without = told((&Frail::after(1, &failed), &[1]), &|_| set(Frail::never()), None)?;
        assert_eq!(without.pictures, whole.pictures);
        assert!(without.lost.len() == 1 && without.lost[0].starts_with("cpu "), "{:?}", without.lost);
        Ok(())
    }

    #[test]
    fn a_picture_that_is_drawn_again_is_told_of_once() -> Result<()> {
        // all pictures are one block, of which the first other card draws one and a half
        let (own, opened) = (Frail { singly: false, ..Frail::after(1, &Arc::default()) }, AtomicUsize::new(0));
        let open = |_| match opened.fetch_add(1, Ordering::Relaxed) {
            0 => set(Frail::after(STEPS + 1, &Arc::default())),
            _ => set(Frail::never()),
        };
        assert_eq!(told((&own, &[1, 2]), &open, None)?.lost.len(), 2);
        Ok(())
    }

    #[test]
    fn without_any_card_it_fails() {
        let error = told((&Frail::after(1, &Arc::default()), &[1]), &|_| bail!("no such card"), None).err();
        let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error == "cuda:1: no such card" || error.starts_with("cpu: out of memory"), "{error}");
    }
}
