//! Carries out what the core decides: one task that plans and sends, one short task for each thing it waits for.
//!
//! Promises: requests to a broker leave in the order in which they were planned, because only this task starts them;
//! every request that was planned is reported to the core when it ends, also if it never left; background work (dial,
//! refresh, identity) runs once at a time and wakes the sender when it is done. Leaves out: every decision.
//!
//! ```text
//!   wake ─► expire ─► plan ─► start requests ─► sleep until woken or due
//!    ▲                          └─► task: wait for the answer ─► core.ended ─► settle ─► wake
//!    └── dial · refresh · identity tasks
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_wire::api::ApiKey;
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, TopicId};
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
};

use super::core::{Link, Plan, Send};
use super::record::{Payload, encode};
use super::{Acks, Inner, ProduceCause};
use crate::client::connection::{Connection, RequestError};
use crate::client::outcome::{Attempt, AttemptEnd, Verdict};
use crate::client::sequence::Identity;
use crate::runtime::{Mono, Runtime};

/// First version of Produce that names topics by id.
const FIRST_ID_VERSION: i16 = 13;
/// First version of Produce that puts partitions into the transaction (KIP-890).
const FIRST_ADDING_VERSION: i16 = 12;

/// Runs until the producer has ended.
pub(super) async fn run<R: Runtime>(inner: Arc<Inner<R>>) {
    loop {
        if inner.state().dead.is_some() {
            return;
        }
        let wake_at = step(&inner);
        match wake_at {
            Some(at) => {
                let _woken = inner.cluster.runtime().before(at, inner.wake.notified()).await;
            }
            None => inner.wake.notified().await,
        }
    }
}

/// One turn: settles what is too old, starts what can be sent, asks for what is missing.
fn step<R: Runtime>(inner: &Arc<Inner<R>>) -> Option<Mono> {
    let now = inner.cluster.runtime().now();
    let expired = inner.state().core.expire(now);
    for batch in expired {
        inner.settle(batch, None, None);
    }
    let brokers: Vec<BrokerId> = inner.cluster.with_routes(|routes| routes.brokers().map(|b| b.id).collect());
    let open: BTreeSet<BrokerId> =
        brokers.into_iter().filter(|id| inner.cluster.live(*id).is_some()).collect();
    let link = |id| if open.contains(&id) { Link::Open } else { Link::Closed };
    let plan = inner.cluster.with_routes(|routes| {
        let leader =
            |to: &super::TopicPartition| routes.leader(&to.topic, to.partition).map(|(leader, _)| leader);
        inner.state().core.plan(now, leader, link)
    });
    let Plan { requests, dial, leaderless, needs_identity, wake_at } = plan;
    for (broker, sends) in requests {
        start(inner, broker, sends, now);
    }
    for broker in dial {
        spawn_dial(inner, broker);
    }
    if needs_identity {
        spawn_identity(inner);
    }
    if leaderless {
        spawn_refresh(inner, true);
    } else {
        inner.state().leaderless_rounds = 0;
    }
    wake_at
}

/// Starts one request; the task that waits for its end is spawned.
fn start<R: Runtime>(inner: &Arc<Inner<R>>, broker: BrokerId, sends: Vec<Send<Payload>>, now: Mono) {
    let runtime = inner.cluster.runtime();
    let not_sent = |reason: &str| RequestError::NotSent(reason.into());
    let Some(connection) = inner.cluster.live(broker) else {
        return finish(inner, broker, &sends, now, Err(not_sent("the connection ended")));
    };
    let Some(slot) = connection.try_slot() else {
        return finish(inner, broker, &sends, now, Err(not_sent("the connection has no room for a request")));
    };
    let (request, version) = match request(inner, &connection, &sends) {
        Ok(built) => built,
        Err(error) => return finish(inner, broker, &sends, now, Err(error)),
    };
    let inner_after = inner.clone();
    if inner.config.acks == Acks::None {
        match connection.start_unanswered(&request, version, slot) {
            Ok(taken) => runtime.spawn("produce unanswered", async move {
                let answer = taken.wait().await.map(|()| None);
                finish(&inner_after, broker, &sends, now, answer);
            }),
            Err(error) => finish(inner, broker, &sends, now, Err(error)),
        }
        return;
    }
    let deadline = now.plus(inner.cluster.config().request_timeout);
    match connection.start_with(&request, version, slot, deadline) {
        Ok(pending) => runtime.spawn("produce", async move {
            let answer = pending.wait().await.map(Some);
            finish(&inner_after, broker, &sends, now, answer);
        }),
        Err(error) => finish(inner, broker, &sends, now, Err(error)),
    }
}

