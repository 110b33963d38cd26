//! Told stories of groups: the five that real systems lost offsets in (S41 to S45), each with a script and fixed latencies.
//!
//! Owns: the scripts, and what must be true in each ("GRP-…", a finding if it is not). Promises: nothing is drawn but the
//! entropy of ids. Leaves out: chance (`groups`, in the random scenarios). Run by `scenarios::group_stories`.
//!
//! ```text
//! S41 a zombie wakes and commits            one broker      its commit is refused, in both protocols, static or not
//! S42 a commit while the coordinator moves  three brokers   what the old one could not replicate is not told, nor seen,
//!                                                           and while it is cut off it tells nothing at all
//! S43 a coordinator reads a compacted log   one broker      every group's last offset, no group that was deleted
//! S44 transaction, plain commit, expiry     one broker      the later record counts, whoever reads the log; nobody expires
//!                                                           what a member may still want
//! S45 the log ends before the offset        one broker      the reader is told, and begins where it said it would
//! ```

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use dejaq::client::admin_groups;
use dejaq::client::cluster::Cluster;
use dejaq::client::consumer::{ConsumeError, ConsumerConfig, OutOfRange, StartAt};
use dejaq::client::group::coordinator::{Coordinator, ask_over};
use dejaq::client::group::{Delivery, GroupConfig, GroupConsumer, GroupError, Protocol};
use dejaq::client::producer::core::TopicPartition;
use dejaq::client::producer::{Acks, Producer, Record};
use dejaq::runtime::Runtime;
use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, Generation, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId};
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::add_offsets_to_txn::AddOffsetsToTxnRequest;
use dejaq_wire::kafka::end_txn::EndTxnRequest;
use dejaq_wire::kafka::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use dejaq_wire::kafka::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use dejaq_wire::record::Compression;

use super::groups::squeeze;
use super::rebalance::quiet;
use super::recorder::Recorder;
use super::telling::{PATIENCE, stuck};
use super::{DURABLE, NONE, Plan, ProducerPlan, Stage, Stop, bounds, producers, report, within};
use crate::invariants::Broken;
use crate::runner::{RunParams, RunReport};
use crate::runtime::SimRuntime;
use crate::world::World;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
/// The machine of the producer and the operator; members have the next ones.
pub(super) const OPERATOR: u32 = 500;
/// The shortest that a broker allows.
const SESSION: Duration = Duration::from_secs(6);
/// How long offsets of a group without members stay (S44); they are looked at every ten minutes.
const RETENTION: Duration = Duration::from_secs(300);

type Member = GroupConsumer<SimRuntime>;

/// Runs S41.
#[must_use]
pub fn zombie(params: &RunParams) -> RunReport {
    told(
        params,
        DURABLE,
        |_| {},
        |cast| async move {
            cast.zombie(Protocol::Classic, "classic").await?;
            cast.zombie(Protocol::Consumer, "new").await?;
            cast.twin(Protocol::Classic, "classic-twin").await?;
            cast.twin(Protocol::Consumer, "new-twin").await
        },
    )
}

/// Runs S42.
#[must_use]
pub fn moving_coordinator(params: &RunParams) -> RunReport {
    let fleet = |plan: &mut Plan| {
        *plan = plan.clone().fleet((3, 3), (3, 2));
        plan.config.groups.partitions = 1;
    };
    told(params, DURABLE, fleet, |cast| async move { cast.moving_coordinator().await })
}

/// Runs S43.
#[must_use]
pub fn compacted_offsets(params: &RunParams) -> RunReport {
    let cleans = |plan: &mut Plan| {
        plan.config.retention_interval = Duration::from_millis(100);
        plan.config.groups.partitions = 1;
    };
    told(params, DURABLE, cleans, |cast| async move { cast.compacted_offsets().await })
}

/// Runs S44.
#[must_use]
pub fn staged_offsets(params: &RunParams) -> RunReport {
    let cleans = |plan: &mut Plan| {
        plan.config.retention_interval = Duration::from_millis(100);
        plan.config.groups.partitions = 1;
        plan.config.groups.retention = RETENTION;
    };
    told(params, DURABLE, cleans, |cast| async move {
        cast.staged_offsets().await?;
        cast.expiry().await
    })
}

