//! How a value stands on the wire: the one trait that every field type and every message has.
//!
//! Owns: [`Wire`] for numbers, ids, strings, byte runs, arrays and nullables; [`Source`], what a
//! value is read from. A source is a [`super::Reader`] over a frame, or, in tests and fuzzing, a
//! generator of random values: the declaration of a message then serves as its own generator.
//! Promises: reading never panics and never takes more memory than the source allows.
//!
//!   message! { … }  ──read──►  Source  ◄── Reader (a frame) | generator (random)
//!                   ──write─►  Writer

use bytes::Bytes;

use crate::ErrorCode;
use crate::ids::{
    BrokerEpoch, BrokerId, CoordinatorEpoch, CorrelationId, DirectoryId, Generation, LeaderEpoch, Offset,
    PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId,
};
use crate::kafka::{Records, Writer};

/// Why bytes are not the message they should be; the connection they came by is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {reason}")]
pub struct DecodeError {
    /// Where in the frame, counted from the start of what was handed to the reader.
    pub at: usize,
    /// What is wrong there.
    pub reason: Malformed,
}

/// What can be wrong with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The frame ends inside of a value.
    #[error("{needed} bytes are needed, {left} are left")]
    Truncated {
        /// Bytes that the value needs.
        needed: usize,
        /// Bytes that the frame still has.
        left: usize,
    },
    /// A length is negative and does not mean null.
    #[error("the length {0} is negative")]
    NegativeLength(i64),
    /// A null stands where the version has none.
    #[error("null is not allowed here")]
    UnexpectedNull,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A variable-length number does not end or does not fit.
    #[error("a variable-length number is too long")]
    VarintTooLong,
    /// The arrays and strings of the message would take more than its size earns, or than the caller allows.
    #[error(
        "{count} elements of {element_bytes} bytes are more than a message of this size, or one message, may have"
    )]
    TooMuchMemory {
        /// Elements that the array claims.
        count: usize,
        /// Size of one element in memory.
        element_bytes: usize,
    },
    /// A tagged field does not fill the size that it announces.
    #[error("a tagged field ends at byte {end} and should end at byte {announced}")]
    TagSize {
        /// Where the value ended.
        end: usize,
        /// Where it should have ended.
        announced: usize,
    },
    /// Bytes are left after the message.
    #[error("{0} bytes are left after the message")]
    TrailingBytes(usize),
    /// The version is not in the table of the API.
    #[error("version {0} is not known")]
    UnknownVersion(i16),
}

/// Progress through the tagged fields of one struct; a [`Source`] makes and reads it.
#[derive(Debug)]
pub struct Tags {
    /// Reader: tags that are left. Generator: index of the next known tag.
    pub(crate) next: u32,
    /// Where the tag that is being read must end; `None` before the first one.
    pub(crate) end: Option<usize>,
    /// Tags that the struct declares, ascending.
    pub(crate) known: &'static [u32],
}

/// What values are read from.
pub trait Source {
    /// Whether the message has the compact lengths and the tagged fields of KIP-482.
    fn flexible(&self) -> bool;
    /// The next `N` bytes.
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError>;
    /// A string; `None` only where `null` allows it.
    fn text(&mut self, null: bool) -> Result<Option<String>, DecodeError>;
    /// A run of bytes, without a copy; `None` only where `null` allows it.
    fn blob(&mut self, null: bool) -> Result<Option<Bytes>, DecodeError>;
    /// The length of an array whose elements take `element_bytes` in memory each.
    fn count(&mut self, null: bool, element_bytes: usize) -> Result<Option<usize>, DecodeError>;
    /// Whether a nullable struct is there.
    fn present(&mut self) -> Result<bool, DecodeError>;
    /// Starts the tagged fields of a struct that declares the tags `known`.
    fn tags(&mut self, known: &'static [u32]) -> Result<Tags, DecodeError>;
    /// The next tagged field, after checking that the last one filled its size.
    fn next_tag(&mut self, tags: &mut Tags) -> Result<Option<u32>, DecodeError>;
    /// Passes over the value of the tag at hand.
    fn skip_tag(&mut self, tags: &Tags) -> Result<(), DecodeError>;
}

/// A value with a place on the wire.
pub trait Wire: Sized {
    /// Reads the value as `version` of the message has it.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes are not that value; close the connection.
    fn read<S: Source>(s: &mut S, version: i16) -> Result<Self, DecodeError>;

    /// Writes the value as `version` has it; a fault is kept in the writer until it finishes.
    fn write(&self, w: &mut Writer, version: i16);

    /// Reads the value or null.
    ///
    /// # Errors
    /// As [`Wire::read`], and a null that is not allowed.
    fn read_option<S: Source>(s: &mut S, version: i16, null: bool) -> Result<Option<Self>, DecodeError> {
        // Where no null is possible there is no mark of presence either.
        if !null || s.present()? { Self::read(s, version).map(Some) } else { Ok(None) }
    }