fn request<R: Runtime>(
    inner: &Inner<R>,
    connection: &Connection<R>,
    sends: &[Send<Payload>],
) -> Result<(ProduceRequest, i16), RequestError> {
    let ids = topic_ids(inner, sends);
    let newest = if ids.is_some() { i16::MAX } else { FIRST_ID_VERSION - 1 };
    let version = version(inner, connection, newest)?;
    let mut topics: BTreeMap<&Arc<str>, Vec<PartitionProduceData>> = BTreeMap::new();
    for send in sends {
        let stamp = (send.stamp, inner.transaction.is_some());
        let records = encode(&send.batch.records, stamp, inner.config.compression)
            .map_err(|error| RequestError::Unsendable(error.to_string().into()))?;
        let data = PartitionProduceData { index: send.to.partition, records: Some(records) };
        topics.entry(&send.to.topic).or_default().push(data);
    }
    let topic_data = topics
        .into_iter()
        .map(|(name, partition_data)| TopicProduceData {
            topic_id: ids.as_ref().map_or(TopicId::ZERO, |ids| ids[name]),
            name: name.to_string(),
            partition_data,
        })
        .collect();
    let timeout_ms = i32::try_from(inner.cluster.config().request_timeout.as_millis()).unwrap_or(i32::MAX);
    let acks = inner.config.acks.code();
    let transactional_id = inner.transaction.as_ref().map(ToString::to_string);
    Ok((ProduceRequest { transactional_id, acks, timeout_ms, topic_data }, version))
}

/// From [`FIRST_ADDING_VERSION`] on a partition joins the transaction as it is written to: the version says who adds it.
fn version<R: Runtime>(
    inner: &Inner<R>,
    connection: &Connection<R>,
    newest: i16,
) -> Result<i16, RequestError> {
    let joins = inner.state().joins;
    let newest = if inner.transaction.is_some() && !joins { FIRST_ADDING_VERSION - 1 } else { newest };
    let version = connection.versions().choose_up_to(ApiKey::Produce, newest)?;
    if inner.transaction.is_some() && joins && version < FIRST_ADDING_VERSION {
        let reason = format!("{} is older than the cluster's transactions", connection.address());
        return Err(RequestError::NotSent(reason.into()));
    }
    Ok(version)
}

/// The id of every topic of a request; `None` if one of them has none.
fn topic_ids<R: Runtime>(inner: &Inner<R>, sends: &[Send<Payload>]) -> Option<BTreeMap<Arc<str>, TopicId>> {
    inner.cluster.with_routes(|routes| {
        let id = |send: &Send<Payload>| {
            let id = routes.topic(&send.to.topic)?.ok()?.id;
            (!id.is_zero()).then(|| (send.to.topic.clone(), id))
        };
        sends.iter().map(id).collect()
    })
}

/// Reports the end of a request to the core, batch by batch, and settles what it decides.
fn finish<R: Runtime>(
    inner: &Arc<Inner<R>>,
    broker: BrokerId,
    sends: &[Send<Payload>],
    started: Mono,
    answer: Result<Option<ProduceResponse>, RequestError>,
) {
    let runtime = inner.cluster.runtime();
    let now = runtime.now();
    inner.state().core.request_ended(broker);
    let (mut elsewhere, mut unsendable) = (false, None);
    for send in sends {
        let told = match &answer {
            Ok(Some(response)) => partition_answer(inner, response, send),
            Ok(None) | Err(_) => None,
        };
        let end = match (&answer, &told) {
            (Ok(Some(_)), Some(told)) => AttemptEnd::Answered(told.error_code, told.base_offset),
            (Ok(Some(_)), None) => AttemptEnd::Lost("the answer leaves this partition out".into()),
            (Ok(None), _) => AttemptEnd::NoReply,
            (Err(error), _) if error.verdict() == Verdict::DefiniteNo => {
                AttemptEnd::NotSent(error.to_string())
            }
            (Err(error), _) => AttemptEnd::Lost(error.to_string()),
        };
        if let Err(RequestError::Unsendable(reason)) = &answer {
            unsendable = Some(ProduceCause::Unsendable(reason.clone()));
        }
        observe(inner, send, started, now, &end);
        let (settled, moved) =
            inner.state().core.ended(&send.to, send.batch.id, &end, now, runtime.random_u64());
        elsewhere |= moved;
        if let Some(settled) = settled {
            let append_time_ms = told.as_ref().map(|told| told.log_append_time_ms).filter(|ms| *ms >= 0);
            let cause = settled.result.is_err().then(|| told.as_ref().and_then(refusal)).flatten();
            inner.settle(settled, append_time_ms, cause);
        }
    }
    if let Some(cause) = unsendable {
        inner.end(cause);
    } else if elsewhere {
        spawn_refresh(inner, false);
    }
    inner.wake.notify_one();
}

