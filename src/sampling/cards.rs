//! Drawing on several cards of a machine: a worker a card, which takes one block of pictures after the other.

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use anyhow::{Context, Result, ensure};

use super::{Drawn, Order, Style, blocks, draw};
use crate::base::Base;
use crate::method::Learned;

/// What is drawn with, on one card.
pub struct Set {
    /// The base.
    pub base: Rc<Base>,
    /// What was learnt.
    pub learned: Box<dyn Learned>,
}

/// Loads the same on another card, by its number. Each worker calls it once, in its own thread.
pub type Open<'a> = dyn Fn(usize) -> Result<Set> + Sync + 'a;

/// [`draw`], on the numbered `others` too if there is enough to draw. A picture is the same whichever card draws it, if
/// they are of one kind.
///
/// # Errors
/// As [`draw`], also if a card cannot be used.
pub fn draw_on_all(
    base: &Base,
    learned: &dyn Learned,
    others: Option<(&[usize], &Open)>,
    style: &Style,
    orders: &[Order],
    mut tell: impl FnMut(Drawn) -> Result<()>,
) -> Result<()> {
    // given noise lies on the card that it was read to
    let movable = orders.iter().all(|order| order.init_latents.is_none());
    let Some((others, open)) = others.filter(|(cards, _)| !cards.is_empty() && !orders.is_empty() && movable) else {
        return draw(base, learned, style, orders, tell);
    };
    let blocks: Vec<Range<usize>> = blocks(base, learned, style, orders.len())?.collect();
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let (next, stopped, blocks) = (&next, &stopped, &blocks);
    let take = move || blocks.get(next.fetch_add(1, Ordering::Relaxed)).cloned();
    std::thread::scope(|scope| {
        let (send, received) = channel();
        // this card takes the first block
        for &card in others.iter().take(blocks.len() - 1) {
            let send = send.clone();
            scope.spawn(move || {
                let work = || -> Result<()> {
                    let Set { base, learned } = open(card)?;
                    while let Some(block) = take() {
                        draw(&base, learned.as_ref(), style, &orders[block.clone()], |drawn| {
                            ensure!(!stopped.load(Ordering::Relaxed), "stopped");
                            Ok(send.send(Ok(moved(drawn, block.start)))?)
                        })?;
                    }
                    Ok(())
                };
                if let Err(error) = work().with_context(|| format!("cuda:{card}")) {
                    let _ = send.send(Err(error)); // nobody listens where all has stopped
                }
            });
        }
        drop(send);
        let mut own = || -> Result<()> {
            while let Some(block) = take() {
                draw(base, learned, style, &orders[block.clone()], |drawn| {
                    received.try_iter().try_for_each(|said| tell(said?))?;
                    tell(moved(drawn, block.start))
                })?;
            }
            received.iter().try_for_each(|said| tell(said?))
        };
        let result = own();
        stopped.store(result.is_err(), Ordering::Relaxed);
        result
    })
}

/// The same of a list that begins at `first`.
fn moved(drawn: Drawn, first: usize) -> Drawn {
    match drawn {
        Drawn::Steps(steps) => Drawn::Steps(steps),
        Drawn::Picture(i, picture) => Drawn::Picture(first + i, picture),
        Drawn::Sketch(i, picture) => Drawn::Sketch(first + i, picture),
    }
}
