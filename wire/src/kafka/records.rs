//! A record set inside of a message: a run of batches, kept as the chunks it came in.

use bytes::{Bytes, BytesMut};

/// Zero or more record batches, as bytes; cheap to clone, never joined on its way to the socket.
#[derive(Clone, Default)]
pub struct Records {
    /// Apart from the others, so that the common single chunk needs no list.
    first: Bytes,
    others: Vec<Bytes>,
}

impl Records {
    /// Adds `chunk` at the end.
    pub fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() {
            self.first = chunk;
        } else if !chunk.is_empty() {
            self.others.push(chunk);
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.chunks().map(Bytes::len).sum()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The chunks in order.
    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// All bytes as one run; copies only if there are several chunks.
    pub fn into_bytes(self) -> Bytes {
        if self.others.is_empty() {
            return self.first;
        }
        let mut joined = BytesMut::with_capacity(self.len());
        for chunk in self.chunks() {
            joined.extend_from_slice(chunk);
        }
        joined.freeze()
    }
}

impl From<Bytes> for Records {
    fn from(first: Bytes) -> Records {
        Records { first, others: Vec::new() }
    }
}

impl FromIterator<Bytes> for Records {
    fn from_iter<I: IntoIterator<Item = Bytes>>(chunks: I) -> Records {
        let mut records = Records::default();
        for chunk in chunks {
            records.push(chunk);
        }
        records
    }
}

/// Equal bytes are equal record sets, however they are cut.
impl PartialEq for Records {
    fn eq(&self, other: &Records) -> bool {
        let ours = self.chunks().flat_map(|chunk| chunk.iter());
        self.len() == other.len() && ours.eq(other.chunks().flat_map(|chunk| chunk.iter()))
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
