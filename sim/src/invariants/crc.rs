//! The checkers' own checksums: CRC-32 (IEEE) of our files and CRC-32C of batches.
//!
//! Promises: shares no code with the product. Eight bytes a step, by eight tables each (Kounavis and Berry, ISCC 2005):
//! every look from god's view reads whole logs, and byte by byte that was a fourth of what a fleet's run took.

type Tables = [[u32; 256]; 8];

static IEEE: Tables = tables(0xedb8_8320);
static CASTAGNOLI: Tables = tables(0x82f6_3b78);

/// CRC-32 (IEEE), not finished: begins with `!0`, and the caller inverts the last state.
pub(super) fn crc32(state: u32, bytes: &[u8]) -> u32 {
    update(&IEEE, state, bytes)
}

/// CRC-32C, finished.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    !update(&CASTAGNOLI, !0, bytes)
}

fn update(tables: &Tables, state: u32, bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let crc = eights.iter().fold(state, |crc, eight| {
        let word = u64::from_le_bytes(*eight) ^ u64::from(crc);
        let of = |byte: usize| tables[7 - byte][(word >> (8 * byte) & 0xff) as usize];
        of(0) ^ of(1) ^ of(2) ^ of(3) ^ of(4) ^ of(5) ^ of(6) ^ of(7)
    });
    rest.iter().fold(crc, |crc, byte| crc >> 8 ^ tables[0][usize::from(crc as u8 ^ byte)])
}

/// Table `n` takes a byte that `n` zero bytes follow.
const fn tables(polynomial: u32) -> Tables {
    let mut tables = [[0_u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { polynomial } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkers_sums_are_the_common_ones() {
        assert_eq!(!crc32(!0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_sum_does_not_depend_on_where_it_was_interrupted() {
        let bytes: Vec<u8> = (0..200_u32).map(|at| (at * 7 + at / 3) as u8).collect();
        let bit_by_bit = |state: u32| {
            bytes.iter().fold(state, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                    crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
                })
            })
        };
        for cut in 0..bytes.len() {
            let (before, behind) = bytes.split_at(cut);
            assert_eq!(crc32(crc32(!0, before), behind), bit_by_bit(!0), "cut at {cut}");
        }
    }
}
