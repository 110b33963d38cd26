//! The codecs of record batches behind one enum, with bounded output.
//!
//! Promises: decompressing never gives more than the limit, never panics, and takes memory in
//! proportion to what it really gives, not to what the payload claims; the LZ4 decoder alone also
//! takes its block buffers, at most [`LZ4_BUFFER_BYTES`]. Leaves out: which codec is allowed where.
//!
//! Snappy is written in the framing of xerial's Java library, which every client reads, and read in
//! that framing and raw. LZ4 is the standard frame, as magic 2 has it.

use std::io::{Read, Write};

use zstd::zstd_safe;

/// Most that the LZ4 decoder takes for its own buffers: two blocks of 4 MiB for output, one for input.
pub const LZ4_BUFFER_BYTES: usize = 3 * 4 * 1024 * 1024 + 64 * 1024;

/// How the payload of a batch is compressed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, level 6.
    Gzip,
    /// Snappy in xerial's framing, blocks of 32 KiB.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard, level 3.
    Zstd,
}

/// Why a payload was not compressed or decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// It holds more than the caller allows; refuse it as too large.
    #[error("the payload decompresses to more than {limit} bytes")]
    TooLarge {
        /// The limit that was passed in.
        limit: usize,
    },
    /// It is not what the codec writes; refuse it as damaged.
    #[error("the {codec:?} payload is damaged")]
    Damaged {
        /// The codec that the batch names.
        codec: Compression,
    },
}

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Magic, version 1, lowest compatible version 1.
const XERIAL_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// A copy element of three bytes stands for at most 64: no snappy block grows more.
const SNAPPY_MAX_RATIO: usize = 22;
const LZ4_MAGIC: [u8; 4] = 0x184d_2204u32.to_le_bytes();
const ZSTD_LEVEL: i32 = 3;

impl Compression {
    /// Every codec, ascending by id.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// The number in the attributes of a batch.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The codec of a number.
    pub const fn from_id(id: u8) -> Option<Compression> {
        match id {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// The name in `compression.type` settings.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// The codec of a name.
    pub fn from_name(name: &str) -> Option<Compression> {
        Compression::ALL.into_iter().find(|codec| codec.name() == name)
    }

    fn damaged(self) -> CodecError {
        CodecError::Damaged { codec: self }
    }

    /// Compresses `data`.
    ///
    /// # Errors
    /// [`CodecError::Damaged`] if the codec's library fails, which it does only out of memory.
    pub fn compress(self, data: &[u8]) -> Result<Vec<u8>, CodecError> {
        match self {
            Compression::None => Some(data.to_vec()),
            Compression::Gzip => gzip_compress(data),
            Compression::Snappy => snappy_compress(data),
            Compression::Lz4 => lz4_compress(data),
            Compression::Zstd => zstd_compress(data),
        }
        .ok_or(self.damaged())
    }

    /// Decompresses `data` into at most `limit` bytes.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decompress(self, data: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
        let out = match self {
            Compression::None if data.len() <= limit => Ok(data.to_vec()),
            Compression::None => Err(CodecError::TooLarge { limit }),
            Compression::Gzip => self.read_bounded(flate2::read::MultiGzDecoder::new(data), limit),
            Compression::Snappy => snappy_decompress(data, limit),
            // The legacy frames, which the decoder also knows, have blocks of 8 MiB.
            Compression::Lz4 if !data.starts_with(&LZ4_MAGIC) => Err(self.damaged()),
            Compression::Lz4 => self.read_bounded(lz4_flex::frame::FrameDecoder::new(data), limit),
            Compression::Zstd => zstd_decompress(data, limit),
        }?;
        assert!(out.len() <= limit, "{} bytes, {limit} are allowed", out.len());
        Ok(out)
    }

    fn read_bounded(self, decoder: impl Read, limit: usize) -> Result<Vec<u8>, CodecError> {
        let mut out = Vec::new();
        // One byte more than allowed tells "too large" from "just fits".
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        decoder.take(most).read_to_end(&mut out).map_err(|_| self.damaged())?;
        if out.len() > limit { Err(CodecError::TooLarge { limit }) } else { Ok(out) }
    }
}

fn gzip_compress(data: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).ok()?;
    encoder.finish().ok()
}

fn lz4_compress(data: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(data).ok()?;
    encoder.finish().ok()
}

fn snappy_compress(data: &[u8]) -> Option<Vec<u8>> {
    let mut out = XERIAL_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in data.chunks(XERIAL_BLOCK_BYTES) {
        let start = out.len() + 4;
        out.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let bytes = encoder.compress(block, &mut out[start..]).ok()?;
        out.truncate(start + bytes);
        out[start - 4..start].copy_from_slice(&u32::try_from(bytes).ok()?.to_be_bytes());
    }
    Some(out)
}

