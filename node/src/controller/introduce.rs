//! A node that nobody knows yet says where it listens, so that what the quorum answers can reach it, and asks where the leader does.
//!
//! Owns: the calls [`Introduce`] and [`WhoLeads`], who makes them, who takes them. Promises: what a node says of itself in here counts only until
//! its registration says more; saying it again changes nothing.
//! A voter and a registered broker that come back elsewhere say so, too, until the metadata does.
//! Why: messages of the quorum are one-way, an answer is a message of its own (see `raft`); a broker that joins is not in
//! the metadata before it was answered. Nor does it know where everybody listens: who joined, was made a voter and leads now may have come
//! while it was away or cut off, and the quorum's answer tells no more than the leader's number.
//! SHELL.
//!
//! ```text
//!  joins ── Introduce (address) ──► who may know ── know ──► its messages find the way back ──► follows ──► registers
//!        ── WhoLeads ─────────────►             ── number, address ──► know ──► its messages find the leader
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::{BrokerEpoch, BrokerId};
use dejaq_wire::peer::raft::MAX_ADDRESS_BYTES;
use dejaq_wire::peer::{Ask, Body, Parts, PeerError};
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use crate::metadata::{Image, Published};
use crate::peer::{PeerAnswer, PeerSession, Peers, answer};
use crate::runtime::Runtime;

/// How often a node introduces itself again while it is not registered: a voter that restarted has forgotten it.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a node looks whether it still hears of a leader.
const SILENCE: Duration = Duration::from_secs(2);

/// Where the asking node listens for its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduce {
    /// As `host:port`.
    pub address: String,
}

/// It is known now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduced;

impl Body for Introduce {
    const TAG: u16 = 0x0330;
    const VERSION: u16 = 0;

    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::plain(&self)
    }

    fn from_parts(parts: Parts) -> Result<Introduce, PeerError> {
        parts.into_plain()
    }
}

impl Body for Introduced {
    const TAG: u16 = 0x03B0;
    const VERSION: u16 = 0;

    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::plain(&self)
    }

    fn from_parts(parts: Parts) -> Result<Introduced, PeerError> {
        parts.into_plain()
    }
}

impl Ask for Introduce {
    type Answer = Introduced;
    const REPEATABLE: bool = true;
}

/// Asks who leads the quorum, as far as that node knows, and where it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoLeads;

/// Answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leads {
    /// None while no leader is known, or nothing of where it listens.
    pub leader: Option<LeaderAt>,
}

/// Where the leader's peers reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderAt {
    /// Who leads.
    pub id: BrokerId,
    /// The registration that says so: a later one knows better.
    pub registered: BrokerEpoch,
    /// As `host:port`; at most [`MAX_ADDRESS_BYTES`].
    pub address: String,
}

impl Body for WhoLeads {
    const TAG: u16 = 0x0331;
    const VERSION: u16 = 0;

    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::plain(&self)
    }

    fn from_parts(parts: Parts) -> Result<WhoLeads, PeerError> {
        parts.into_plain()
    }
}

impl Body for Leads {
    const TAG: u16 = 0x03B1;
    const VERSION: u16 = 0;

    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::plain(&self)
    }

    fn from_parts(parts: Parts) -> Result<Leads, PeerError> {
        let leads: Leads = parts.into_plain()?;
        match &leads.leader {
            Some(at) if at.address.len() > MAX_ADDRESS_BYTES => Err(PeerError::TextTooLong(at.address.len())),
            _ => Ok(leads),
        }
    }
}

impl Ask for WhoLeads {
    type Answer = Leads;
    const REPEATABLE: bool = true;
}

/// Answers who leads, as far as this node knows, and where by the metadata that it has.
pub(super) fn leads(image: &Image, leader: Option<BrokerId>) -> PeerAnswer {
    let at = leader.and_then(|leader| image.broker(leader)).and_then(|broker| {
        Some(LeaderAt { id: broker.id, registered: broker.epoch, address: broker.peer_address()? })
    });
    answer(Leads { leader: at })
}

