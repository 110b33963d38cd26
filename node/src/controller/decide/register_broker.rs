//! A broker begins a new life: it gets an epoch, and what it held in its old life is judged anew.
//!
//! Promises: a new life is admitted only after the old one is fenced, in the same batch (MQ-14); a broker that did
//! not stop cleanly is in no in-sync and no eligible set afterwards (KIP-966, REP-14), and whose disk is new, or an older
//! copy of its own, was never there; a second process under the same number is refused while the first is heard; so is a
//! broker that does not support the level of the cluster (`metadata::level`). The first broker of a new cluster sets that
//! level, as high as it and the controller can.
//!
//! Decided: a directory is an older copy if the life that closed it is older than the newest that was let in. Not merely than
//! the newest that registered, because a process may end between its registration and the opening of its partitions; what it
//! held is then as it was. A crash leaves no such word, so that an older copy of a directory that was never closed, taken
//! while the broker ran, counts as an unclean stop. Revisit when the epoch of the life that runs is on the disk, too.

use dejaq_storage::{mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId};
use serde::{Deserialize, Serialize};

use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::succession::Wanted;
use crate::controller::sweep::{ALL, sweep, welcome};
use crate::metadata::level::{DEJAQ_VERSION, Levels};
use crate::metadata::record::{BrokerRegistered, Endpoint, FeatureLevelSet, LeadershipsRestarted};
use crate::metadata::{Broker, Partition};

/// Level of the metadata format that this version writes, as the feature `metadata.version`.
///
/// Kafka's number for its 4.0 (IV3), because clients read it as that: which requests a cluster understands.
pub const METADATA_VERSION: i16 = 25;
/// Name of that feature.
pub const METADATA_VERSION_FEATURE: &str = "metadata.version";

/// How a broker enters. The order of the variants is their number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// It leads and is in sync only once it has followed the metadata and says so in a heartbeat.
    Fenced,
    /// It reads the very log that this is written to, and is live at once: a node that stands alone.
    Live,
}

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterBroker {
    /// Who.
    pub broker: BrokerId,
    /// Drawn by the process at its start: the same one registers once, however often it asks.
    pub incarnation: u128,
    /// Where clients and other brokers reach it, by the names of its listeners.
    pub endpoints: Vec<Endpoint>,
    /// Where it stands.
    pub rack: Option<String>,
    /// Names its data directory; zero if it is not told.
    pub directory_id: [u8; 16],
    /// Whether the last process on this data directory closed it cleanly.
    pub clean: bool,
    /// The life that closed it then; [`BrokerEpoch::NONE`] if it is not told.
    pub closed_in: BrokerEpoch,
    /// How it enters.
    pub entry: Entry,
    /// The levels of `dejaq.version` that it supports.
    pub levels: Levels,
}

impl Decide for RegisterBroker {
    type Answer = Result<BrokerEpoch, Refusal>;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Self::Answer {
        let known = draft.image().broker(self.broker).cloned();
        if let Some(known) = known.as_ref().filter(|known| known.incarnation == self.incarnation) {
            return Ok(known.epoch);
        }
        self.check_alone(known.as_deref(), context)?;
        let is_new_cluster = draft.image().feature(METADATA_VERSION_FEATURE).is_none();
        if !is_new_cluster {
            self.check_level(draft.image().level())?;
        }
        let epoch = draft.image().last_broker_epoch().next();
        if is_new_cluster {
            draft.push(FeatureLevelSet { name: METADATA_VERSION_FEATURE.into(), level: METADATA_VERSION });
            // The newest that the first two know. Level 1 is not written: the first release has no such feature.
            let level = self.levels.max.min(context.settings.levels.max);
            if level > 1 {
                draft.push(FeatureLevelSet { name: DEJAQ_VERSION.into(), level });
            }
        }
        let levels = self.levels;
        let (broker, fenced) = (self.broker, self.entry == Entry::Fenced);
        let history = History::of(&self, known.as_deref());
        let clean = (self.clean && history != History::Older) || known.is_none();
        draft.push(BrokerRegistered {
            broker,
            epoch,
            incarnation: self.incarnation,
            endpoints: self.endpoints,
            rack: self.rack,
            directory_id: self.directory_id,
            clean,
            fenced,
        });
        let decided = i64::try_from(draft.records().len()).expect("a draft is small");
        context.liveness.registered(context.now, broker, epoch, draft.image().end().plus(decided));
        context.liveness.supports(broker, epoch, levels);
        sweep(draft, context, ALL, |_, _, partition| judge(broker, history, fenced, partition));
        if leads_anything(draft, broker) {
            draft.push(LeadershipsRestarted { broker, broker_epoch: epoch });
        }
        if !fenced {
            welcome(draft, context, broker);
        }
        Ok(epoch)
    }
}

