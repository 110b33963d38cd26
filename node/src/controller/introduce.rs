//! A node that nobody knows yet says where it listens, so that what the quorum answers can reach it.
//!
//! Owns: the call [`Introduce`], who makes it, who takes it. Promises: what a node says of itself in here counts only until
//! its registration says more; saying it again changes nothing.
//! A voter and a registered broker that come back elsewhere say so, too, until the metadata does.
//! Why: messages of the quorum are one-way, an answer is a message of its own (see `raft`); a broker that joins is not in
//! the metadata before it was answered.
//! SHELL.
//!
//! ```text
//!  joins ── Introduce (address) ──► every voter ── know ──► its messages find the way back ──► follows ──► registers
//! ```

use std::time::Duration;

use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::{Ask, Body, Parts, PeerError};
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

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

/// Takes an introduction.
pub(super) fn take<R: Runtime>(peers: &Peers<R>, session: &PeerSession, said: &Introduce) -> PeerAnswer {
    if peers.address(session.node).as_deref() != Some(said.address.as_str()) {
        info!(node = %session.node, address = said.address, "a node introduces itself");
        peers.know(session.node, &said.address);
    }
    answer(Introduced)
}

/// Introduces this node while it hears of no leader: it may be at another address than the quorum knows it by, whose answers
/// it then does not get. Never ends by itself.
pub async fn keep_introducing<R: Runtime>(
    runtime: R,
    peers: Peers<R>,
    voters: Vec<BrokerId>,
    address: String,
    leader: impl Fn() -> Option<BrokerId>,
) {
    loop {
        let hears = async {
            while leader().is_none() {
                runtime.sleep(AGAIN).await;
            }
        };
        tokio::select! {
            biased; // the introduction never ends by itself
            () = hears => {}
            () = introduce(&runtime, &peers, &voters, &address) => unreachable!("it has no end"),
        }
        runtime.sleep(SILENCE).await;
    }
}

/// Introduces this node to the voters again and again; dropped when it is registered.
pub async fn introduce<R: Runtime>(runtime: &R, peers: &Peers<R>, voters: &[BrokerId], address: &str) {
    loop {
        for voter in voters.iter().filter(|voter| **voter != peers.me()) {
            let deadline = runtime.now().plus(AGAIN);
            let said = peers.request(*voter, Introduce { address: address.to_owned() }, deadline).await;
            if let Err(why) = said {
                debug!(%voter, %why, "not introduced");
            }
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
    }
}
