//! `message!`: declares the structs of an API, one line a field.
//!
//! ```text
//! message! {
//!     FetchRequest {                                    // struct, Default, Wire
//!         max_wait_ms: i32, ..;                         // in every version
//!         session_epoch: i32, 7.., = -1;                // from version 7 on; default -1
//!         cluster_id: Option<String>, 12.., tag 0;      // a tagged field
//!         topics: Option<Vec<Topic>>, .., null 1..;     // may be null from version 1 on
//!     }
//! }
//! ```
//! A field that the version lacks keeps its default on reading and is left out on writing. A null
//! where the version has none is refused on reading and written as the empty value. A tagged field
//! is left out while it has its default. Unknown tagged fields are passed over.

use std::ops::RangeBounds;

/// Whether a field declared for `versions` is there in `version`.
pub(crate) fn has(versions: impl RangeBounds<i16>, version: i16) -> bool {
    versions.contains(&version)
}

macro_rules! message {
    ($($(#[$meta:meta])* $name:ident {
        $($field:ident: $ty:ty, $versions:expr
            $(, null $null:expr)? $(, tag $tag:literal)? $(, = $default:expr)?;)*
    })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: message!(@default $($default)?),)* }
            }
        }

        impl $crate::kafka::codec::Wire for $name {
            #[allow(unused_mut, unused_variables, clippy::match_single_binding, reason = "some structs have no field, or no tag, in some version")]
            fn read<S: $crate::kafka::codec::Source>(
                s: &mut S,
                version: i16,
            ) -> Result<Self, $crate::kafka::codec::DecodeError> {
                let mut value = Self::default();
                $(message!(@read value, s, version, $field, $versions $(, null $null)? $(, tag $tag)?);)*
                if s.flexible() {
                    let mut tags = s.tags(&[$($($tag,)?)*])?;
                    while let Some(tag) = s.next_tag(&mut tags)? {
                        match tag {
                            $($($tag if $crate::kafka::message::has($versions, version) => {
                                value.$field = $crate::kafka::codec::Wire::read(s, version)?;
                            })?)*
                            _ => s.skip_tag(&tags)?,
                        }
                    }
                }
                Ok(value)
            }

            #[allow(unused_mut, unused_variables, reason = "some structs have no field, or no tag, in some version")]
            fn write(&self, w: &mut $crate::kafka::Writer, version: i16) {
                $(message!(@write self, w, version, $field, $versions $(, null $null)? $(, tag $tag)?);)*
                if w.flexible() {
                    let mut tags = $crate::kafka::writer::TagWriter::default();
                    $(message!(@tag self, tags, version, $field: $ty, $versions, ($($tag)?), ($($default)?));)*
                    w.tags(tags);
                }
            }
        }
    )*};

    (@default) => { Default::default() };
    (@default $default:expr) => { $default };

    (@read $value:ident, $s:ident, $version:ident, $field:ident, $versions:expr) => {
        if $crate::kafka::message::has($versions, $version) {
            $value.$field = $crate::kafka::codec::Wire::read($s, $version)?;
        }
    };
    (@read $value:ident, $s:ident, $version:ident, $field:ident, $versions:expr, null $null:expr) => {
        if $crate::kafka::message::has($versions, $version) {
            let null = $crate::kafka::message::has($null, $version);
            $value.$field = $crate::kafka::codec::Nullable::read_nullable($s, $version, null)?;
        }
    };
    (@read $value:ident, $s:ident, $version:ident, $field:ident, $versions:expr, tag $tag:literal) => {};

    (@write $self:ident, $w:ident, $version:ident, $field:ident, $versions:expr) => {
        if $crate::kafka::message::has($versions, $version) {
            $crate::kafka::codec::Wire::write(&$self.$field, $w, $version);
        }
    };
    (@write $self:ident, $w:ident, $version:ident, $field:ident, $versions:expr, null $null:expr) => {
        if $crate::kafka::message::has($versions, $version) {
            let null = $crate::kafka::message::has($null, $version);
            $crate::kafka::codec::Nullable::write_nullable(&$self.$field, $w, $version, null);
        }
    };
    (@write $self:ident, $w:ident, $version:ident, $field:ident, $versions:expr, tag $tag:literal) => {};

    (@tag $self:ident, $tags:ident, $version:ident, $field:ident: $ty:ty, $versions:expr, (), ($($default:expr)?)) => {};
    (@tag $self:ident, $tags:ident, $version:ident, $field:ident: $ty:ty, $versions:expr, ($tag:literal), ($($default:expr)?)) => {
        let default: $ty = message!(@default $($default)?);
        if $crate::kafka::message::has($versions, $version) && $self.$field != default {
            $tags.add($tag, |w| $crate::kafka::codec::Wire::write(&$self.$field, w, $version));
        }
    };
}
pub(crate) use message;

