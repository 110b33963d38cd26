//! SHELL. One way through a rebalance: join, make the plan if this member leads, get one's part.
//!
//! Promises: ends with a part of a generation, with the news that a member was put out that still held something, or with an
//! error that no repetition cures; everything else is tried again. The member's id is noted as soon as it is known, so that a member that gives up can still leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::Generation;
use dejaq_wire::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use dejaq_wire::kafka::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};

use super::assignor::Assignor;
use super::coordinator::Coordinator;
use super::member::{GroupConfig, GroupError};
use super::protocol::{PROTOCOL_TYPE, Subscription, decode_assignment, encode_assignment};
use crate::client::cluster::Cluster;
use crate::client::producer::core::TopicPartition;
use crate::runtime::{Mono, Runtime};

/// Newest version of JoinGroup and of SyncGroup that this member speaks.
const JOIN_VERSION: i16 = 9;
const SYNC_VERSION: i16 = 5;

/// What a member brings into a rebalance.
pub(super) struct Entry<R: Runtime> {
    pub cluster: Cluster<R>,
    pub coordinator: Coordinator<R>,
    pub config: GroupConfig,
    pub topics: BTreeSet<String>,
    /// What it goes on reading meanwhile, and since which generation.
    pub owned: Vec<TopicPartition>,
    pub generation: Generation,
    /// Its id; empty for a new member.
    pub id: Arc<Mutex<String>>,
}

/// What it gets out.
#[derive(Debug)]
pub(super) struct Joined {
    pub generation: Generation,
    pub assignor: Assignor,
    pub part: Vec<TopicPartition>,
    /// Topics that the plan was made for and their partitions, if this member made it.
    pub counted: Option<BTreeMap<String, usize>>,
}

/// What an answer leads to.
enum Next {
    Done(Joined),
    Again,
    /// After a pause.
    Later,
    /// The member was put out.
    Out,
}

impl<R: Runtime> Entry<R> {
    /// Goes through, however long it takes. `None`: the group has put the member out, and what it still owned may have been
    /// read by others, further than it knows: it comes again with nothing. Cancel safe: another try begins with the same id.
    pub(super) async fn run(self) -> Result<Option<Joined>, GroupError> {
        let mut rounds = 0;
        loop {
            match self.once().await {
                Ok(Next::Done(joined)) => return Ok(Some(joined)),
                Ok(Next::Out) if !self.owned.is_empty() => return Ok(None),
                Ok(Next::Again | Next::Out) => rounds = 0,
                Ok(Next::Later) => rounds += 1,
                Err(GroupError::Cluster(error)) if error.is_transient() => rounds += 1,
                Err(error) => return Err(error),
            }
            if rounds > 0 {
                self.cluster.pause(rounds, Mono(u64::MAX)).await;
            }
        }
    }

