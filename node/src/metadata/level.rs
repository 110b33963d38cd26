//! Which releases can read what: the feature `dejaq.version` of the cluster, and what each of its levels brought.
//!
//! Owns: the levels that this build has ([`OLDEST`] to [`NEWEST`]), which record, config or image needs which level, and
//! [`Readable`], the judgement of a node that stands at an older one.
//! Promises: a form of level n is decided only once the cluster's level is n (`controller::decide` asks here); a node whose
//! newest level is below what it reads stops and says so, it never guesses (MQ-10).
//! Leaves out: messages between nodes, which have the same numbers (`dejaq_wire::peer::level_of`); changing the level
//! (`controller::decide::update_features`); the files of partitions and the records of coordinators, which are the same in all
//! levels so far (a classic group without a leader is read by an older release, too, as a settled one).
//!
//! ```text
//!  1  the first release
//!  2  topic configs acks.required, replica.lag.max.messages; brokers say which levels they support, leaders who lost
//!     records to damage
//! ```
//!
//! Decided: one number for all forms, and a cluster without the feature is at level 1, because the first release knew no such
//! feature and must not meet a record that it would have to understand. Nothing of a level is written twice, in an old and a
//! new way: what needs it is refused until then.

use std::fmt;

use dejaq_wire::peer::{FEATURE_LEVEL, OLDEST_FEATURE_LEVEL};
use serde::{Deserialize, Serialize};

use super::config_table::find;
use super::image::Image;
use super::record::{Record, Resource};

/// Name of the feature.
pub const DEJAQ_VERSION: &str = "dejaq.version";
/// The oldest level that this build can live at.
pub const OLDEST: i16 = OLDEST_FEATURE_LEVEL as i16;
/// The newest level that this build has.
pub const NEWEST: i16 = FEATURE_LEVEL as i16;

const _: () = assert!(OLDEST >= 1 && OLDEST <= NEWEST && FEATURE_LEVEL < 1000, "levels are small numbers");

/// The levels of `dejaq.version` that a node supports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// The oldest.
    pub min: i16,
    /// The newest.
    pub max: i16,
}

impl Levels {
    /// What a broker of the first release supports, which does not say so.
    pub const FIRST: Levels = Levels { min: 1, max: 1 };

    /// What this build supports, if it is held to `max`.
    #[must_use]
    pub fn up_to(max: u16) -> Levels {
        let max = i16::try_from(max).unwrap_or(NEWEST).clamp(OLDEST, NEWEST);
        Levels { min: OLDEST, max }
    }

    /// Whether a node of these can be part of a cluster of this level.
    #[must_use]
    pub fn have(&self, level: i16) -> bool {
        (self.min..=self.max).contains(&level)
    }
}

impl Default for Levels {
    fn default() -> Levels {
        Levels { min: OLDEST, max: NEWEST }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// The level from which on a topic config exists.
#[must_use]
pub fn of_config(name: &str) -> i16 {
    find(name).map_or(1, |def| def.since)
}

/// The level that a topic config needs which was read: what this build does not know is of a newer release.
fn needed_by(name: &str) -> i16 {
    find(name).map_or(NEWEST + 1, |def| def.since)
}

/// Something that needs a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub level: i16,
    /// What it is, for people.
    pub what: String,
}

impl Record {
    /// The level that a node must have to read this.
    #[must_use]
    pub fn level(&self) -> i16 {
        self.need().map_or(1, |need| need.level)
    }

    fn need(&self) -> Option<Need> {
        match self {
            Record::FeatureLevelSet(set) if set.name == DEJAQ_VERSION && set.level > 1 => {
                Some(Need { level: set.level, what: format!("{DEJAQ_VERSION} {}", set.level) })
            }
            // That one is gone, everybody reads.
            Record::ConfigChanged(changed)
                if matches!(changed.resource, Resource::Topic(_)) && changed.value.is_some() =>
            {
                let level = needed_by(&changed.name);
                (level > 1).then(|| Need { level, what: format!("the topic config {}", changed.name) })
            }
            _ => None,
        }
    }
}

impl Image {
    /// The level at which the cluster stands.
    #[must_use]
    pub fn level(&self) -> i16 {
        self.feature(DEJAQ_VERSION).unwrap_or(1)
    }

    /// The level that a node must have to read all of it.
    #[must_use]
    pub fn needs(&self) -> i16 {
        let level = self.level();
        self.in_use_above(level).map_or(level, |need| need.level)
    }

