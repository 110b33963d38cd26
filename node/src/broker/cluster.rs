//! A node's part in its cluster, as the composition root builds and takes it down: peers, quorum, membership.
//!
//! Owns: the order among them. Promises: others can talk to this node before it waits for any of them, so that a cluster
//! that starts does not wait for itself; [`Cluster::enroll`] returns when this broker's registration is applied here.
//! Leaves out: every decision. Used by `broker` alone.
//!
//! ```text
//!  peer address ─► controller (quorum) ─► door for peers ─► enroll ─► … partitions … ─► heartbeat ─► let in ─► clients
//! ```

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::DataDir;
use dejaq_wire::ids::{BrokerEpoch, BrokerId};
use dejaq_wire::peer::raft::{DirectoryId, ReplicaKey, Voter};
use tracing::{info, warn};

use super::{StartError, as_listened};
use crate::api::control_plane::Address;
use crate::config::Config;
use crate::controller::decide::register_broker::{Entry, RegisterBroker};
use crate::controller::introduce::{Contacts, Learned, introduce, keep_introducing};
use crate::controller::lease::Lease;
use crate::controller::member::{Member, enroll};
use crate::controller::quorum::RaftRoom;
use crate::controller::room::ControlRoom;
use crate::controller::{self, Boot, Controller, Reach, Settings, Started};
use crate::metadata::Published;
use crate::metadata::image::PEER_LISTENER;
use crate::metadata::level::Levels;
use crate::metadata::record::Endpoint;
use crate::peer::{ClusterId, Identity, LateRoom, PeerBound, PeerLimits, PeerServer, Peers, Routes};
use crate::replica::Directory;
use crate::runtime::Runtime;

/// How long a broker that starts waits to be let in before it serves what it can.
const LET_IN: Duration = Duration::from_secs(10);

/// A node's part in its cluster.
pub(super) struct Cluster<R: Runtime> {
    node: BrokerId,
    /// None on a node that stands alone.
    peer_server: Option<PeerServer<R>>,
    peer_address: Option<String>,
    pub peers: Peers<R>,
    pub controller: Controller,
    pub published: Published,
    pub reach: Reach<R>,
    /// What followers of partitions ask is answered once the partitions are open.
    pub replica_room: LateRoom,
    /// So is what is asked about transactions.
    pub txn_room: LateRoom,
}

impl<R: Runtime> Cluster<R> {
    /// Listens for peers, and takes part in the quorum.
    pub async fn join(
        runtime: &R,
        config: &Config,
        data: &DataDir<R::Disk>,
        settings: &Settings,
    ) -> Result<Cluster<R>, StartError> {
        let node = settings.node;
        let peer_bound = bind_peers(runtime, config).await?;
        let peer_address = peer_bound.as_ref().map(|bound| match config.peer_advertise.as_str() {
            "" => as_listened(&config.peer_listen, bound.address()),
            told => told.to_owned(),
        });
        let cluster = match data.meta().cluster_id.as_str() {
            "" => ClusterId::default(),
            known => ClusterId::known(known),
        };
        let me = Identity { node, cluster: cluster.clone(), speaks: config.feature_level_max };
        let peers = Peers::new(runtime.clone(), me.clone(), PeerLimits::default());
        let boot = Boot {
            settings: settings.clone(),
            voters: voters(config, node, data.meta().directory_id, peer_address.as_deref()),
            election: config.election_timeout,
            snapshot_bytes: config.snapshot_bytes,
            cluster,
            new_cluster_id: new_cluster_id(runtime),
        };
        let Started { controller, published } = controller::start(runtime, data, boot, peers.clone()).await?;
        let (replica_room, txn_room) = (LateRoom::default(), LateRoom::default());
        let control_room =
            ControlRoom::new(runtime.clone(), controller.clone(), published.clone(), peers.clone());
        let routes = Routes {
            raft: Some(Arc::new(RaftRoom::new(controller.clone()))),
            replica: Some(Arc::new(replica_room.clone())),
            control: Some(Arc::new(control_room)),
            txn: Some(Arc::new(txn_room.clone())),
        };
        let peer_server = peer_bound.map(|bound| bound.serve(me, PeerLimits::default(), routes));
        let reach = Reach::new(runtime.clone(), controller.clone(), peers.clone());
        Ok(Cluster {
            node,
            peer_server,
            peer_address,
            peers,
            controller,
            published,
            reach,
            replica_room,
            txn_room,
        })
    }

