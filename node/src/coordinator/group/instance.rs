//! Static members that come back (KIP-345): a new process takes the place of the old one, without a rebalance if it
//! reads the same.

use std::sync::Arc;

use bytes::Bytes;
use dejaq_storage::mark;
use dejaq_wire::ErrorCode;

use super::ask::{JoinAsk, Reply, Token};
use super::classic::{Group, State, overtaken, refused_join, refused_sync};
use super::join::fresh_id;
use super::subscription;
use super::turn::{After, Turn};

impl Group {
    /// Gives the place of `old` to the process that asks, under a new id; the old one is fenced from now on.
    pub(super) fn replace(&mut self, old: &str, token: Token, ask: &JoinAsk, turn: &mut Turn<'_>) {
        mark!("a static member comes back");
        let fresh = fresh_id(ask);
        let mut member = self.members.remove(old).expect("every instance leads to a member");
        overtaken(member.joining.take(), refused_join(ErrorCode::FENCED_INSTANCE_ID, old), turn);
        overtaken(member.syncing.take(), refused_sync(ErrorCode::FENCED_INSTANCE_ID), turn);
        let before = self.read(member.protocols.as_slice());
        member.id = fresh.clone();
        member.client_id.clone_from(&ask.client_id);
        member.client_host.clone_from(&ask.client_host);
        member.tell(&ask.request);
        member.touch(turn.now.mono);
        let after = self.read(member.protocols.as_slice());
        let instance = member.instance.clone().expect("it was found by its instance");
        self.instances.insert(instance, fresh.clone());
        self.members.insert(fresh.clone(), member);
        let old_leader = self.leader.clone();
        if self.leader.as_deref() == Some(old) {
            self.leader = Some(fresh.clone());
        }
        let is_same = before == after && self.protocol.as_deref() == Some(&*self.choose_protocol());
        if self.state == State::Stable && is_same {
            let parts = self.members.values().map(|m| (m.id.clone(), m.assignment.clone())).collect();
            let record = self.record(&parts);
            let knows_skipping = ask.knows_skipping;
            let after = After::Returned { member: fresh, token, knows_skipping, old_leader };
            self.write(vec![record], after, turn);
            return;
        }
        self.members.get_mut(&fresh).expect("just put there").joining = Some(token);
        self.rebalance(turn);
    }

    /// What a member reads: its topics if they can be told, else everything that it says. The rest of what consumers
    /// say (partitions that they own) differs after every restart.
    fn read(
        &self,
        protocols: &[(String, Bytes)],
    ) -> Vec<(String, Result<std::collections::BTreeSet<String>, Bytes>)> {
        let is_consumer = self.protocol_type.as_deref() == Some(subscription::CONSUMER);
        let read = |(name, metadata): &(String, Bytes)| {
            let topics = if is_consumer { subscription::topics(metadata) } else { None };
            (name.clone(), topics.ok_or_else(|| metadata.clone()))
        };
        protocols.iter().map(read).collect()
    }

    /// The write of [`After::Returned`] ended.
    pub(super) fn returned(
        &mut self,
        (member, token): (Arc<str>, Token),
        result: Result<(), ErrorCode>,
        (knows_skipping, old_leader): (bool, Option<Arc<str>>),
        turn: &mut Turn<'_>,
    ) {
        if let Err(code) = result {
            // Live and kept differ now: a new generation will write all of it.
            turn.reply(token, refused_join(code, ""));
            if self.state == State::Stable {
                self.rebalance(turn);
            }
            return;
        }
        if !self.members.contains_key(&member) {
            return turn.reply(token, refused_join(ErrorCode::UNKNOWN_MEMBER_ID, &member));
        }
        match self.state {
            State::Stable => {
                let answer = self.rejoined(&member, knows_skipping, old_leader.as_deref());
                self.members.get_mut(&member).expect("looked above").touch(turn.now.mono);
                turn.reply(token, Reply::Join(answer));
            }
            State::Preparing(_) | State::Completing { .. } => {
                mark!("a static member comes back into a rebalance that began meanwhile");
                let back = self.members.get_mut(&member).expect("looked above");
                let older = back.joining.replace(token);
                overtaken(older, refused_join(ErrorCode::REBALANCE_IN_PROGRESS, &member), turn);
                self.rebalance(turn);
            }
            State::Empty | State::Dead => unreachable!("{} has members in {:?}", self.id, self.state),
        }
    }
}