/// What an answer says of one batch.
fn partition_answer<R: Runtime>(
    inner: &Inner<R>,
    response: &ProduceResponse,
    send: &Send<Payload>,
) -> Option<PartitionProduceResponse> {
    let id = inner.cluster.with_routes(|routes| routes.topic(&send.to.topic)?.ok().map(|topic| topic.id));
    let of_topic = |topic: &&dejaq_wire::kafka::produce::TopicProduceResponse| {
        *topic.name == *send.to.topic || !topic.topic_id.is_zero() && Some(topic.topic_id) == id
    };
    let partition = |p: &&PartitionProduceResponse| p.index == send.to.partition;
    response.responses.iter().filter(of_topic).flat_map(|t| &t.partition_responses).find(partition).cloned()
}

fn refusal(told: &PartitionProduceResponse) -> Option<ProduceCause> {
    let first = told.record_errors.first().and_then(|r| r.batch_index_error_message.as_deref());
    let message = told.error_message.as_deref().or(first).map(Arc::from);
    told.error_code.is_error().then_some(ProduceCause::Refused { code: told.error_code, message })
}

fn observe<R: Runtime>(inner: &Inner<R>, send: &Send<Payload>, started: Mono, ended: Mono, end: &AttemptEnd) {
    inner.config.observer.attempt(&Attempt {
        topic: send.to.topic.clone(),
        partition: send.to.partition,
        batch: send.batch.id,
        records: send.batch.records.len() as u32,
        stamp: send.stamp,
        number: send.attempt,
        started,
        ended,
        end: end.clone(),
    });
}

fn spawn_dial<R: Runtime>(inner: &Arc<Inner<R>>, broker: BrokerId) {
    if !inner.state().dialing.insert(broker) {
        return;
    }
    let inner = inner.clone();
    inner.cluster.runtime().clone().spawn("producer dial", async move {
        let deadline = inner.cluster.request_deadline(Mono(u64::MAX));
        let reached = inner.cluster.broker(broker, deadline).await;
        inner.state().dialing.remove(&broker);
        if reached.is_err() {
            spawn_refresh(&inner, false); // perhaps another one leads by now
        }
        inner.wake.notify_one();
    });
}

/// Asks who leads what; after a first time in vain with a delay.
fn spawn_refresh<R: Runtime>(inner: &Arc<Inner<R>>, leaderless: bool) {
    let rounds = {
        let mut state = inner.state();
        if state.refreshing || state.dead.is_some() {
            return;
        }
        state.refreshing = true;
        state.leaderless_rounds = if leaderless { state.leaderless_rounds.saturating_add(1) } else { 0 };
        state.leaderless_rounds
    };
    let seen = inner.cluster.with_routes(|routes| routes.generation);
    let inner = inner.clone();
    inner.cluster.runtime().clone().spawn("producer refresh", async move {
        if rounds > 1 {
            let _time_is_endless = inner.cluster.pause(rounds - 1, Mono(u64::MAX)).await;
        }
        let deadline = inner.cluster.request_deadline(Mono(u64::MAX));
        let _unreachable_is_tried_again = inner.cluster.refresh(seen, deadline).await;
        inner.state().refreshing = false;
        inner.wake.notify_one();
    });
}

/// Asks for a producer id until one is given, or the cluster says that it never will be.
fn spawn_identity<R: Runtime>(inner: &Arc<Inner<R>>) {
    {
        let mut state = inner.state();
        if state.asking_identity || state.dead.is_some() {
            return;
        }
        state.asking_identity = true;
    }
    let inner = inner.clone();
    inner.cluster.runtime().clone().spawn("producer identity", async move {
        let mut rounds = 0;
        while inner.state().dead.is_none() {
            match ask_identity(&inner).await {
                Ok(Some(identity)) => {
                    let mut state = inner.state();
                    state.core.set_identity(identity);
                    state.asking_identity = false;
                    break;
                }
                Ok(None) => {}
                Err(cause) => {
                    inner.end(cause);
                    break;
                }
            }
            rounds += 1;
            let _time_is_endless = inner.cluster.pause(rounds, Mono(u64::MAX)).await;
        }
        inner.wake.notify_one();
    });
}

/// `Ok(None)` for what another try may cure.
async fn ask_identity<R: Runtime>(inner: &Inner<R>) -> Result<Option<Identity>, ProduceCause> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        ..InitProducerIdRequest::default()
    };
    let deadline = inner.cluster.request_deadline(Mono(u64::MAX));
    let Ok(connection) = inner.cluster.any(deadline).await else { return Ok(None) };
    let answer = match connection.call(&request, deadline).await {
        Ok(answer) => answer,
        Err(error) if error.is_transient() => return Ok(None),
        Err(error) => return Err(ProduceCause::NoIdentity(error.to_string().into())),
    };
    if answer.error_code.is_none() && answer.producer_id.is_valid() {
        return Ok(Some(Identity { producer: answer.producer_id, epoch: answer.producer_epoch }));
    }
    if answer.error_code.is_retriable() || answer.error_code == ErrorCode::UNKNOWN_SERVER_ERROR {
        return Ok(None);
    }
    Err(ProduceCause::NoIdentity(answer.error_code.to_string().into()))
}
