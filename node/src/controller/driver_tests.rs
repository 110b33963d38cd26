//! A controller without a disk, for the tests of API handlers; the driver on a disk of which the power is cut.

use dejaq_wire::ids::{BrokerEpoch, BrokerId};
use dejaq_wire::peer::FEATURE_LEVEL;

use super::super::decide::register_broker::{Entry, RegisterBroker};
use super::super::member::enroll;
use super::super::reach::Reach;
use super::*;
use crate::metadata::record::Endpoint;
use crate::peer::{Identity, PeerLimits};

/// Decides at once and forgets at the end; everything else is as in the driver.
pub(crate) fn imaginary<R: Runtime>(
    runtime: &R,
    mut image: Image,
    settings: Settings,
    published: Published,
) -> Controller {
    let (inbox, leader) = (Inbox::new(), Leader::default());
    leader.set(Some(settings.node));
    let waiting = inbox.clone();
    runtime.spawn("imaginary controller", async move {
        let mut entropy_state = 1_u64;
        let mut liveness = Liveness::default();
        loop {
            waiting.wait().await;
            let mail = waiting.take();
            if mail.abandoned {
                return;
            }
            for Waiting { request, .. } in mail.requests {
                let mut draft = Draft::on(&image);
                let mut entropy = || {
                    entropy_state = entropy_state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    entropy_state
                };
                let mut context = Context {
                    settings: &settings,
                    entropy: &mut entropy,
                    now: Mono::default(),
                    liveness: &mut liveness,
                };
                let release = request.decide(&mut draft, &mut context);
                let end = image.end().plus(i64::try_from(draft.records().len()).expect("few"));
                image = draft.into_image(end);
                let current = Arc::new(image.clone());
                published.publish(current.clone());
                published.applied(&current);
                release(Ok(end));
            }
        }
    });
    Controller::new(inbox, Arc::default(), leader)
}

/// What a node that stands alone begins with.
pub(crate) fn alone(settings: Settings) -> Boot {
    Boot {
        settings,
        voters: Vec::new(),
        election: Duration::from_millis(300),
        snapshot_bytes: 8 << 20,
        cluster: ClusterId::known("c"),
        new_cluster_id: "c".into(),
    }
}

/// The controller of a node that stands alone, with its broker registered.
pub(crate) struct Enrolled {
    pub controller: Controller,
    pub published: Published,
    pub broker_epoch: BrokerEpoch,
}

/// Starts one, as `broker` does.
pub(crate) async fn start_alone<R: Runtime>(
    runtime: &R,
    data: &DataDir<R::Disk>,
    boot: Boot,
) -> Result<Enrolled, JournalError> {
    let me = Identity { node: boot.settings.node, cluster: boot.cluster.clone(), speaks: FEATURE_LEVEL };
    let (node, session) = (me.node, boot.settings.healing.session_timeout);
    let boot_levels = boot.settings.levels;
    let peers = Peers::new(runtime.clone(), me, PeerLimits::default());
    let Started { controller, published } = start(runtime, data, boot, peers.clone()).await?;
    let reach = Reach::new(runtime.clone(), controller.clone(), peers);
    let register = RegisterBroker {
        broker: node,
        incarnation: (u128::from(runtime.random_u64()) << 64) | u128::from(runtime.random_u64()),
        endpoints: vec![Endpoint { listener: "CLIENT".into(), host: "h".into(), port: 1 }],
        rack: None,
        directory_id: data.meta().directory_id,
        clean: data.was_clean(),
        closed_in: data.closed_in(),
        entry: Entry::Live,
        levels: boot_levels,
    };
    let enrolled = enroll(runtime, &reach, &published, register, session).await;
    let broker_epoch = enrolled.expect("nobody else has its number");
    Ok(Enrolled { controller, published, broker_epoch })
}

/// A controller that is not active; what it knows of who is, a test tells it.
pub(crate) fn idle() -> (Controller, Leader) {
    let leader = Leader::default();
    let inbox = Inbox::new();
    inbox.end();
    (Controller::new(inbox, Arc::default(), leader.clone()), leader)
}