/// Runs S45.
#[must_use]
pub fn behind_the_end(params: &RunParams) -> RunReport {
    told(params, NONE, |_| {}, |cast| async move { cast.behind_the_end().await })
}

/// Begins a story of these with one partition to read, and tells it.
pub(super) fn told<F>(
    params: &RunParams,
    durability: (&'static str, bool),
    shape: impl FnOnce(&mut Plan),
    script: impl FnOnce(Cast) -> F,
) -> RunReport
where
    F: Future<Output = Result<(), Stop>>,
{
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        let mut plan = quiet(&world, (TOPIC, 1), durability);
        plan.config.groups.initial_delay = Duration::from_millis(100);
        plan.config.groups.consumer_session = SESSION;
        plan.config.groups.consumer_heartbeat = Duration::from_secs(1);
        shape(&mut plan);
        let plan = Arc::new(plan);
        let recorder = Recorder::new(&world, &plan);
        let stage = Stage::new(&world, plan, recorder, false);
        let outcome = match begin(&stage).await {
            Ok(()) => script(Cast::new(&stage)).await,
            Err(stop) => Err(stop),
        };
        report(&stage, outcome)
    });
    ended.unwrap_or_else(RunReport::crash)
}

/// All brokers are up, and the topics are made.
pub(super) async fn begin(stage: &Stage) -> Result<(), Stop> {
    stage.brokers.iter().for_each(super::BrokerNode::begin_start);
    within(stage, bounds::FIRST_READY, async {
        for broker in stage.brokers.iter() {
            broker.ready().await;
        }
    })
    .await?;
    within(stage, bounds::TOPICS, producers::create_topics(stage)).await
}

/// A finding, unless it is so.
pub(super) fn claim(name: &'static str, is_so: bool, evidence: impl FnOnce() -> String) -> Result<(), Stop> {
    if is_so { Ok(()) } else { Err(Stop::Broken(Broken { name, evidence: evidence() })) }
}

/// The partition that groups of these stories read.
pub(super) fn orders() -> TopicPartition {
    TopicPartition { topic: TOPIC.into(), partition: PartitionId(0) }
}

/// The operator's side of a story, and how members are made.
pub(super) struct Cast {
    pub(super) stage: Stage,
    runtime: SimRuntime,
    cluster: Cluster<SimRuntime>,
}

impl Cast {
    fn new(stage: &Stage) -> Cast {
        let runtime = stage.broker.machine(OPERATOR);
        Cast { stage: stage.clone(), cluster: producers::cluster(stage, runtime.clone()), runtime }
    }

    async fn wait(&self, seconds: u64) {
        self.stage.world.sleep(Duration::from_secs(seconds)).await;
    }

    /// Sends so many records, each acknowledged before the next.
    pub(super) async fn send(&self, records: usize) {
        let plan = ProducerPlan {
            acks: Acks::All,
            idempotent: true,
            compression: Compression::None,
            records: 0,
            think: Duration::ZERO,
            window: 1,
            value_bytes: 0,
            linger: Duration::ZERO,
        };
        let producer =
            Producer::start(self.cluster.clone(), producers::config(&plan)).expect("valid settings");
        for number in 0..records {
            let record = Record::new(TOPIC, number.to_string()).partition(PartitionId(0));
            let sent = producer.send(record).await.expect("there is room");
            sent.wait().await.expect("nothing fails here");
        }
    }

    /// A member of a group, which has asked nobody yet.
    pub(super) fn member(
        &self,
        machine: u32,
        (protocol, group): (Protocol, &str),
        instance: Option<&str>,
    ) -> Member {
        self.member_with(machine, (protocol, group), instance, OutOfRange::Error)
    }

    fn member_with(
        &self,
        machine: u32,
        (protocol, group): (Protocol, &str),
        instance: Option<&str>,
        out_of_range: OutOfRange,
    ) -> Member {
        let config = GroupConfig {
            protocol,
            instance: instance.map(str::to_owned),
            session_timeout: SESSION,
            heartbeat_every: Duration::from_secs(1),
            rebalance_timeout: Duration::from_secs(10),
            delivery: Delivery::Manual,
            start: Some(StartAt::Beginning),
            consumer: ConsumerConfig {
                max_wait: Duration::from_millis(100),
                out_of_range,
                ..ConsumerConfig::default()
            },
            ..GroupConfig::of(group)
        };
        let cluster = producers::cluster(&self.stage, self.stage.broker.machine(machine));
        GroupConsumer::subscribe(cluster, config, &[TOPIC], |_| {})
    }

