//! Reads values out of one frame.
//!
//! Promises: never panics on any bytes; checks every length against the bytes that are left before
//! it reserves anything; takes at most [`memory_limit`] bytes of memory for a whole message, however
//! the arrays in it nest. Byte runs are slices of the frame, not copies.
//! Leaves out: what the values mean, and the frame's length prefix (the Net's).

use bytes::Bytes;

use super::codec::{DecodeError, Malformed, Source, Tags};

/// Memory in bytes that decoding a frame of `frame_bytes` may take, the frame itself not counted.
///
/// A struct of a few bytes on the wire takes some 50 to 150 in memory, and real messages stay below
/// a factor of 8; the floor is for small frames of many empty values.
pub const fn memory_limit(frame_bytes: usize) -> usize {
    frame_bytes.saturating_mul(16).saturating_add(32 * 1024)
}

/// What decoding a message takes, or may take: the frame itself is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of memory.
    pub bytes: usize,
    /// Elements of all its arrays together, however small.
    pub elements: usize,
}

/// A cursor over a frame.
#[derive(Debug)]
pub struct Reader {
    frame: Bytes,
    at: usize,
    flexible: bool,
    /// What is left to take.
    room: Room,
}

impl Reader {
    /// Starts at the first byte of `frame`; `flexible` as the API's version has it.
    pub fn new(frame: Bytes, flexible: bool) -> Reader {
        Reader::within(frame, flexible, Room { bytes: usize::MAX, elements: usize::MAX })
    }

    /// The same, for a message that may take `most` and no more than [`memory_limit`].
    pub fn within(frame: Bytes, flexible: bool, most: Room) -> Reader {
        let room = Room { bytes: memory_limit(frame.len()).min(most.bytes), ..most };
        Reader { frame, at: 0, flexible, room }
    }

    /// What is left to take.
    pub fn room(&self) -> Room {
        self.room
    }

    /// Number of bytes that are left.
    pub fn left(&self) -> usize {
        assert!(self.at <= self.frame.len(), "at {} of {}", self.at, self.frame.len());
        self.frame.len() - self.at
    }

    /// Switches between the old and the compact encoding, as the request header needs it.
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// The bytes that are left, without a copy.
    pub fn rest(self) -> Bytes {
        self.frame.slice(self.at..)
    }

    /// Checks that the message ends where the frame does.
    ///
    /// # Errors
    /// [`Malformed::TrailingBytes`].
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(self.error(Malformed::TrailingBytes(left))),
        }
    }

    /// An error at the place where the reader stands.
    pub fn error(&self, reason: Malformed) -> DecodeError {
        DecodeError { at: self.at, reason }
    }

    fn need(&self, needed: usize) -> Result<(), DecodeError> {
        let left = self.left();
        if needed <= left { Ok(()) } else { Err(self.error(Malformed::Truncated { needed, left })) }
    }

    fn charge(&mut self, count: usize, element_bytes: usize) -> Result<(), DecodeError> {
        match count.checked_mul(element_bytes).and_then(|bytes| self.room.bytes.checked_sub(bytes)) {
            Some(left) => {
                self.room.bytes = left;
                Ok(())
            }
            None => Err(self.error(Malformed::TooMuchMemory { count, element_bytes })),
        }
    }

    /// The next unsigned variable-length number of at most 32 bits (7 bits a byte, low bits first).
    ///
    /// # Errors
    /// [`Malformed::VarintTooLong`] after five bytes, or when the fifth holds more than four bits.
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error(Malformed::VarintTooLong))
    }

    /// A length that counts null as -1 (old) or as 0 with all others one up (compact).
    fn length(&mut self, null: bool, wide: bool) -> Result<Option<usize>, DecodeError> {
        let length = if self.flexible {
            i64::from(self.varint()?) - 1
        } else if wide {
            i64::from(i32::from_be_bytes(self.fixed()?))
        } else {
            i64::from(i16::from_be_bytes(self.fixed()?))
        };
        match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) if length == -1 && null => Ok(None),
            Err(_) if length == -1 => Err(self.error(Malformed::UnexpectedNull)),
            Err(_) => Err(self.error(Malformed::NegativeLength(length))),
        }
    }

    /// A nullable string whose bytes need not be UTF-8; others are replaced.
    ///
    /// # Errors
    /// The length is negative, or larger than what is left.
    pub fn lossy_text(&mut self) -> Result<Option<String>, DecodeError> {
        let Some(length) = self.length(true, false)? else { return Ok(None) };
        // A byte that is not UTF-8 becomes three.
        self.charge(length, 3)?;
        let run = self.take(length)?;
        Ok(Some(String::from_utf8_lossy(&run).into_owned()))
    }

    fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.need(length)?;
        let run = self.frame.slice(self.at..self.at + length);
        self.at += length;
        Ok(run)
    }
}