mod on_a_disk {
    use std::path::Path;
    use std::sync::{Mutex, PoisonError};

    use dejaq_storage::file_disk::FileDisk;
    use dejaq_storage::model_disk::random::{below, stream};
    use dejaq_storage::model_disk::{CrashMode, Fault, ModelDisk, Op, Plan, Platter, Setup};
    use dejaq_storage::{Disk, Expect, LastStop, Log, LogConfig, LogIdentity, OpenOptions};
    use dejaq_wire::ErrorCode;
    use dejaq_wire::ids::{LeaderEpoch, PartitionId, ProducerId, TopicId};
    use tokio::task::JoinSet;

    use super::*;
    use crate::controller::decide::alter_configs::{AlterConfigs, Change, Operation, Target};
    use crate::controller::decide::create_topics::CreateTopics;
    use crate::controller::decide::producer_ids::AllocateProducerIds;
    use crate::controller::decide::tests::topic;
    use crate::controller::decide::update_features::{Update, UpdateFeatures, Way};
    use crate::controller::journal::Journal;
    use crate::controller::journal_tests::snapshot_at;
    use crate::controller::quorum::writer;
    use crate::controller::raft::{HardState, Ticket, Write};
    use crate::metadata::level::{DEJAQ_VERSION, Levels, NEWEST};
    use crate::runtime::tokio::TokioRuntime;
    use crate::runtime::tokio_net::{SocketOptions, TokioNet};

    /// One incarnation of a node: the real clock, a disk in memory, tasks that a kill drops.
    #[derive(Clone)]
    struct Node {
        real: TokioRuntime,
        disk: ModelDisk,
        tasks: Arc<Mutex<JoinSet<()>>>,
    }

    impl Runtime for Node {
        type Disk = ModelDisk;
        type Net = TokioNet;
        fn now(&self) -> Mono {
            self.real.now()
        }
        fn unix_ms(&self) -> i64 {
            self.real.unix_ms()
        }
        async fn sleep_until(&self, at: Mono) {
            self.real.sleep_until(at).await;
        }
        fn spawn(&self, _name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        }
        fn random_u64(&self) -> u64 {
            self.real.random_u64()
        }
        fn disk(&self) -> &ModelDisk {
            &self.disk
        }
        fn net(&self) -> &TokioNet {
            self.real.net()
        }
    }

    struct World {
        platter: Platter,
        dir: tempfile::TempDir,
        snapshot_bytes: u64,
    }

    struct Life {
        node: Node,
        data: DataDir<ModelDisk>,
        started: Enrolled,
    }

    impl World {
        fn new() -> World {
            let platter = Platter::new(Setup::default());
            let dir = tempfile::tempdir().expect("a temporary directory");
            World { platter, dir, snapshot_bytes: 8 << 20 }
        }

        async fn start(&self) -> Result<Life, JournalError> {
            self.start_at(Levels::default()).await
        }

        async fn open(&self) -> (Node, DataDir<ModelDisk>) {
            let real = FileDisk::open(self.dir.path()).expect("the directory is there");
            let node = Node {
                real: TokioRuntime::new(real, SocketOptions::default()),
                disk: self.platter.mount(),
                tasks: Arc::default(),
            };
            let expect = Expect {
                cluster_id: String::new(),
                node_id: BrokerId(1),
                new_cluster_id: "c".into(),
                new_directory_id: [1; 16],
            };
            let data = DataDir::open(node.disk.clone(), expect).await.expect("the directory is ours");
            (node, data)
        }

        /// As a release that supports these levels.
        async fn start_at(&self, levels: Levels) -> Result<Life, JournalError> {
            let (node, data) = self.open().await;
            let boot = alone(Settings { levels, ..Settings::default() });
            let boot = Boot { snapshot_bytes: self.snapshot_bytes, ..boot };
            let started = start_alone(&node, &data, boot).await?;
            Ok(Life { node, data, started })
        }
    }

