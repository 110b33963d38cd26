//! What the APIs of groups share: the way to a group's coordinator, how long an answer may take, and topics by id.
//!
//! Owns: [`GroupPlane`]. Promises: every wait ends; a group that another node coordinates, or may coordinate by now, is
//! answered with the code that makes clients look for it. Leaves out: what each API answers (one file each), what a group decides
//! (`coordinator::group`).

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::{mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{PartitionId, TopicId};
use dejaq_wire::kafka::list_groups::ListedGroup;

use crate::controller::member::Member;
use crate::coordinator::Shards;
use crate::coordinator::group::{Ask, Groups, Reply};
use crate::metadata::{Image, Published, Topic};
use crate::runtime::{Mono, Runtime};
use crate::server::service::Session;

/// How long a coordinator may take for anything that waits for nobody but the disk and the replicas. Kafka's
/// `offsets.commit.timeout.ms` and a bit: a client that is told to try again does so at once.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a coordinator waits to be heard by its cluster again, before it says that it is not ready, and how often it looks.
const HEARD: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// What any group of a request may take, however late it is: most answer from memory.
const MOMENT: Duration = Duration::from_millis(100);
/// And all of those moments together.
const MOMENTS: Duration = Duration::from_secs(4);
/// How long a member may wait for the others, whatever they ask for; it is told to come again then.
const LONGEST_REBALANCE: Duration = Duration::from_secs(3600);

/// Until when a request waits that may name many groups.
#[derive(Debug, Clone, Copy)]
pub struct Until {
    /// To be sure of what is newest.
    heard: Mono,
    /// For the coordinators' answers: one that stands still must not take its time once for every group.
    answered: Mono,
}

/// Bits of the operations that Kafka has for a group: read, delete and describe.
pub const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;

/// Groups as an API handler sees them. Cheap to clone.
pub struct GroupPlane<R: Runtime> {
    /// For deadlines.
    pub runtime: R,
    /// The coordinators of this node.
    pub shards: Arc<Shards<R, Groups>>,
    /// The metadata.
    pub published: Published,
    /// This broker, as its cluster hears it.
    pub member: Arc<Member>,
}

impl<R: Runtime> Clone for GroupPlane<R> {
    fn clone(&self) -> GroupPlane<R> {
        let GroupPlane { runtime, shards, published, member } = self;
        let (runtime, shards) = (runtime.clone(), shards.clone());
        GroupPlane { runtime, shards, published: published.clone(), member: member.clone() }
    }
}

impl<R: Runtime> GroupPlane<R> {
    /// Asks the coordinator of a group.
    ///
    /// # Errors
    /// The code to answer.
    pub async fn ask(&self, group: &str, ask: Ask) -> Result<Reply, ErrorCode> {
        self.shards.ask(group, ask, self.runtime.now().plus(PATIENCE)).await
    }

    /// Asks the coordinator of a group for what nobody may know better (GRP-3). Who is cut off from its cluster knows what
    /// was committed until then: it waits for a moment to be heard again, and then says that it is not ready yet, which every client
    /// tries again; as soon as it hears that another one coordinates, it says so. (librdkafka takes NOT_COORDINATOR here for a
    /// reason to look for the coordinator, and never asks for the offsets again: its issue 5586.) A member that has its
    /// positions asks for none, and reads on. Nor is it said that there is no coordinator (a disk that failed, until another leads):
    /// Java's consumers before 4 throw that out of `poll`.
    ///
    /// # Errors
    /// The code to answer.
    pub async fn ask_newest(&self, group: &str, ask: Ask, until: Until) -> Result<Reply, ErrorCode> {
        // M241: an old coordinator tells offsets. Looked at before it is asked: what it says was true at this moment, or later.
        while !self.member.holds_lease(self.runtime.now(), self.published.applied_end()) && !mutant!(241) {
            if !self.shards.is_here(group) {
                return Err(ErrorCode::NOT_COORDINATOR);
            }
            if self.runtime.now() >= until.heard {
                mark!("a coordinator that its cluster may have replaced tells no offsets");
                return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
            }
            self.runtime.sleep(LOOK).await;
        }
        // One behind another that stands still gets its moment all the same.
        let latest = until.answered.plus(MOMENTS);
        let due = until.answered.max(self.runtime.now().plus(MOMENT).min(latest));
        match self.shards.ask(group, ask, due).await {
            Err(ErrorCode::COORDINATOR_NOT_AVAILABLE) => Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            other => other,
        }
    }

    /// Until when one request waits, however many groups it names.
    pub fn until(&self) -> Until {
        let now = self.runtime.now();
        Until { heard: now.plus(HEARD), answered: now.plus(PATIENCE) }
    }

    /// Asks for what waits for other members.
    ///
    /// # Errors
    /// The code to answer.
    pub async fn ask_patiently(&self, group: &str, ask: Ask) -> Result<Reply, ErrorCode> {
        self.shards.ask(group, ask, self.runtime.now().plus(LONGEST_REBALANCE)).await
    }

    /// Every group of this node.
    ///
    /// # Errors
    /// The code to answer.
    pub async fn list(&self) -> Result<Vec<ListedGroup>, ErrorCode> {
        let replies = self.shards.ask_all(|| Ask::List, self.runtime.now().plus(PATIENCE)).await?;
        let mut all = Vec::new();
        for reply in replies {
            match reply {
                Reply::Listed(groups) => all.extend(groups),
                other => unreachable!("a list is answered with {other:?}"),
            }
        }
        all.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        Ok(all)
    }
}

/// From where a client came, as Kafka writes it.
#[must_use]
pub fn client_host(session: &Session) -> String {
    let host = session.peer.rsplit_once(':').map_or(session.peer.as_str(), |(host, _)| host);
    format!("/{host}")
}

/// For the id of a new member.
pub fn entropy<R: Runtime>(runtime: &R) -> u128 {
    let (high, low) = (runtime.random_u64(), runtime.random_u64());
    u128::from(high) << 64 | u128::from(low)
}

/// The topic that a request of some version names: by id in the newest, by name before.
///
/// # Errors
/// The code to answer for each of its partitions.
pub fn named<'a>(
    image: &'a Image,
    by_id: bool,
    name: &str,
    id: TopicId,
) -> Result<&'a Arc<Topic>, ErrorCode> {
    if by_id {
        image.topic(id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)
    } else {
        image.topic_named(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    }
}

/// Whether the topic has this partition.
///
/// # Errors
/// The code to answer.
pub fn check_partition(topic: &Topic, partition: PartitionId) -> Result<(), ErrorCode> {
    topic.partition(partition).map(|_| ()).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}