    /// What the member is handed until it has so many, by offset.
    pub(super) async fn read(&self, member: &mut Member, records: usize) -> Result<Vec<i64>, Stop> {
        let (mut offsets, until) = (Vec::new(), self.runtime.now().plus(PATIENCE));
        while offsets.len() < records {
            match member.poll(Duration::from_millis(100)).await {
                Ok(more) => offsets.extend(more.iter().map(|record| record.offset.0)),
                Err(GroupError::Cluster(_)) => self.runtime.sleep(Duration::from_millis(50)).await,
                Err(error) => return Err(Stop::Stuck(format!("a member that reads: {error}"))),
            }
            if self.runtime.now() >= until {
                return Err(Stop::Stuck(format!("{member:?} was handed {offsets:?}, not {records} records")));
            }
        }
        Ok(offsets)
    }

    async fn commit(&self, member: &mut Member, offset: i64, patience: Duration) -> Result<(), GroupError> {
        let deadline = self.runtime.now().plus(patience);
        member.commit_offsets(&BTreeMap::from([(orders(), Offset(offset))]), deadline).await
    }

    /// The offset that the coordinator tells; `None` if the group has none.
    pub(super) async fn committed(&self, group: &str) -> Result<Option<i64>, Stop> {
        let coordinator = Coordinator::new(self.cluster.clone(), group);
        let until = self.runtime.now().plus(PATIENCE);
        loop {
            let due = self.runtime.now().plus(Duration::from_secs(5));
            match admin_groups::committed(&self.cluster, &coordinator, None, due).await {
                Ok(kept) => return Ok(kept.get(&orders()).map(|kept| kept.offset.0)),
                Err(error) if self.runtime.now() >= until => {
                    return Err(Stop::Stuck(format!("nobody tells the offset of {group}: {error}")));
                }
                Err(_) => self.runtime.sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// As an operator, or a consumer that assigns by itself, commits.
    async fn set(&self, group: &str, offset: i64) -> Result<(), Stop> {
        let coordinator = Coordinator::new(self.cluster.clone(), group);
        let due = self.runtime.now().plus(PATIENCE);
        let nobody = ("", Generation::NONE, None);
        let offsets = BTreeMap::from([(orders(), Offset(offset))]);
        let done = admin_groups::commit(&self.cluster, &coordinator, nobody, &offsets, due).await;
        done.map_err(|error| Stop::Stuck(format!("{group} is set to {offset}: {error}")))
    }

    async fn again(&self, power: bool) -> Result<(), Stop> {
        match power {
            true => self.stage.broker.power_cut(CrashMode::Lose),
            false => self.stage.broker.kill(),
        }
        self.stage.broker.begin_start();
        within(&self.stage, bounds::READY, self.stage.broker.ready()).await
    }

    /// A member stands still for longer than its session; who took over commits; the zombie wakes and commits less.
    async fn zombie(&self, protocol: Protocol, group: &str) -> Result<(), Stop> {
        self.send(10).await;
        let end = self.end().await?;
        let mut zombie = self.member(OPERATOR + 1, (protocol, group), None);
        self.read(&mut zombie, end as usize).await?;
        self.commit(&mut zombie, 3, PATIENCE).await.map_err(stuck("the first commit"))?;
        let mut heir = self.member(OPERATOR + 2, (protocol, group), None);
        let handed = self.read(&mut heir, end as usize - 3).await?;
        claim("GRP-5", handed[0] == 3, || format!("{group}: the heir begins at {handed:?}, not at 3"))?;
        self.commit(&mut heir, end, PATIENCE).await.map_err(stuck("the heir's commit"))?;
        let late = self.commit(&mut zombie, 5, PATIENCE).await;
        claim("GRP-4", is_refused(&late), || format!("{group}: the zombie's commit ends with {late:?}"))?;
        let now = self.committed(group).await?;
        claim("GRP-3", now == Some(end), || format!("{group}: committed {end}, now {now:?}"))
    }

    /// A second process of one instance: only one of the two may commit.
    async fn twin(&self, protocol: Protocol, group: &str) -> Result<(), Stop> {
        let end = self.end().await?;
        let mut first = self.member(OPERATOR + 3, (protocol, group), Some("the-instance"));
        self.read(&mut first, end as usize).await?;
        self.commit(&mut first, 2, PATIENCE).await.map_err(stuck("the first commit"))?;
        let mut second = self.member(OPERATOR + 4, (protocol, group), Some("the-instance"));
        self.read(&mut second, end as usize - 2).await?;
        self.commit(&mut second, end, PATIENCE).await.map_err(stuck("the second one's commit"))?;
        let late = self.commit(&mut first, 4, PATIENCE).await;
        claim("GRP-4", is_refused(&late), || format!("{group}: the first twin's commit ends with {late:?}"))?;
        let now = self.committed(group).await?;
        claim("GRP-3", now == Some(end), || format!("{group}: committed {end}, now {now:?}"))
    }

    /// The end of the log.
    pub(super) async fn end(&self) -> Result<i64, Stop> {
        let wanted = BTreeMap::from([(orders(), dejaq::client::offsets::OffsetSpec::Latest)]);
        let due = self.runtime.now().plus(PATIENCE);
        let found = dejaq::client::offsets::find(&self.cluster, &wanted, due).await;
        let found = found.map_err(|error| Stop::Stuck(format!("nobody tells the end: {error}")))?;
        found[&orders()].offset.map(|end| end.0).ok_or_else(|| Stop::Stuck("the log has no end".into()))
    }

    /// The coordinator is cut off from its peers while a member commits; another one takes over, and the old one, which
    /// clients reach all the time, is asked for the offset.
    async fn moving_coordinator(&self) -> Result<(), Stop> {
        self.send(10).await;
        let mut member = self.member(OPERATOR + 1, (Protocol::Classic, GROUP), None);
        self.read(&mut member, 10).await?;
        self.commit(&mut member, 3, PATIENCE).await.map_err(stuck("the first commit"))?;
        let due = self.runtime.now().plus(PATIENCE);
        let listed = admin_groups::list(&self.cluster, due).await.map_err(stuck("the list"))?;
        let old = listed.iter().find(|one| one.group == GROUP).expect("it has a member").coordinator;
        let told = self.told_by(old).await?;
        claim("GRP-3", told == Some(3), || format!("committed 3, and its coordinator tells {told:?}"))?;
        self.cut_off(old);
        // It is appended there, and cut from there later: nobody else has it.
        let doubtful = self.commit(&mut member, 5, Duration::from_secs(2)).await;
        claim("GRP-9", doubtful.is_err(), || {
            "a commit that no other broker has was answered as done".into()
        })?;
        let until = self.runtime.now().plus(PATIENCE);
        while self.commit(&mut member, 4, Duration::from_secs(5)).await.is_err() {
            let _handed_again = member.poll(Duration::from_millis(200)).await;
            if self.runtime.now() >= until {
                return Err(Stop::Stuck("no other coordinator took a commit".into()));
            }
        }
        if self.named_by(old).await? != Some(old) {
            let why =
                "the story was not brought about: the old coordinator knows already that another one leads";
            return Err(Stop::Stuck(why.to_owned()));
        }
        let told = self.told_by(old).await?;
        claim("GRP-3", told.is_none(), || format!("committed 4, and who is cut off tells {told:?}"))?;
        self.stage.world.network().heal();
        // While it comes back, it hears the controller and the metadata one after the other.
        for _ in 0..400 {
            let told = self.told_by(old).await?;
            claim("GRP-3", told.is_none_or(|told| told == 4), || {
                format!("committed 4, and who came back tells {told:?}")
            })?;
            self.runtime.sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..20 {
            let now = self.committed(GROUP).await?;
            claim("GRP-3", now == Some(4), || format!("committed 4, told {now:?} when all are back"))?;
            self.wait(1).await;
        }
        Ok(())
    }

    /// Cuts a broker off from all others, and them from it; clients reach all.
    fn cut_off(&self, broker: BrokerId) {
        let network = self.stage.world.network();
        let node = self.stage.brokers[broker.0 as usize - 1].node();
        for other in self.stage.brokers.iter().map(super::BrokerNode::node).filter(|other| *other != node) {
            network.set_cut(node, other, true);
            network.set_cut(other, node, true);
        }
    }

    /// The group's offset as this broker tells it, whoever coordinates; `None` if it tells none.
    async fn told_by(&self, broker: BrokerId) -> Result<Option<i64>, Stop> {
        let topic =
            OffsetFetchRequestTopic { name: TOPIC.to_owned(), partition_indexes: vec![PartitionId(0)] };
        let request = OffsetFetchRequest {
            group_id: GROUP.to_owned(),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let told = self.asked(broker, &request, 7).await?;
        let offset = told.topics.first().map(|topic| topic.partitions[0].committed_offset.0);
        Ok(offset.filter(|_| told.error_code.is_none()))
    }

    /// Whom this broker takes for the group's coordinator.
    async fn named_by(&self, broker: BrokerId) -> Result<Option<BrokerId>, Stop> {
        let request = FindCoordinatorRequest { key: GROUP.to_owned(), ..Default::default() };
        let told = self.asked(broker, &request, 3).await?;
        Ok(Some(told.node_id).filter(|_| told.error_code.is_none()))
    }

    /// Asks one broker, in a version that is at most `newest`.
    async fn asked<Q: Request>(
        &self,
        broker: BrokerId,
        request: &Q,
        newest: i16,
    ) -> Result<Q::Response, Stop> {
        let due = self.runtime.now().plus(PATIENCE);
        let connection =
            self.cluster.broker(broker, due).await.map_err(stuck("a connection to one broker"))?;
        ask_over(&connection, request, newest, due).await.map_err(stuck("an answer of one broker"))
    }

    /// Hundreds of commits, groups that are deleted, all compacted; the coordinator dies and reads what is left.
    async fn compacted_offsets(&self) -> Result<(), Stop> {
        self.send(3).await;
        self.set(GROUP, 0).await?;
        squeeze(&self.stage, &self.runtime).await;
        for round in 0..40 {
            self.set(GROUP, round).await?;
            let other = format!("deleted-{}", round % 5);
            self.set(&other, round).await?;
            let coordinator = Coordinator::new(self.cluster.clone(), &other);
            let due = self.runtime.now().plus(PATIENCE);
            admin_groups::delete(&coordinator, &self.cluster, due).await.map_err(stuck("the deletion"))?;
        }
        self.wait(5).await;
        for power in [false, true, false] {
            self.again(power).await?;
            let now = self.committed(GROUP).await?;
            claim("GRP-7", now == Some(39), || format!("committed 39, read back {now:?}"))?;
            let due = self.runtime.now().plus(PATIENCE);
            let listed = admin_groups::list(&self.cluster, due).await.map_err(stuck("the list"))?;
            let names: Vec<&str> = listed.iter().map(|one| one.group.as_str()).collect();
            claim("GRP-7", names == [GROUP], || {
                format!("{names:?} are there, of which only {GROUP} may be")
            })?;
        }
        Ok(())
    }

    /// A transaction's offset, a plain commit behind it, the marker behind that; then others read the log, compacted.
    async fn staged_offsets(&self) -> Result<(), Stop> {
        self.send(10).await;
        self.set(GROUP, 1).await?;
        squeeze(&self.stage, &self.runtime).await;
        let txn = self.begin_txn("the-transactor").await?;
        self.stage_offset(&txn, 5).await?;
        self.set(GROUP, 7).await?;
        self.end_txn(&txn, true).await?;
        let now = self.committed(GROUP).await?;
        claim("GRP-7", now == Some(7), || format!("the later record says 7, the coordinator {now:?}"))?;
        let txn = self.begin_txn("the-transactor").await?;
        self.stage_offset(&txn, 9).await?;
        self.end_txn(&txn, false).await?;
        // So that segments end, and are compacted.
        for round in 0..20 {
            self.set("another", round).await?;
        }
        self.wait(5).await;
        for power in [false, true] {
            self.again(power).await?;
            let now = self.committed(GROUP).await?;
            claim("GRP-7", now == Some(7), || {
                format!("the coordinator said 7, and {now:?} after it read its log")
            })?;
        }
        Ok(())
    }

    async fn begin_txn(&self, id: &str) -> Result<(String, ProducerId, ProducerEpoch), Stop> {
        let request = InitProducerIdRequest {
            transactional_id: Some(id.to_owned()),
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        // Whoever asks first makes the home of transactional ids.
        let find =
            FindCoordinatorRequest { key: id.to_owned(), key_type: 1, coordinator_keys: vec![id.to_owned()] };
        let found = |told: &FindCoordinatorResponse| match told.coordinators.first() {
            Some(found) => found.error_code,
            None => told.error_code,
        };
        self.until("a transaction coordinator", &find, found).await?;
        let told = self.until("a producer id", &request, |told| told.error_code).await?;
        Ok((id.to_owned(), told.producer_id, told.producer_epoch))
    }

    async fn stage_offset(&self, txn: &(String, ProducerId, ProducerEpoch), offset: i64) -> Result<(), Stop> {
        let (transactional_id, producer_id, producer_epoch) = txn.clone();
        let request = AddOffsetsToTxnRequest {
            transactional_id: transactional_id.clone(),
            producer_id,
            producer_epoch,
            group_id: GROUP.to_owned(),
        };
        self.until("offsets in a transaction", &request, |told| told.error_code).await?;
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: PartitionId(0),
            committed_offset: Offset(offset),
            committed_leader_epoch: LeaderEpoch::NONE,
            committed_metadata: None,
        };
        let topic = TxnOffsetCommitRequestTopic { name: TOPIC.to_owned(), partitions: vec![partition] };
        let request = TxnOffsetCommitRequest {
            transactional_id,
            group_id: GROUP.to_owned(),
            producer_id,
            producer_epoch,
            topics: vec![topic],
            ..Default::default()
        };
        self.until("an offset in a transaction", &request, |told| told.topics[0].partitions[0].error_code)
            .await?;
        Ok(())
    }

    async fn end_txn(&self, txn: &(String, ProducerId, ProducerEpoch), committed: bool) -> Result<(), Stop> {
        let (transactional_id, producer_id, producer_epoch) = txn.clone();
        let request = EndTxnRequest { transactional_id, producer_id, producer_epoch, committed };
        self.until("the end of a transaction", &request, |told| told.error_code).await?;
        // It is told when the decision is durable; the marker follows.
        let coordinator = Coordinator::new(self.cluster.clone(), GROUP);
        let until = self.runtime.now().plus(PATIENCE);
        while self.is_unstable(&coordinator).await {
            if self.runtime.now() >= until {
                return Err(Stop::Stuck("the marker of a transaction does not come".into()));
            }
            self.runtime.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn is_unstable(&self, coordinator: &Coordinator<SimRuntime>) -> bool {
        use dejaq_wire::kafka::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup};
        let group =
            OffsetFetchRequestGroup { group_id: GROUP.to_owned(), topics: None, ..Default::default() };
        let request = OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() };
        let due = self.runtime.now().plus(Duration::from_secs(5));
        match coordinator.ask(&request, 9, due).await {
            Ok(told) => told.groups.iter().any(|group| {
                let unstable = |code: ErrorCode| code == ErrorCode::UNSTABLE_OFFSET_COMMIT;
                unstable(group.error_code)
                    || group
                        .topics
                        .iter()
                        .flat_map(|topic| &topic.partitions)
                        .any(|one| unstable(one.error_code))
            }),
            Err(_) => true,
        }
    }

    /// Asks until it is well: one broker is everybody's coordinator.
    async fn until<Q: dejaq_wire::kafka::Request>(
        &self,
        what: &str,
        request: &Q,
        code: impl Fn(&Q::Response) -> ErrorCode,
    ) -> Result<Q::Response, Stop>
    where
        Q::Response: Debug,
    {
        let until = self.runtime.now().plus(PATIENCE);
        loop {
            let due = self.runtime.now().plus(Duration::from_secs(5));
            let told = self.cluster.ask_any(request, due).await;
            match told {
                Ok(told) if code(&told).is_none() => return Ok(told),
                other if self.runtime.now() >= until => {
                    return Err(Stop::Stuck(format!("{what} is not to be had: {other:?}")));
                }
                _ => self.runtime.sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Old offsets of a group with members stay, through a rebalance, too; when nobody is left they go.
    async fn expiry(&self) -> Result<(), Stop> {
        let group = "aging";
        let mut one = self.member(OPERATOR + 1, (Protocol::Classic, group), None);
        self.read(&mut one, 10).await?;
        self.commit(&mut one, 6, PATIENCE).await.map_err(stuck("the commit"))?;
        let mut two = None;
        for round in 0..260_u64 {
            // 1300 s: longer than the retention, and over two sweeps; in the middle another member comes.
            if round == 100 {
                two = Some(self.member(OPERATOR + 2, (Protocol::Classic, group), None));
            }
            let _nothing = one.poll(Duration::from_millis(2500)).await;
            match &mut two {
                Some(two) => drop(two.poll(Duration::from_millis(2500)).await),
                None => self.runtime.sleep(Duration::from_millis(2500)).await,
            }
            let now = self.committed(group).await?;
            claim("GRP-10", now == Some(6), || {
                format!("after {} s the offset of a living group is {now:?}", round * 5)
            })?;
        }
        let deadline = self.runtime.now().plus(PATIENCE);
        one.close(deadline).await.map_err(stuck("the leave"))?;
        two.expect("it came").close(deadline).await.map_err(stuck("the leave"))?;
        self.wait(RETENTION.as_secs() - 10).await;
        let now = self.committed(group).await?;
        claim("GRP-10", now == Some(6), || {
            format!("too soon after the last one left the offset is {now:?}")
        })?;
        self.wait(1300).await;
        let now = self.committed(group).await?;
        claim("GRP-10", now.is_none(), || format!("two sweeps after the last one left it is still {now:?}"))
    }

    /// A group is further than its log: the power took what was never promised to survive.
    async fn behind_the_end(&self) -> Result<(), Stop> {
        self.send(10).await;
        let mut one = self.member(OPERATOR + 1, (Protocol::Classic, GROUP), None);
        self.read(&mut one, 10).await?;
        self.commit(&mut one, 10, PATIENCE).await.map_err(stuck("the commit"))?;
        drop(one);
        self.again(true).await?;
        let (kept, end) = (self.committed(GROUP).await?, self.end().await?);
        claim("GRP-7", kept == Some(10), || format!("the offset was durable, and is {kept:?}"))?;
        if end >= 10 {
            return Err(Stop::Stuck(format!("the power took nothing: the log ends at {end}")));
        }
        let mut strict = self.member(OPERATOR + 2, (Protocol::Classic, GROUP), None);
        let until = self.runtime.now().plus(PATIENCE);
        let refusal = loop {
            match strict.poll(Duration::from_millis(100)).await {
                Err(GroupError::Consume(error @ ConsumeError::OutOfRange { .. })) => break error,
                Ok(records) if records.is_empty() && self.runtime.now() < until => {}
                other => return Err(Stop::Stuck(format!("a reader behind the end is told {other:?}"))),
            }
        };
        let told = format!("{refusal:?}");
        claim("OOR", told.contains("10"), || format!("out of range, but where: {told}"))?;
        strict.close(self.runtime.now().plus(PATIENCE)).await.map_err(stuck("the leave"))?;
        let mut lenient =
            self.member_with(OPERATOR + 3, (Protocol::Classic, GROUP), None, OutOfRange::Earliest);
        self.send(3).await;
        let handed = self.read(&mut lenient, (end + 3) as usize).await?;
        let all: Vec<i64> = (0..end + 3).collect();
        claim("OOR", handed == all, || format!("it begins anew with {handed:?}, and there are {all:?}"))
    }
}

fn is_refused(result: &Result<(), GroupError>) -> bool {
    matches!(
        result,
        Err(GroupError::Refused {
            code: ErrorCode::UNKNOWN_MEMBER_ID
                | ErrorCode::FENCED_INSTANCE_ID
                | ErrorCode::ILLEGAL_GENERATION,
            ..
        })
    )
}
