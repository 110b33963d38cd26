//! The composition root: builds the parts of a broker in order, and takes them down in the other.
//!
//! Owns: the order. Promises: nothing is served before everything that was durable is read back; [`Broker::shutdown`]
//! answers what was started, makes everything durable and marks the data directory clean, and only a shutdown in which
//! all of that went well marks it. Dropping a broker, or killing its node, is a crash, and safe.
//! Leaves out: every decision (the parts have them), signals, logs' format, the admin port (see `cli::start`).
//! Called by `cli::start`, by the simulator for each node, by tests. No process-global state.
//!
//! ```text
//!  data directory ─► addresses ─► controller (metadata) ─► directory (partitions) ─► api ─► accept
//!      clean ◄──────────────────── close ◄────────────────── close ◄──────────────────── drain
//! ```

mod cluster;
#[cfg(test)]
mod cluster_tests;
mod links;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::{Cluster, new_cluster_id, random_u128};
use dejaq_storage::{DataDir, Expect, LayoutError};
use dejaq_wire::ids::BrokerId;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::api::control_plane::{Address, ControlPlane};
use crate::api::data_plane::{DataPlane, FetchLimits};
use crate::api::group_plane::GroupPlane;
use crate::api::init_producer_id::ProducerIds;
use crate::api::{self, Api};
use crate::config::Config;
use crate::controller::member::{Member, NotEnrolled};
use crate::controller::{self, Controller, JournalError};
use crate::coordinator::group::consumer::assignor::Assignor;
use crate::coordinator::group::consumer::convert::Migration;
use crate::coordinator::room::TxnRoom;
use crate::coordinator::{Coordinators, coordinators, group, lag, txn};
use crate::metadata::config_table::InvalidConfig;
use crate::metadata::level::Levels;
use crate::metadata::topic_config::{Overrides, TopicConfig, check_defaults};
use crate::metadata::{Image, Published};
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::replica::policy::Durability;
use crate::replica::{self, Directory, NotClean, NotStarted, Serve};
use crate::runtime::Runtime;
use crate::server::listener::{Bound, Parts, Server};

