//! Who may talk to whom: the first words on a connection between nodes, both ways.
//!
//! Owns: [`Identity`], the judgement of a greeting. Promises: no call passes between nodes of two clusters, between a
//! node and itself, or with a node that is not the one that was meant; a peer that says nothing is closed at a
//! deadline (the caller's). Leaves out: encryption and proof of identity.
//!
//! A node that has not learned its cluster's id yet (its first start into a quorum) says "", which matches every id.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::{Hello, HelloReply, HelloVerdict, OLDEST_FEATURE_LEVEL, PeerError, PeerMessage};

use crate::runtime::net::{Frame, FrameReader, FrameWriter, RecvError};

/// Longest greeting, in bytes.
const MAX_GREETING_BYTES: usize = 4 << 10;

/// The id of the cluster, which a node may learn only after it has started. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ClusterId(Arc<OnceLock<String>>);

impl ClusterId {
    /// A known id.
    #[must_use]
    pub fn known(id: &str) -> ClusterId {
        let cluster = ClusterId::default();
        assert!(cluster.learn(id), "a new one takes any id");
        cluster
    }

    /// Learns the id; false if another one is known already, or `id` is empty.
    #[must_use]
    pub fn learn(&self, id: &str) -> bool {
        !id.is_empty() && self.0.get_or_init(|| id.to_owned()) == id
    }

    /// The id, empty while it is not known.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get().map_or("", String::as_str)
    }

    fn agrees_with(&self, other: &str) -> bool {
        let mine = self.get();
        mine.is_empty() || other.is_empty() || mine == other
    }
}

/// Who this node is to others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its number.
    pub node: BrokerId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The newest feature level that it speaks.
    pub speaks: u16,
}

