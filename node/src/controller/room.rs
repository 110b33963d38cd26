//! Answers what other brokers ask this node's controller for.
//!
//! Owns: [`ControlRoom`], the service of the room Control. Promises: an answer leaves only after it is durable, as for
//! everyone who asks the controller; a node whose controller is not the active one says NOT_CONTROLLER.
//! Leaves out: the calls (`calls`), the decisions (`decide`).
//! SHELL.

use std::sync::Arc;
use std::time::Duration;

use dejaq_wire::ids::Offset;
use dejaq_wire::peer::{Ask, Body, Parts, Refusal as PeerRefusal};

use super::calls::{Answered, ControlCall};
use super::decide::alter_configs::AlterConfigs;
use super::decide::alter_partition::AlterPartition;
use super::decide::broker_heartbeat::BrokerHeartbeat;
use super::decide::create_internal::CreateInternal;
use super::decide::create_partitions::CreatePartitions;
use super::decide::create_topics::CreateTopics;
use super::decide::delete_topics::DeleteTopics;
use super::decide::elect_leaders::ElectLeaders;
use super::decide::members::UnregisterBroker;
use super::decide::producer_ids::AllocateProducerIds;
use super::decide::reassign::Reassign;
use super::decide::register_broker::RegisterBroker;
use super::decide::update_features::UpdateFeatures;
use super::handle::{Controller, Quorum};
use super::introduce::{Introduce, WhoLeads, leads, take};
use super::probe;
use super::quorum::calls::{ChangeVoters, Look, refusal};
use super::raft::{Change, Lost};
use crate::metadata::Published;
use crate::peer::{Answering, PeerService, PeerSession, Peers, answer, read};
use crate::runtime::Runtime;

/// How long a call may wait for the controller: a broker asks again well within its session.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long what a client asked for may wait; the asking node gives up at the client's own timeout.
const ERRAND_PATIENCE: Duration = Duration::from_secs(60);

/// The controller of this node, for other nodes.
pub struct ControlRoom<R: Runtime> {
    runtime: R,
    controller: Controller,
    published: Published,
    peers: Peers<R>,
}

impl<R: Runtime> ControlRoom<R> {
    /// Answers with this controller.
    pub fn new(runtime: R, controller: Controller, published: Published, peers: Peers<R>) -> ControlRoom<R> {
        ControlRoom { runtime, controller, published, peers }
    }

    fn submit<Q: ControlCall>(&self, parts: Parts) -> Answering {
        let request: Q = match read(parts) {
            Ok(request) => request,
            Err(refusal) => return Answering::Now(Err(refusal)),
        };
        let (runtime, controller) = (self.runtime.clone(), self.controller.clone());
        Answering::Later(Box::pin(async move {
            let patience = if <Q as Ask>::REPEATABLE { PATIENCE } else { ERRAND_PATIENCE };
            let deadline = runtime.now().plus(patience);
            answer(Q::pack(Answered::of::<Q>(controller.submit(&runtime, request, deadline).await)))
        }))
    }
}

/// The quorum as its leader sees it.
pub(super) async fn look(controller: &Controller) -> Answered<Quorum> {
    match controller.look_at_quorum().await {
        Some(quorum) if quorum.is_leader => {
            let end = quorum.committed;
            Answered { result: Ok(quorum), end }
        }
        Some(_) | None => Answered::refused(refusal(&Lost::NotLeader)),
    }
}

/// Changes who votes, if this node leads.
pub(super) async fn change_voters(controller: &Controller, change: Change) -> Answered<Offset> {
    match controller.change_voters(change).await {
        Ok(end) => Answered { result: Ok(end), end },
        Err(lost) => Answered::refused(refusal(&lost)),
    }
}

impl<R: Runtime> PeerService for ControlRoom<R> {
    fn start(&self, session: &Arc<PeerSession>, parts: Parts) -> Answering {
        match parts.tag {
            Introduce::TAG => Answering::Now(read(parts).and_then(|said| take(&self.peers, session, &said))),
            WhoLeads::TAG => Answering::Now(
                read(parts).and_then(|WhoLeads| leads(&self.published.current(), self.controller.leader())),
            ),
            RegisterBroker::TAG => self.submit::<RegisterBroker>(parts),
            BrokerHeartbeat::TAG => self.submit::<BrokerHeartbeat>(parts),
            AlterPartition::TAG => self.submit::<AlterPartition>(parts),
            AllocateProducerIds::TAG => self.submit::<AllocateProducerIds>(parts),
            CreateInternal::TAG => self.submit::<CreateInternal>(parts),
            CreateTopics::TAG => self.submit::<CreateTopics>(parts),
            DeleteTopics::TAG => self.submit::<DeleteTopics>(parts),
            CreatePartitions::TAG => self.submit::<CreatePartitions>(parts),
            AlterConfigs::TAG => self.submit::<AlterConfigs>(parts),
            ElectLeaders::TAG => self.submit::<ElectLeaders>(parts),
            Reassign::TAG => self.submit::<Reassign>(parts),
            UnregisterBroker::TAG => self.submit::<UnregisterBroker>(parts),
            UpdateFeatures::TAG => self.submit::<UpdateFeatures>(parts),
            Look::TAG => match read::<Look>(parts) {
                Ok(Look) => {
                    let controller = self.controller.clone();
                    Answering::Later(Box::pin(async move { answer(look(&controller).await) }))
                }
                Err(refusal) => Answering::Now(Err(refusal)),
            },
            ChangeVoters::TAG => match read::<ChangeVoters>(parts) {
                Ok(ChangeVoters(change)) => {
                    let controller = self.controller.clone();
                    Answering::Later(Box::pin(
                        async move { answer(change_voters(&controller, change).await) },
                    ))
                }
                Err(refusal) => Answering::Now(Err(refusal)),
            },
            _ => Answering::Now(Err(PeerRefusal::Unknown)),
        }
    }

    fn ended(&self, session: &PeerSession) {
        // The active controller looks after everybody, everybody after the active controller.
        let leader = self.controller.leader();
        if leader == Some(self.peers.me()) || leader == Some(session.node) {
            probe::start(&self.runtime, &self.peers, self.controller.inbox(), session.node);
        }
    }
}
