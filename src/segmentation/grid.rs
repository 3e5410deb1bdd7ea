//! The cheapest cut of a picture into two: Boykov and Kolmogorov's maximum flow (2004) on a grid of pixels, each tied to
//! its eight neighbours.

use std::collections::VecDeque;

/// Where the neighbours are; that at 7 - d is opposite to that at d.
pub(super) const NEIGHBOURS: [(i32, i32); 8] = [(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)];

/// More than all that can flow through a pixel: this one stays on its side.
pub(super) const HARD: i32 = 1 << 26;

/// Parents that are no neighbours: a terminal, none for lack of one, and none yet.
const TERMINAL: u8 = 8;
const ORPHAN: u8 = 9;
const NONE: u8 = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Free,
    Subject,
    Background,
}

/// A picture's pixels, and what it costs to part them.
pub(super) struct Grid {
    width: usize,
    height: usize,
    /// What is left to flow to each neighbour.
    left: Vec<[i32; 8]>,
    /// What is left to flow from the subject's terminal; to the background's where it is negative.
    terminal: Vec<i32>,
    tree: Vec<Tree>,
    parent: Vec<u8>,
    /// When the way to the terminal was last known, and how long it was then.
    known: Vec<(u32, u32)>,
    waits: Vec<bool>,
    active: VecDeque<usize>,
    orphans: VecDeque<usize>,
    time: u32,
}

impl Grid {
    /// Pixels without ties.
    pub(super) fn new(width: usize, height: usize) -> Self {
        let count = width * height;
        Self {
            width,
            height,
            left: vec![[0; 8]; count],
            terminal: vec![0; count],
            tree: vec![Tree::Free; count],
            parent: vec![NONE; count],
            known: vec![(0, 0); count],
            waits: vec![false; count],
            active: VecDeque::new(),
            orphans: VecDeque::new(),
            time: 0,
        }
    }

    /// How much rather a pixel is subject than background; at most [`HARD`] either way.
    pub(super) fn prefer(&mut self, pixel: usize, subject: i32) {
        self.terminal[pixel] = subject;
    }

    /// What parting a pixel from its neighbour in that direction costs, and the neighbour from it.
    pub(super) fn tie(&mut self, pixel: usize, direction: usize, cost: i32) {
        if let Some(other) = self.neighbour(pixel, direction) {
            self.left[pixel][direction] = cost;
            self.left[other][7 - direction] = cost;
        }
    }

    /// Which pixels are the subject's in the cheapest cut.
    pub(super) fn cut(mut self) -> Vec<bool> {
        for pixel in 0..self.terminal.len() {
            let tree = match self.terminal[pixel] {
                0 => continue,
                left if left > 0 => Tree::Subject,
                _ => Tree::Background,
            };
            self.tree[pixel] = tree;
            self.parent[pixel] = TERMINAL;
            self.known[pixel] = (0, 1);
            self.activate(pixel);
        }
        while let Some(&pixel) = self.active.front() {
            let met = if self.parent[pixel] == NONE { None } else { self.grow(pixel) };
            match met {
                Some((from, direction)) => {
                    self.time += 1;
                    self.augment(from, direction);
                    while let Some(orphan) = self.orphans.pop_front() {
                        self.adopt(orphan);
                    }
                }
                None => {
                    self.active.pop_front();
                    self.waits[pixel] = false;
                }
            }
        }
        self.tree.iter().map(|&tree| tree == Tree::Subject).collect()
    }

    fn neighbour(&self, pixel: usize, direction: usize) -> Option<usize> {
        let (dx, dy) = NEIGHBOURS[direction];
        let (x, y) = ((pixel % self.width) as i32 + dx, (pixel / self.width) as i32 + dy);
        let inside = (0..self.width as i32).contains(&x) && (0..self.height as i32).contains(&y);
        inside.then(|| y as usize * self.width + x as usize)
    }

    fn activate(&mut self, pixel: usize) {
        if !std::mem::replace(&mut self.waits[pixel], true) {
            self.active.push_back(pixel);
        }
    }

