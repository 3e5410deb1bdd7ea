//! Whether a scan of a baseline JPEG holds all of its blocks: a file that was cut and given an end marker again
//! looks whole, and decoders fill what is missing with gray.

/// Codes by their first 16 bits: length and symbol; length 0 is no code.
type Codes = Vec<(u8, u8)>;

/// What stands before a scan.
#[derive(Default)]
pub(super) struct Tables {
    /// Codes of the first coefficients and of the others, four of each.
    codes: [[Option<Codes>; 4]; 2],
    /// Units between two restart markers; 0: there are none.
    pub interval: usize,
}

/// A component of a frame.
#[derive(Clone, Copy)]
pub(super) struct Component {
    pub id: u8,
    /// Horizontal and vertical sampling factors.
    pub across: u64,
    pub down: u64,
}

impl Tables {
    /// Takes a segment of code tables.
    pub(super) fn define(&mut self, mut segment: &[u8]) {
        while let Some((head, rest)) = segment.split_at_checked(17) {
            let count: usize = head[1..].iter().map(|&n| n as usize).sum();
            let Some((symbols, rest)) = rest.split_at_checked(count) else { return };
            let mut codes = vec![(0, 0); 1 << 16];
            let (mut code, mut next) = (0usize, 0);
            for length in 1..=16usize {
                for &symbol in &symbols[next..next + head[length] as usize] {
                    let first = code << (16 - length);
                    if let Some(places) = codes.get_mut(first..first + (1 << (16 - length))) {
                        places.fill((length as u8, symbol));
                    }
                    code += 1;
                }
                next += head[length] as usize;
                code <<= 1;
            }
            self.codes[(head[0] >> 4 & 1) as usize][(head[0] & 3) as usize] = Some(codes);
            segment = rest;
        }
    }

    /// Whether all units of a scan are in `data`, which begins behind the scan's header. Where codes are damaged or
    /// missing nothing is known, and the decoder will tell.
    pub(super) fn is_whole(&self, header: &[u8], data: &[u8], frame: &[Component], size: (u64, u64)) -> bool {
        let Some((units, blocks)) = self.plan(header, frame, size) else { return true };
        let mut bits = Bits { data, at: 0, held: 0, count: 0, ended: false };
        for unit in 0..units {
            if self.interval > 0 && unit > 0 && unit % self.interval as u64 == 0 {
                bits.restart();
            }
            for &(first, others) in &blocks {
                let Some(size) = bits.symbol(first) else { return !bits.ended };
                bits.skip(size as u32);
                let mut k = 1;
                while k < 64 {
                    let Some(symbol) = bits.symbol(others) else { return !bits.ended };
                    let (run, size) = (symbol >> 4, symbol & 15);
                    if size == 0 && run < 15 {
                        break;
                    }
                    bits.skip(size as u32);
                    k += run as usize + 1;
                }
            }
        }
        !bits.ended
    }

    /// How many units a scan has, and the tables of each of a unit's blocks.
    #[allow(clippy::type_complexity)] // a pair of tables for each block
    fn plan(
        &self,
        header: &[u8],
        frame: &[Component],
        (width, height): (u64, u64),
    ) -> Option<(u64, Vec<(&Codes, &Codes)>)> {
        let most = |side: fn(&Component) -> u64| frame.iter().map(side).max().filter(|&n| n > 0);
        let (across, down) = (most(|c| c.across)?, most(|c| c.down)?);
        let (&count, entries) = header.split_first()?;
        let mut blocks = Vec::new();
        let mut units = width.div_ceil(8 * across) * height.div_ceil(8 * down);
        for entry in entries.chunks_exact(2).take(count as usize) {
            let component = frame.iter().find(|component| component.id == entry[0])?;
            let table = |kind: usize, at: u8| self.codes[kind].get(at as usize)?.as_ref();
            let tables = (table(0, entry[1] >> 4)?, table(1, entry[1] & 15)?);
            let mut repeat = component.across * component.down;
            if count == 1 {
                // alone, a component's blocks come one after the other
                let side = |size: u64, own: u64, all: u64| (size * own).div_ceil(all).div_ceil(8);
                units = side(width, component.across, across) * side(height, component.down, down);
                repeat = 1;
            }
            blocks.extend((0..repeat).map(|_| tables));
        }
        Some((units, blocks))
    }
}

/// Bits of a scan up to the next marker.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
    /// Whether more was asked for than there was.
    ended: bool,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 1; // a zero is stuffed behind it
                    0xff
                }
                (Some(0xff), _) | (None, _) => return,
                (Some(&byte), _) => byte,
            };
            self.at += 1;
            self.held = self.held << 8 | byte as u64;
            self.count += 8;
        }
    }

    /// The next symbol; nothing at the end of the data or where there is no such code.
    fn symbol(&mut self, codes: &Codes) -> Option<u8> {
        self.fill();
        // behind the end there are ones, as encoders pad
        let next = if self.count >= 16 {
            self.held >> (self.count - 16)
        } else {
            self.held << (16 - self.count) | ((1 << (16 - self.count)) - 1)
        };
        let (length, symbol) = codes[(next & 0xffff) as usize];
        if length as u32 > self.count || length == 0 && self.count < 16 {
            self.ended = true;
            return None;
        }
        self.count -= length as u32;
        (length > 0).then_some(symbol)
    }

    fn skip(&mut self, bits: u32) {
        self.fill();
        self.ended |= bits > self.count;
        self.count = self.count.saturating_sub(bits);
    }

    /// Goes on behind the next marker.
    fn restart(&mut self) {
        self.count = 0;
        let rest = self.data.get(self.at..).unwrap_or_default();
        let marker = rest.windows(2).position(|pair| pair[0] == 0xff && (0xd0..=0xd7).contains(&pair[1]));
        self.at = marker.map_or(self.data.len(), |marker| self.at + marker + 2);
    }
}