    impl Life {
        async fn create(&self, name: &str) -> Result<Result<(), ErrorCode>, Unavailable> {
            let request = CreateTopics { topics: vec![topic(name, 2, 1)], validate_only: false };
            let deadline = self.node.now().plus(Duration::from_secs(10));
            let committed = self.started.controller.submit(&self.node, request, deadline).await?;
            let mut answer = committed.answer;
            Ok(answer.remove(0).1.map(drop).map_err(|refusal| refusal.code))
        }

        async fn alter(&self, topic: &str, config: &str, operation: Operation) {
            let operations = BTreeMap::from([(config.to_owned(), operation)]);
            let change = Change { target: Target::Topic(topic.into()), operations, replace: false };
            let request = AlterConfigs { changes: vec![change], validate_only: false };
            let deadline = self.node.now().plus(Duration::from_secs(10));
            let committed = self.started.controller.submit(&self.node, request, deadline).await;
            committed.expect("healthy").answer.remove(0).expect("it may be set");
        }

        async fn go_down_to(&self, level: i16) -> Result<(), ErrorCode> {
            let update = Update { feature: DEJAQ_VERSION.into(), level, way: Some(Way::Down) };
            let request = UpdateFeatures { updates: vec![update], validate_only: false };
            let deadline = self.node.now().plus(Duration::from_secs(10));
            let committed = self.started.controller.submit(&self.node, request, deadline).await;
            committed.expect("healthy").answer.results.remove(0).map_err(|refusal| refusal.code)
        }

        async fn block(&self) -> i64 {
            let request =
                AllocateProducerIds { broker: BrokerId(1), broker_epoch: self.started.broker_epoch };
            let deadline = self.node.now().plus(Duration::from_secs(10));
            let committed = self.started.controller.submit(&self.node, request, deadline).await;
            let ProducerId(start) = committed.expect("healthy").answer.expect("registered").start;
            start
        }

        fn image(&self) -> Arc<Image> {
            self.started.published.current()
        }

        fn end(self) {
            self.node.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        }
    }

    fn metadata_dir() -> String {
        let path = DataDir::<ModelDisk>::partition_path(TopicId::METADATA, PartitionId(0));
        path.to_str().expect("our own names are UTF-8").to_owned()
    }

    #[tokio::test]
    async fn what_was_answered_survives_a_power_cut_and_every_leader_gets_a_new_epoch() {
        let world = World::new();
        let life = world.start().await.expect("empty directory");
        assert_eq!(life.started.broker_epoch, BrokerEpoch(1));
        assert_eq!(life.create("a").await, Ok(Ok(())));
        assert_eq!(life.create("a").await, Ok(Err(ErrorCode::TOPIC_ALREADY_EXISTS)));
        let first_block = life.block().await;
        life.end();
        world.platter.crash(&mut stream(1, "crash", 0), CrashMode::Lose);
        let life = world.start().await.expect("durable");
        assert_eq!(life.started.broker_epoch, BrokerEpoch(2));
        let image = life.image();
        image.check_deep();
        let topic = image.topic_named("a").expect("it was answered");
        assert!(topic.partitions.iter().all(|partition| partition.leader_epoch == LeaderEpoch(1)));
        assert_eq!((first_block, life.block().await), (0, 1000), "blocks are disjoint across lives");
    }

