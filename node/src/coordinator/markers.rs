//! SHELL. Brings the ends of transactions into partitions: those that are led here, and those of other nodes.
//!
//! Owns: the way of a marker; trying again until it is there. Promises: a marker is written through the partition's one
//! way in with acks=all, so that it counts when it is below the watermark; for a partition of the offsets topic it goes
//! through the groups that live there, so that offsets take effect in the order of the log (TXN-10); an errand ends when
//! every partition has its marker or is gone, or when its coordinator is over. What an older coordinator brings is
//! refused by the log.
//! Leaves out: which markers may leave (`txn`).
//!
//! ```text
//!  delivery ─► leader of each partition ─┬─ here ─► Partition::write │ groups ─► codes
//!                                        └─ there ─► peer call ───────────────► codes ─► done, or a pause and again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use dejaq_storage::{AppendError, VerifiedBatch, mark};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, CoordinatorEpoch, LeaderEpoch, ProducerEpoch, ProducerId};
use dejaq_wire::peer::txn::{Named, WriteMarkers};
use dejaq_wire::record::control::EndTxnMarker;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Shards;
use super::group::{self, Groups};
use super::home::OFFSETS_TOPIC;
use super::machine::{Carrier, Teller};
use super::txn::Txns;
use super::txn::ask::At;
use super::txn::machine::Delivery;
use crate::peer::Peers;
use crate::replica::leader::{Refused, Required, Resigned};
use crate::replica::write::{Outcome, Write, WriteError};
use crate::replica::{Directory, NoPartition, Partition};
use crate::runtime::{Mono, Runtime};

/// How long one round to all leaders may take.
const ROUND: Duration = Duration::from_secs(2);
/// So many places are looked up or sent to before others have their turn.
pub const AT_ONCE: usize = 256;
/// First and longest pause between two rounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Brings markers.
pub struct Markers<R: Runtime> {
    runtime: R,
    me: BrokerId,
    directory: Arc<Directory<R>>,
    groups: Arc<Shards<R, Groups>>,
    peers: Peers<R>,
}

/// Where a marker goes that is on its way.
enum Going {
    Written(oneshot::Receiver<Outcome>),
    Over(ErrorCode),
    ToGroups,
}

/// What a partition knows of a producer: its epoch, and its last coordinator's.
pub type Seen = (ProducerEpoch, CoordinatorEpoch);

/// A partition that is led here, in an epoch of its leader, and what it knows of a producer.
pub struct Known<R: Runtime> {
    partition: Arc<Partition<R>>,
    epoch: LeaderEpoch,
    /// What it told.
    pub seen: Seen,
}

impl<R: Runtime> Markers<R> {
    /// For the partitions of `directory`, and for what `peers` lead.
    pub fn new(
        runtime: R,
        directory: Arc<Directory<R>>,
        groups: Arc<Shards<R, Groups>>,
        peers: Peers<R>,
    ) -> Markers<R> {
        Markers { runtime, me: peers.me(), directory, groups, peers }
    }

    /// Writes a marker into partitions that are led here; a code for each.
    pub async fn write_here(&self, marker: EndTxnMarker, places: &[At], deadline: Mono) -> Vec<ErrorCode> {
        let going = places.iter().map(|at| (at, self.send(marker, at))).collect();
        self.written(marker, going, deadline).await
    }

    /// As [`Markers::write_here`], where what was known of its producer still holds: in the very log that was asked, under the same
    /// leader epoch, in which epochs only grow. One that another took the place of since is refused.
    pub async fn write_known(
        &self,
        marker: EndTxnMarker,
        places: &[(&At, Known<R>)],
        deadline: Mono,
    ) -> Vec<ErrorCode> {
        let mut going = Vec::with_capacity(places.len());
        for (at, known) in places {
            // One request may name tens of thousands of places, and others wait for this thread.
            if going.len() % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            going.push((*at, self.send_known(marker, at, known)));
        }
        self.written(marker, going, deadline).await
    }