/// Why a broker did not start. Nothing was deleted; what to do is in the text.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is not ours to use.
    #[error("the data directory cannot be used: {0}")]
    DataDir(#[from] LayoutError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The metadata cannot be read back.
    #[error("the metadata cannot be read: {0}")]
    Metadata(#[from] JournalError),
    /// The partitions cannot be opened.
    #[error("the partitions cannot be opened: {0}")]
    Partitions(#[from] NotStarted),
    /// The cluster does not take this node, or this node's part of it failed.
    #[error(transparent)]
    NotEnrolled(#[from] NotEnrolled),
    /// A setting that only the metadata can judge.
    #[error("topic-defaults: {0}")]
    TopicDefaults(#[from] InvalidConfig),
}

/// Why a stop was not clean. Nothing that was promised is lost; the next start checks more.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// A partition, or the disk under all.
    #[error(transparent)]
    Partitions(#[from] NotClean),
    /// The metadata log.
    #[error("the metadata log was not closed: {0}")]
    Metadata(String),
    /// The mark could not be written, or something still uses the data directory.
    #[error("the data directory was not marked clean: {0}")]
    Mark(io::Error),
}

/// A broker that serves.
pub struct Broker<R: Runtime> {
    runtime: R,
    server: Server<R>,
    cluster: Cluster<R>,
    member: Arc<Member>,
    shutdown_timeout: Duration,
    directory: Arc<Directory<R>>,
    coordinators: Coordinators<R>,
    data_dir: Arc<DataDir<R::Disk>>,
    following: Arc<Following>,
    metrics: Arc<Metrics>,
    default_durability: Durability,
}

/// How long the coordinators of a broker may take to say where their groups stand.
const LAG_PATIENCE: Duration = Duration::from_secs(2);

/// The end of the task that brings the partitions in line with the metadata.
#[derive(Debug, Default)]
struct Following {
    stop: Notify,
    stopped: Notify,
}

impl<R: Runtime> Broker<R> {
    /// Reads back what is durable and serves.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(runtime: R, config: Config) -> Result<Broker<R>, StartError> {
        let topic_defaults = check_defaults(&config.topics.defaults, !config.peer_listen.is_empty())?;
        let node = BrokerId(i32::try_from(config.node_id).expect("the table bounds it"));
        let mut data_dir = open_data_dir(&runtime, node, config.quorum.is_empty()).await?;
        let (bound, advertised) = bind(&runtime, &config).await?;
        let settings = settings(&config, node, &topic_defaults);
        let cluster = Cluster::join(&runtime, &config, &data_dir, &settings).await?;
        let broker_epoch = cluster.enroll(&runtime, &config, &data_dir, &advertised).await?;
        let image = cluster.published.current();
        let cluster_id: Arc<str> = Arc::from(image.cluster_id().expect("the first record of all names it"));
        data_dir.adopt_cluster(&cluster_id).await?;
        let data_dir = Arc::new(data_dir);
        let default_durability = durability_of_topics(&image, node, &topic_defaults);
        let settings_here = directory_settings(&config, node, topic_defaults);
        let directory =
            Directory::start(runtime.clone(), settings_here, data_dir.clone(), image.clone()).await?;
        directory.note_boot();
        let controller = cluster.controller.clone();
        directory.depend_on(move || controller.stopped().map(|why| format!("the controller stopped: {why}")));
        cluster.replica_room.open(Arc::new(Serve::new(directory.clone())));
        directory.connect(links::links(&runtime, &cluster.peers, &cluster.reach, broker_epoch, &config));
        let coordinators = coordinate(&runtime, &directory, &cluster, &config);
        let transactions = coordinators.transactions.clone();
        coordinators.apply(&image);
        cluster.published.applied(&image);
        let following = Arc::new(Following::default());
        let member = cluster.member(&config, broker_epoch);
        let follower = Follower {
            published: cluster.published.clone(),
            directory: directory.clone(),
            coordinators: coordinators.clone(),
            peers: cluster.peers.clone(),
            member: member.clone(),
            following: following.clone(),
        };
        runtime.spawn("follow-metadata", follower.run(image));
        if cluster.is_shared() {
            data_dir.begins().await.map_err(LayoutError::from)?;
            cluster.take_part(&runtime, &config, &member, &directory).await;
        }
        let (limits, shutdown_timeout) = (config.limits.clone(), config.healing.shutdown_timeout);
        let control = ControlPlane {
            runtime: runtime.clone(),
            reach: cluster.reach.clone(),
            published: cluster.published.clone(),
            cluster_id,
            settings: Arc::new(settings),
            config: Arc::new(config),
        };
        let data = Arc::new(DataPlane::new(runtime.clone(), directory.clone(), FetchLimits::default()));
        let groups = group_plane(&runtime, &coordinators, &cluster.published, &member);
        let producer_ids = ProducerIds::new(node, broker_epoch);
        let service = Arc::new(Api::new(api::Parts { data, control, groups, transactions, producer_ids }));
        let metrics = Arc::new(Metrics::default());
        let server = bound.serve(Parts { service, limits, metrics: metrics.clone(), advertised });
        info!(address = server.address(), advertised = server.advertised(), "serving");
        Ok(Broker {
            runtime,
            server,
            cluster,
            member,
            shutdown_timeout,
            directory,
            coordinators,
            data_dir,
            following,
            metrics,
            default_durability,
        })
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.server.address()
    }

    /// What clients are told to connect to.
    #[must_use]
    pub fn advertised(&self) -> &str {
        self.server.advertised()
    }

    /// The metadata as it is now.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        self.cluster.published.current()
    }

    /// When acks=all is answered where a topic does not say it, as it was at the start.
    pub fn default_durability(&self) -> Durability {
        self.default_durability
    }

    /// Tells whose controller is active, as far as this node knows; may outlive it.
    pub fn active_controller(&self) -> impl Fn() -> Option<BrokerId> + Send + Sync + 'static {
        self.cluster.controller.watch_leader()
    }

    /// The partitions of this node.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory<R>> {
        &self.directory
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Its health and its numbers, for those who watch it from outside; may outlive it.
    #[must_use]
    pub fn watch(&self) -> Watch<R> {
        Watch {
            runtime: self.runtime.clone(),
            controller: self.cluster.controller.clone(),
            member: self.member.clone(),
            directory: self.directory.clone(),
            coordinators: self.coordinators.clone(),
            published: self.cluster.published.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Answers what was started, closes everything and marks the data directory clean.
    ///
    /// # Errors
    /// The first of what went wrong; everything that could be closed is.
    pub async fn shutdown(self) -> Result<(), StopError> {
        let Broker { runtime, server, cluster, member, directory, coordinators, data_dir, following, .. } =
            self;
        if cluster.has_company() {
            member.leave(&runtime, runtime.now().plus(self.shutdown_timeout)).await;
        }
        member.end();
        coordinators.stop(); // before the server, or members that wait for each other would hold it up
        directory.end_waits();
        server.stop().await;
        following.stop.notify_one();
        following.stopped.notified().await;
        let closed = directory.open_partitions();
        let metadata = cluster.leave().await.map_err(StopError::Metadata);
        let partitions = directory.shutdown().await;
        drop((directory, coordinators));
        metadata?;
        partitions?;
        let data_dir = Arc::try_unwrap(data_dir)
            .map_err(|_| StopError::Mark(io::Error::other("something still uses the data directory")))?;
        data_dir.mark_clean(member.epoch(), &closed).await.map_err(StopError::Mark)
    }
}

/// A broker seen from outside.
pub struct Watch<R: Runtime> {
    runtime: R,
    controller: Controller,
    member: Arc<Member>,
    directory: Arc<Directory<R>>,
    coordinators: Coordinators<R>,
    published: Published,
    metrics: Arc<Metrics>,
}

impl<R: Runtime> Watch<R> {
    /// Why clients should go elsewhere, if they should.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let disk = self.directory.health().failure();
        let controller = || self.controller.stopped().map(|why| format!("the controller stopped: {why}"));
        disk.or_else(controller).or_else(|| self.member.lost())
    }

    /// What is wrong though the broker serves: someone must look.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let health = self.directory.health();
        let full = health.lacks_room().then(|| {
            format!(
                "the disk is full ({} bytes free): writes are refused, reads go on; move the start of a topic \
                 (dejaq topic trim), lower retention, or give it room",
                health.free_bytes()
            )
        });
        let damaged = self.directory.partitions().iter().any(|partition| !partition.damaged().is_empty());
        full.or_else(|| damaged.then(|| "records are damaged and refused, see the log".to_owned()))
    }

    /// All metrics in Prometheus' text format, with those that are looked up only now.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let (metrics, syncs) = (&self.metrics, self.directory.flusher().counters());
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        metrics.topics.set(self.published.current().topic_count() as u64);
        let leader = self.controller.leader();
        metrics.quorum_has_leader.set(u64::from(leader.is_some()));
        metrics.quorum_is_leader.set(u64::from(leader == Some(self.directory.me())));
        metrics.metadata_end.set(u64::try_from(self.published.current().end().0).unwrap_or(0));
        metrics.partitions.set(self.directory.partitions().len() as u64);
        metrics.unsynced_bytes.set(self.directory.unsynced_bytes());
        let health = self.directory.health();
        metrics.offline.set(u64::from(health.is_offline()));
        metrics.free_bytes.set(health.free_bytes());
        metrics.lacks_room.set(u64::from(health.lacks_room()));
        let found = &health.counts;
        metrics.refused_for_room.reach(found.refused_for_room.get());
        metrics.damaged_ranges.reach(found.damaged_ranges.get());
        metrics.damaged_reads.reach(found.damaged_reads.get());
        metrics.mended_ranges.reach(found.mended_ranges.get());
        metrics.scrubbed_bytes.reach(found.scrubbed_bytes.get());
        metrics.tails_cut.reach(found.tails_cut.get());
        metrics.cut_bytes.reach(found.cut_bytes.get());
        metrics.failed_syncs.reach(found.failed_syncs.get());
        let cleaned = self.directory.cleaned();
        metrics.cleanings.reach(total(&cleaned.rounds));
        metrics.cleaner_read_bytes.reach(total(&cleaned.read_bytes));
        metrics.cleaner_written_bytes.reach(total(&cleaned.written_bytes));
        metrics.cleaner_freed_bytes.reach(total(&cleaned.freed_bytes));
        metrics.dirty_permille.set(total(&cleaned.dirty_permille));
        metrics.syncs.reach(total(&syncs.syncs));
        metrics.sync_microseconds.reach(total(&syncs.micros));
        metrics.synced_partitions.reach(total(&syncs.partitions));
        let replication = self.directory.replication();
        metrics.partitions_led.set(replication.led);
        metrics.under_replicated.set(replication.under_replicated);
        metrics.under_min_insync.set(replication.under_min_insync);
        metrics.unclean_elections.set(self.directory.image().losses().count() as u64);
        metrics.leader_epochs.set(replication.epochs);
        metrics.follower_lag_records.set(replication.lag);
        metrics.insync_shrinks.reach(replication.shrinks);
        metrics.insync_expands.reach(replication.expands);
        metrics.damaged_partitions.set(replication.damaged);
        metrics.unmendable_partitions.set(replication.stalemates);
        metrics.unopened_partitions.set(replication.unopened);
        let (groups, transactions) = self.coordinators.counts();
        metrics.groups.set(groups.held);
        metrics.group_members.set(groups.active);
        metrics.rebalances.reach(groups.turns);
        metrics.transactional_ids.set(transactions.held);
        metrics.open_transactions.set(transactions.active);
        metrics.timed_out_transactions.reach(transactions.turns);
        metrics.rebalance_seconds.reach(&self.coordinators.groups.settings().rebalance_times.0);
        metrics.text()
    }

    /// How far groups are behind, in the same format; asks their coordinators, which takes [`LAG_PATIENCE`] at most.
    pub async fn lag_text(&self) -> String {
        let deadline = self.runtime.now().plus(LAG_PATIENCE);
        lag::look(&self.coordinators.groups, &self.directory, deadline).await.text()
    }
}