/// What a node learned from others of where leaders listen.
#[derive(Debug, Default)]
pub struct Learned(BTreeMap<BrokerId, BrokerEpoch>);

impl Learned {
    /// Takes an answer, unless this node knows of a later registration: who answers may be as far behind as it is itself.
    fn take<R: Runtime>(&mut self, peers: &Peers<R>, image: &Image, at: LeaderAt, told_by: BrokerId) {
        let LeaderAt { id, registered, address } = at;
        let own = image.broker(id).map(|broker| broker.epoch);
        let best = own.max(self.0.get(&id).copied());
        if id == peers.me() || best.is_some_and(|best| registered < best) {
            return;
        }
        self.0.insert(id, registered);
        if peers.address(id).as_deref() != Some(address.as_str()) {
            mark!("a node learns from another one where the leader of the quorum listens");
            info!(leader = %id, address, %told_by, "the leader of the quorum listens there");
            peers.know(id, &address);
        }
    }
}

/// Takes an introduction.
pub(super) fn take<R: Runtime>(peers: &Peers<R>, session: &PeerSession, said: &Introduce) -> PeerAnswer {
    if peers.address(session.node).as_deref() != Some(said.address.as_str()) {
        info!(node = %session.node, address = said.address, "a node introduces itself");
        peers.know(session.node, &said.address);
    }
    answer(Introduced)
}

/// Whom a node asks that hears of no leader.
#[derive(Clone)]
pub struct Contacts {
    /// Whom it was started with, and who votes by its log.
    pub named: Vec<BrokerId>,
    /// Every broker of its metadata may know, too.
    pub published: Published,
}

impl Contacts {
    /// Those of a round: the named ones, and one of the others in turn, so that a round does not wait for many who are gone.
    fn of_round(&self, image: &Image, round: usize) -> Vec<BrokerId> {
        let is_other = |id: &BrokerId| !self.named.contains(id);
        let others: Vec<BrokerId> = image.brokers().map(|broker| broker.id).filter(is_other).collect();
        let one = others.get(round % others.len().max(1)).copied();
        self.named.iter().copied().chain(one).collect()
    }
}

/// Introduces this node while it hears of no leader: it may be at another address than the quorum knows it by, whose answers
/// it then does not get. A leader that it only heard of, and has no address for, is none. Never ends by itself.
pub async fn keep_introducing<R: Runtime>(
    runtime: R,
    peers: Peers<R>,
    contacts: Contacts,
    address: String,
    leader: impl Fn() -> Option<BrokerId>,
) {
    let mut learned = Learned::default();
    loop {
        let hears = async {
            while !leader().is_some_and(|leader| leader == peers.me() || peers.address(leader).is_some()) {
                runtime.sleep(AGAIN).await;
            }
        };
        tokio::select! {
            biased; // the introduction never ends by itself
            () = hears => {}
            () = introduce(&runtime, &peers, &contacts, &address, &mut learned) => unreachable!("it has no end"),
        }
        runtime.sleep(SILENCE).await;
    }
}

