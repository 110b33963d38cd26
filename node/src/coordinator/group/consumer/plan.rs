//! When a new plan is due, and a member's way to it.
//!
//! Promises: members or topics that change raise the group's epoch, and the plan follows in the same step; topics are
//! looked at with the next thing that any member does after they changed, so that nothing has to wake the groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::TopicId;

use super::assignor::{Assignor, Wish};
use super::keep::Key;
use super::member::Phase;
use super::members::Members;
use super::reconcile::{self, Target};
use super::topics;
use crate::coordinator::consumer_record::Parts;
use crate::coordinator::group::turn::Turn;

type Names = BTreeSet<Arc<str>>;
/// What a member says that it reads: names, and a pattern.
type Said<'a> = (&'a Names, Option<&'a Arc<str>>);

impl Members {
    /// Looks whether a new plan is due, because of `changed` members or of topics, and makes it.
    pub(super) fn look(&mut self, changed: bool, turn: &mut Turn<'_>) {
        if !changed && self.seen == turn.known.version {
            return;
        }
        self.seen = turn.known.version;
        let image = &turn.known.image;
        let patterns: BTreeSet<&Arc<str>> =
            self.members.values().filter_map(|member| member.pattern.as_ref()).collect();
        let matches: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> =
            patterns.into_iter().map(|pattern| (pattern.clone(), topics::matching(pattern, image))).collect();
        let named = self.members.values().flat_map(|member| member.topics.iter());
        self.subscribed = named.chain(matches.values().flatten()).cloned().collect();
        let counts = topics::counts(&self.subscribed, image);
        let hash = topics::hash(&counts);
        if !changed && hash == self.topics_hash {
            return;
        }
        if !changed {
            mark!("topics changed: the group makes a new plan");
        }
        self.topics_hash = hash;
        self.epoch = self.epoch.next();
        *turn.rebalances += 1;
        self.dirty.insert(Key::Epoch);
        self.make_plan(&matches, &counts, turn);
    }

    fn make_plan(
        &mut self,
        matches: &BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
        counts: &BTreeMap<TopicId, i32>,
        turn: &Turn<'_>,
    ) {
        self.assignor = self.choose_assignor(&turn.settings.assignors);
        let image = &turn.known.image;
        // Members that say the same share one set.
        let mut sets: BTreeMap<Said<'_>, Arc<BTreeSet<TopicId>>> = BTreeMap::new();
        let mut wishes: BTreeMap<Arc<str>, Wish> = BTreeMap::new();
        for (id, member) in &self.members {
            let set = sets.entry((&member.topics, member.pattern.as_ref())).or_insert_with(|| {
                let matched = member.pattern.as_ref().and_then(|pattern| matches.get(pattern));
                let names = member.topics.iter().chain(matched.into_iter().flatten());
                Arc::new(names.filter_map(|name| image.topic_named(name)).map(|topic| topic.id).collect())
            });
            let rank = member.instance.as_ref().unwrap_or(id).clone();
            let before = self.target.get(id).cloned().unwrap_or_default();
            wishes.insert(id.clone(), Wish { rank, topics: set.clone(), before });
        }
        let plan = self.assignor.plan(&wishes, counts);
        for (id, parts) in &plan {
            if self.target.get(id) != Some(parts) {
                self.dirty.insert(Key::Target(id.clone()));
            }
        }
        self.target = plan;
        self.target_epoch = self.epoch;
        self.dirty.insert(Key::TargetEpoch);
    }

    /// What most members want, of what is allowed; the first that is allowed if nobody says.
    fn choose_assignor(&self, allowed: &[Assignor]) -> Assignor {
        let wants = |assignor: &Assignor| {
            let votes = self.members.values().filter_map(|member| member.assignor.as_deref());
            votes.filter(|name| *name == assignor.name()).count()
        };
        // Of equals the last is the greatest: the first that is allowed comes last here.
        *allowed.iter().rev().max_by_key(|assignor| wants(assignor)).expect("an assignor is allowed")
    }

    /// Leads a member on. `owned` is what it says that it owns, if it says so. Whether it is to own something else.
    pub(super) fn reconcile(&mut self, id: &str, owned: Option<&Parts>, turn: &Turn<'_>) -> bool {
        let nothing = Parts::new();
        let parts = self.target.get(id).unwrap_or(&nothing);
        let target = Target { epoch: self.target_epoch, parts };
        let member = &self.members[id];
        let next = reconcile::step(member, &target, owned, |part| !self.owners.contains_key(part));
        let Some(next) = next else { return false };
        let is_same = next.epoch == member.epoch
            && next.phase == member.phase
            && next.assigned == member.assigned
            && next.revoking == member.revoking;
        if is_same {
            return false;
        }
        let gets_other = next.assigned != member.assigned;
        let revokes = next.phase == Phase::Unrevoked;
        let is_modern = member.face.is_none();
        let wait: Duration = member.patience;
        self.advance(id, next);
        let member = self.members.get_mut(id).expect("just advanced");
        // A member of the classic protocol has its own deadlines.
        member.revoke_until = (revokes && is_modern).then(|| turn.now.mono.plus(wait));
        gets_other
    }
}
