//! Answers what other brokers ask this node's controller for.
//!
//! Owns: [`ControlRoom`], the service of the room Control. Promises: an answer leaves only after it is durable, as for
//! everyone who asks the controller; a node whose controller is not the active one says NOT_CONTROLLER.
//! Leaves out: the calls (`calls`), the decisions (`decide`).
//! SHELL.

use std::sync::Arc;
use std::time::Duration;

use dejaq_wire::peer::{Ask, Body, Parts, Refusal as PeerRefusal};

use super::calls::Answered;
use super::decide::alter_partition::AlterPartition;
use super::decide::broker_heartbeat::BrokerHeartbeat;
use super::decide::producer_ids::AllocateProducerIds;
use super::decide::register_broker::RegisterBroker;
use super::draft::{Decide, Refusal};
use super::driver::Controller;
use crate::peer::{Answering, PeerService, PeerSession, answer, read};
use crate::runtime::Runtime;

/// How long a call may wait for the controller: a broker asks again well within its session.
const PATIENCE: Duration = Duration::from_secs(3);

/// The controller of this node, for other nodes.
#[derive(Debug)]
pub struct ControlRoom<R: Runtime> {
    runtime: R,
    controller: Controller,
}

impl<R: Runtime> ControlRoom<R> {
    /// Answers with this controller.
    pub fn new(runtime: R, controller: Controller) -> ControlRoom<R> {
        ControlRoom { runtime, controller }
    }

    fn submit<Q, T>(&self, parts: Parts) -> Answering
    where
        Q: Ask<Answer = Answered<T>> + Decide<Answer = Result<T, Refusal>>,
        T: Send + 'static,
        Answered<T>: Body,
    {
        let request: Q = match read(parts) {
            Ok(request) => request,
            Err(refusal) => return Answering::Now(Err(refusal)),
        };
        let (runtime, controller) = (self.runtime.clone(), self.controller.clone());
        Answering::Later(Box::pin(async move {
            let deadline = runtime.now().plus(PATIENCE);
            answer(Answered::of(controller.submit(&runtime, request, deadline).await))
        }))
    }
}

impl<R: Runtime> PeerService for ControlRoom<R> {
    fn start(&self, _session: &Arc<PeerSession>, parts: Parts) -> Answering {
        match parts.tag {
            RegisterBroker::TAG => self.submit::<RegisterBroker, _>(parts),
            BrokerHeartbeat::TAG => self.submit::<BrokerHeartbeat, _>(parts),
            AlterPartition::TAG => self.submit::<AlterPartition, _>(parts),
            AllocateProducerIds::TAG => self.submit::<AllocateProducerIds, _>(parts),
            _ => Answering::Now(Err(PeerRefusal::Unknown)),
        }
    }
}