impl Source for Reader {
    #[inline]
    fn flexible(&self) -> bool {
        self.flexible
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.frame[self.at..].first_chunk::<N>() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(self.error(Malformed::Truncated { needed: N, left: self.left() })),
        }
    }

    fn text(&mut self, null: bool) -> Result<Option<String>, DecodeError> {
        let Some(length) = self.length(null, false)? else { return Ok(None) };
        self.need(length)?;
        self.charge(length, 1)?;
        match std::str::from_utf8(&self.frame[self.at..self.at + length]) {
            Ok(text) => {
                self.at += length;
                Ok(Some(text.to_owned()))
            }
            Err(_) => Err(self.error(Malformed::NotUtf8)),
        }
    }

    fn blob(&mut self, null: bool) -> Result<Option<Bytes>, DecodeError> {
        match self.length(null, true)? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    fn count(&mut self, null: bool, element_bytes: usize) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.length(null, true)? else { return Ok(None) };
        self.need(count)?; // no element is shorter than one byte
        self.charge(count, element_bytes)?;
        match self.room.elements.checked_sub(count) {
            Some(left) => self.room.elements = left,
            None => return Err(self.error(Malformed::TooMuchMemory { count, element_bytes })),
        }
        Ok(Some(count))
    }

    fn present(&mut self) -> Result<bool, DecodeError> {
        self.fixed().map(|[mark]| mark.cast_signed() >= 0)
    }

    fn tags(&mut self, known: &'static [u32]) -> Result<Tags, DecodeError> {
        Ok(Tags { next: self.varint()?, end: None, known })
    }

    fn next_tag(&mut self, tags: &mut Tags) -> Result<Option<u32>, DecodeError> {
        if let Some(announced) = tags.end.take()
            && announced != self.at
        {
            return Err(self.error(Malformed::TagSize { end: self.at, announced }));
        }
        if tags.next == 0 {
            return Ok(None);
        }
        tags.next -= 1;
        let tag = self.varint()?;
        let size = self.varint()? as usize;
        self.need(size)?;
        tags.end = Some(self.at + size);
        Ok(Some(tag))
    }

    fn skip_tag(&mut self, tags: &Tags) -> Result<(), DecodeError> {
        let end = tags.end.expect("a tag is at hand between next_tag and next_tag");
        assert!(self.at <= end && end <= self.frame.len(), "tag from {} to {end}", self.at);
        self.at = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader {
        Reader::new(Bytes::from_static(bytes), true)
    }

    fn reason<T>(result: Result<T, DecodeError>) -> Option<Malformed> {
        result.err().map(|error| error.reason)
    }

    #[test]
    fn a_tagged_field_must_fill_the_size_that_it_announces() {
        for (size, sound) in [(1, false), (2, true), (3, false)] {
            let mut reader = Reader::new(vec![1, 5, size, 0xab, 0xcd, 0, 0, 0].into(), true);
            let mut tags = reader.tags(&[5]).expect("one tag");
            assert_eq!(reader.next_tag(&mut tags), Ok(Some(5)));
            assert_eq!(reader.fixed(), Ok([0xab, 0xcd]));
            let announced = 3 + usize::from(size);
            let wrong = Some(Malformed::TagSize { end: 5, announced });
            assert_eq!(reason(reader.next_tag(&mut tags)), if sound { None } else { wrong });
        }
        let mut long = reader(&[1, 5, 9, 0]);
        let mut tags = long.tags(&[]).expect("one tag");
        assert_eq!(reason(long.next_tag(&mut tags)), Some(Malformed::Truncated { needed: 9, left: 1 }));
    }

    #[test]
    fn a_varint_has_at_most_32_bits() {
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x0f]).varint(), Ok(u32::MAX));
        assert_eq!(reason(reader(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint()), Some(Malformed::VarintTooLong));
        assert_eq!(reason(reader(&[0x80; 6]).varint()), Some(Malformed::VarintTooLong));
        assert_eq!(reason(reader(&[0x80]).varint()), Some(Malformed::Truncated { needed: 1, left: 0 }));
    }

    #[test]
    fn null_is_told_from_empty_and_from_negative() {
        assert_eq!(reader(&[0]).text(true), Ok(None));
        assert_eq!(reader(&[1]).text(true), Ok(Some(String::new())));
        assert_eq!(reason(reader(&[0]).text(false)), Some(Malformed::UnexpectedNull));
        assert_eq!(reason(reader(&[2, 0xff]).text(false)), Some(Malformed::NotUtf8));
        let old = |bytes: &'static [u8]| Reader::new(Bytes::from_static(bytes), false);
        assert_eq!(old(&[0xff, 0xff]).text(true), Ok(None));
        assert_eq!(reason(old(&[0xff, 0xfe]).text(true)), Some(Malformed::NegativeLength(-2)));
        assert_eq!(old(&[0xff, 0xff, 0xff, 0xff]).blob(true), Ok(None));
        assert_eq!(
            reason(old(&[0x80, 0, 0, 0]).blob(true)),
            Some(Malformed::NegativeLength(i32::MIN.into()))
        );
    }
}