    fn id(&self) -> String {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_id(&self, id: &str) {
        id.clone_into(&mut self.id.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn once(&self) -> Result<Next, GroupError> {
        let subscription = Subscription {
            topics: self.topics.iter().cloned().collect(),
            owned: self.owned.clone(),
            generation: self.generation,
            rack: None,
        };
        let metadata = bytes::Bytes::from(subscription.encode());
        let protocol = |assignor: &Assignor| JoinGroupRequestProtocol {
            name: assignor.name().to_owned(),
            metadata: metadata.clone(),
        };
        let request = JoinGroupRequest {
            group_id: self.coordinator.group().to_owned(),
            session_timeout_ms: millis(self.config.session_timeout),
            rebalance_timeout_ms: millis(self.config.rebalance_timeout),
            member_id: self.id(),
            group_instance_id: self.config.instance.clone(),
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocols: self.config.assignors.iter().map(protocol).collect(),
            reason: None,
        };
        let patience = self.config.rebalance_timeout.saturating_add(self.cluster.config().request_timeout);
        let deadline = self.cluster.runtime().now().plus(patience);
        let joined = self.coordinator.ask(&request, JOIN_VERSION, deadline).await?;
        match joined.error_code {
            ErrorCode::NONE => {}
            ErrorCode::MEMBER_ID_REQUIRED => {
                self.set_id(&joined.member_id);
                return Ok(Next::Again);
            }
            code => return self.refused("join", code),
        }
        self.set_id(&joined.member_id);
        self.sync(joined, deadline).await
    }

    async fn sync(&self, joined: JoinGroupResponse, deadline: Mono) -> Result<Next, GroupError> {
        let name = joined.protocol_name.clone().unwrap_or_default();
        let Some(assignor) = Assignor::named(&name) else {
            return Err(GroupError::Protocol {
                what: format!("the group uses {name}, which was not offered"),
            });
        };
        let leads = joined.leader == joined.member_id && !joined.skip_assignment;
        let (mut assignments, mut counted) = (Vec::new(), None);
        if leads {
            let (plan, topics) = self.plan(&joined, assignor, deadline).await?;
            counted = Some(topics);
            let part = |(member, part): (String, Vec<TopicPartition>)| SyncGroupRequestAssignment {
                member_id: member,
                assignment: encode_assignment(&part).into(),
            };
            assignments = plan.into_iter().map(part).collect();
        }
        let request = SyncGroupRequest {
            group_id: self.coordinator.group().to_owned(),
            generation_id: joined.generation_id,
            member_id: joined.member_id,
            group_instance_id: self.config.instance.clone(),
            protocol_type: Some(PROTOCOL_TYPE.to_owned()),
            protocol_name: Some(name),
            assignments,
        };
        let answer = self.coordinator.ask(&request, SYNC_VERSION, deadline).await?;
        if answer.error_code.is_error() {
            return self.refused("get a part of the plan", answer.error_code);
        }
        let Some(part) = decode_assignment(&answer.assignment) else {
            return Err(GroupError::Protocol { what: "the group's leader sent a part that is none".into() });
        };
        Ok(Next::Done(Joined { generation: joined.generation_id, assignor, part, counted }))
    }

    async fn plan(
        &self,
        joined: &JoinGroupResponse,
        assignor: Assignor,
        deadline: Mono,
    ) -> Result<(super::assignor::Plan, BTreeMap<String, usize>), GroupError> {
        let mut members = BTreeMap::new();
        for member in &joined.members {
            let Some(told) = Subscription::decode(&member.metadata) else {
                let what = format!("member {} tells what no version of the protocol tells", member.member_id);
                return Err(GroupError::Protocol { what });
            };
            members.insert(member.member_id.clone(), told);
        }
        let wanted: BTreeSet<&String> = members.values().flat_map(|told| &told.topics).collect();
        let mut topics = BTreeMap::new();
        for topic in wanted {
            // A topic that is not there yet has no partitions; its members come back when it is.
            if let Some(count) = partitions_of(&self.cluster, topic, deadline).await? {
                topics.insert(topic.clone(), count);
            }
        }
        Ok((assignor.plan(&topics, &members), topics))
    }

    fn refused(&self, what: &str, code: ErrorCode) -> Result<Next, GroupError> {
        if self.coordinator.is_elsewhere(code) {
            return Ok(Next::Later);
        }
        match code {
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.set_id("");
                Ok(Next::Out)
            }
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION => Ok(Next::Later),
            code if code.is_retriable() => Ok(Next::Later),
            code => Err(GroupError::Refused { what: what.to_owned(), code }),
        }
    }
}

/// How many partitions a topic has now; `None` if it does not exist. Asks a broker.
pub(super) async fn partitions_of<R: Runtime>(
    cluster: &Cluster<R>,
    topic: &str,
    deadline: Mono,
) -> Result<Option<usize>, GroupError> {
    cluster.watch(topic)?;
    let seen = cluster.with_routes(|routes| routes.generation);
    cluster.refresh(seen, deadline).await?;
    Ok(cluster.with_routes(|routes| match routes.topic(topic) {
        Some(Ok(route)) => Some(route.partitions.len()),
        Some(Err(_)) | None => None,
    }))
}

pub(super) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
