//! What is different between two images.
//!
//! Owns: [`Delta`], made by comparing pointers first: what two images share is not looked at.
//! Promises: applying "gone, then new, then changed" to whatever mirrors the old image mirrors the new one. It holds
//! over any number of images in between, so a follower may skip some.
//! Leaves out: what to do about it (`replica::Directory`).

use std::sync::Arc;

use super::image::{Image, Topic};

/// A topic that is in both images, but not the same.
#[derive(Debug, Clone)]
pub struct Changed {
    /// As it was.
    pub old: Arc<Topic>,
    /// As it is.
    pub new: Arc<Topic>,
}

impl Changed {
    /// Whether a config of the topic changed.
    #[must_use]
    pub fn configs_changed(&self) -> bool {
        !Arc::ptr_eq(&self.old.configs, &self.new.configs) && self.old.configs != self.new.configs
    }
}

/// What is different between two images.
#[derive(Debug, Clone, Default)]
pub struct Delta {
    /// Topics that are no more. A name that was deleted and created again is here and in `created`: its id differs.
    pub deleted: Vec<Arc<Topic>>,
    /// Topics that were not there.
    pub created: Vec<Arc<Topic>>,
    /// Topics whose partitions or configs differ.
    pub changed: Vec<Changed>,
    /// Whether a broker-level config differs, or what counts of them, and with it perhaps the configs of every topic.
    pub broker_configs: bool,
}

impl Delta {
    /// What changed from `old` to `new`.
    #[must_use]
    pub fn between(old: &Image, new: &Image) -> Delta {
        let mut delta = Delta {
            broker_configs: old.is_shared() != new.is_shared()
                || !Arc::ptr_eq(&old.broker_configs, &new.broker_configs)
                    && old.broker_configs != new.broker_configs,
            ..Delta::default()
        };
        if Arc::ptr_eq(&old.topics, &new.topics) {
            return delta;
        }
        for (id, topic) in old.topics.iter() {
            match new.topics.get(id) {
                None => delta.deleted.push(topic.clone()),
                Some(now) if Arc::ptr_eq(topic, now) => {}
                Some(now) => delta.changed.push(Changed { old: topic.clone(), new: now.clone() }),
            }
        }
        let created = new.topics.iter().filter(|(id, _)| !old.topics.contains_key(*id));
        delta.created = created.map(|(_, topic)| topic.clone()).collect();
        delta
    }

    /// Whether nothing that this describes is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deleted.is_empty() && self.created.is_empty() && self.changed.is_empty() && !self.broker_configs
    }
}