    /// What can flow between a pixel of a tree and a neighbour, in the direction in which its tree grows.
    fn outwards(&self, pixel: usize, direction: usize, other: usize) -> i32 {
        match self.tree[pixel] {
            Tree::Subject => self.left[pixel][direction],
            _ => self.left[other][7 - direction],
        }
    }

    /// Takes free neighbours into the pixel's tree. If it meets the other tree: the subject's pixel there, and the
    /// direction to the background's.
    fn grow(&mut self, pixel: usize) -> Option<(usize, usize)> {
        for direction in 0..8 {
            let Some(other) = self.neighbour(pixel, direction) else { continue };
            if self.outwards(pixel, direction, other) == 0 {
                continue;
            }
            let (time, length) = self.known[pixel];
            if self.tree[other] == Tree::Free {
                self.tree[other] = self.tree[pixel];
                self.parent[other] = 7 - direction as u8;
                self.known[other] = (time, length + 1);
                self.activate(other);
            } else if self.tree[other] != self.tree[pixel] {
                let from_subject = self.tree[pixel] == Tree::Subject;
                return Some(if from_subject { (pixel, direction) } else { (other, 7 - direction) });
            } else if self.known[other].0 <= time && self.known[other].1 > length + 1 {
                // a shorter way
                self.parent[other] = 7 - direction as u8;
                self.known[other] = (time, length + 1);
            }
        }
        None
    }

    /// The way from a pixel to its terminal: pixels with the direction to their parents, then the last.
    fn way(&self, mut pixel: usize) -> (Vec<(usize, usize)>, usize) {
        let mut way = Vec::new();
        while self.parent[pixel] < TERMINAL {
            let direction = self.parent[pixel] as usize;
            way.push((pixel, direction));
            match self.neighbour(pixel, direction) {
                Some(parent) => pixel = parent,
                None => break,
            }
        }
        (way, pixel)
    }

    /// Lets flow what can along the way between the terminals through a tie.
    fn augment(&mut self, from: usize, direction: usize) {
        let Some(to) = self.neighbour(from, direction) else { return };
        let ((above, source), (below, sink)) = (self.way(from), self.way(to));
        // towards the pixel above it, towards the parent below
        let arc_above =
            |grid: &Self, &(pixel, d): &(usize, usize)| grid.neighbour(pixel, d).map_or((pixel, d), |p| (p, 7 - d));
        let arcs: Vec<(usize, usize)> = above
            .iter()
            .map(|step| arc_above(self, step))
            .chain(below.iter().copied())
            .chain([(from, direction)])
            .collect();
        let narrowest = arcs.iter().map(|&(pixel, d)| self.left[pixel][d]).min().unwrap_or(0);
        let flow = narrowest.min(self.terminal[source]).min(-self.terminal[sink]);
        for (pixel, d) in arcs {
            self.left[pixel][d] -= flow;
            if let Some(other) = self.neighbour(pixel, d) {
                self.left[other][7 - d] += flow;
            }
        }
        self.terminal[source] -= flow;
        self.terminal[sink] += flow;
        let cut_off = |grid: &Self, &(pixel, d): &(usize, usize), above: bool| {
            let (at, way) = if above { arc_above(grid, &(pixel, d)) } else { (pixel, d) };
            grid.left[at][way] == 0
        };
        let mut orphans: Vec<usize> = above.iter().filter(|s| cut_off(self, s, true)).map(|s| s.0).collect();
        orphans.extend(below.iter().filter(|s| cut_off(self, s, false)).map(|s| s.0));
        orphans.extend([source, sink].into_iter().filter(|&end| self.terminal[end] == 0));
        for orphan in orphans {
            self.parent[orphan] = ORPHAN;
            self.orphans.push_back(orphan);
        }
    }