    /// Writes the value or null.
    fn write_option(value: Option<&Self>, w: &mut Writer, version: i16) {
        w.present(value.is_some());
        if let Some(value) = value {
            value.write(w, version);
        }
    }
}

const REFUSED: &str = "the source refuses a null that is not allowed";

macro_rules! numbers {
    ($($int:ty)*) => {$(
        impl Wire for $int {
            #[inline]
            fn read<S: Source>(s: &mut S, _: i16) -> Result<Self, DecodeError> {
                s.fixed().map(<$int>::from_be_bytes)
            }
            #[inline]
            fn write(&self, w: &mut Writer, _: i16) {
                w.put(&self.to_be_bytes());
            }
        }
    )*};
}
numbers!(i8 i16 u16 i32 i64);

macro_rules! newtypes {
    ($($id:ident)*) => {$(
        impl Wire for $id {
            #[inline]
            fn read<S: Source>(s: &mut S, version: i16) -> Result<Self, DecodeError> {
                Wire::read(s, version).map($id)
            }
            #[inline]
            fn write(&self, w: &mut Writer, version: i16) {
                self.0.write(w, version);
            }
        }
    )*};
}
newtypes!(BrokerEpoch BrokerId CoordinatorEpoch CorrelationId ErrorCode Generation LeaderEpoch Offset PartitionId);
newtypes!(ProducerEpoch ProducerId Sequence TopicId DirectoryId);

impl Wire for [u8; 16] {
    fn read<S: Source>(s: &mut S, _: i16) -> Result<Self, DecodeError> {
        s.fixed()
    }
    fn write(&self, w: &mut Writer, _: i16) {
        w.put(self);
    }
}

impl Wire for bool {
    fn read<S: Source>(s: &mut S, _: i16) -> Result<Self, DecodeError> {
        s.fixed().map(|[byte]| byte != 0)
    }
    fn write(&self, w: &mut Writer, _: i16) {
        w.put(&[u8::from(*self)]);
    }
}

impl Wire for String {
    fn read<S: Source>(s: &mut S, _: i16) -> Result<Self, DecodeError> {
        Ok(s.text(false)?.expect(REFUSED))
    }
    fn write(&self, w: &mut Writer, _: i16) {
        w.text(Some(self));
    }
    fn read_option<S: Source>(s: &mut S, _: i16, null: bool) -> Result<Option<Self>, DecodeError> {
        s.text(null)
    }
    fn write_option(value: Option<&Self>, w: &mut Writer, _: i16) {
        w.text(value.map(String::as_str));
    }
}

impl Wire for Bytes {
    fn read<S: Source>(s: &mut S, _: i16) -> Result<Self, DecodeError> {
        Ok(s.blob(false)?.expect(REFUSED))
    }
    fn write(&self, w: &mut Writer, _: i16) {
        w.blob(Some(self));
    }
    fn read_option<S: Source>(s: &mut S, _: i16, null: bool) -> Result<Option<Self>, DecodeError> {
        s.blob(null)
    }
    fn write_option(value: Option<&Self>, w: &mut Writer, _: i16) {
        w.blob(value.map(Bytes::as_ref));
    }
}

impl Wire for Records {
    fn read<S: Source>(s: &mut S, _: i16) -> Result<Self, DecodeError> {
        Ok(Records::from(s.blob(false)?.expect(REFUSED)))
    }
    fn write(&self, w: &mut Writer, _: i16) {
        w.records(Some(self));
    }
    fn read_option<S: Source>(s: &mut S, _: i16, null: bool) -> Result<Option<Self>, DecodeError> {
        Ok(s.blob(null)?.map(Records::from))
    }
    fn write_option(value: Option<&Self>, w: &mut Writer, _: i16) {
        w.records(value);
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn read<S: Source>(s: &mut S, version: i16) -> Result<Self, DecodeError> {
        Ok(Self::read_option(s, version, false)?.expect(REFUSED))
    }
    fn write(&self, w: &mut Writer, version: i16) {
        Self::write_option(Some(self), w, version);
    }
    fn read_option<S: Source>(s: &mut S, version: i16, null: bool) -> Result<Option<Self>, DecodeError> {
        let Some(count) = s.count(null, size_of::<T>())? else { return Ok(None) };
        // The source has charged `count` elements against the memory that the frame earns.
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(T::read(s, version)?);
        }
        Ok(Some(elements))
    }
    fn write_option(value: Option<&Self>, w: &mut Writer, version: i16) {
        w.count(value.map(Vec::len));
        for element in value.into_iter().flatten() {
            element.write(w, version);
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn read<S: Source>(s: &mut S, version: i16) -> Result<Self, DecodeError> {
        T::read_option(s, version, true)
    }
    fn write(&self, w: &mut Writer, version: i16) {
        T::write_option(self.as_ref(), w, version);
    }
}

/// A field that may be null in some versions only.
pub(crate) trait Nullable: Sized {
    fn read_nullable<S: Source>(s: &mut S, version: i16, null: bool) -> Result<Self, DecodeError>;
    fn write_nullable(&self, w: &mut Writer, version: i16, null: bool);
}

impl<T: Wire + Default> Nullable for Option<T> {
    fn read_nullable<S: Source>(s: &mut S, version: i16, null: bool) -> Result<Self, DecodeError> {
        T::read_option(s, version, null)
    }

    /// A null is written as the empty value where the version knows no null.
    fn write_nullable(&self, w: &mut Writer, version: i16, null: bool) {
        match self {
            None if !null => T::default().write(w, version),
            None => T::write_option(None, w, version),
            Some(value) if !null => value.write(w, version),
            Some(value) => T::write_option(Some(value), w, version),
        }
    }
}
