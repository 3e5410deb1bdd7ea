//! The comment in a picture's EXIF data, where web UIs write in JPEG and WebP what PNG has texts for.

/// Where further entries are.
const EXIF_ENTRIES: u16 = 0x8769;
/// The comment.
const USER_COMMENT: u16 = 0x9286;

/// The user comment of EXIF data in the layout of TIFF.
pub(super) fn user_comment(exif: &[u8]) -> Option<String> {
    let little = exif.starts_with(b"II");
    let number = |at: usize, bytes: usize| {
        let value = exif.get(at..at.checked_add(bytes)?)?;
        let shifted = |sum: usize, byte: &u8| sum << 8 | *byte as usize;
        Some(if little { value.iter().rev().fold(0, shifted) } else { value.iter().fold(0, shifted) })
    };
    let entry = |list: usize, tag: u16| {
        let count = number(list, 2)?;
        (0..count).map(|i| list + 2 + 12 * i).find(|&at| number(at, 2) == Some(tag as usize))
    };
    let list = number(entry(number(4, 4)?, EXIF_ENTRIES)? + 8, 4)?;
    let comment = entry(list, USER_COMMENT)?;
    let (length, at) = (number(comment + 4, 4)?, number(comment + 8, 4)?);
    let (code, text) = exif.get(at..at.checked_add(length)?)?.split_at_checked(8)?;
    let text = match code {
        b"UNICODE\0" => wide(text),
        _ => String::from_utf8_lossy(text).into_owned(),
    };
    Some(text.trim_matches('\0').to_string())
}

/// Writers do not agree on the order of bytes: the one with more plain letters is meant.
fn wide(text: &[u8]) -> String {
    let of = |order: fn([u8; 2]) -> u16| text.chunks_exact(2).map(move |pair| order([pair[0], pair[1]]));
    let plain = |order: fn([u8; 2]) -> u16| of(order).filter(|unit| (32..127).contains(unit)).count();
    let order =
        if plain(u16::from_le_bytes) > plain(u16::from_be_bytes) { u16::from_le_bytes } else { u16::from_be_bytes };
    String::from_utf16_lossy(&of(order).collect::<Vec<_>>())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// EXIF data with a comment and nothing else.
    pub(crate) fn with_comment(code: &[u8; 8], text: &[u8]) -> Vec<u8> {
        let entry = |tag: u16, kind: u16, count: u32, value: u32| {
            [
                &1u16.to_be_bytes()[..],
                &tag.to_be_bytes(),
                &kind.to_be_bytes(),
                &count.to_be_bytes(),
                &value.to_be_bytes(),
            ]
            .concat()
        };
        let head = [b"MM\0*".as_slice(), &8u32.to_be_bytes()].concat();
        let first = [entry(EXIF_ENTRIES, 4, 1, 26), vec![0; 4]].concat();
        let second = [entry(USER_COMMENT, 7, 8 + text.len() as u32, 44), vec![0; 4]].concat();
        [head, first, second, code.to_vec(), text.to_vec()].concat()
    }

    #[test]
    fn comments_are_read_in_both_orders_of_bytes() {
        let text = "a dog\nin the snow, 日本";
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (code, content) in [(b"UNICODE\0", big), (b"UNICODE\0", little), (b"ASCII\0\0\0", text.as_bytes().to_vec())]
        {
            let exif = with_comment(code, &content);
            assert_eq!(user_comment(&exif).as_deref(), Some(text));
            for end in 0..exif.len() {
                user_comment(&exif[..end]);
            }
        }
        assert_eq!((user_comment(b""), user_comment(b"II*\0\xff\xff\xff\xff")), (None, None));
    }
}
