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

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dejaq_storage::{DataDir, Disk, Expect, LayoutError};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId};
use dejaq_wire::peer::replica::Place;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::api::control_plane::{Address, ControlPlane};
use crate::api::data_plane::{DataPlane, FetchLimits};
use crate::api::init_producer_id::ProducerIds;
use crate::api::{self, Api};
use crate::config::Config;
use crate::controller::decide::alter_partition::{AlterPartition, Proposal};
use crate::controller::draft::Refusal;
use crate::controller::room::ControlRoom;
use crate::controller::{self, Boot, Controller, JournalError, Reach};
use crate::metadata::config_table::InvalidConfig;
use crate::metadata::image::PEER_LISTENER;
use crate::metadata::record::Endpoint;
use crate::metadata::topic_config::{Overrides, check_topic};
use crate::metadata::{Image, Published};
use crate::metrics::Metrics;
use crate::peer::{ClusterId, Identity, LateRoom, PeerBound, PeerLimits, PeerServer, Peers, Routes};
use crate::replica::links::Later;
use crate::replica::{self, Answer, AskController, Directory, Links, NotClean, NotStarted, Serve};
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
    server: Server<R>,
    /// None on a node that stands alone.
    peer_server: Option<PeerServer<R>>,
    peers: Peers<R>,
    controller: Controller,
    directory: Arc<Directory<R>>,
    data_dir: Arc<DataDir<R::Disk>>,
    following: Arc<Following>,
    metrics: Arc<Metrics>,
    published: Published,
}

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
        let topic_defaults = check_topic(&config.topics.defaults)?;
        let node = BrokerId(i32::try_from(config.node_id).expect("the table bounds it"));
        let data_dir = Arc::new(open_data_dir(&runtime, node).await?);
        let bound = Bound::bind(&runtime, &config.listen)
            .await
            .map_err(|error| StartError::Listen { address: config.listen.clone(), error })?;
        let advertised = if config.advertise.is_empty() { bound.address() } else { config.advertise.clone() };
        let peer_bound = bind_peers(&runtime, &config).await?;
        let me = Identity { node, cluster: ClusterId::known(&data_dir.meta().cluster_id) };
        let peers = Peers::new(runtime.clone(), me.clone(), PeerLimits::default());
        let settings = settings(&config, node, &topic_defaults);
        let peer_address = peer_bound.as_ref().map(|bound| match config.peer_advertise.as_str() {
            "" => bound.address(),
            told => told.to_owned(),
        });
        let endpoints = endpoints(&advertised, peer_address.as_deref());
        let boot = Boot { settings: settings.clone(), endpoints, rack: config.rack.clone() };
        let started = controller::start(&runtime, &data_dir, boot).await?;
        let reach = Reach::new(runtime.clone(), started.controller.clone(), peers.clone());
        // What followers of partitions ask is answered once the partitions are open.
        let replica_room = LateRoom::default();
        let control_room = ControlRoom::new(runtime.clone(), started.controller.clone());
        let (replica, control) =
            (Some(Arc::new(replica_room.clone()) as _), Some(Arc::new(control_room) as _));
        let routes = Routes { raft: None, replica, control };
        let peer_server = peer_bound.map(|bound| bound.serve(me, PeerLimits::default(), routes));
        let image = started.published.current();
        acquaint(&peers, &image);
        let (seen, was_clean) = (image.clone(), data_dir.was_clean());
        let settings_here = directory_settings(&config, node, topic_defaults);
        let directory =
            Directory::start(runtime.clone(), settings_here, data_dir.clone(), seen, was_clean).await?;
        note_boot(&data_dir);
        replica_room.open(Arc::new(Serve::new(directory.clone())));
        directory.connect(links(&runtime, &peers, &reach, started.broker_epoch, &config));
        started.published.applied(&image);
        let following = Arc::new(Following::default());
        runtime.spawn(
            "follow-metadata",
            follow(started.published.clone(), directory.clone(), peers.clone(), image, following.clone()),
        );
        let metrics = Arc::new(Metrics::default());
        let limits = config.limits.clone();
        let control = ControlPlane {
            runtime: runtime.clone(),
            reach,
            published: started.published.clone(),
            cluster_id: Arc::from(data_dir.meta().cluster_id.as_str()),
            settings: Arc::new(settings),
            config: Arc::new(config),
        };
        let data = Arc::new(DataPlane::new(runtime.clone(), directory.clone(), FetchLimits::default()));
        let producer_ids = ProducerIds::new(node, started.broker_epoch);
        let service = Arc::new(Api::new(api::Parts { data, control, producer_ids }));
        let server = bound.serve(Parts { service, limits, metrics: metrics.clone(), advertised });
        info!(address = server.address(), advertised = server.advertised(), "serving");
        Ok(Broker {
            server,
            peer_server,
            peers,
            controller: started.controller,
            directory,
            data_dir,
            following,
            metrics,
            published: started.published,
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
        self.published.current()
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
            controller: self.controller.clone(),
            directory: self.directory.clone(),
            published: self.published.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Answers what was started, closes everything and marks the data directory clean.
    ///
    /// # Errors
    /// The first of what went wrong; everything that could be closed is.
    pub async fn shutdown(self) -> Result<(), StopError> {
        let Broker { server, peer_server, peers, controller, directory, data_dir, following, .. } = self;
        server.stop().await;
        following.stop.notify_one();
        following.stopped.notified().await;
        if let Some(peer_server) = peer_server {
            peer_server.stop().await;
        }
        peers.stop();
        let metadata = controller.close().await.map_err(StopError::Metadata);
        let partitions = directory.shutdown().await;
        drop(directory);
        metadata?;
        partitions?;
        let data_dir = Arc::try_unwrap(data_dir)
            .map_err(|_| StopError::Mark(io::Error::other("something still uses the data directory")))?;
        data_dir.mark_clean().await.map_err(StopError::Mark)
    }
}

/// A broker seen from outside.
pub struct Watch<R: Runtime> {
    controller: Controller,
    directory: Arc<Directory<R>>,
    published: Published,
    metrics: Arc<Metrics>,
}

impl<R: Runtime> Watch<R> {
    /// Why clients should go elsewhere, if they should.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let disk = self.directory.health().failure();
        disk.or_else(|| self.controller.stopped().map(|why| format!("the controller stopped: {why}")))
    }

    /// All metrics in Prometheus' text format, with those that are looked up only now.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let (metrics, syncs) = (&self.metrics, self.directory.flusher().counters());
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        metrics.topics.set(self.published.current().topic_count() as u64);
        metrics.partitions.set(self.directory.partitions().len() as u64);
        metrics.unsynced_bytes.set(self.directory.unsynced_bytes());
        metrics.offline.set(u64::from(self.directory.health().is_offline()));
        metrics.syncs.reach(total(&syncs.syncs));
        metrics.sync_microseconds.reach(total(&syncs.micros));
        metrics.synced_partitions.reach(total(&syncs.partitions));
        metrics.text()
    }
}

