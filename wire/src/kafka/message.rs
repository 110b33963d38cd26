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
