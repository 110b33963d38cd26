//! An election that may lose something is allowed, and is made: what it lost is told, no more is lost, and who had read it is told
//! that the log is another one (S19, KIP-320).
//!
//! Owns: the order of cuts and ends, and what readers ask. Promises: the run fails unless a replica led that lacked acknowledged
//! records, and unless the log grew past the old end again (`told::lost`). Who finds what: an election that tells of nothing, or one
//! record more than is gone, the oracle and god (`given_up`); a reader that is not told, the script (`OOR`); what is left of producers
//! behind the cuts of those that come back, the old producer (oracle) and LOG-13.
//! Drawn: the partition, how both end (killed, or their power), how much is lost, how the two come back, the load before.
//! Leaves out: the archive (there is none); compaction of such a partition. A reader that names no epoch is not told once the
//! log has grown past it: no broker can tell it.
//!
//! ```text
//!  far ✂ ─► in sync {leader, near}: more is acknowledged, and read │ leader ✝ near ✝ ─► far leads, "OUT OF SYNC": [from, end) is lost
//!  reader at end: out of range; "epoch 0 ended at from"; "you are of an older epoch" │ leader, near come back and cut
//!  the log grows past end ─► reader at end, of epoch 0: "you left at from" ─► it goes back there, and reads on
//! ```

use std::time::Duration;

use dejaq::client::cluster::Cluster;
use dejaq::runtime::Runtime;
use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData};
use dejaq_wire::kafka::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition, OffsetForLeaderTopic,
};

use super::told::{Cast, TOPIC, lost, told};
use super::told_isr::{Hand, PARTITIONS, Trio, plan};
use crate::oracle::{Event, PollOp};
use crate::runner::{RunParams, RunReport};
use crate::runtime::SimRuntime;
use crate::story::meetings::claim;
use crate::story::reader::{Fetched, Reader};
use crate::story::{Stage, Stop, producers};

/// Tells it.
#[must_use]
pub fn unclean(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |drawn, dice| {
            plan(drawn, 5, dice);
            drawn.gives_up = true;
            for topic in &mut drawn.topics {
                topic.configs.insert("unclean.leader.election.enable".into(), "true".into());
            }
        },
        |cast: Cast| async move { play(Trio::gather(cast).await?).await },
    )
}

/// Where everything stood before the election, and where it stands behind it.
struct Lost {
    /// The epoch of what is lost.
    epoch: i32,
    /// Where the log ended, all of it acknowledged.
    end: i64,
    /// Where the new leader's ends.
    from: i64,
}

async fn play(mut trio: Trio) -> Result<(), Stop> {
    let (first, more, again) = (trio.dice.between(1, 20), trio.dice.between(1, 40), trio.dice.between(1, 20));
    trio.hand.sends(first).await?;
    trio.far_leaves().await?;
    trio.hand.sends(more).await?;
    let mut eyes = Eyes::open(&trio).await?;
    eyes.reads_to(trio.end_at(trio.leader)).await?;
    let (before, end) = (trio.standing()?, trio.end_at(trio.leader));
    both_end(&mut trio).await?;
    let far = trio.far;
    trio.until("who was out of sync leads", || {
        trio.scene.belief(far).is_some_and(|sight| sight.leads && sight.epoch > before.epoch)
    })
    .await?;
    let lost_here = Lost { epoch: before.epoch, end, from: trio.end_at(far) };
    if lost_here.from >= end {
        return Err(lost("the new leader lacks what was acknowledged"));
    }
    let (now, told) = (trio.standing()?, trio.losses()?);
    claim("REPORTED", told == [(far, now.epoch)], || {
        format!("{now:?} lost records, and told of is {told:?}")
    })?;
    trio.count("elections that lost what was acknowledged");
    eyes.are_told_at_once(&lost_here).await?;
    trio.part_from(far, &[trio.leader, trio.near], false);
    let (one, other) =
        if trio.dice.chance(500) { (trio.leader, trio.near) } else { (trio.near, trio.leader) };
    trio.node(one).begin_start();
    let pause = trio.span_ms(1, 2000);
    trio.pause(pause).await;
    trio.node(other).begin_start();
    trio.until("enough are in sync again", || trio.members_at(far).is_some_and(|set| set.len() > 1)).await?;
    // The producer of before: its next number is not the one that the new leader waits for.
    let old = trio.hand.sets_out(again).await;
    let fresh = Hand::of(trio.stage(), trio.scene.index, 95);
    fresh.sends((end - lost_here.from) as u64 + again).await?;
    trio.until("the old producer knows", || old.is_over(again)).await?;
    let grown = trio.scene.belief(far).is_some_and(|sight| sight.leads && sight.watermark > end);
    if !grown {
        return Err(lost("the log grows past where it had ended"));
    }
    eyes.are_told_later(&lost_here).await?;
    trio.count("readers told behind the old end");
    Ok(())
}