async fn open_data_dir<R: Runtime>(runtime: &R, node: BrokerId) -> Result<DataDir<R::Disk>, LayoutError> {
    let random = || u128::from(runtime.random_u64()) << 64 | u128::from(runtime.random_u64());
    let expect = Expect {
        cluster_id: String::new(),
        node_id: node,
        new_cluster_id: cluster_id(random()),
        new_directory_id: random().to_be_bytes(),
    };
    DataDir::open(runtime.disk().clone(), expect).await
}

/// 16 random bytes as Kafka writes them: 22 letters of URL-safe base 64.
fn cluster_id(random: u128) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |at: u32| {
        let six = if at == 21 { random << 4 } else { random >> (122 - 6 * at) };
        char::from(LETTERS[usize::try_from(six & 63).expect("six bits")])
    };
    (0..22).map(letter).collect()
}

fn settings(config: &Config, node: BrokerId, topic_defaults: &Overrides) -> controller::Settings {
    controller::Settings {
        node,
        default_partitions: i32::try_from(config.topics.default_partitions).expect("the table bounds it"),
        default_replication_factor: 1,
        max_partitions: config.topics.max_partitions as usize,
        topic_defaults: topic_defaults.clone(),
        healing: controller::settings::Healing {
            session_timeout: config.healing.session_timeout,
            recreate_after: config.healing.recreate_after,
            max_moves: config.healing.max_moves,
            leader_round: config.healing.leader_interval,
            auto_rebalance: config.healing.auto_rebalance,
        },
    }
}