/// Introduces this node to its contacts again and again; dropped when it is registered.
pub async fn introduce<R: Runtime>(
    runtime: &R,
    peers: &Peers<R>,
    contacts: &Contacts,
    address: &str,
    learned: &mut Learned,
) {
    for round in 0.. {
        let image = contacts.published.current();
        for broker in image.brokers().filter(|broker| peers.address(broker.id).is_none()) {
            broker.peer_address().into_iter().for_each(|address| peers.know(broker.id, &address));
        }
        for contact in contacts.of_round(&image, round).into_iter().filter(|one| *one != peers.me()) {
            let deadline = runtime.now().plus(AGAIN);
            let said = peers.request(contact, Introduce { address: address.to_owned() }, deadline).await;
            if let Err(why) = said {
                debug!(%contact, %why, "not introduced");
                continue;
            }
            match peers.request(contact, WhoLeads, runtime.now().plus(AGAIN)).await {
                Ok(Leads { leader: Some(at) }) => learned.take(peers, &image, at, contact),
                Ok(Leads { leader: None }) => {}
                Err(why) => debug!(%contact, %why, "not told who leads"),
            }
        }
        runtime.sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dejaq_storage::file_disk::FileDisk;
    use dejaq_wire::peer::FEATURE_LEVEL;

    use super::super::decide::tests::Desk;
    use super::*;
    use crate::peer::{ClusterId, Identity, PeerLimits};
    use crate::runtime::tokio::TokioRuntime;
    use crate::runtime::tokio_net::SocketOptions;

    #[tokio::test]
    async fn who_is_as_far_behind_as_this_node_does_not_overrule_who_knows_better() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = FileDisk::open(dir.path()).expect("the directory is there");
        let runtime = TokioRuntime::new(disk, SocketOptions::default());
        let me = Identity { node: BrokerId(2), cluster: ClusterId::known("c"), speaks: FEATURE_LEVEL };
        let peers = Peers::new(runtime, me, PeerLimits::default());
        let image = Desk::with_brokers(3).image;
        let own = image.broker(BrokerId(3)).expect("registered").epoch;
        let mut learned = Learned::default();
        let mut told = |registered: BrokerEpoch, address: &str| {
            let at = LeaderAt { id: BrokerId(3), registered, address: address.into() };
            learned.take(&peers, &image, at, BrokerId(1));
            peers.address(BrokerId(3))
        };
        assert_eq!(told(own, "old:1").as_deref(), Some("old:1"), "it knows of no address");
        assert_eq!(told(own.next(), "new:1").as_deref(), Some("new:1"));
        assert_eq!(told(own, "old:1").as_deref(), Some("new:1"), "by an earlier registration");
        assert_eq!(told(own.next(), "new:1").as_deref(), Some("new:1"));
        let of_itself = LeaderAt { id: BrokerId(2), registered: own.next(), address: "me:1".into() };
        learned.take(&peers, &image, of_itself, BrokerId(1));
        assert_eq!(peers.address(BrokerId(2)), None);
    }

    #[test]
    fn a_round_asks_those_that_were_named_and_one_of_the_others_in_turn() {
        let published = Published::new(Arc::new(Desk::with_brokers(4).image.clone()));
        let image = published.current();
        let named: Vec<BrokerId> = vec![BrokerId(1), BrokerId(2)];
        let contacts = Contacts { named, published };
        let asked: Vec<Vec<i32>> =
            (0..3).map(|round| contacts.of_round(&image, round).iter().map(|id| id.0).collect()).collect();
        assert_eq!(asked, [[1, 2, 3], [1, 2, 4], [1, 2, 3]]);
    }

    #[test]
    fn the_bytes_between_nodes_never_change() {
        let hex = |parts: Parts| {
            let head: String = parts.head.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{:04x}/{} {head}", parts.tag, parts.version)
        };
        let said = Introduce { address: "h:9".into() };
        assert_eq!(hex(said.clone().into_parts().expect("short")), "0330/0 03683a39");
        assert_eq!(Introduce::from_parts(said.clone().into_parts().expect("short")), Ok(said));
        assert_eq!(hex(Introduced.into_parts().expect("short")), "03b0/0 ");
        assert_eq!(hex(WhoLeads.into_parts().expect("short")), "0331/0 ");
        let at = LeaderAt { id: BrokerId(4), registered: BrokerEpoch(9), address: "h:9".into() };
        let leads = Leads { leader: Some(at) };
        assert_eq!(hex(leads.clone().into_parts().expect("short")), "03b1/0 01081203683a39");
        assert_eq!(Leads::from_parts(leads.clone().into_parts().expect("short")), Ok(leads));
        assert_eq!(hex(Leads { leader: None }.into_parts().expect("short")), "03b1/0 00");
    }
}
