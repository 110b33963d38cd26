//! Members of a group against a whole broker, over real sockets and a real disk: they share, take over, and resume;
//! and what each delivery semantics means when a member dies or the broker is stopped between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq::broker::Broker;
use dejaq::client::admin::{Admin, NewTopic};
use dejaq::client::admin_groups;
use dejaq::client::cluster::{Cluster, ClusterConfig};
use dejaq::client::consumer::StartAt;
use dejaq::client::group::coordinator::Coordinator;
use dejaq::client::group::{Assignor, Delivery, GroupConfig, GroupConsumer, GroupError, Protocol, Rebalance};
use dejaq::client::producer::{Producer, ProducerConfig, Record};
use dejaq::client::retry::RetryPolicy;
use dejaq::config::Config;
use dejaq::runtime::tokio::TokioRuntime;
use dejaq::runtime::tokio_net::SocketOptions;
use dejaq::runtime::{Mono, Runtime};
use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::PartitionId;

const SOON: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
const G: &str = "g";
const AT_LEAST_ONCE: Delivery = Delivery::AtLeastOnce { every: Duration::ZERO };

type Member = GroupConsumer<TokioRuntime>;
/// By which protocol a member is one.
#[derive(Clone, Copy)]
enum Speaks {
    Classic(Assignor),
    /// KIP-848.
    New,
}

impl Speaks {
    fn gives_up_only_what_moves(self) -> bool {
        match self {
            Speaks::Classic(assignor) => assignor.is_cooperative(),
            Speaks::New => true,
        }
    }
}

type Changes = Arc<Mutex<Vec<Rebalance>>>;

struct World {
    data: tempfile::TempDir,
    outside: TokioRuntime,
    _scratch: tempfile::TempDir,
    address: String,
    broker: Option<Broker<TokioRuntime>>,
}

impl World {
    /// A broker with topic `t` of four partitions.
    async fn start() -> World {
        let (data, scratch) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let disk = FileDisk::open(scratch.path()).expect("a disk");
        let outside = TokioRuntime::new(disk, SocketOptions::default());
        let mut world =
            World { data, outside, _scratch: scratch, address: "127.0.0.1:0".into(), broker: None };
        world.resume().await;
        let topic =
            NewTopic { name: "t".into(), partitions: Some(4), replication: None, configs: BTreeMap::new() };
        let admin = Admin::new(world.cluster());
        admin.create_topic(&topic, false, world.deadline()).await.expect("created");
        world
    }

    async fn resume(&mut self) {
        let disk = FileDisk::open(self.data.path()).expect("a disk");
        let mut config = Config { listen: self.address.clone(), min_free_bytes: 0, ..Config::default() };
        config.groups.initial_delay = Duration::from_millis(100);
        config.groups.min_session = Duration::from_millis(100);
        config.groups.partitions = 2;
        config.groups.consumer_heartbeat = Duration::from_millis(100);
        config.groups.consumer_session = Duration::from_secs(2);
        let runtime = TokioRuntime::new(disk, SocketOptions::default());
        let broker = Broker::start(runtime, config).await.expect("the broker starts");
        self.address = broker.address().to_owned();
        self.broker = Some(broker);
    }

    async fn stop(&mut self) {
        self.broker.take().expect("it runs").shutdown().await.expect("it stops cleanly");
    }

    fn cluster(&self) -> Cluster<TokioRuntime> {
        let retry = RetryPolicy { backoff: Duration::from_millis(10), ..RetryPolicy::default() };
        let config =
            ClusterConfig { bootstrap: vec![self.address.clone()], retry, ..ClusterConfig::default() };
        Cluster::new(self.outside.clone(), config)
    }

    fn deadline(&self) -> Mono {
        self.outside.now().plus(SOON)
    }

    async fn produce(&self, values: std::ops::Range<usize>) {
        let producer = Producer::start(self.cluster(), ProducerConfig::default()).expect("the settings fit");
        for n in values {
            let record = Record::new("t", n.to_string()).partition(PartitionId((n % 4) as i32));
            let _settled_by_the_flush = producer.send(record).await.expect("taken");
        }
        producer.flush().await;
    }