/// Leader and near end, one after the other or nearly at once, by a kill or by their power.
async fn both_end(trio: &mut Trio) -> Result<(), Stop> {
    let power = trio.dice.chance(500);
    let pause = trio.span_ms(0, 300);
    let pair = if trio.dice.chance(500) { [trio.leader, trio.near] } else { [trio.near, trio.leader] };
    for node in pair {
        if power {
            trio.node(node).power_cut(CrashMode::Lose);
        } else {
            trio.node(node).kill();
        }
        trio.pause(pause).await;
    }
    Ok(())
}

/// A client that keeps the epoch of what it read, as Kafka's do.
struct Eyes {
    stage: Stage,
    cluster: Cluster<SimRuntime>,
    reader: Reader,
    process: u32,
    index: i32,
    id: TopicId,
    position: i64,
}

impl Eyes {
    async fn open(trio: &Trio) -> Result<Eyes, Stop> {
        let stage = trio.stage().clone();
        let cluster = producers::cluster(&stage, stage.broker.machine(97));
        let reader = Reader { cluster: cluster.clone() };
        let id = reader.topic_id(TOPIC).await.ok_or_else(|| lost("the topic has an id"))?;
        let process = stage.recorder.fresh_process();
        Ok(Eyes { stage, cluster, reader, process, index: trio.scene.index, id, position: 0 })
    }

    /// Reads on, until it stands at `end` or behind it.
    async fn reads_to(&mut self, end: i64) -> Result<(), Stop> {
        let give_up = self.stage.world.now_ns() + Duration::from_secs(30).as_nanos() as u64;
        while self.position < end {
            let (begun, from) = (self.stage.world.now_ns(), self.position);
            let fetched = self.reader.fetch(TOPIC, self.id, self.index, from, 20).await;
            let done = self.stage.world.now_ns();
            if let Fetched::Records { records, next } = fetched {
                self.position = next;
                let (process, part) = (self.process, self.stage.recorder.part(TOPIC, self.index));
                let op = PollOp { process, part, from, records, next, out_of_range: false, begun, done };
                self.stage.recorder.event(self.cluster.runtime().who(), Event::Poll(op));
            }
            if done > give_up {
                return Err(lost("a reader comes to the end"));
            }
        }
        Ok(())
    }

    /// Asks the leader until it is one that answers: the last one may not know yet that it leads no more, or be dead.
    async fn ask<Q: Request>(
        &self,
        request: &Q,
        code: impl Fn(&Q::Response) -> Option<ErrorCode>,
    ) -> Result<Q::Response, Stop> {
        for _ in 0..20 {
            let runtime = self.cluster.runtime();
            let soon = runtime.now().plus(Duration::from_secs(2));
            if let Ok((connection, _)) = self.cluster.leader(TOPIC, PartitionId(self.index), soon).await
                && let Ok(answer) = connection.call(request, soon).await
                && code(&answer).is_some_and(|code| code != ErrorCode::NOT_LEADER_OR_FOLLOWER)
            {
                return Ok(answer);
            }
            self.cluster.forget(TOPIC);
            runtime.sleep(Duration::from_millis(100)).await;
        }
        Err(lost("a reader is answered"))
    }