    /// How far it is to the terminal, if the way still leads there. Marks the way as known.
    fn distance(&mut self, start: usize) -> Option<u32> {
        let (mut pixel, mut length) = (start, 0);
        let end = loop {
            if self.known[pixel].0 == self.time {
                break length + self.known[pixel].1;
            }
            length += 1;
            match self.parent[pixel] {
                TERMINAL => {
                    self.known[pixel] = (self.time, 1);
                    break length;
                }
                ORPHAN | NONE => return None,
                direction => pixel = self.neighbour(pixel, direction as usize)?,
            }
        };
        let (mut pixel, mut left) = (start, end);
        while self.known[pixel].0 != self.time {
            self.known[pixel] = (self.time, left);
            left -= 1;
            pixel = self.neighbour(pixel, self.parent[pixel] as usize)?;
        }
        Some(end)
    }

    /// Finds a new parent for a pixel of a tree, or sets it free.
    fn adopt(&mut self, orphan: usize) {
        let mut best: Option<(u32, usize)> = None;
        for direction in 0..8 {
            let Some(other) = self.neighbour(orphan, direction) else { continue };
            if self.tree[other] != self.tree[orphan] || self.outwards(other, 7 - direction, orphan) == 0 {
                continue;
            }
            if let Some(length) = self.distance(other)
                && best.is_none_or(|(shortest, _)| length < shortest)
            {
                best = Some((length, direction));
            }
        }
        if let Some((length, direction)) = best {
            self.parent[orphan] = direction as u8;
            self.known[orphan] = (self.time, length + 1);
            return;
        }
        for direction in 0..8 {
            let Some(other) = self.neighbour(orphan, direction) else { continue };
            if self.tree[other] != self.tree[orphan] || self.parent[other] == NONE {
                continue;
            }
            if self.outwards(other, 7 - direction, orphan) > 0 {
                self.activate(other);
            }
            if self.parent[other] as usize == 7 - direction {
                self.parent[other] = ORPHAN;
                self.orphans.push_back(other);
            }
        }
        self.tree[orphan] = Tree::Free;
        self.parent[orphan] = NONE;
        self.known[orphan] = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::rng;

    /// What a cut costs.
    fn cost(width: usize, height: usize, terminal: &[i32], ties: &[[i32; 8]], subject: impl Fn(usize) -> bool) -> i64 {
        let mut cost = 0;
        let grid = Grid::new(width, height);
        for pixel in 0..terminal.len() {
            let against = if subject(pixel) { -terminal[pixel] } else { terminal[pixel] };
            cost += i64::from(against.max(0));
            for (direction, &tie) in ties[pixel].iter().enumerate().skip(4) {
                if grid.neighbour(pixel, direction).is_some_and(|other| subject(other) != subject(pixel)) {
                    cost += i64::from(tie);
                }
            }
        }
        cost
    }

    #[test]
    fn no_cut_is_cheaper() {
        let mut rng = rng::stream(3, "grid", 0);
        for (width, height) in [(1, 1), (4, 3), (3, 5), (5, 3), (1, 9)] {
            for _ in 0..40 {
                let count = width * height;
                let terminal: Vec<i32> = (0..count).map(|_| rng.random_range(-9..=9)).collect();
                let ties: Vec<[i32; 8]> = (0..count).map(|_| std::array::from_fn(|_| rng.random_range(0..6))).collect();
                let mut grid = Grid::new(width, height);
                for pixel in 0..count {
                    grid.prefer(pixel, terminal[pixel]);
                    (4..8).for_each(|direction| grid.tie(pixel, direction, ties[pixel][direction]));
                }
                let found = grid.cut();
                let found = cost(width, height, &terminal, &ties, |pixel| found[pixel]);
                let all = (0..1usize << count).map(|set| cost(width, height, &terminal, &ties, |p| set >> p & 1 == 1));
                assert_eq!(Some(found), all.min(), "{width}x{height} {terminal:?}");
            }
        }
    }

    #[test]
    fn hard_pixels_stay() {
        let mut grid = Grid::new(3, 1);
        grid.prefer(0, HARD);
        grid.prefer(1, -5);
        grid.prefer(2, -HARD);
        grid.tie(0, 4, 1000);
        grid.tie(1, 4, 10);
        assert_eq!(grid.cut(), [true, true, false]);
    }
}