impl Identity {
    fn hello(&self) -> Hello {
        Hello {
            cluster_id: self.cluster.get().to_owned(),
            node_id: self.node,
            feature_level: self.speaks,
            build: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn judge(&self, theirs: &Hello) -> HelloVerdict {
        if !self.cluster.agrees_with(&theirs.cluster_id) {
            HelloVerdict::OtherCluster
        } else if theirs.node_id == self.node {
            HelloVerdict::SameNodeId
        } else if theirs.feature_level < OLDEST_FEATURE_LEVEL {
            HelloVerdict::TooOld
        } else {
            HelloVerdict::Accepted
        }
    }
}

/// What is agreed on after a greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Met {
    pub node: BrokerId,
    /// The lower of both.
    pub feature_level: u16,
}

/// Why a greeting failed; close the connection and back off.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetingError {
    #[error("the connection ended: {0}")]
    Recv(#[from] RecvError),
    #[error("the connection ended: {0}")]
    Send(#[from] std::io::Error),
    #[error("{0}")]
    Message(#[from] PeerError),
    #[error("it said {0} instead of a greeting")]
    NoGreeting(String),
    #[error("it is {got:?}, and {meant:?} was meant")]
    OtherNode { got: BrokerId, meant: BrokerId },
    #[error("{who:?} of cluster `{cluster}` was refused: {verdict:?}")]
    Refused { who: BrokerId, cluster: String, verdict: HelloVerdict },
}

/// Greets the node that was connected to. Give it a deadline.
pub(super) async fn greet<Rd: FrameReader, Wr: FrameWriter>(
    me: &Identity,
    meant: BrokerId,
    reader: &mut Rd,
    writer: &mut Wr,
) -> Result<Met, GreetingError> {
    writer.send(vec![encoded(PeerMessage::Hello(me.hello()))?]).await?;
    let reply = match PeerMessage::decode(&first(reader).await?)? {
        PeerMessage::HelloReply(reply) => reply,
        other => return Err(GreetingError::NoGreeting(format!("{other:?}"))),
    };
    let HelloReply { hello, verdict } = reply;
    let (who, cluster) = (hello.node_id, hello.cluster_id.clone());
    if verdict != HelloVerdict::Accepted {
        return Err(GreetingError::Refused { who, cluster, verdict });
    }
    if who != meant {
        return Err(GreetingError::OtherNode { got: who, meant });
    }
    match me.judge(&hello) {
        HelloVerdict::Accepted => Ok(met(me, &hello)),
        verdict => Err(GreetingError::Refused { who, cluster, verdict }),
    }
}

/// Answers the greeting of a node that connected. Give it a deadline.
pub(super) async fn welcome<Rd: FrameReader, Wr: FrameWriter>(
    me: &Identity,
    reader: &mut Rd,
    writer: &mut Wr,
) -> Result<Met, GreetingError> {
    let hello = match PeerMessage::decode(&first(reader).await?)? {
        PeerMessage::Hello(hello) => hello,
        other => return Err(GreetingError::NoGreeting(format!("{other:?}"))),
    };
    let verdict = me.judge(&hello);
    let reply = HelloReply { hello: me.hello(), verdict };
    writer.send(vec![encoded(PeerMessage::HelloReply(reply))?]).await?;
    match verdict {
        HelloVerdict::Accepted => Ok(met(me, &hello)),
        verdict => Err(GreetingError::Refused { who: hello.node_id, cluster: hello.cluster_id, verdict }),
    }
}

fn met(me: &Identity, hello: &Hello) -> Met {
    assert!(hello.feature_level >= OLDEST_FEATURE_LEVEL, "{hello:?} was judged");
    Met { node: hello.node_id, feature_level: hello.feature_level.min(me.speaks) }
}

fn encoded(message: PeerMessage) -> Result<Frame, PeerError> {
    message.encode()
}

async fn first<Rd: FrameReader>(reader: &mut Rd) -> Result<Bytes, RecvError> {
    let mut frames = Vec::with_capacity(1);
    reader.recv(&mut frames, 1, MAX_GREETING_BYTES).await?;
    assert_eq!(frames.len(), 1, "a reader brings at least one frame and at most what was asked for");
    Ok(frames.remove(0))
}

#[cfg(test)]
mod tests {
    use dejaq_wire::peer::FEATURE_LEVEL;

    use super::*;

    fn identity(node: i32, cluster: &str) -> Identity {
        Identity { node: BrokerId(node), cluster: ClusterId::known(cluster), speaks: FEATURE_LEVEL }
    }

    #[test]
    fn only_another_node_of_the_same_cluster_is_taken() {
        let me = identity(1, "c");
        assert_eq!(me.judge(&identity(2, "c").hello()), HelloVerdict::Accepted);
        assert_eq!(me.judge(&identity(2, "d").hello()), HelloVerdict::OtherCluster);
        assert_eq!(me.judge(&identity(1, "c").hello()), HelloVerdict::SameNodeId);
        let old = Hello { feature_level: 0, ..identity(2, "c").hello() };
        assert_eq!(me.judge(&old), HelloVerdict::TooOld);
    }

    #[test]
    fn the_lower_of_two_levels_is_spoken_whoever_is_the_older_one() {
        let (new, old) = (identity(1, "c"), Identity { speaks: 1, ..identity(2, "c") });
        assert!(old.speaks < new.speaks);
        assert_eq!(met(&new, &old.hello()).feature_level, 1);
        assert_eq!(met(&old, &new.hello()).feature_level, 1);
        assert_eq!(met(&new, &identity(3, "c").hello()).feature_level, FEATURE_LEVEL);
    }

    #[test]
    fn a_node_that_does_not_know_its_cluster_yet_is_taken_and_takes_the_first_id_it_learns() {
        let new = Identity { node: BrokerId(3), cluster: ClusterId::default(), speaks: FEATURE_LEVEL };
        assert_eq!(identity(1, "c").judge(&new.hello()), HelloVerdict::Accepted);
        assert_eq!(new.judge(&identity(1, "c").hello()), HelloVerdict::Accepted);
        assert!(!new.cluster.learn(""));
        assert!(new.cluster.learn("c") && new.cluster.learn("c") && !new.cluster.learn("d"));
        assert_eq!(new.judge(&identity(1, "d").hello()), HelloVerdict::OtherCluster);
    }
}