    /// However often a snapshot is made for the sake of the log's length; at most bytes of 1, with every entry.
    async fn goes_back(snapshot_bytes: u64) {
        let mut world = World::new();
        world.snapshot_bytes = snapshot_bytes;
        let life = world.start().await.expect("empty directory");
        assert_eq!((life.create("a").await, life.image().level()), (Ok(Ok(())), NEWEST));
        life.alter("a", "acks.required", Operation::Set("1".into())).await;
        assert_eq!(life.go_down_to(1).await, Err(ErrorCode::FEATURE_UPDATE_FAILED), "it is in use");
        life.started.controller.close().await.expect("clean");
        world.platter.kill();
        let refused = world.start_at(Levels::FIRST).await.map(drop).expect_err("too new");
        assert!(!matches!(refused, JournalError::Replay { .. }), "{refused}");
        assert!(refused.to_string().contains("newer release"), "{refused}");

        let mut life = world.start().await.expect("nothing was changed");
        life.alter("a", "acks.required", Operation::Delete).await;
        assert_eq!(life.go_down_to(1).await, Ok(()));
        // What a person does: the older release, and where that says that it is too early, the newer one once more.
        for seed in 0..200 {
            life.node.sleep(Duration::from_millis(10)).await;
            life.end();
            world.platter.crash(&mut stream(seed, "crash", 0), CrashMode::Lose);
            match world.start_at(Levels::FIRST).await {
                Ok(older) => {
                    let image = older.image();
                    let configs = image.topic_named("a").map(|topic| topic.configs.len());
                    assert_eq!((image.level(), configs), (1, Some(0)));
                    assert_eq!(older.create("b").await, Ok(Ok(())));
                    return;
                }
                Err(JournalError::TooNew(_)) => life = world.start().await.expect("the newer one reads it"),
                Err(other) => panic!("{other}"),
            }
        }
        panic!("what the older release cannot read never goes");
    }

    #[tokio::test]
    async fn an_older_release_starts_once_the_cluster_went_back_and_a_snapshot_took_its_forms_away() {
        goes_back(8 << 20).await;
        goes_back(1).await;
    }

    #[tokio::test]
    async fn a_failed_sync_stops_the_controller_and_shows_nobody_what_was_not_durable() {
        let world = World::new();
        let life = world.start().await.expect("empty directory");
        let before = life.image();
        world.platter.plan(Plan { fault: Fault::SyncError, path_contains: metadata_dir(), after: 0 });
        assert_eq!(life.create("a").await, Err(Unavailable::Unsure), "it may be there after a restart");
        assert_eq!(life.image(), before, "what was not durable was never published");
        assert!(life.started.controller.stopped().is_some());
        assert_eq!(life.create("b").await, Err(Unavailable::Stopped));
        assert!(life.started.controller.close().await.is_err(), "not a clean end");
    }

    #[tokio::test]
    async fn a_full_disk_refuses_changes_and_takes_them_again_when_there_is_room() {
        let world = World::new();
        let life = world.start().await.expect("empty directory");
        world.platter.set_capacity(Some(1));
        let (first, second) = tokio::join!(life.create("a"), async {
            // The first is on its way to the log, and waits for room; who comes now is told.
            life.node.sleep(Duration::from_millis(100)).await;
            let refused = life.create("b").await;
            assert_eq!(life.image().topic_count(), 0, "what is not durable is not published");
            world.platter.set_capacity(None);
            refused
        });
        assert_eq!((first, second), (Ok(Ok(())), Err(Unavailable::Full)));
        assert_eq!(life.create("b").await, Ok(Ok(())));
    }

    /// What this node made itself is written when what was told before and behind it is, and a leader's snapshot may be that.
    #[tokio::test]
    async fn a_snapshot_that_is_overtaken_by_an_installed_one_does_not_take_its_place() {
        let world = World::new();
        let (node, data) = world.open().await;
        data.note_boot().expect("healthy");
        let (journal, _) = Journal::open(node.disk.clone(), &data, 0).await.expect("it is new");
        let orders = writer::start(&node, journal, Inbox::new());
        orders.keep(snapshot_at(5, 1));
        let hard = HardState { epoch: LeaderEpoch(2), voted: None };
        let writes = vec![Write::HardState(hard), Write::Install(snapshot_at(9, 2))];
        orders.write(writes, Some(Ticket(1)));
        let (done, closed) = tokio::sync::oneshot::channel();
        orders.close(done);
        closed.await.expect("it ends").expect("it closes");
        let found = Journal::open(node.disk.clone(), &data, 0).await.expect("it is whole").1;
        assert_eq!(found.snapshot.map(|snapshot| snapshot.id.position.end), Some(Offset(9)));
    }

