//! What told stories of transactions share: a life of a transactional id, and what readers of committed records see.
//!
//! Promises: every wait has an end, and one that ends without what it waited for is a stuck story. Leaves out: the scripts
//! (`late`, `undecided`, `revenant`, `ids`).

use std::time::Duration;

use dejaq::client::cluster::Cluster;
use dejaq::client::producer::Record;
use dejaq::client::txn::{TxnConfig, TxnProducer};
use dejaq::runtime::{Mono, Runtime};
use dejaq_wire::ids::PartitionId;

use super::reader::{Fetched, Reader};
use super::{Stage, Stop, producers};
use crate::runtime::SimRuntime;

/// How long anything may take that a script waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A life of a transactional id.
pub(super) type Life = TxnProducer<SimRuntime>;

/// When patience is over.
pub(super) fn soon(runtime: &SimRuntime) -> Mono {
    runtime.now().plus(PATIENCE)
}

/// Why a script cannot go on.
pub(super) fn stuck<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Stop {
    move |error| Stop::Stuck(format!("{what}: {error}"))
}

/// A new life of the id, whose transactions may be open for `timeout`.
pub(super) async fn born(cluster: Cluster<SimRuntime>, id: &str, timeout: Duration) -> Result<Life, Stop> {
    let deadline = soon(cluster.runtime());
    let config = TxnConfig { timeout, ..TxnConfig::of(id) };
    let mut life = TxnProducer::start(cluster, config).expect("the settings are valid");
    life.init(deadline).await.map_err(stuck("a life of a transactional id"))?;
    Ok(life)
}

/// Takes a value into the open transaction, and waits until it is stored.
pub(super) async fn put(
    life: &Life,
    runtime: &SimRuntime,
    (topic, index): (&str, i32),
    value: u64,
) -> Result<(), Stop> {
    try_put(life, runtime, (topic, index), value).await.map_err(|why| Stop::Stuck(format!("a write: {why}")))
}

/// As [`put`], where it may be refused.
pub(super) async fn try_put(
    life: &Life,
    runtime: &SimRuntime,
    (topic, index): (&str, i32),
    value: u64,
) -> Result<(), String> {
    let record = Record::new(topic, value.to_be_bytes().to_vec()).partition(PartitionId(index));
    let sent = life.send(record).await.map_err(|error| error.to_string())?;
    let stored = runtime.before(soon(runtime), sent.wait()).await;
    stored.ok_or("it takes too long")?.map(drop).map_err(|error| error.to_string())
}

/// What readers of committed records see of these partitions, in ascending order, when everything in them is decided.
pub(super) async fn visible(
    stage: &Stage,
    machine: u32,
    (topic, indexes): (&str, &[i32]),
    patience: Duration,
) -> Result<Vec<u64>, Stop> {
    let runtime = stage.broker.machine(machine);
    let reader = Reader { cluster: producers::cluster(stage, runtime.clone()) };
    let until = runtime.now().plus(patience);
    let mut all = Vec::new();
    let mut id = None;
    for index in indexes {
        let (mut at, mut end) = (0, None);
        while end.is_none_or(|end| at < end) {
            if runtime.now() >= until {
                return Err(Stop::Stuck(format!("{topic}-{index} is not decided beyond {at}")));
            }
            id = if id.is_some() { id } else { reader.topic_id(topic).await };
            end = if end.is_some() { end } else { reader.list(topic, *index, -1).await };
            match id.zip(end) {
                Some((id, end)) if at < end => match reader.committed(topic, id, *index, at, 50).await {
                    Fetched::Records { records, next } => {
                        all.extend(records.iter().map(|seen| seen.value));
                        at = next;
                    }
                    _ => runtime.sleep(Duration::from_millis(50)).await,
                },
                Some(_) => {}
                None => runtime.sleep(Duration::from_millis(50)).await,
            }
        }
    }
    all.sort_unstable();
    Ok(all)
}