fn note_boot<D: Disk>(data_dir: &DataDir<D>) {
    if let Err(error) = data_dir.note_boot() {
        warn!(%error, "this run of the machine is not remembered: the next start believes less of an unsynced tail");
    }
}

fn directory_settings(config: &Config, node: BrokerId, topic_defaults: Overrides) -> replica::Settings {
    let min_free_bytes = config.min_free_bytes;
    replica::Settings { min_free_bytes, topic_defaults, ..replica::Settings::of(node) }
}

async fn bind_peers<R: Runtime>(runtime: &R, config: &Config) -> Result<Option<PeerBound<R>>, StartError> {
    let address = &config.peer_listen;
    if address.is_empty() {
        return Ok(None);
    }
    let bound = PeerBound::bind(runtime, address).await;
    bound.map(Some).map_err(|error| StartError::Listen { address: address.clone(), error })
}

fn endpoints(advertised: &str, peer_advertised: Option<&str>) -> Vec<Endpoint> {
    let endpoint = |listener: &str, told: &str| {
        let address = Address::parse(told).unwrap_or_else(|| panic!("{told} was checked to be an address"));
        Endpoint { listener: listener.to_owned(), host: address.host, port: address.port }
    };
    let peer = peer_advertised.map(|told| endpoint(PEER_LISTENER, told));
    [endpoint("PLAINTEXT", advertised)].into_iter().chain(peer).collect()
}

/// Tells the peers where every broker of this image listens.
fn acquaint<R: Runtime>(peers: &Peers<R>, image: &Image) {
    for broker in image.brokers() {
        if let Some(address) = broker.peer_address() {
            peers.know(broker.id, &address);
        }
    }
}

/// How long a leader holds a fetch of ours for which it has nothing.
const FOLLOWER_WAIT: Duration = Duration::from_millis(500);
/// How long the controller is asked to take an in-sync set before the partitions are looked at again.
const IN_SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// How replicas reach their leaders and the controller.
fn links<R: Runtime>(
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
        };
        let proposals = proposals.into_iter().map(proposal).collect();
        let call = AlterPartition { broker: self.node, broker_epoch: self.life, proposals };
        let (reach, deadline) = (self.reach.clone(), self.runtime.now().plus(IN_SYNC_PATIENCE));
        Box::pin(async move {
            let answer = |one: Result<_, Refusal>| match one {
                Ok(_) => Answer::Taken,
                Err(refusal) => Answer::Refused(refusal.code),
            };
            match reach.ask(call, deadline).await.result {
                Ok(answers) => answers.into_iter().map(answer).collect(),
                Err(Refusal { code: ErrorCode::REQUEST_TIMED_OUT, .. }) => vec![Answer::Unsure; count],
                Err(refusal) => vec![Answer::Refused(refusal.code); count],
            }
        })
    }
}

/// Brings the partitions in line with every new image until told to stop.
async fn follow<R: Runtime>(
    published: Published,
    directory: Arc<Directory<R>>,
    peers: Peers<R>,
    mut image: Arc<Image>,
    following: Arc<Following>,
) {
    loop {
        image = tokio::select! {
            biased; // a stop first: what is decided meanwhile is applied at the next start
            () = following.stop.notified() => break,
            next = published.after(image.end()) => next,
        };
        acquaint(&peers, &image);
        directory.apply(&image).await;
        published.applied(&image);
    }
    drop(directory);
    following.stopped.notify_one();
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