    #[tokio::test]
    async fn what_waits_together_shares_a_sync() {
        let world = World::new();
        let life = world.start().await.expect("empty directory");
        let before = world.platter.counter(Op::Sync).done;
        let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
        let mut all = JoinSet::new();
        let life = Arc::new(life);
        for name in names {
            let life = life.clone();
            all.spawn(async move { life.create(&name).await });
        }
        while let Some(done) = all.join_next().await {
            assert_eq!(done.expect("no panic"), Ok(Ok(())));
        }
        let syncs = world.platter.counter(Op::Sync).done - before;
        assert!(syncs < 20, "{syncs} syncs for 20 requests");
    }

    #[tokio::test]
    async fn damaged_metadata_is_refused_and_not_taken_for_an_empty_cluster() {
        let world = World::new();
        let life = world.start().await.expect("empty directory");
        assert_eq!(life.create("a").await, Ok(Ok(())));
        life.started.controller.close().await.expect("clean");
        world.platter.kill();
        let files = world.platter.lengths();
        let (path, length) = files
            .into_iter()
            .find(|(path, _)| {
                path.starts_with(metadata_dir()) && path.extension().is_some_and(|kind| kind == "log")
            })
            .expect("the metadata log has a segment");
        assert!(world.platter.rot(&path, length - 3, 0x10));
        let refused = world.start().await.map(drop).expect_err("damage");
        assert!(matches!(refused, JournalError::Damaged { .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_missing_metadata_log_beside_partitions_is_refused() {
        let world = World::new();
        let life = world.start().await.expect("empty directory");
        life.started.controller.close().await.expect("clean");
        let disk = life.node.disk.clone();
        let other = TopicId([7; 16]);
        let path = DataDir::<ModelDisk>::partition_path(other, PartitionId(0));
        let identity = LogIdentity { topic: "a".into(), topic_id: other, partition: PartitionId(0) };
        let options = OpenOptions {
            last_stop: LastStop::KILLED,
            now_ms: 0,
            space: Default::default(),
            verify_all: false,
        };
        let log = Log::create(disk.clone(), path, identity, LogConfig::default(), options).await;
        log.expect("room").0.close().await.expect("room");
        disk.remove_dir_all(Path::new(&metadata_dir())).await.expect("it is there");
        drop((life.data, disk));
        world.platter.kill();
        let refused = world.start().await.map(drop).expect_err("lost");
        assert!(matches!(refused, JournalError::Lost { partitions: 1 }), "{refused}");
    }

    #[tokio::test]
    async fn no_power_cut_takes_back_an_answer() {
        for seed in 0..60 {
            let world = World::new();
            let mut rng = stream(seed, "controller", 0);
            let mut answered: Vec<String> = Vec::new();
            let mut epoch = BrokerEpoch(0);
            for life_number in 0..4 {
                let life = world.start().await.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
                assert!(life.started.broker_epoch > epoch, "seed {seed}");
                epoch = life.started.broker_epoch;
                let image = life.image();
                image.check_deep();
                for name in &answered {
                    assert!(
                        image.topic_named(name).is_some(),
                        "seed {seed}: {name} was answered and is gone"
                    );
                }
                for n in 0..below(&mut rng, 5) {
                    let name = format!("t{life_number}-{n}");
                    if life.create(&name).await == Ok(Ok(())) {
                        answered.push(name);
                    }
                }
                // One more is on its way when the power goes.
                let name = format!("t{life_number}-last");
                let request = CreateTopics { topics: vec![topic(&name, 1, 1)], validate_only: false };
                let controller = life.started.controller.clone();
                let node = life.node.clone();
                let mut asked = JoinSet::new();
                asked.spawn(async move {
                    let deadline = node.now().plus(Duration::from_secs(10));
                    controller.submit(&node, request, deadline).await
                });
                for _ in 0..below(&mut rng, 6) {
                    tokio::task::yield_now().await;
                }
                asked.abort_all();
                if let Some(Ok(Ok(_))) = asked.join_next().await {
                    answered.push(name);
                }
                life.end();
                let mode = CrashMode::draw(&mut rng);
                world.platter.crash(&mut rng, mode);
            }
        }
    }
}