/// Binds the clients' listener, and says what address clients are told.
async fn bind<R: Runtime>(runtime: &R, config: &Config) -> Result<(Bound<R>, String), StartError> {
    let bound = Bound::bind(runtime, &config.listen)
        .await
        .map_err(|error| StartError::Listen { address: config.listen.clone(), error })?;
    let advertised = match config.advertise.as_str() {
        "" => as_listened(&config.listen, bound.address()),
        told => told.to_owned(),
    };
    Ok((bound, advertised))
}

/// What others are told to connect to when no address is given for that: the name that `listen` has, since the number behind
/// it may be another one for them, with the port that was bound, since 0 takes a free one.
fn as_listened(listen: &str, bound: String) -> String {
    match (Address::parse(listen), Address::parse(&bound)) {
        (Some(Address { host, .. }), Some(Address { port, .. })) if host.parse::<IpAddr>().is_err() => {
            format!("{host}:{port}")
        }
        _ => bound,
    }
}

async fn open_data_dir<R: Runtime>(
    runtime: &R,
    node: BrokerId,
    is_alone: bool,
) -> Result<DataDir<R::Disk>, LayoutError> {
    let expect = Expect {
        cluster_id: String::new(),
        node_id: node,
        // In a cluster the first active controller names it, and everyone learns the name.
        new_cluster_id: if is_alone { new_cluster_id(runtime) } else { String::new() },
        new_directory_id: random_u128(runtime).to_be_bytes(),
    };
    DataDir::open(runtime.disk().clone(), expect).await
}

