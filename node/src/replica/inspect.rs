//! What a replica believes of itself and of the others, for whoever looks at several nodes beside each other.
//!
//! Owns: [`Inspection`], a copy. Promises: a look takes no turn, carries nothing out and changes nothing.
//! Leaves out: judging it (the simulator's god, and tests). Called by nobody in production.
//!
//! ```text
//!  turn ── role, isr, log ──► Inspection (values)          no effect, no wake-up
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, TryLockError};

use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};

use super::isr::{Proposal, Report};
use super::partition::Partition;
use super::role::Role;
use crate::runtime::Runtime;

/// What a replica believes at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The newest epoch of its list of epochs.
    pub latest_epoch: Option<LeaderEpoch>,
    /// Everything below is synced.
    pub flushed_end: Offset,
    /// What only a leader knows.
    pub leading: Option<Leading>,
}

/// What a leader believes of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leading {
    /// Where its log ended when its epoch began.
    pub epoch_start: Offset,
    /// Every replica.
    pub replicas: BTreeSet<BrokerId>,
    /// The in-sync set that the controller committed, as far as it knows.
    pub members: BTreeSet<BrokerId>,
    /// What it proposed and was not answered.
    pub proposed: Option<Proposal>,
    /// What each follower reported.
    pub reports: BTreeMap<BrokerId, Report>,
}

impl<R: Runtime> Partition<R> {
    /// Looks; `None` while somebody has the turn, or once the log is closed.
    pub fn inspect(self: &Arc<Self>) -> Option<Inspection> {
        let turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let log = turn.log.as_ref()?;
        let leading = match &turn.role {
            Role::Leader(leader) if leader.resigned().is_none() => Some(Leading {
                epoch_start: leader.epoch_start(),
                replicas: leader.isr().replicas().clone(),
                members: leader.isr().members().clone(),
                proposed: leader.isr().proposed().cloned(),
                reports: leader.isr().reports().collect(),
            }),
            Role::Leader(_) | Role::Follower(_) => None,
        };
        Some(Inspection { latest_epoch: log.latest_epoch(), flushed_end: turn.role.flushed_end(), leading })
    }
}
