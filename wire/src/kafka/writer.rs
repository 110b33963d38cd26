//! Writes values into a list of chunks, so that record sets are referenced and never copied.
//!
//! Owns: the scratch buffer for everything small, the list of chunks, the first fault. Writing never
//! fails in the middle; [`Writer::finish`] tells whether something did not fit its length field.
//!
//!   scratch ┐          ┌ records ┐          ┌ scratch
//!   [header, fields…] [batch][batch] [fields…] ──► Vec<Bytes>, sent with one vectored write

use bytes::{BufMut, Bytes, BytesMut};

use super::Records;

/// Why a message cannot be written; a fault of the caller, the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string is longer than its length field can say.
    #[error("a string of {0} bytes does not fit")]
    TextTooLong(usize),
    /// The whole message is longer than 2^31-1 bytes.
    #[error("a message of {0} bytes does not fit into a frame")]
    FrameTooLong(usize),
    /// The version is not in the table of the API.
    #[error("version {0} is not known")]
    UnknownVersion(i16),
}

/// Up to this many bytes, copying into the scratch is cheaper than one more chunk to send.
const COPY_UP_TO: usize = 1024;
/// First size of the scratch: most answers fit.
const SCRATCH_BYTES: usize = 256;

/// Collects the bytes of one message.
#[derive(Debug)]
pub struct Writer {
    flexible: bool,
    scratch: BytesMut,
    chunks: Vec<Bytes>,
    /// Bytes in `chunks`.
    chunked: usize,
    fault: Option<EncodeError>,
}

impl Writer {
    /// Starts an empty message; `flexible` as the API's version has it.
    pub fn new(flexible: bool) -> Writer {
        let scratch = BytesMut::with_capacity(SCRATCH_BYTES);
        Writer { flexible, scratch, chunks: Vec::new(), chunked: 0, fault: None }
    }

    /// Whether the message has compact lengths and tagged fields.
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// Switches between the old and the compact encoding, as the request header needs it.
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.chunked + self.scratch.len()
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message as chunks in order, none of them empty.
    ///
    /// # Errors
    /// The first thing that did not fit.
    pub fn finish(mut self) -> Result<Vec<Bytes>, EncodeError> {
        let bytes = self.len();
        if i32::try_from(bytes).is_err() {
            self.fail(EncodeError::FrameTooLong(bytes));
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !self.scratch.is_empty() {
            // The last chunk takes the scratch as it is: most answers are this one chunk, and this one allocation less.
            self.push(self.scratch.len());
            self.chunks.reserve_exact(1);
            let chunk = std::mem::take(&mut self.scratch).freeze();
            self.chunks.push(chunk);
        }
        assert_eq!(self.chunks.iter().map(Bytes::len).sum::<usize>(), bytes, "a chunk is lost or doubled");
        Ok(self.chunks)
    }

    fn fail(&mut self, fault: EncodeError) {
        self.fault.get_or_insert(fault);
    }

    fn cut(&mut self) {
        if !self.scratch.is_empty() {
            self.push(self.scratch.len());
            let chunk = self.scratch.split().freeze();
            self.chunks.push(chunk);
        }
    }

    fn push(&mut self, bytes: usize) {
        self.chunked += bytes;
    }

    /// Plain bytes.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.scratch.put_slice(bytes);
    }

    /// An unsigned variable-length number.
    pub fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.scratch.put_u8((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.scratch.put_u8(value as u8);
    }

    /// The length of an array, or null.
    pub fn count(&mut self, count: Option<usize>) {
        self.length(count, true);
    }

    fn length(&mut self, length: Option<usize>, wide: bool) {
        let most = if wide || self.flexible { i32::MAX as usize - 1 } else { i16::MAX as usize };
        let fits = length.filter(|length| *length <= most);
        if fits != length {
            let length = length.expect("only a length that is there can be too long");
            self.fail(if wide {
                EncodeError::FrameTooLong(length)
            } else {
                EncodeError::TextTooLong(length)
            });
        }
        let length = fits.map_or(-1, |length| length as i32);
        if self.flexible {
            self.varint((length + 1).cast_unsigned());
        } else if wide {
            self.scratch.put_i32(length);
        } else {
            self.scratch.put_i16(length as i16);
        }
    }

    /// A string or null.
    pub fn text(&mut self, text: Option<&str>) {
        self.length(text.map(str::len), false);
        self.put(text.unwrap_or_default().as_bytes());
    }

    /// A run of bytes or null, copied.
    pub fn blob(&mut self, blob: Option<&[u8]>) {
        self.length(blob.map(<[u8]>::len), true);
        self.put(blob.unwrap_or_default());
    }

    /// A record set or null; large chunks are referenced, not copied.
    pub fn records(&mut self, records: Option<&Records>) {
        self.length(records.map(Records::len), true);
        for chunk in records.into_iter().flat_map(Records::chunks) {
            if chunk.len() <= COPY_UP_TO {
                self.put(chunk);
            } else {
                self.cut();
                self.push(chunk.len());
                self.chunks.push(chunk.clone());
            }
        }
    }

    /// The mark before a nullable struct.
    pub fn present(&mut self, present: bool) {
        self.scratch.put_i8(if present { 1 } else { -1 });
    }

    /// The tagged fields of a struct.
    pub fn tags(&mut self, tags: TagWriter) {
        self.varint(tags.count);
        self.put(&tags.bytes);
        if let Some(fault) = tags.fault {
            self.fail(fault);
        }
    }
}

/// Collects the tagged fields of one struct, in ascending order of their tags.
#[derive(Debug, Default)]
pub struct TagWriter {
    count: u32,
    bytes: BytesMut,
    last: Option<u32>,
    fault: Option<EncodeError>,
}

impl TagWriter {
    /// Adds a tag whose value `write` writes; a tagged value holds no record sets.
    pub fn add(&mut self, tag: u32, write: impl FnOnce(&mut Writer)) {
        assert!(self.last < Some(tag), "tag {tag} after {:?}: tags ascend", self.last);
        self.last = Some(tag);
        self.count += 1;
        let mut value = Writer::new(true);
        write(&mut value);
        assert!(value.chunks.is_empty(), "tag {tag} holds records");
        let mut head = Writer::new(true);
        head.varint(tag);
        head.varint(u32::try_from(value.scratch.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(&head.scratch);
        self.bytes.extend_from_slice(&value.scratch);
        self.fault = self.fault.or(value.fault);
    }
}
