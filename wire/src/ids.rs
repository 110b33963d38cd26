//! The shared vocabulary: every id is its own type, so that an epoch is never taken for an offset.
//!
//! Owns: the newtypes, their short Debug (`o42`, `e7`, `b3`) and their named, checked arithmetic.
//! Promises: no operation wraps or saturates silently; overflow is a panic that names the value,
//! because no number that a broker assigns may come near the end of its range.
//! Leaves out: what a value means at a place. Kafka writes "none" as -1, so every id may be
//! negative on the wire; whoever needs a real one asks `is_valid`, or checks before it computes.
//!
//! The inner number is public: `Offset(42)` makes one, `.0` reads it.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub $int);

        impl $name {
            /// Kafka's "there is none".
            pub const NONE: $name = $name(-1);

            /// Whether this is a real value, that is not negative.
            pub const fn is_valid(self) -> bool {
                self.0 >= 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $letter, self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Position of a record in its partition, from 0 up.
    Offset(i64), "o"
}
id! {
    /// Counts the leaders of a partition; bumped at every leader start.
    LeaderEpoch(i32), "e"
}
id! {
    /// Names one life of a broker process, from its registration to the next.
    BrokerEpoch(i64), "be"
}
id! {
    /// Number of a broker or controller node in its cluster.
    BrokerId(i32), "b"
}
id! {
    /// Index of a partition in its topic, from 0 up.
    PartitionId(i32), "p"
}
id! {
    /// Number of an idempotent or transactional producer, unique in the cluster.
    ProducerId(i64), "pid"
}
id! {
    /// Fences older incarnations of one producer id.
    ProducerEpoch(i16), "pe"
}
id! {
    /// Number of a record in the sequence of one producer, epoch and partition.
    ///
    /// Counts from 0 to 2^31-1 and starts over at 0.
    Sequence(i32), "s"
}
id! {
    /// Generation of a classic group, or epoch of a group of KIP-848.
    Generation(i32), "g"
}
id! {
    /// Counts the leaders of a coordinator's internal partition; fences its markers.
    CoordinatorEpoch(i32), "ce"
}
id! {
    /// Chosen by a client to tell the answers on one connection apart.
    CorrelationId(i32), "c"
}

impl Offset {
    /// The first offset of a partition.
    pub const ZERO: Offset = Offset(0);

    /// The offset `count` records further on.
    pub const fn plus(self, count: i64) -> Offset {
        assert!(count >= 0, "an offset only moves on by a count that is not negative");
        Offset(self.0.checked_add(count).expect("offsets stay far below 2^63"))
    }

    /// The next offset.
    pub const fn next(self) -> Offset {
        self.plus(1)
    }

    /// The offset before this one; [`Offset::NONE`] before the first.
    pub const fn previous(self) -> Offset {
        assert!(self.0 >= 0, "there is no offset before a negative one");
        Offset(self.0 - 1)
    }

    /// Number of records from `start` (inclusive) to `self` (exclusive); `start` must not be later.
    pub const fn since(self, start: Offset) -> i64 {
        let count = self.0.checked_sub(start.0).expect("offsets stay far from the ends of i64");
        assert!(count >= 0, "the start lies behind the end");
        count
    }
}

impl LeaderEpoch {
    /// The epoch of the next leader.
    pub const fn next(self) -> LeaderEpoch {
        LeaderEpoch(self.0.checked_add(1).expect("2^31 elections of one partition do not happen"))
    }
}

impl BrokerEpoch {
    /// The next epoch.
    pub const fn next(self) -> BrokerEpoch {
        BrokerEpoch(self.0.checked_add(1).expect("2^63 registrations do not happen"))
    }
}

impl Generation {
    /// The next generation.
    pub const fn next(self) -> Generation {
        Generation(self.0.checked_add(1).expect("2^31 rebalances of one group do not happen"))
    }
}

impl ProducerEpoch {
    /// The last epoch of a producer id; after it a new producer id must be taken.
    pub const MAX: ProducerEpoch = ProducerEpoch(i16::MAX);

    /// The next epoch, or `None` when the producer id is used up.
    pub const fn next(self) -> Option<ProducerEpoch> {
        match self.0.checked_add(1) {
            Some(next) => Some(ProducerEpoch(next)),
            None => None,
        }
    }
}

impl Sequence {
    /// The first sequence number.
    pub const ZERO: Sequence = Sequence(0);

    /// The sequence `count` records further on; 0 follows 2^31-1, as Kafka has it.
    pub const fn plus(self, count: i32) -> Sequence {
        assert!(self.0 >= 0, "a sequence that counts on must be a real one");
        assert!(count >= 0, "a sequence only moves on");
        // Both are below 2^31, so the sum fits into 32 bits and the mask is the remainder.
        Sequence(((self.0 as u32 + count as u32) & 0x7fff_ffff) as i32)
    }

    /// The sequence that must follow this one.
    pub const fn next(self) -> Sequence {
        self.plus(1)
    }

    /// How many records further on `later` is, 0 to 2^31-1: the way is always forwards, beyond 2^31-1 too.
    pub const fn until(self, later: Sequence) -> i32 {
        assert!(self.0 >= 0 && later.0 >= 0, "the way between sequences that are none");
        ((later.0 as u32).wrapping_sub(self.0 as u32) & 0x7fff_ffff) as i32
    }
}

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Shown as Kafka shows it: 22 letters of url-safe base64 without padding.
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Stands for "no id".
            pub const ZERO: $name = $name([0; 16]);

            /// Whether this is no real id.
            pub fn is_zero(self) -> bool {
                self == $name::ZERO
            }

            /// Makes a version 4 UUID from 128 random bits, or `None` for bits that Kafka would not use.
            ///
            /// Kafka avoids texts that begin with `-`, which command lines take for an option; draw
            /// again on `None`. The version bits keep clear of Kafka's reserved ids.
            pub fn from_random(high: u64, low: u64) -> Option<$name> {
                random_uuid(high, low).map($name)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidUuid;

            fn from_str(text: &str) -> Result<$name, InvalidUuid> {
                parse_uuid(text).map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(std::str::from_utf8(&uuid_text(self.0)).expect("base64 is ASCII"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

uuid! {
    /// Random id of one life of a topic; a topic created again under its old name has another.
    TopicId
}
uuid! {
    /// Random id of a log directory; a wiped disk comes back with another.
    DirectoryId
}

impl TopicId {
    /// Kafka's reserved id of the metadata topic.
    pub const METADATA: TopicId = TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

/// The text is not 22 letters of url-safe base64 that stand for 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 22 letters of url-safe base64")]
pub struct InvalidUuid;

fn random_uuid(high: u64, low: u64) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    if uuid_text(bytes).starts_with(b"-") { None } else { Some(bytes) }
}

fn uuid_text(bytes: [u8; 16]) -> [u8; 22] {
    let bits = u128::from_be_bytes(bytes);
    let mut text = [0; 22];
    for (at, letter) in text[..21].iter_mut().enumerate() {
        *letter = BASE64_URL[(bits >> (122 - 6 * at)) as usize & 63];
    }
    text[21] = BASE64_URL[(bits << 4) as usize & 63];
    text
}

fn parse_uuid(text: &str) -> Result<[u8; 16], InvalidUuid> {
    let letters: &[u8; 22] = text.as_bytes().try_into().map_err(|_| InvalidUuid)?;
    let mut bits = 0u128;
    for (at, letter) in letters.iter().enumerate() {
        let six = BASE64_URL.iter().position(|known| known == letter).ok_or(InvalidUuid)? as u128;
        if at < 21 {
            bits = (bits << 6) | six;
        } else if six & 15 == 0 {
            bits = (bits << 2) | (six >> 4); // the last letter carries the last two bits
        } else {
            return Err(InvalidUuid);
        }
    }
    Ok(bits.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_in_traces() {
        let shown = format!("{:?} {:?} {:?} {:?}", Offset(42), LeaderEpoch(7), BrokerId(3), Sequence(0));
        assert_eq!(shown, "o42 e7 b3 s0");
        assert_eq!(Offset(42).to_string(), "42");
    }

    #[test]
    fn a_sequence_starts_over_after_its_largest_number() {
        assert_eq!(Sequence(i32::MAX).next(), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).plus(3), Sequence(1));
        assert_eq!(Sequence(5).plus(i32::MAX), Sequence(4));
        assert_eq!(Sequence(5).until(Sequence(7)), 2);
        assert_eq!(Sequence(7).until(Sequence(7)), 0);
        assert_eq!(Sequence(i32::MAX).until(Sequence(1)), 2);
        assert_eq!(Sequence(1).until(Sequence(0)), i32::MAX);
    }

    #[test]
    fn a_producer_epoch_ends_instead_of_wrapping() {
        assert_eq!(ProducerEpoch(i16::MAX).next(), None);
        assert_eq!(ProducerEpoch(0).next(), Some(ProducerEpoch(1)));
    }

    #[test]
    #[should_panic(expected = "offsets stay far below 2^63")]
    fn an_offset_does_not_wrap() {
        let _ = Offset(i64::MAX).next();
    }

    #[test]
    #[should_panic(expected = "the start lies behind the end")]
    fn a_distance_is_never_negative() {
        let _ = Offset(3).since(Offset(4));
    }

    #[test]
    fn a_topic_id_reads_as_kafka_writes_it() {
        // Kafka's Uuid.toString of 0x0123456789abcdef_fedcba9876543210.
        let id = TopicId(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128.to_be_bytes());
        assert_eq!(id.to_string(), "ASNFZ4mrze_-3LqYdlQyEA");
        assert_eq!("ASNFZ4mrze_-3LqYdlQyEA".parse(), Ok(id));
        assert_eq!(TopicId::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(TopicId::METADATA.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
    }

    #[test]
    fn a_text_that_is_no_topic_id_is_refused() {
        for text in [
            "",
            "ASNFZ4mrze_-3LqYdlQyE",
            "ASNFZ4mrze_-3LqYdlQyEAA",
            "ASNFZ4mrze_-3LqYdlQyEB",
            "ASNFZ4mrze+-3LqYdlQyEA",
        ] {
            assert_eq!(text.parse::<TopicId>(), Err(InvalidUuid), "{text}");
        }
    }

    #[test]
    fn random_topic_ids_are_version_4_and_never_look_like_an_option() {
        let id = TopicId::from_random(0, 0).expect("begins with A");
        assert_eq!(id.0, [0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(TopicId::from_random(0xf8 << 56, 0), None, "0b111110 is '-'");
    }
}
