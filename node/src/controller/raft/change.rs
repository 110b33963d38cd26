//! Changes of the voters: one at a time, by one (KIP-853, Ongaro's thesis 4).
//!
//! Owns: when a change is refused. Promises: a set takes effect where it is appended; the next change waits until the
//! one before is committed, and until an entry of this leader is (Ongaro, raft-dev 2015), so that two sets in effect
//! at once always share a majority (MQ-13). A new voter has everything that is committed,
//! and a majority of the new set is heard: a set that cannot commit itself can not be taken back either.
//! Leaves out: counting (`leading`), a leader that is removed (`leading`).

use dejaq_storage::mutant;
use dejaq_wire::ids::Offset;
use dejaq_wire::peer::raft::{Content, DirectoryId, ReplicaKey};

use super::facade::{Change, ChangeRefused, Lost, Token, Turn};
use super::machine::Raft;
use super::role::{Leading, Role};
use super::voters::{VoterSet, majority};
use crate::runtime::Mono;

impl Raft {
    pub(super) fn change(&mut self, now: Mono, token: Token, change: Change, turn: &mut Turn) {
        let Role::Leader(leading) = &self.role else {
            return Raft::token_refused(token, Lost::NotLeader, turn);
        };
        if self.commit < leading.ready && !mutant!(312) {
            return Raft::token_refused(token, Lost::NotReady, turn);
        }
        match self.changed(now, change) {
            Ok(voters) => {
                let content = Content::Voters(voters.as_slice().to_vec());
                self.append_own(token, 1, content, turn);
            }
            Err(why) => Raft::token_refused(token, Lost::Refused(why), turn),
        }
    }

    fn changed(&self, now: Mono, change: Change) -> Result<VoterSet, ChangeRefused> {
        let Role::Leader(leading) = &self.role else { unreachable!("only a leader changes the voters") };
        let voters = self.voters();
        let said = self.store.entries().voters_said_at().expect("a leader has said who votes");
        if said > self.commit && !mutant!(311) {
            return Err(ChangeRefused::InFlight);
        }
        let voters = match change {
            Change::Add(voter) => {
                if voter.key.directory == DirectoryId::UNKNOWN {
                    return Err(ChangeRefused::NoDirectory(voter.key.id));
                }
                let key = voter.key;
                let voters = voters.with(voter)?;
                let end = leading.replicas.get(&key).map_or(Offset::NONE, |progress| progress.durable);
                if end < self.commit || !self.is_heard(now, key) {
                    return Err(ChangeRefused::NotCaughtUp(key));
                }
                voters
            }
            Change::Remove(key) => {
                if !voters.as_slice().iter().any(|voter| voter.key == key) {
                    return Err(ChangeRefused::NoVoter(key));
                }
                voters.without(key)?
            }
        };
        let heard = voters.as_slice().iter().filter(|voter| self.is_heard(now, voter.key)).count();
        if heard < majority(voters.count()) {
            return Err(ChangeRefused::WouldLoseQuorum { heard, voters: voters.count() });
        }
        Ok(voters)
    }

    fn is_heard(&self, now: Mono, key: ReplicaKey) -> bool {
        let patience = self.timing().election;
        let fetches =
            |leading: &Leading| leading.replicas.get(&key).map(|progress| progress.heard + patience);
        key == self.settings.me || self.leading().and_then(fetches).is_some_and(|until| now < until)
    }
}
