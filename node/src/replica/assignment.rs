//! What the metadata says of one partition that this node holds (pure).

use dejaq_wire::ids::{BrokerId, LeaderEpoch};

use super::isr::Moving;

/// A partition as the metadata places it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Our own id.
    pub me: BrokerId,
    /// Who leads: we, another, or nobody.
    pub leader: BrokerId,
    /// In which epoch.
    pub epoch: LeaderEpoch,
    /// Counts the states of the partition.
    pub partition_epoch: i32,
    /// All replicas, us among them.
    pub replicas: Vec<BrokerId>,
    /// The in-sync ones; us among them if we lead.
    pub isr: Vec<BrokerId>,
    /// Who may be elected though it is not in sync: it left with all that was committed (KIP-966), or was so until it stopped uncleanly.
    pub eligible: Vec<BrokerId>,
    /// Replicas that only come: nobody misses them yet, and they take their time.
    pub adding: Vec<BrokerId>,
    /// Replicas that go when those that come are in sync.
    pub removing: Vec<BrokerId>,
}

impl Assignment {
    /// Whether we only come.
    #[must_use]
    pub fn is_coming(&self) -> bool {
        self.adding.contains(&self.me) && !self.isr.contains(&self.me)
    }

    /// Whether we may be elected.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.isr.contains(&self.me) || self.eligible.contains(&self.me)
    }

    /// How many only come and are not in sync yet.
    pub(super) fn still_coming(&self) -> usize {
        self.adding.iter().filter(|one| !self.isr.contains(one)).count()
    }

    /// How many replicas come and go.
    pub(super) fn moving(&self) -> Moving {
        Moving { coming: self.adding.len(), going: self.removing.len() }
    }

    /// Whether we lead.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leader == self.me
    }
}