    async fn written(
        &self,
        marker: EndTxnMarker,
        going: Vec<(&At, Going)>,
        deadline: Mono,
    ) -> Vec<ErrorCode> {
        let mut codes = Vec::with_capacity(going.len());
        for (at, going) in going {
            codes.push(match going {
                Going::Over(code) => code,
                Going::Written(receiver) => match self.runtime.before(deadline, receiver).await {
                    Some(Ok(outcome)) => code_of(outcome),
                    Some(Err(_)) => ErrorCode::NOT_LEADER_OR_FOLLOWER,
                    None => ErrorCode::REQUEST_TIMED_OUT,
                },
                Going::ToGroups => {
                    let ask = group::Ask::EndTxn(marker);
                    match self.groups.ask_home(at.partition, ask, deadline).await {
                        Ok(group::Reply::Code(code)) | Err(code) => code,
                        Ok(other) => unreachable!("the end of a transaction is answered with {other:?}"),
                    }
                }
            });
        }
        codes
    }

    /// The epoch of a producer in a partition that is led here, and that of the coordinator which was last seen of it, -1 for none.
    ///
    /// # Errors
    /// The code to answer: it is not led here, or knows no such producer (INVALID_PRODUCER_ID_MAPPING).
    pub fn known(&self, at: &At, producer: ProducerId) -> Result<Known<R>, ErrorCode> {
        let partition = self.here(at)?;
        let epoch = partition.view().epoch();
        match partition.stopped() {
            Some(Resigned::Offline) => Err(ErrorCode::KAFKA_STORAGE_ERROR),
            Some(_) => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            None => {
                let seen = partition.epochs_of(producer).ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)?;
                Ok(Known { partition, epoch, seen })
            }
        }
    }

    fn here(&self, at: &At) -> Result<Arc<Partition<R>>, ErrorCode> {
        let table = self.directory.table();
        let entry = table.named(&at.topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        entry.partition(at.partition).cloned().map_err(|why| match why {
            NoPartition::Unknown => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            NoPartition::Elsewhere => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            NoPartition::Failed => ErrorCode::KAFKA_STORAGE_ERROR,
        })
    }

    fn send(&self, marker: EndTxnMarker, at: &At) -> Going {
        if &*at.topic == OFFSETS_TOPIC {
            return Going::ToGroups;
        }
        match self.here(at) {
            Ok(partition) => self.append(marker, &partition, LeaderEpoch::NONE),
            Err(code) => Going::Over(code),
        }
    }

    fn send_known(&self, marker: EndTxnMarker, at: &At, known: &Known<R>) -> Going {
        if &*at.topic == OFFSETS_TOPIC {
            // Which is never made anew: what was asked is what answers.
            warn!(
                ?marker,
                ?at,
                "a request from outside ends what is pending of the offsets of groups, whatever its coordinator decides"
            );
            return Going::ToGroups;
        }
        let standing = known.partition.txn_standing(marker.producer_id, marker.producer_epoch);
        if standing.is_some_and(|standing| standing.is_open) {
            // Who asked may be wrong: a coordinator that has it still may decide otherwise, and the transaction is torn then.
            warn!(
                ?marker,
                ?at,
                "a request from outside ends an open transaction here, whatever its coordinator decides"
            );
        }
        self.append(marker, &known.partition, known.epoch)
    }

    fn append(&self, marker: EndTxnMarker, partition: &Arc<Partition<R>>, only_in: LeaderEpoch) -> Going {
        let bytes = marker.batch(self.runtime.unix_ms()).to_bytes();
        let batch = VerifiedBatch::verify(bytes).expect("we built it");
        let (outcome, receiver) = oneshot::channel();
        partition.write(vec![Write { batch, required: Required::All, only_in, outcome }]);
        Going::Written(receiver)
    }

    /// Brings one marker everywhere, until it is there.
    async fn deliver(&self, delivery: Delivery, teller: &Teller<Txns>) {
        let Delivery { errand, marker, partitions } = delivery;
        let mut left: BTreeSet<At> = partitions.into_iter().collect();
        let mut pause = PAUSE.0;
        let mut rounds = 0u32;
        loop {
            for (at, code) in self.round(marker, &left).await {
                match code {
                    ErrorCode::NONE => {}
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION if self.is_gone(&at) => {
                        mark!("a partition went while its transaction was being ended");
                    }
                    ErrorCode::INVALID_PRODUCER_EPOCH => {
                        mark!("a marker comes where its producer has a later epoch");
                    }
                    ErrorCode::TRANSACTION_COORDINATOR_FENCED => {
                        mark!("a coordinator learns from a partition that it is over");
                        info!(
                            id = &*errand.id,
                            ?at,
                            "another coordinator has ended a transaction there: it is its to end"
                        );
                        return;
                    }
                    code => {
                        if rounds == 100 {
                            warn!(id = &*errand.id, ?at, ?code, "the end of a transaction cannot be written");
                        }
                        continue;
                    }
                }
                left.remove(&at);
                teller.tell((errand.clone(), at)).await;
            }
            if left.is_empty() {
                return;
            }
            rounds = rounds.saturating_add(1);
            self.runtime.sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Whether the metadata that this node acts on has no such partition. A transaction takes only partitions that are
    /// in it, and who coordinates it later has seen at least as much.
    fn is_gone(&self, at: &At) -> bool {
        let image = self.directory.image();
        image.topic_named(&at.topic).and_then(|topic| topic.partition(at.partition)).is_none()
    }

    /// Brings a marker to all leaders at once; what became of each, but for partitions that nobody leads now.
    async fn round(&self, marker: EndTxnMarker, left: &BTreeSet<At>) -> Vec<(At, ErrorCode)> {
        let image = self.directory.image();
        let mut by_leader: BTreeMap<BrokerId, Vec<At>> = BTreeMap::new();
        let mut all = Vec::new();
        for at in left {
            match image.topic_named(&at.topic).and_then(|topic| topic.partition(at.partition)) {
                None => all.push((at.clone(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)),
                Some(partition) if partition.leader.is_valid() => {
                    by_leader.entry(partition.leader).or_default().push(at.clone());
                }
                Some(_) => {}
            }
        }
        let deadline = self.runtime.now().plus(ROUND);
        let asked = by_leader.into_iter().map(|(leader, places)| -> Round<'_> {
            Box::pin(async move {
                let codes = if leader == self.me {
                    self.write_here(marker, &places, deadline).await
                } else {
                    self.write_there(leader, marker, &places, deadline).await
                };
                places.into_iter().zip(codes).collect()
            })
        });
        all.extend(together(asked.collect()).await.into_iter().flatten());
        all
    }

    async fn write_there(
        &self,
        leader: BrokerId,
        marker: EndTxnMarker,
        places: &[At],
        deadline: Mono,
    ) -> Vec<ErrorCode> {
        let named = |at: &At| Named { topic: at.topic.to_string(), partition: at.partition };
        let ask = WriteMarkers {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            commit: marker.commit,
            coordinator_epoch: marker.coordinator_epoch,
            partitions: places.iter().map(named).collect(),
        };
        match self.peers.request(leader, ask, deadline).await {
            Ok(written) if written.codes.len() == places.len() => written.codes,
            Ok(_) | Err(_) => vec![ErrorCode::NETWORK_EXCEPTION; places.len()],
        }
    }
}

/// One leader's part of a round.
type Round<'a> = Pin<Box<dyn Future<Output = Vec<(At, ErrorCode)>> + Send + 'a>>;

/// All results, in order, when the last one is there.
async fn together<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_all = true;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => is_all = false,
                }
            }
        }
        if is_all { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().map(|result| result.expect("all are there")).collect()
}