impl RegisterBroker {
    /// A broker that cannot live at the level of the cluster would read what it does not understand.
    fn check_level(&self, level: i16) -> Result<(), Refusal> {
        if self.levels.have(level) {
            return Ok(());
        }
        mark!("a broker that does not support the level of the cluster is refused");
        let cure = if self.levels.max < level {
            "start the newer release on it (or raise its feature-level-max), or lower the cluster first, with \
             `dejaq cluster downgrade` on a broker that runs"
        } else {
            "start an older release on it, or raise the cluster first, with `dejaq cluster upgrade`"
        };
        let why = format!(
            "broker {} supports {DEJAQ_VERSION} {}, and the cluster stands at {level}: {cure}",
            self.broker, self.levels
        );
        Err(Refusal::new(ErrorCode::UNSUPPORTED_VERSION, why))
    }

    /// The same data directory proves that the old process is gone: it held a lock. Another one, or a copy, is told apart from
    /// a replaced disk only by silence.
    fn check_alone(&self, known: Option<&Broker>, context: &Context<'_>) -> Result<(), Refusal> {
        let Some(known) = known else { return Ok(()) };
        let same_directory = (known.directory_id == self.directory_id || known.directory_id == [0; 16])
            && History::of(self, Some(known)) != History::Older;
        let timeout = context.settings.healing.session_timeout;
        let heard = known.is_live() && context.liveness.is_heard(context.now, self.broker, timeout);
        // The planted bug M37: a new life is let in while the old one may still be acting.
        if same_directory || !heard || mutant!(37) {
            return Ok(());
        }
        mark!("a second process under the number of a living broker is refused");
        let why = format!(
            "broker {} is registered from another data directory, or a newer state of this one, and was heard within \
             the last {timeout:?}; two brokers must not have one node-id",
            self.broker
        );
        Err(Refusal::new(ErrorCode::DUPLICATE_BROKER_REGISTRATION, why))
    }
}

/// What the end of its old life means for what a broker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    /// It holds what it held.
    Clean,
    /// It may lack what it had not synced.
    Unclean,
    /// It holds nothing.
    Wiped,
    /// It holds what it held in an earlier life: of what was acknowledged since, nothing.
    Older,
}

impl History {
    fn of(request: &RegisterBroker, known: Option<&Broker>) -> History {
        let zero = [0; 16];
        match known {
            None => History::Wiped,
            // The planted bug M15: whatever happened to the broker, it holds what it held.
            Some(_) if mutant!(15) => History::Clean,
            Some(known) => {
                let told = known.directory_id != zero && request.directory_id != zero;
                match (told && known.directory_id != request.directory_id, request.clean) {
                    (true, _) => History::Wiped,
                    (false, false) => History::Unclean,
                    (false, true) => History::of_closed(request, known),
                }
            }
        }
    }

    /// Of a directory that was closed cleanly: whether that was the end of the life that counts.
    fn of_closed(request: &RegisterBroker, known: &Broker) -> History {
        // Who stands alone, or did, has the metadata in the same directory: one is as old as the other.
        let is_alone = request.entry == Entry::Live || known.peer_endpoint().is_none();
        let is_untold = request.closed_in == BrokerEpoch::NONE;
        // The planted bug M273: whichever life closed the directory, it is taken for the last one.
        if request.closed_in == known.epoch || is_alone || is_untold || mutant!(273) {
            return History::Clean;
        }
        // The last is of a cluster that lost its metadata, or read them from a snapshot of an older release.
        if request.closed_in < known.let_in {
            mark!("an older copy of a data directory counts for nothing");
            History::Older
        } else if request.closed_in < known.epoch && known.let_in != BrokerEpoch::NONE {
            mark!("a life that was never let in leaves the clean stop before it as it was");
            History::Clean
        } else {
            History::Unclean
        }
    }
}

/// What becomes of one partition that the broker holds.
fn judge(broker: BrokerId, history: History, fenced: bool, partition: &Partition) -> Option<Wanted> {
    if !partition.replicas.contains(&broker) {
        return None;
    }
    // The only copy, on a node that is live at once: it leads again, whatever became of it, because nothing better
    // exists. One record for all such partitions raises their epochs.
    let alone = partition.replicas.len() == 1 && partition.leader == broker;
    if alone && !fenced && matches!(history, History::Clean | History::Unclean) {
        return None;
    }
    let counted = partition.isr.contains(&broker)
        || partition.elr.contains(&broker)
        || partition.last_known_elr.contains(&broker);
    counted.then(|| match history {
        History::Clean => Wanted { restarted: Some(broker), ..Wanted::default() },
        History::Unclean => Wanted { unclean: vec![broker], ..Wanted::default() },
        History::Wiped | History::Older => Wanted { wiped: vec![broker], ..Wanted::default() },
    })
}

fn leads_anything(draft: &Draft, broker: BrokerId) -> bool {
    let mut partitions = draft.image().topics().flat_map(|topic| topic.partitions.iter());
    partitions.any(|partition| partition.leader == broker && partition.replicas.len() == 1)
}