#[cfg(test)]
mod tests {
    use crate::ids::Offset;
    use crate::kafka::fetch::{FetchPartition, FetchRequest, FetchResponse};
    use crate::kafka::join_group::JoinGroupResponse;
    use crate::kafka::metadata::MetadataRequest;
    use crate::kafka::{DecodeError, Malformed, Request, Response, Wire, Writer};

    fn written(value: &impl Wire, flexible: bool, version: i16) -> Vec<u8> {
        let mut writer = Writer::new(flexible);
        value.write(&mut writer, version);
        writer.finish().expect("it fits").concat()
    }

    #[test]
    fn a_null_is_written_as_empty_where_the_version_has_none() {
        let response = JoinGroupResponse { protocol_name: None, ..JoinGroupResponse::default() };
        let old = JoinGroupResponse::decode(6, written(&response, true, 6).into());
        assert_eq!(old.map(|old| old.protocol_name), Ok(Some(String::new())));
        let new = JoinGroupResponse::decode(7, written(&response, true, 7).into());
        assert_eq!(new.map(|new| new.protocol_name), Ok(None));
        // Version 0 of Metadata asks for all topics by an empty list, later ones by null.
        assert_eq!(written(&MetadataRequest::default(), false, 0), [0, 0, 0, 0]);
        assert_eq!(written(&MetadataRequest::default(), false, 1), [0xff; 4]);
    }

    #[test]
    fn a_null_is_refused_where_the_version_has_none() {
        let null = || bytes::Bytes::from_static(&[0xff; 4]);
        let refused = DecodeError { at: 4, reason: Malformed::UnexpectedNull };
        assert_eq!(MetadataRequest::decode(0, null()), Err(refused));
        assert_eq!(MetadataRequest::decode(1, null()), Ok(MetadataRequest::default()));
    }

    #[test]
    fn a_tagged_field_is_written_only_where_it_differs_from_its_default() {
        let mut partition = FetchPartition::default();
        assert_eq!(partition.high_watermark, Offset(i64::MAX), "Kafka's default of the tag");
        let without = written(&partition, true, 18);
        partition.high_watermark = Offset(7);
        let with = written(&partition, true, 18);
        assert_eq!(without.last(), Some(&0), "no tag");
        assert_eq!(with[without.len() - 1..], [1, 1, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(written(&partition, true, 17), without, "version 17 has no such tag");
    }

    #[test]
    fn a_version_that_is_not_in_the_table_is_refused() {
        let reason = FetchRequest::decode(99, bytes::Bytes::new()).map_err(|error| error.reason);
        assert_eq!(reason, Err(Malformed::UnknownVersion(99)));
    }

    #[test]
    fn bytes_behind_a_request_are_ignored_as_kafka_ignores_them() {
        // What librdkafka 2.16 sends to ask for all topics: the null array takes four bytes instead of one.
        let sent = bytes::Bytes::from_static(&[0, 0, 0, 0, 1, 0, 0]);
        let request = MetadataRequest::decode(13, sent).expect("the first four bytes are a request");
        assert_eq!((request.topics, request.allow_auto_topic_creation), (None, false));
    }

    #[test]
    fn bytes_behind_a_response_are_refused() {
        let mut body = written(&FetchResponse::default(), false, 4);
        body.push(0);
        let reason = FetchResponse::decode(4, body.into()).map_err(|error| error.reason);
        assert_eq!(reason, Err(Malformed::TrailingBytes(1)));
    }
}