fn durability_of_topics(image: &Image, node: BrokerId, topic_defaults: &Overrides) -> Durability {
    let defaults = image.broker_defaults(node, topic_defaults);
    TopicConfig::resolve(&Overrides::new(), &defaults).policy().durability
}

fn settings(config: &Config, node: BrokerId, topic_defaults: &Overrides) -> controller::Settings {
    let factor = config.topics.default_replication_factor;
    controller::Settings {
        node,
        default_partitions: i32::try_from(config.topics.default_partitions).expect("the table bounds it"),
        default_replication_factor: factor.map(|count| i16::try_from(count).expect("the table bounds it")),
        first_nodes: config.quorum.len().max(1),
        max_partitions: config.topics.max_partitions as usize,
        topic_defaults: topic_defaults.clone(),
        healing: controller::settings::Healing {
            session_timeout: config.healing.session_timeout,
            recreate_after: config.healing.recreate_after,
            max_moves: config.healing.max_moves,
            leader_round: config.healing.leader_interval,
            auto_rebalance: config.healing.auto_rebalance,
        },
        levels: Levels::up_to(config.feature_level_max),
    }
}

fn coordinate<R: Runtime>(
    runtime: &R,
    directory: &Arc<Directory<R>>,
    cluster: &Cluster<R>,
    config: &Config,
) -> Coordinators<R> {
    let allowed = coordinator_settings(config);
    let coordinators = Coordinators::new(runtime, directory, &cluster.published, &cluster.peers, allowed);
    let transactions = coordinators.transactions.clone();
    cluster.txn_room.open(Arc::new(TxnRoom::new(runtime.clone(), transactions)));
    coordinators
}