    /// What of the metadata needs more than this level, the level of the cluster left aside; the first in the order of the
    /// topics' names.
    #[must_use]
    pub fn in_use_above(&self, level: i16) -> Option<Need> {
        self.topics_by_name().find_map(|topic| {
            let newer = topic.configs.keys().find(|name| needed_by(name) > level)?;
            let what = format!("topic {} has the config {newer}", topic.name);
            Some(Need { level: needed_by(newer), what })
        })
    }
}

/// Why a node must not go on: it would not understand its cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} needs {DEJAQ_VERSION} {}, and this node supports up to {newest}: start the newer release (or raise \
     feature-level-max). After `dejaq cluster downgrade` it writes a snapshot that the older one reads: let it run until then",
    need.what, need.level
)]
pub struct TooNew {
    /// What.
    pub need: Need,
    /// The newest level of this node.
    pub newest: i16,
}

/// What a node can read that supports nothing above some level.
#[derive(Debug, Clone, Copy)]
pub struct Readable {
    /// That level.
    pub up_to: i16,
}

impl Readable {
    /// Whether it reads all of these.
    ///
    /// # Errors
    /// [`TooNew`]: stop the node.
    pub fn records(self, records: &[Record]) -> Result<(), TooNew> {
        self.none_of(records.iter().filter_map(Record::need))
    }

    /// Whether it reads a whole image.
    ///
    /// # Errors
    /// [`TooNew`]: stop the node.
    pub fn image(self, image: &Image) -> Result<(), TooNew> {
        let level = image.level();
        let stands = Need { level, what: format!("the cluster, which stands at {DEJAQ_VERSION} {level},") };
        self.none_of([Some(stands), image.in_use_above(self.up_to)].into_iter().flatten())
    }

    fn none_of(self, needs: impl Iterator<Item = Need>) -> Result<(), TooNew> {
        let newest = self.up_to;
        match needs.into_iter().find(|need| need.level > newest) {
            Some(need) => Err(TooNew { need, newest }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::TopicId;

    use super::super::record::{ConfigChanged, FeatureLevelSet};
    use super::*;

    fn set(name: &str, value: Option<&str>) -> Record {
        let resource = Resource::Topic(TopicId([1; 16]));
        ConfigChanged { resource, name: name.into(), value: value.map(Into::into) }.into()
    }

    fn stands(name: &str, level: i16) -> Record {
        FeatureLevelSet { name: name.into(), level }.into()
    }

    #[test]
    fn a_form_of_level_2_is_refused_on_disk_by_a_node_of_level_1_and_read_by_one_of_level_2() {
        let old = [set("retention.ms", Some("1")), set("acks.required", None), stands(DEJAQ_VERSION, 1)];
        let new = [
            set("acks.required", Some("2")),
            set("replica.lag.max.messages", Some("9")),
            stands(DEJAQ_VERSION, 2),
        ];
        let read = |records: &[Record], up_to: i16| {
            let stored: Vec<Record> =
                records.iter().map(|record| Record::decode(&record.encode()).expect("ours")).collect();
            Readable { up_to }.records(&stored)
        };
        assert_eq!(read(&old, 1), Ok(()));
        assert!(old.iter().all(|record| record.level() == 1));
        for record in new {
            assert_eq!(record.level(), 2, "{record:?}");
            assert_eq!(read(&[old[0].clone(), record.clone()], 2), Ok(()));
            let refused = read(&[old[0].clone(), record.clone()], 1).expect_err("too new");
            assert_eq!((refused.need.level, refused.newest), (2, 1));
            assert!(refused.to_string().contains("dejaq cluster downgrade"), "{refused}");
        }
        assert_eq!(stands("metadata.version", 25).level(), 1, "the levels of other features are not ours");
    }

    #[test]
    fn a_cluster_that_says_nothing_stands_at_level_1() {
        let mut image = Image::default();
        assert_eq!((image.level(), Readable { up_to: 1 }.image(&image)), (1, Ok(())));
        image.apply(&stands(DEJAQ_VERSION, 2)).expect("it applies");
        assert_eq!(image.level(), 2);
        assert_eq!(Readable { up_to: 2 }.image(&image), Ok(()));
        assert!(Readable { up_to: 1 }.image(&image).is_err());
    }

    #[test]
    fn a_range_is_held_to_what_the_build_has() {
        assert_eq!(Levels::up_to(1), Levels { min: 1, max: 1 });
        assert_eq!(Levels::up_to(u16::MAX), Levels::default());
        assert!(
            Levels::default().have(1)
                && Levels::default().have(NEWEST)
                && !Levels::default().have(NEWEST + 1)
        );
        assert!(!Levels { min: 2, max: 3 }.have(1));
    }
}
