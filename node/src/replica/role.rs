//! What a replica is now: the leader or a follower, behind one face for those who do not care which.
//!
//! Owns: [`Role`]. Promises: nothing of its own. Leaves out: how one becomes the other (`partition`, `following`).

use dejaq_wire::ids::{LeaderEpoch, Offset};

use super::follower::Follower;
use super::leader::{Effect, Event, Leader, Resigned};
use super::policy::Policy;

/// A replica's part.
#[derive(Debug)]
pub enum Role {
    /// It leads.
    Leader(Box<Leader>),
    /// It follows, or waits until somebody leads.
    Follower(Follower),
}

impl Role {
    /// The leader, if it leads.
    pub fn leader(&mut self) -> Option<&mut Leader> {
        match self {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) => None,
        }
    }

    /// The follower, if it follows.
    pub fn follower(&mut self) -> Option<&mut Follower> {
        match self {
            Role::Leader(_) => None,
            Role::Follower(follower) => Some(follower),
        }
    }

    /// The shell starts a sync that covers everything appended so far.
    pub fn flush_began(&mut self, effects: &mut Vec<Effect>) {
        match self {
            Role::Leader(leader) => leader.step(Event::FlushBegan, effects),
            Role::Follower(follower) => follower.flush_began(),
        }
    }

    /// A sync ended well.
    pub fn flushed(&mut self, end: Offset, effects: &mut Vec<Effect>) {
        match self {
            Role::Leader(leader) => leader.step(Event::Flushed { end }, effects),
            Role::Follower(follower) => follower.flushed(end, effects),
        }
    }

    /// The time of an [`Effect::FlushWithin`] is over.
    pub fn flush_overdue(&mut self, effects: &mut Vec<Effect>) {
        match self {
            Role::Leader(leader) => leader.step(Event::FlushOverdue, effects),
            Role::Follower(follower) => follower.flush_overdue(effects),
        }
    }

    /// Records below `start` are gone for good.
    pub fn start_moved(&mut self, start: Offset, effects: &mut Vec<Effect>) {
        match self {
            Role::Leader(leader) => leader.step(Event::StartMoved { start }, effects),
            Role::Follower(follower) => follower.start_moved(start, effects),
        }
    }

    /// The topic's configuration changed.
    pub fn policy_changed(&mut self, policy: Policy, effects: &mut Vec<Effect>) {
        match self {
            Role::Leader(leader) => leader.step(Event::PolicyChanged(policy), effects),
            Role::Follower(follower) => follower.policy_changed(policy, effects),
        }
    }

    /// It ends here.
    pub fn resign(&mut self, why: Resigned, effects: &mut Vec<Effect>) {
        if self.resigned().is_none() {
            match self {
                Role::Leader(leader) => leader.step(Event::Resigned(why), effects),
                Role::Follower(follower) => follower.resign(why),
            }
        }
    }

    /// Why it stopped, if it did.
    #[must_use]
    pub fn resigned(&self) -> Option<Resigned> {
        match self {
            Role::Leader(leader) => leader.resigned(),
            Role::Follower(follower) => follower.resigned(),
        }
    }

    /// The leader epoch that it is of.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        match self {
            Role::Leader(leader) => leader.epoch(),
            Role::Follower(follower) => follower.epoch(),
        }
    }

    /// First offset of the log.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        match self {
            Role::Leader(leader) => leader.log_start(),
            Role::Follower(follower) => follower.log_start(),
        }
    }

    /// End of the log.
    #[must_use]
    pub fn local_end(&self) -> Offset {
        match self {
            Role::Leader(leader) => leader.local_end(),
            Role::Follower(follower) => follower.local_end(),
        }
    }

    /// Everything below is synced.
    #[must_use]
    pub fn flushed_end(&self) -> Offset {
        match self {
            Role::Leader(leader) => leader.flushed_end(),
            Role::Follower(follower) => follower.flushed_end(),
        }
    }

    /// End of what readers may see, as far as is known here.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        match self {
            Role::Leader(leader) => leader.watermark(),
            Role::Follower(follower) => follower.watermark(),
        }
    }

    /// Up to where the start of the log may move.
    #[must_use]
    pub fn start_limit(&self) -> Offset {
        match self {
            Role::Leader(leader) => leader.watermark(),
            Role::Follower(follower) => follower.start_limit(),
        }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        match self {
            Role::Leader(leader) => leader.policy(),
            Role::Follower(follower) => follower.policy(),
        }
    }

    /// Appended bytes that no finished sync covers.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        match self {
            Role::Leader(leader) => leader.unsynced_bytes(),
            Role::Follower(follower) => follower.unsynced_bytes(),
        }
    }
}