fn group_plane<R: Runtime>(
    runtime: &R,
    coordinators: &Coordinators<R>,
    published: &Published,
    member: &Arc<Member>,
) -> GroupPlane<R> {
    let (runtime, shards) = (runtime.clone(), coordinators.groups.clone());
    GroupPlane { runtime, shards, published: published.clone(), member: member.clone() }
}

fn coordinator_settings(config: &Config) -> coordinators::Settings {
    let (groups, transactions) = (&config.groups, &config.transactions);
    coordinators::Settings {
        groups: group::Settings {
            initial_delay: groups.initial_delay,
            min_session: groups.min_session,
            max_session: groups.max_session,
            max_members: groups.max_members,
            max_metadata_bytes: groups.max_metadata_bytes,
            retention: groups.retention,
            consumer_heartbeat: groups.consumer_heartbeat,
            consumer_session: groups.consumer_session,
            consumer_max_members: groups.consumer_max_members,
            assignors: groups.consumer_assignors.iter().filter_map(|name| Assignor::named(name)).collect(),
            migration: Migration { up: groups.migration.0, down: groups.migration.1 },
            ..group::Settings::default()
        },
        transactions: txn::Settings {
            max_timeout_ms: i32::try_from(transactions.max_timeout.as_millis()).expect("the table bounds it"),
            expiry_ms: i64::try_from(transactions.id_expiry.as_millis()).expect("the table bounds it"),
            ..txn::Settings::default()
        },
    }
}

fn directory_settings(config: &Config, node: BrokerId, topic_defaults: Overrides) -> replica::Settings {
    replica::Settings {
        min_free_bytes: config.min_free_bytes,
        retention_every: config.retention_interval,
        cleaner: config.cleaner,
        move_bytes_per_second: config.healing.move_bytes_per_second,
        scrub: replica::Scrub {
            every: config.healing.scrub_interval,
            bytes_per_second: config.healing.scrub_bytes_per_second,
        },
        topic_defaults,
        ..replica::Settings::of(node)
    }
}

/// Tells the peers where every broker of this image listens.
fn acquaint<R: Runtime>(peers: &Peers<R>, image: &Image) {
    for broker in image.brokers() {
        if let Some(address) = broker.peer_address() {
            peers.know(broker.id, &address);
        }
    }
}

/// Brings the partitions in line with every new image until told to stop.
struct Follower<R: Runtime> {
    published: Published,
    directory: Arc<Directory<R>>,
    coordinators: Coordinators<R>,
    peers: Peers<R>,
    member: Arc<Member>,
    following: Arc<Following>,
}

impl<R: Runtime> Follower<R> {
    async fn run(self, mut image: Arc<Image>) {
        loop {
            acquaint(&self.peers, &image);
            image = tokio::select! {
                biased; // a stop first: what is decided meanwhile is applied at the next start
                () = self.following.stop.notified() => break,
                next = self.published.after(image.end()) => next,
            };
            self.directory.apply(&image).await;
            self.coordinators.apply(&image);
            self.published.applied(&image);
            self.member.follow(&image);
        }
        let following = self.following.clone();
        drop(self);
        following.stopped.notify_one();
    }
}

/// Says that a stop was not clean, where nobody can act on it any more.
pub fn report_stop(result: Result<(), StopError>) -> bool {
    match result {
        Ok(()) => {
            info!("stopped, all is durable");
            true
        }
        Err(error) => {
            warn!(%error, "stopped, but not cleanly: the next start will check more");
            false
        }
    }
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