    /// A fetch by who read an epoch up to `offset`, and believes that `current` is the newest.
    async fn fetch(&self, offset: i64, read: i32, current: i32) -> Result<PartitionData, Stop> {
        let partition = FetchPartition {
            partition: PartitionId(self.index),
            current_leader_epoch: LeaderEpoch(current),
            fetch_offset: Offset(offset),
            last_fetched_epoch: LeaderEpoch(read),
            partition_max_bytes: 64 << 10,
            ..Default::default()
        };
        let topics = vec![FetchTopic { topic: TOPIC.into(), topic_id: self.id, partitions: vec![partition] }];
        let request =
            FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: 256 << 10, topics, ..Default::default() };
        let one = |told: &FetchResponse| Some(told.responses.first()?.partitions.first()?.error_code);
        let answer = self.ask(&request, one).await?;
        let topic = answer.responses.into_iter().next();
        topic
            .and_then(|topic| topic.partitions.into_iter().next())
            .ok_or_else(|| lost("a fetch tells something"))
    }

    /// Where an epoch ended: the largest one that is not above it, and its end.
    async fn end_of(&self, epoch: i32) -> Result<(i32, i64), Stop> {
        let part = OffsetForLeaderPartition {
            partition: PartitionId(self.index),
            leader_epoch: LeaderEpoch(epoch),
            ..Default::default()
        };
        let topics = vec![OffsetForLeaderTopic { topic: TOPIC.into(), partitions: vec![part] }];
        let request = OffsetForLeaderEpochRequest { replica_id: BrokerId::NONE, topics };
        let one =
            |told: &OffsetForLeaderEpochResponse| Some(told.topics.first()?.partitions.first()?.error_code);
        let answer = self.ask(&request, one).await?;
        let part = answer.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        let part = part.ok_or_else(|| lost("where an epoch ended is told"))?;
        Ok((part.leader_epoch.0, part.end_offset.0))
    }

    /// While the log ends before its position.
    async fn are_told_at_once(&self, Lost { epoch, end, from }: &Lost) -> Result<(), Stop> {
        let told = self.fetch(*end, -1, -1).await?;
        claim("OOR", told.error_code == ErrorCode::OFFSET_OUT_OF_RANGE, || {
            format!("the log ends at {from}, and who stands at {end} is told {told:?}")
        })?;
        let told = self.fetch(*end, *epoch, *epoch).await?;
        claim("OOR", told.error_code == ErrorCode::FENCED_LEADER_EPOCH, || {
            format!("who believes that {epoch} is the newest epoch is told {told:?}")
        })?;
        let told = self.end_of(*epoch).await?;
        claim("OOR", told.0 <= *epoch && told.1 == *from, || {
            format!("epoch {epoch} ends at {from} now, and {told:?} is told")
        })
    }

    /// When the log has grown past it: it goes back to where it is told that it left, and passes nothing.
    async fn are_told_later(&mut self, Lost { epoch, end, from }: &Lost) -> Result<(), Stop> {
        let told = self.fetch(*end, *epoch, -1).await?;
        let is_told = told.diverging_epoch.end_offset.0 == *from && told.diverging_epoch.epoch.0 <= *epoch;
        let is_empty = told.records.as_ref().is_none_or(|records| records.is_empty());
        claim("OOR", is_told && is_empty, || {
            format!("epoch {epoch} ended at {from}, and who read it up to {end} is told {told:?}")
        })?;
        let told = self.end_of(*epoch).await?;
        claim("OOR", told.1 == *from, || format!("epoch {epoch} ends at {from}, and {told:?} is told"))?;
        self.position = *from;
        let (process, part) = (self.process, self.stage.recorder.part(TOPIC, self.index));
        let seek = Event::Seek { process, part, offset: *from };
        self.stage.recorder.event(self.cluster.runtime().who(), seek);
        self.reads_to(*end).await
    }
}
