//! Several files as one: a ZIP archive without compression, since pictures are compressed already.

use flate2::Crc;

/// Writes an archive piece by piece.
#[derive(Default)]
pub(super) struct Zip {
    /// What the end of the archive says of each file.
    directory: Vec<u8>,
    count: u16,
    /// Bytes that were given out.
    at: u32,
}

/// Names are UTF-8.
const UTF8: u16 = 1 << 11;

/// The first of January 1980, the earliest date there is: equal pictures give equal archives.
const DATE: u16 = 0x21;

impl Zip {
    /// A file with what stands before it; none where the archive becomes too large for its form (4 GiB, 65,535 files).
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Option<Vec<u8>> {
        let mut crc = Crc::new();
        crc.update(content);
        let length = u32::try_from(content.len()).ok()?;
        let mut common = Vec::new();
        for word in [20, UTF8, 0, 0, DATE] {
            common.extend(u16::to_le_bytes(word));
        }
        for long in [crc.sum(), length, length] {
            common.extend(long.to_le_bytes());
        }
        common.extend(u16::try_from(name.len()).ok()?.to_le_bytes());
        common.extend(0u16.to_le_bytes());
        let piece = [b"PK\x03\x04", &common[..], name.as_bytes(), content].concat();
        let next = self.at.checked_add(u32::try_from(piece.len()).ok()?)?;
        self.count = self.count.checked_add(1)?;
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(common);
        self.directory.extend([0; 10]); // no comment, first disk, no attributes
        self.directory.extend(self.at.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.at = next;
        Some(piece)
    }

    /// The end.
    pub(super) fn end(self) -> Vec<u8> {
        let mut end = self.directory.clone();
        end.extend(b"PK\x05\x06\0\0\0\0");
        end.extend(self.count.to_le_bytes());
        end.extend(self.count.to_le_bytes());
        end.extend((self.directory.len() as u32).to_le_bytes());
        end.extend(self.at.to_le_bytes());
        end.extend([0; 2]);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_it_should() {
        let mut zip = Zip::default();
        let mut bytes = zip.file("a.png", b"abc").expect("room");
        let second = bytes.len();
        bytes.extend(zip.file("b/\u{e9}.png", b"").expect("room"));
        let directory = bytes.len();
        bytes.extend(zip.end());
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]) as usize;
        let long = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let end = bytes.len() - 22;
        assert_eq!((&bytes[end..end + 4], word(end + 8), word(end + 10)), (&b"PK\x05\x06"[..], 2, 2));
        assert_eq!((long(end + 12) as usize, long(end + 16) as usize), (end - directory, directory));
        // each entry of the directory leads to its file
        assert_eq!((long(directory + 42), word(directory + 28)), (0, 5));
        let next = directory + 46 + 5;
        assert_eq!((&bytes[next..next + 4], long(next + 42) as usize), (&b"PK\x01\x02"[..], second));
        assert_eq!((long(14), long(18), &bytes[30..35], &bytes[35..38]), (0x3524_41c2, 3, &b"a.png"[..], &b"abc"[..]));
    }
}