fn code_of(outcome: Outcome) -> ErrorCode {
    match outcome {
        Ok(_) => ErrorCode::NONE,
        Err(WriteError::Append(AppendError::StaleProducer { .. })) => ErrorCode::INVALID_PRODUCER_EPOCH,
        Err(WriteError::Append(AppendError::StaleCoordinator { .. })) => {
            ErrorCode::TRANSACTION_COORDINATOR_FENCED
        }
        Err(WriteError::Refused(Refused::NotEnoughReplicas)) => ErrorCode::NOT_ENOUGH_REPLICAS,
        Err(WriteError::Refused(Refused::Overloaded)) => ErrorCode::REQUEST_TIMED_OUT,
        Err(WriteError::Refused(Refused::Resigned(_)) | WriteError::Abandoned(_) | WriteError::TooFew) => {
            ErrorCode::NOT_LEADER_OR_FOLLOWER
        }
        Err(WriteError::NotVouched(code)) => code,
        Err(WriteError::Append(_)) => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

/// [`Markers`], as a shard sees them.
pub struct Deliveries<R: Runtime>(pub Arc<Markers<R>>);

impl<R: Runtime> Carrier<Txns> for Deliveries<R> {
    fn carry(&self, delivery: Delivery, teller: Teller<Txns>) {
        let markers = self.0.clone();
        self.0.runtime.spawn("txn-markers", async move {
            tokio::select! {
                biased; // who took over begins anew
                () = teller.over() => {}
                () = markers.deliver(delivery, &teller) => {}
            }
        });
    }
}