    fn member(&self, delivery: Delivery, assignor: Assignor) -> (Member, Changes) {
        self.member_by(Speaks::Classic(assignor), delivery)
    }

    fn member_by(&self, speaks: Speaks, delivery: Delivery) -> (Member, Changes) {
        let changes = Changes::default();
        let (protocol, assignors) = match speaks {
            Speaks::Classic(assignor) => (Protocol::Classic, vec![assignor]),
            Speaks::New => (Protocol::Consumer, vec![Assignor::Range]),
        };
        let config = GroupConfig {
            delivery,
            protocol,
            assignors,
            session_timeout: Duration::from_secs(2),
            heartbeat_every: Duration::from_millis(100),
            start: Some(StartAt::Beginning),
            metadata_every: Duration::from_millis(300),
            ..GroupConfig::of(G)
        };
        let told = changes.clone();
        let listener =
            move |change: &Rebalance| told.lock().expect("no test panics in it").push(change.clone());
        (GroupConsumer::subscribe(self.cluster(), config, &["t"], listener), changes)
    }
}

/// Polls members in turn until `done`, and returns what they were handed.
async fn poll_until(
    members: &mut [&mut Member],
    what: &str,
    mut done: impl FnMut(&[&mut Member], &[usize]) -> bool,
) -> Vec<usize> {
    let mut seen = Vec::new();
    for _ in 0..600 {
        if done(members, &seen) {
            return seen;
        }
        for member in members.iter_mut() {
            match member.poll(POLL).await {
                Ok(records) => {
                    let value = |bytes: &[u8]| -> usize {
                        std::str::from_utf8(bytes).expect("text").parse().expect("a number")
                    };
                    seen.extend(records.iter().map(|r| value(r.value.as_deref().unwrap_or_default())));
                }
                Err(GroupError::Cluster(_) | GroupError::Consume(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    panic!("never came: {what}; {members:?}, {} values", seen.len());
}

fn owned(member: &Member) -> usize {
    member.assignment().count()
}

fn sorted(mut seen: Vec<usize>) -> Vec<usize> {
    seen.sort_unstable();
    seen
}

async fn share_and_take_over(speaks: Speaks) {
    let world = World::start().await;
    world.produce(0..40).await;
    let (mut one, changes) = world.member_by(speaks, AT_LEAST_ONCE);
    let seen = poll_until(&mut [&mut one], "all", |_, seen| seen.len() >= 40).await;
    assert_eq!(sorted(seen), (0..40).collect::<Vec<_>>());
    let (mut two, _) = world.member_by(speaks, AT_LEAST_ONCE);
    let both = |members: &[&mut Member], _: &[usize]| members.iter().all(|member| owned(member) == 2);
    let again = poll_until(&mut [&mut one, &mut two], "two each", both).await;
    assert_eq!(again, Vec::<usize>::new(), "what was handed out is committed before it is given up");
    let all: BTreeSet<_> = one.assignment().chain(two.assignment()).collect();
    assert_eq!(all.len(), 4, "no partition twice");
    if speaks.gives_up_only_what_moves() {
        let told = changes.lock().expect("nobody panics").clone();
        let revoked = told.iter().map(|change| match change {
            Rebalance::Revoked(gone) => gone.len(),
            Rebalance::Assigned(_) | Rebalance::Lost(_) => 0,
        });
        assert_eq!(revoked.sum::<usize>(), 2, "only what moves is given up: {told:?}");
    }
    world.produce(40..80).await;
    let seen = poll_until(&mut [&mut one, &mut two], "the rest", |_, seen| seen.len() >= 40).await;
    assert_eq!(sorted(seen), (40..80).collect::<Vec<_>>());
    two.close(world.deadline()).await.expect("it leaves");
    poll_until(&mut [&mut one], "all four", |members, _| owned(members[0]) == 4).await;
    world.produce(80..84).await;
    let seen = poll_until(&mut [&mut one], "the last", |_, seen| seen.len() >= 4).await;
    assert_eq!(sorted(seen), (80..84).collect::<Vec<_>>());
    one.close(world.deadline()).await.expect("it leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_and_take_over_with_range() {
    share_and_take_over(Speaks::Classic(Assignor::Range)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_and_take_over_with_cooperative_sticky() {
    share_and_take_over(Speaks::Classic(Assignor::CooperativeSticky)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_and_take_over_by_the_new_protocol() {
    share_and_take_over(Speaks::New).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_group_goes_to_the_new_protocol_and_back() {
    let world = World::start().await;
    world.produce(0..40).await;
    let (mut old, _) = world.member(AT_LEAST_ONCE, Assignor::CooperativeSticky);
    poll_until(&mut [&mut old], "all", |_, seen| seen.len() >= 40).await;
    let (mut fresh, _) = world.member_by(Speaks::New, AT_LEAST_ONCE);
    let both = |members: &[&mut Member], _: &[usize]| members.iter().all(|member| owned(member) == 2);
    let again = poll_until(&mut [&mut old, &mut fresh], "two each", both).await;
    assert_eq!(again, Vec::<usize>::new(), "what was handed out is committed before it is given up");
    world.produce(40..80).await;
    let seen = poll_until(&mut [&mut old, &mut fresh], "the rest", |_, seen| seen.len() >= 40).await;
    assert_eq!(sorted(seen), (40..80).collect::<Vec<_>>());
    fresh.close(world.deadline()).await.expect("it leaves");
    poll_until(&mut [&mut old], "all four", |members, _| owned(members[0]) == 4).await;
    world.produce(80..84).await;
    let seen = poll_until(&mut [&mut old], "the last", |_, seen| seen.len() >= 4).await;
    assert_eq!(sorted(seen), (80..84).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_new_protocol_that_was_silent_for_too_long_loses_everything_and_comes_again() {
    let world = World::start().await;
    world.produce(0..8).await;
    let (mut one, changes) = world.member_by(Speaks::New, AT_LEAST_ONCE);
    poll_until(&mut [&mut one], "all", |_, seen| seen.len() >= 8).await;
    let id = one.id();
    world.outside.sleep(Duration::from_millis(2500)).await;
    let late = one.commit(world.deadline()).await;
    let is_refused = matches!(late, Err(GroupError::Refused { code: ErrorCode::UNKNOWN_MEMBER_ID, .. }));
    assert!(is_refused, "the commit of who is out: {late:?}");
    assert_eq!(owned(&one), 0);
    let again = poll_until(&mut [&mut one], "all again", |_, seen| seen.len() >= 8).await;
    assert_eq!(sorted(again), (0..8).collect::<Vec<_>>(), "nothing of it was committed");
    assert_ne!(one.id(), id, "as somebody new");
    let told = changes.lock().expect("nobody panics").clone();
    assert!(told.iter().any(|change| matches!(change, Rebalance::Lost(all) if all.len() == 4)), "{told:?}");
    one.close(world.deadline()).await.expect("it leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_refuses_a_plan_that_it_cannot_make() {
    let world = World::start().await;
    let config = GroupConfig {
        protocol: Protocol::Consumer,
        server_assignor: Some("roundrobin".into()),
        ..GroupConfig::of(G)
    };
    let mut one = GroupConsumer::subscribe(world.cluster(), config, &["t"], |_| {});
    let refused = one.poll(SOON).await;
    assert!(
        matches!(refused, Err(GroupError::Refused { code: ErrorCode::UNSUPPORTED_ASSIGNOR, .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_shows_again_what_a_dead_member_was_handed_last_and_loses_nothing() {
    let world = World::start().await;
    world.produce(0..40).await;
    let (mut one, _) = world.member(AT_LEAST_ONCE, Assignor::Range);
    let first = poll_until(&mut [&mut one], "something", |_, seen| !seen.is_empty()).await;
    drop(one); // it died: what it was handed last is not committed
    let (mut two, _) = world.member(AT_LEAST_ONCE, Assignor::Range);
    let rest = poll_until(&mut [&mut two], "all", |_, seen| seen.len() >= 40).await;
    assert_eq!(sorted(rest), (0..40).collect::<Vec<_>>(), "{first:?} were handed out before");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_shows_nothing_twice_when_a_member_dies() {
    let world = World::start().await;
    world.produce(0..40).await;
    let (mut one, _) = world.member(Delivery::AtMostOnce, Assignor::Range);
    let first = poll_until(&mut [&mut one], "something", |_, seen| !seen.is_empty()).await;
    drop(one);
    world.produce(40..44).await;
    let (mut two, _) = world.member(Delivery::AtMostOnce, Assignor::Range);
    let last = |_: &[&mut Member], seen: &[usize]| (40..44).all(|n| seen.contains(&n));
    let rest = poll_until(&mut [&mut two], "the last", last).await;
    let all = sorted(first.into_iter().chain(rest).collect());
    let once: BTreeSet<usize> = all.iter().copied().collect();
    assert_eq!(all.len(), once.len(), "seen twice: {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_go_on_when_their_broker_was_restarted() {
    let mut world = World::start().await;
    world.produce(0..20).await;
    let (mut one, changes) = world.member(AT_LEAST_ONCE, Assignor::Range);
    poll_until(&mut [&mut one], "all", |_, seen| seen.len() >= 20).await;
    one.commit(world.deadline()).await.expect("committed");
    world.stop().await;
    world.resume().await;
    world.produce(20..24).await;
    let seen = poll_until(&mut [&mut one], "the rest", |_, seen| seen.len() >= 4).await;
    assert_eq!(sorted(seen), (20..24).collect::<Vec<_>>(), "{:?}", changes.lock().expect("nobody panics"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_makes_a_new_plan_when_its_topic_grows() {
    let world = World::start().await;
    let (mut one, _) = world.member(AT_LEAST_ONCE, Assignor::RoundRobin);
    poll_until(&mut [&mut one], "four", |members, _| owned(members[0]) == 4).await;
    Admin::new(world.cluster()).create_partitions("t", 6, world.deadline()).await.expect("grown");
    poll_until(&mut [&mut one], "six", |members, _| owned(members[0]) == 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_sets_and_deletes_a_group() {
    let world = World::start().await;
    world.produce(0..8).await;
    let cluster = world.cluster();
    let coordinator = Coordinator::new(cluster.clone(), G);
    let (mut one, _) = world.member(AT_LEAST_ONCE, Assignor::Range);
    poll_until(&mut [&mut one], "all", |_, seen| seen.len() >= 8).await;
    one.commit(world.deadline()).await.expect("committed");
    let listed = admin_groups::list(&cluster, world.deadline()).await.expect("listed");
    assert_eq!((listed[0].group.as_str(), listed[0].state.as_str()), (G, "Stable"));
    let picture = admin_groups::describe(&coordinator, &cluster, world.deadline()).await.expect("described");
    assert_eq!((picture.assignor.as_str(), picture.members[0].owned.len()), ("range", 4));
    let refused = admin_groups::delete(&coordinator, &cluster, world.deadline()).await;
    assert!(
        matches!(refused, Err(GroupError::Refused { code: ErrorCode::NON_EMPTY_GROUP, .. })),
        "{refused:?}"
    );
    one.close(world.deadline()).await.expect("it leaves");
    let kept = admin_groups::committed(&cluster, &coordinator, None, world.deadline()).await.expect("read");
    assert_eq!(kept.values().map(|kept| kept.offset.0).collect::<Vec<_>>(), [2, 2, 2, 2]);
    let back = kept.keys().map(|at| (at.clone(), dejaq_wire::ids::Offset(1))).collect();
    let nobody = ("", dejaq_wire::ids::Generation::NONE, None);
    admin_groups::commit(&cluster, &coordinator, nobody, &back, world.deadline()).await.expect("set");
    let (mut two, _) = world.member(AT_LEAST_ONCE, Assignor::Range);
    let seen = poll_until(&mut [&mut two], "the second half", |_, seen| seen.len() >= 4).await;
    assert_eq!(sorted(seen), [4, 5, 6, 7]);
    two.close(world.deadline()).await.expect("it leaves");
    admin_groups::delete(&coordinator, &cluster, world.deadline()).await.expect("deleted");
    assert!(admin_groups::list(&cluster, world.deadline()).await.expect("listed").is_empty());
}
