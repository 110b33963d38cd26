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

use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::raft::MAX_ADDRESS_BYTES;
use dejaq_wire::peer::{Ask, Body, Parts, PeerError};
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use crate::peer::{PeerAnswer, PeerSession, Peers, answer};
use crate::runtime::{Mono, Runtime};

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
    /// The leader and where its peers reach it, as `host:port`; none while no leader is known, or where it listens, or if it is the
    /// node that answers.
    pub leader: Option<(BrokerId, String)>,
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
            Some((_, address)) if address.len() > MAX_ADDRESS_BYTES => {
                Err(PeerError::TextTooLong(address.len()))
            }
            _ => Ok(leads),
        }
    }
}

impl Ask for WhoLeads {
    type Answer = Leads;
    const REPEATABLE: bool = true;
}

/// Answers who leads, as far as this node knows.
pub(super) fn leads<R: Runtime>(peers: &Peers<R>, leader: Option<BrokerId>) -> PeerAnswer {
    answer(Leads { leader: leader.and_then(|leader| Some((leader, peers.address(leader)?))) })
}

/// Asks another node who leads, so that the leader can be asked whoever it is.
async fn learn<R: Runtime>(peers: &Peers<R>, voter: BrokerId, deadline: Mono) {
    let leads = match peers.request(voter, WhoLeads, deadline).await {
        Ok(leads) => leads,
        Err(why) => return debug!(%voter, %why, "not told who leads"),
    };
    let Some((leader, address)) = leads.leader.filter(|(_, address)| !address.is_empty()) else {
        return;
    };
    if leader != peers.me() && peers.address(leader).as_deref() != Some(address.as_str()) {
        mark!("a node learns from another one where the leader of the quorum listens");
        info!(%leader, address, told_by = %voter, "the leader of the quorum listens there");
        peers.know(leader, &address);
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

/// Introduces this node while it hears of no leader: it may be at another address than the quorum knows it by, whose answers
/// it then does not get. A leader that it only heard of, and has no address for, is none. Never ends by itself.
pub async fn keep_introducing<R: Runtime>(
    runtime: R,
    peers: Peers<R>,
    contacts: impl Fn() -> Vec<BrokerId>,
    address: String,
    leader: impl Fn() -> Option<BrokerId>,
) {
    loop {
        let hears = async {
            while !leader().is_some_and(|leader| leader == peers.me() || peers.address(leader).is_some()) {
                runtime.sleep(AGAIN).await;
            }
        };
        tokio::select! {
            biased; // the introduction never ends by itself
            () = hears => {}
            () = introduce(&runtime, &peers, &contacts, &address) => unreachable!("it has no end"),
        }
        runtime.sleep(SILENCE).await;
    }
}

/// Introduces this node to its contacts again and again; dropped when it is registered.
pub async fn introduce<R: Runtime>(
    runtime: &R,
    peers: &Peers<R>,
    contacts: &impl Fn() -> Vec<BrokerId>,
    address: &str,
) {
    loop {
        for contact in contacts().into_iter().filter(|contact| *contact != peers.me()) {
            let deadline = runtime.now().plus(AGAIN);
            let said = peers.request(contact, Introduce { address: address.to_owned() }, deadline).await;
            if let Err(why) = said {
                debug!(%contact, %why, "not introduced");
                continue;
            }
            learn(peers, contact, runtime.now().plus(AGAIN)).await;
        }
        runtime.sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let leads = Leads { leader: Some((BrokerId(4), "h:9".into())) };
        assert_eq!(hex(leads.clone().into_parts().expect("short")), "03b1/0 010803683a39");
        assert_eq!(Leads::from_parts(leads.clone().into_parts().expect("short")), Ok(leads));
        assert_eq!(hex(Leads { leader: None }.into_parts().expect("short")), "03b1/0 00");
    }
}
