//! How the replicas of a node reach their leaders and the controller: wires only.

use std::sync::Arc;
use std::time::Duration;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId};
use dejaq_wire::peer::replica::Place;

use crate::config::Config;
use crate::controller::Reach;
use crate::controller::decide::alter_partition::{AlterPartition, Current, Proposal};
use crate::controller::draft::Refusal;
use crate::peer::Peers;
use crate::replica::links::Later;
use crate::replica::{self, Answer, AskController, Links};
use crate::runtime::Runtime;

/// How long a leader holds a fetch of ours for which it has nothing.
const FOLLOWER_WAIT: Duration = Duration::from_millis(500);
/// How long the controller is asked to take an in-sync set before the partitions are looked at again.
const IN_SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// How replicas reach their leaders and the controller.
pub(super) fn links<R: Runtime>(
    runtime: &R,
    peers: &Peers<R>,
    reach: &Reach<R>,
    life: BrokerEpoch,
    config: &Config,
) -> Links {
    let (runtime, reach, node) = (runtime.clone(), reach.clone(), peers.me());
    Links {
        life,
        transport: Arc::new(peers.clone()),
        controller: Arc::new(InSyncErrand { runtime, reach, node, life }),
        lag: config.healing.replica_lag,
        max_wait: FOLLOWER_WAIT,
    }
}

/// Takes proposals of in-sync sets to the controller.
struct InSyncErrand<R: Runtime> {
    runtime: R,
    reach: Reach<R>,
    node: BrokerId,
    life: BrokerEpoch,
}

impl<R: Runtime> AskController for InSyncErrand<R> {
    fn propose(&self, proposals: Vec<(Place, replica::isr::Proposal)>) -> Later<Vec<Answer>> {
        let count = proposals.len();
        let proposal = |(place, proposal): (Place, replica::isr::Proposal)| Proposal {
            topic_id: place.topic,
            partition: place.partition,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            isr: proposal.isr,
            lost: proposal.lost,
        };
        let proposals: Vec<Proposal> = proposals.into_iter().map(proposal).collect();
        let made_on: Vec<i32> = proposals.iter().map(|proposal| proposal.partition_epoch).collect();
        let call = AlterPartition { broker: self.node, broker_epoch: self.life, proposals };
        let (reach, deadline) = (self.reach.clone(), self.runtime.now().plus(IN_SYNC_PATIENCE));
        Box::pin(async move {
            match reach.ask(call, deadline).await.result {
                Ok(answers) => answers.into_iter().zip(made_on).map(|(one, on)| answer(one, on)).collect(),
                Err(Refusal { code: ErrorCode::REQUEST_TIMED_OUT, .. }) => vec![Answer::Unsure; count],
                Err(refusal) => vec![Answer::Refused(refusal.code); count],
            }
        })
    }
}

/// What became of a proposal that was made on this state of the partition.
fn answer(told: Result<Current, Refusal>, made_on: i32) -> Answer {
    match told {
        Ok(current) if current.partition_epoch == made_on => Answer::Unchanged,
        Ok(_) => Answer::Taken,
        Err(refusal) => Answer::Refused(refusal.code),
    }
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::LeaderEpoch;

    use super::*;

    #[test]
    fn a_proposal_that_left_the_state_as_it_was_changed_nothing() {
        let current = |partition_epoch| {
            Ok(Current {
                leader: BrokerId(1),
                leader_epoch: LeaderEpoch(2),
                partition_epoch,
                isr: vec![BrokerId(1)],
            })
        };
        assert_eq!(answer(current(7), 7), Answer::Unchanged);
        assert_eq!(answer(current(8), 7), Answer::Taken);
        let refused = Err(Refusal::of(ErrorCode::INELIGIBLE_REPLICA));
        assert_eq!(answer(refused, 7), Answer::Refused(ErrorCode::INELIGIBLE_REPLICA));
    }
}