fn snappy_decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    if !data.starts_with(XERIAL_MAGIC) {
        snappy_block(data, limit, &mut out)?;
        return Ok(out);
    }
    let damaged = Compression::Snappy.damaged();
    let mut rest = data.get(XERIAL_HEADER.len()..).ok_or(damaged.clone())?;
    while let Some((length, after)) = rest.split_first_chunk() {
        let (block, after) =
            after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(damaged.clone())?;
        snappy_block(block, limit, &mut out)?;
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(damaged) }
}

fn snappy_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let damaged = Compression::Snappy.damaged();
    let claimed = snap::raw::decompress_len(block).map_err(|_| damaged.clone())?;
    // The claim is checked against what the bytes can possibly stand for before it is reserved.
    if claimed > block.len().saturating_mul(SNAPPY_MAX_RATIO) {
        return Err(damaged);
    }
    let start = out.len();
    if claimed > limit - start {
        return Err(CodecError::TooLarge { limit });
    }
    out.resize(start + claimed, 0);
    match snap::raw::Decoder::new().decompress(block, &mut out[start..]) {
        Ok(bytes) if bytes == claimed => Ok(()),
        Ok(_) | Err(_) => Err(damaged),
    }
}

fn zstd_compress(data: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
    zstd_safe::compress(&mut out, data, ZSTD_LEVEL).ok()?;
    out.shrink_to_fit(); // batches wait in queues
    Some(out)
}

/// Decompresses in one step into a buffer that grows as long as it proves too small, so that neither
/// the window nor the content size that a frame claims is ever reserved.
fn zstd_decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    let damaged = Compression::Zstd.damaged();
    let mut context = zstd_safe::DCtx::try_create().ok_or(damaged.clone())?;
    let guess = match zstd_safe::get_frame_content_size(data) {
        Ok(Some(claimed)) => usize::try_from(claimed).unwrap_or(usize::MAX),
        Ok(None) => data.len().saturating_mul(4),
        Err(_) => return Err(damaged),
    };
    let mut capacity = guess.min(data.len().saturating_mul(16)).clamp(1024, limit.max(1024));
    loop {
        let mut out = Vec::with_capacity(capacity);
        match context.decompress(&mut out, data) {
            Ok(_) if out.len() > limit => return Err(CodecError::TooLarge { limit }),
            Ok(_) => return Ok(out),
            Err(code) => {
                let too_small = zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall;
                if !zstd_safe::is_error_kind(code, too_small) {
                    return Err(damaged);
                }
            }
        }
        if capacity >= limit {
            return Err(CodecError::TooLarge { limit });
        }
        capacity = capacity.saturating_mul(2).min(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [Compression; 4] =
        [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn sample(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * at / 7 % 251) as u8).collect()
    }

    #[test]
    fn every_codec_gives_back_what_went_in() {
        for codec in Compression::ALL {
            for bytes in [0, 1, 100, 32 * 1024, 32 * 1024 + 1, 300_000] {
                let data = sample(bytes);
                let packed = codec.compress(&data).expect("valid memory");
                assert_eq!(codec.decompress(&packed, bytes), Ok(data), "{codec:?} {bytes}");
            }
        }
    }

    #[test]
    fn one_byte_more_than_the_limit_is_too_large() {
        for codec in Compression::ALL {
            for bytes in [1, 5000, 300_000] {
                let packed = codec.compress(&vec![7; bytes]).expect("valid memory");
                let limit = bytes - 1;
                assert_eq!(
                    codec.decompress(&packed, limit),
                    Err(CodecError::TooLarge { limit }),
                    "{codec:?}"
                );
            }
        }
    }

    #[test]
    fn raw_snappy_is_read_too() {
        let data = sample(50_000);
        let packed = snap::raw::Encoder::new().compress_vec(&data).expect("valid memory");
        assert_eq!(Compression::Snappy.decompress(&packed, data.len()), Ok(data));
    }

    #[test]
    fn concatenated_gzip_and_zstd_frames_are_one_payload() {
        for codec in [Compression::Gzip, Compression::Zstd] {
            let frame = codec.compress(b"half").expect("valid memory");
            assert_eq!(codec.decompress(&frame.repeat(2), 100), Ok(b"halfhalf".to_vec()), "{codec:?}");
        }
    }

    #[test]
    fn a_claim_of_gigabytes_in_a_few_bytes_is_damage() {
        let snappy = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, b'a'];
        let damaged = Err(Compression::Snappy.damaged());
        assert_eq!(Compression::Snappy.decompress(&snappy, usize::MAX), damaged);
        // A zstd frame that claims a content of 2^40 bytes and holds one raw byte.
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0, 9, 0, 0, b'a'];
        assert_eq!(Compression::Zstd.decompress(&zstd, usize::MAX / 2), Err(Compression::Zstd.damaged()));
    }

    #[test]
    fn cut_or_flipped_payloads_never_panic() {
        for codec in CODECS {
            let packed = codec.compress(&sample(4000)).expect("valid memory");
            for at in 0..packed.len() {
                let _ = codec.decompress(&packed[..at], 5000);
                let mut flipped = packed.clone();
                flipped[at] ^= 0x55;
                let _ = codec.decompress(&flipped, 5000);
            }
        }
    }
}
