//! Kafka's rule for topic names, and which two names would collide.
//!
//! Owns: the rule `[a-zA-Z0-9._-]{1,249}`, not `.` and not `..`, and the collision key under which
//! `a.b` and `a_b` are the same (Kafka's metrics replace the one by the other).
//! Leaves out: whether a topic exists, and what a client may do with it.

/// Longest topic name in bytes: a folder `<name>-<partition>` must fit into 255 bytes.
pub const MAX_TOPIC_NAME_BYTES: usize = 249;

/// Why a topic name is refused; every variant is answered with INVALID_TOPIC_EXCEPTION and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    /// The name has no byte.
    #[error("the topic name is empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("a topic name may be neither \".\" nor \"..\"")]
    Dots,
    /// The name is longer than [`MAX_TOPIC_NAME_BYTES`].
    #[error("the topic name has {bytes} bytes; at most {MAX_TOPIC_NAME_BYTES} are allowed")]
    TooLong {
        /// Length of the refused name in bytes.
        bytes: usize,
    },
    /// The name has a character outside of the allowed set.
    #[error("the topic name has the character {found:?}; only letters, digits, '.', '_' and '-' are allowed")]
    Character {
        /// The first character that is not allowed.
        found: char,
    },
}

/// Checks a topic name against Kafka's rule.
///
/// # Errors
/// [`InvalidTopicName`] names the first rule that is broken; answer INVALID_TOPIC_EXCEPTION (17).
pub fn validate_topic_name(name: &str) -> Result<(), InvalidTopicName> {
    if name.is_empty() {
        return Err(InvalidTopicName::Empty);
    }
    if name == "." || name == ".." {
        return Err(InvalidTopicName::Dots);
    }
    if name.len() > MAX_TOPIC_NAME_BYTES {
        return Err(InvalidTopicName::TooLong { bytes: name.len() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|c| !allowed(*c)) {
        Some(found) => Err(InvalidTopicName::Character { found }),
        None => Ok(()),
    }
}

/// The key under which two names collide: equal keys of two different names must not both exist.
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_249_bytes_is_the_longest() {
        assert_eq!(validate_topic_name(&"x".repeat(249)), Ok(()));
        assert_eq!(validate_topic_name(&"x".repeat(250)), Err(InvalidTopicName::TooLong { bytes: 250 }));
    }

    #[test]
    fn only_kafkas_characters_are_allowed() {
        assert_eq!(validate_topic_name("Aa09._-"), Ok(()));
        assert_eq!(validate_topic_name(""), Err(InvalidTopicName::Empty));
        assert_eq!(validate_topic_name("."), Err(InvalidTopicName::Dots));
        assert_eq!(validate_topic_name(".."), Err(InvalidTopicName::Dots));
        assert_eq!(validate_topic_name("..."), Ok(()));
        for (name, found) in [("a/b", '/'), ("a b", ' '), ("ä", 'ä'), ("a\0", '\0')] {
            assert_eq!(validate_topic_name(name), Err(InvalidTopicName::Character { found }));
        }
    }

    #[test]
    fn dot_and_underscore_collide() {
        assert_eq!(collision_key("a.b"), collision_key("a_b"));
        assert_ne!(collision_key("a.b"), collision_key("a-b"));
    }
}
