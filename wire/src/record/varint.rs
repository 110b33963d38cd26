//! The variable-length numbers inside of records: zigzag, 7 bits a byte, low bits first.

/// Reads a number of at most 64 bits off the front of `bytes`.
///
/// `None`: the bytes end inside of it, or it is longer than ten bytes or 64 bits.
pub fn read_i64(bytes: &mut &[u8]) -> Option<i64> {
    if let [byte, rest @ ..] = *bytes
        && *byte < 0x80
    {
        *bytes = rest; // most are one byte
        return Some(i64::from(byte >> 1) ^ -i64::from(byte & 1));
    }
    let mut zigzag = 0u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        if at == 9 && *byte > 1 {
            return None;
        }
        zigzag |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()));
        }
    }
    None
}

/// Reads a number of at most 32 bits off the front of `bytes`; `None` as for [`read_i64`].
pub fn read_i32(bytes: &mut &[u8]) -> Option<i32> {
    let mut rest = *bytes;
    let value = i32::try_from(read_i64(&mut rest)?).ok()?;
    *bytes = rest;
    Some(value)
}

/// Appends a number.
pub fn write(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag as u8) | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// Number of bytes that [`write`] appends.
pub const fn len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let bits = 64 - (zigzag | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_of_number_comes_back_at_its_stated_length() {
        for shift in 0..64 {
            for value in [1i64 << shift, (1i64 << shift).wrapping_sub(1), -(1i64 << shift).wrapping_add(1)] {
                let mut out = Vec::new();
                write(&mut out, value);
                assert_eq!(out.len(), len(value), "{value}");
                let mut rest = out.as_slice();
                assert_eq!(read_i64(&mut rest), Some(value));
                assert!(rest.is_empty());
                assert_eq!(read_i64(&mut &out[..out.len() - 1]), None, "{value} cut short");
            }
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() {
        assert_eq!(read_i64(&mut [0xff; 11].as_slice()), None);
        assert_eq!(read_i64(&mut [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2].as_slice()), None);
        let mut out = Vec::new();
        write(&mut out, i64::from(i32::MAX) + 1);
        assert_eq!(read_i32(&mut out.as_slice()), None);
    }
}