    /// Registers this life of the broker; returns when that is in effect here.
    pub async fn enroll(
        &self,
        runtime: &R,
        config: &Config,
        data: &DataDir<R::Disk>,
        advertised: &str,
    ) -> Result<BrokerEpoch, StartError> {
        let register = RegisterBroker {
            broker: self.node,
            incarnation: random_u128(runtime),
            endpoints: endpoints(advertised, self.peer_address.as_deref()),
            rack: config.rack.clone(),
            directory_id: data.meta().directory_id,
            clean: data.was_clean(),
            closed_in: data.closed_in(),
            // Who stands alone waits for nobody to let it in.
            entry: if self.is_shared() { Entry::Fenced } else { Entry::Live },
            levels: Levels::up_to(config.feature_level_max),
        };
        let session = config.healing.session_timeout;
        let enrolled = enroll(runtime, &self.reach, &self.published, register, session);
        let epoch = match &self.peer_address {
            None => enrolled.await?,
            Some(address) => {
                let (contacts, mut learned) = (self.contacts(config).await, Learned::default());
                let introduced = introduce(runtime, &self.peers, &contacts, address, &mut learned);
                tokio::select! {
                    biased; // the introduction never ends by itself
                    epoch = enrolled => epoch?,
                    () = introduced => unreachable!("it has no end"),
                }
            }
        };
        let image = self.published.current();
        info!(
            broker = self.node.0,
            broker_epoch = epoch.0,
            cluster = image.cluster_id().unwrap_or_default(),
            topics = image.topic_count(),
            partitions = image.partition_count(),
            "metadata is read back and this broker is registered"
        );
        Ok(epoch)
    }

    /// Says that this broker lives, and waits until it is let in, or for so long that it should serve what it can.
    pub async fn take_part(
        &self,
        runtime: &R,
        config: &Config,
        member: &Arc<Member>,
        directory: &Arc<Directory<R>>,
    ) {
        let health = directory.health().clone();
        let is_unfit = Box::new(move || health.is_offline());
        let session = config.healing.session_timeout;
        member.start(runtime, self.reach.clone(), self.published.clone(), session, is_unfit);
        if let Some(address) = &self.peer_address {
            let contacts = self.contacts(config).await;
            let leader = self.controller.watch_leader();
            let task =
                keep_introducing(runtime.clone(), self.peers.clone(), contacts, address.clone(), leader);
            runtime.spawn("introduce", task);
        }
        let let_in = async {
            let mut image = self.published.current();
            while !image.is_live(self.node) {
                image = self.published.after(image.end()).await;
            }
        };
        if runtime.before(runtime.now().plus(LET_IN), let_in).await.is_none() {
            warn!("this broker is not let in yet; it leads nothing until it is");
        }
    }

    /// Who may know who leads the quorum.
    async fn contacts(&self, config: &Config) -> Contacts {
        let named = voters(config, self.node, [0; 16], None).into_iter().map(|voter| voter.key.id);
        let quorum = self.controller.look_at_quorum().await;
        let of_log = quorum.into_iter().flat_map(|quorum| quorum.voters).map(|(voter, _)| voter.key.id);
        let mut known = Vec::new();
        for id in named.chain(of_log) {
            if !known.contains(&id) {
                known.push(id);
            }
        }
        Contacts { named: known, published: self.published.clone() }
    }

    /// This broker as a member, which says nothing yet.
    pub fn member(&self, config: &Config, epoch: BrokerEpoch) -> Arc<Member> {
        let lease = match self.is_shared() {
            true => Lease::new(config.healing.session_timeout, config.election_timeout),
            false => Lease::endless(),
        };
        Member::new(self.node, epoch, Levels::up_to(config.feature_level_max), lease)
    }

    /// Whether other nodes can talk to this one.
    pub fn is_shared(&self) -> bool {
        self.peer_server.is_some()
    }

    /// Whether there is another broker that could lead what this one leads.
    pub fn has_company(&self) -> bool {
        let image = self.published.current();
        self.is_shared() && image.brokers().any(|broker| broker.is_live() && broker.id != self.node)
    }

    /// Lets another node lead the quorum, closes the metadata and every connection to peers.
    pub async fn leave(self) -> Result<(), String> {
        let closed = self.controller.close().await;
        if let Some(peer_server) = self.peer_server {
            peer_server.stop().await;
        }
        self.peers.stop();
        closed
    }
}

/// Who votes first.
fn voters(config: &Config, node: BrokerId, directory: [u8; 16], address: Option<&str>) -> Vec<Voter> {
    if config.quorum.is_empty() {
        let key = ReplicaKey { id: node, directory: DirectoryId(directory) };
        return vec![Voter { key, address: address.unwrap_or_default().to_owned() }];
    }
    let named = config.quorum.iter().map(|named| Voter {
        key: ReplicaKey {
            id: BrokerId(i32::try_from(named.id).expect("it was checked")),
            directory: DirectoryId::UNKNOWN,
        },
        address: named.address.clone(),
    });
    named.collect()
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

pub(super) fn random_u128<R: Runtime>(runtime: &R) -> u128 {
    u128::from(runtime.random_u64()) << 64 | u128::from(runtime.random_u64())
}

pub(super) fn new_cluster_id<R: Runtime>(runtime: &R) -> String {
    cluster_id(random_u128(runtime))
}

/// 16 random bytes as Kafka writes them: 22 letters of URL-safe base 64.
pub(super) fn cluster_id(random: u128) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |at: u32| {
        let six = if at == 21 { random << 4 } else { random >> (122 - 6 * at) };
        char::from(LETTERS[usize::try_from(six & 63).expect("six bits")])
    };
    (0..22).map(letter).collect()
}
