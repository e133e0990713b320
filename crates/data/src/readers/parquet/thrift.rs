//! The little of Thrift's compact protocol that tells whether a Parquet file asks for more memory or stack than it may, before the library reads it

/// How deep columns may be nested.
const DEPTH_MAX: usize = 32;

/// Columns and groups of a schema.
const ELEMENTS_MAX: u64 = 100_000;

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Reads values one after another. None where the bytes end or are none of the protocol.
struct Compact<'a> {
    bytes: &'a [u8],
}

impl<'a> Compact<'a> {
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(usize::try_from(count).ok()?)?;
        self.bytes = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        self.varint().map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field of a structure, as its number and type; none at the end.
    fn field(&mut self, last: &mut i64) -> Option<Option<(i64, u8)>> {
        let header = self.byte()?;
        if header == 0 {
            return Some(None);
        }
        *last = match header >> 4 {
            0 => self.integer()?,
            delta => last.checked_add(i64::from(delta))?,
        };
        Some(Some((*last, header & 0x0f)))
    }

    /// The length of a list and the type of its elements.
    fn list(&mut self) -> Option<(u64, u8)> {
        let header = self.byte()?;
        let length = if header >> 4 == 15 { self.varint()? } else { u64::from(header >> 4) };
        Some((length, header & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match kind {
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => drop(self.take(8)?),
            8 => {
                let length = self.varint()?;
                self.take(length)?;
            }
            LIST | 10 => {
                let (length, kind) = self.list()?;
                for _ in 0..length {
                    // Booleans in a list have a byte.
                    self.skip(if matches!(kind, 1 | 2) { 3 } else { kind }, depth + 1)?;
                }
            }
            11 => {
                let length = self.varint()?;
                let kinds = if length > 0 { self.byte()? } else { 0 };
                for _ in 0..length {
                    for kind in [kinds >> 4, kinds & 0x0f] {
                        self.skip(if matches!(kind, 1 | 2) { 3 } else { kind }, depth + 1)?;
                    }
                }
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
            }
            13 => drop(self.take(16)?),
            _ => return None,
        }
        Some(())
    }
}

/// Checks the schema in a file's metadata: groups have the children that they say, and are not nested too deep.
///
/// # Errors
/// In words.
pub fn check_schema(metadata: &[u8]) -> Result<(), String> {
    let mut input = Compact { bytes: metadata };
    let mut last = 0;
    let broken = || "metadata of Parquet that is damaged".to_string();
    while let Some((number, kind)) = input.field(&mut last).ok_or_else(broken)? {
        if (number, kind) == (2, LIST) {
            elements(&mut input).ok_or_else(broken)??;
        } else {
            input.skip(kind, 0).ok_or_else(broken)?;
        }
    }
    Ok(())
}

fn elements(input: &mut Compact) -> Option<Result<(), String>> {
    let (count, kind) = input.list()?;
    if count > ELEMENTS_MAX {
        return Some(Err(format!("a schema of {count} columns, more than {ELEMENTS_MAX}")));
    }
    // Children that the groups around an element still have to come.
    let mut open: Vec<u64> = Vec::new();
    for read in 0..count {
        let mut children = 0;
        let mut last = 0;
        if kind != STRUCT {
            return None;
        }
        while let Some((number, kind)) = input.field(&mut last)? {
            if (number, kind) == (5, I32) {
                children = u64::try_from(input.integer()?).ok()?;
            } else {
                input.skip(kind, 0)?;
            }
        }
        if children > count - read - 1 {
            return Some(Err(format!(
                "a schema with a group of {children} columns, of which {} follow",
                count - read - 1
            )));
        }
        if let Some(left) = open.last_mut() {
            *left = left.checked_sub(1)?;
        }
        if children > 0 {
            open.push(children);
        }
        while open.last() == Some(&0) {
            open.pop();
        }
        if open.len() > DEPTH_MAX {
            return Some(Err(format!("a schema nested deeper than {DEPTH_MAX}")));
        }
    }
    Some(Ok(()))
}

/// Bytes of a page after decompression, by the first fields of its header.
pub fn uncompressed_bytes(header: &[u8]) -> Option<i64> {
    let mut input = Compact { bytes: header };
    let mut last = 0;
    for expected in [1, 2] {
        if input.field(&mut last)?? != (expected, I32) {
            return None;
        }
        let value = input.integer()?;
        if expected == 2 {
            return Some(value);
        }
    }
    None
}

/// How many integers there are by the header of a DELTA_BINARY_PACKED block sequence, and the bytes after it.
pub fn delta_packed(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut input = Compact { bytes };
    let (block, mini_blocks, count) = (input.varint()?, input.varint()?, input.varint()?);
    input.integer()?;
    let per_mini_block = block.checked_div(mini_blocks)?;
    if per_mini_block == 0 {
        return None;
    }
    // The first value stands in the header.
    let mut left = count.saturating_sub(1);
    while left > 0 {
        input.integer()?;
        let widths = input.take(mini_blocks)?;
        for width in widths {
            // The last mini blocks of a block may be missing.
            if left > 0 {
                input.take(per_mini_block.checked_mul(u64::from(*width))?.div_ceil(8))?;
                left = left.saturating_sub(per_mini_block);
            }
        }
    }
    Some((count, input.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_pages_begin_with_type_and_size() {
        // type = DATA_PAGE (0), uncompressed_page_size = 300, compressed_page_size = 200.
        assert_eq!(uncompressed_bytes(&[0x15, 0, 0x15, 0xd8, 0x04, 0x15, 0x90, 0x03]), Some(300));
        assert_eq!(uncompressed_bytes(&[0x25, 0xd8, 0x04]), None);
        assert_eq!(uncompressed_bytes(&[0x15, 0, 0x15, 0xd8]), None);
    }

    #[test]
    fn delta_packed_integers_are_counted() {
        // The example of the format's Encodings.md: 1 to 5, in blocks of 128 with 4 mini blocks; all deltas are 1.
        let example = [128, 1, 4, 5, 2, 2, 0, 0, 0, 0, 7];
        assert_eq!(delta_packed(&example), Some((5, &[7][..])));
        assert_eq!(delta_packed(&[128, 1, 0, 5, 2]), None);
        assert_eq!(delta_packed(&[128, 1, 4, 5, 2, 2, 0]), None);
        assert_eq!(delta_packed(&[128, 1, 4, 1, 2]), Some((1, &[][..])));
    }

    #[test]
    fn schemas_are_bounded() {
        // version = 1; a list of structures whose field 5 says how many children there are.
        let schema = |children: &[u8]| {
            let mut bytes = vec![0x15, 2, 0x19, 0xfc, children.len() as u8];
            for count in children {
                bytes.extend([0x55, count * 2, 0]);
            }
            bytes.push(0);
            check_schema(&bytes)
        };
        assert_eq!(schema(&[2, 0, 1, 0]), Ok(()));
        assert!(schema(&[2, 0]).unwrap_err().contains("of which 1 follow"));
        let deep: Vec<u8> = (0..60).map(|i| u8::from(i < 59)).collect();
        assert!(schema(&deep).unwrap_err().contains("nested deeper"));
        assert!(
            check_schema(&[0x15, 2, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x0f])
                .unwrap_err()
                .contains("more than 100000")
        );
        assert!(check_schema(&[0x15]).is_err() && check_schema(&[]).is_err());
    }
}
