//! Produce (0): appends the batches of all Produce requests of one turn, then answers each when it is safe.
//!
//! Owns: the way of a request from bytes to writes and from outcomes to its answer; the one mapping of write errors to
//! Kafka's codes. Promises: batches for one partition reach it in the order of the requests, in one call; acks=all is
//! answered after the watermark passed (with `acks.required`, after so many have it; with NOT_ENOUGH_REPLICAS_AFTER_APPEND when
//! too few are in sync by then), or with REQUEST_TIMED_OUT at its deadline; acks=0 is never answered, and an
//! error of it closes the connection.
//! Leaves out: rules about batches (`produce_check`), what batches of transactions wait for (`produce_txn`), when a write is safe (`replica::leader`).
//!
//! ```text
//!  requests ─► admit each batch (or pause) ─► writes by partition ─► Partition::write ─► all outcomes there? answer : wait
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::vec;

use dejaq_storage::{AppendError, buggify, mark};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{CorrelationId, LeaderEpoch, Offset, PartitionId, TopicId};
use dejaq_wire::kafka::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData,
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData, TopicProduceResponse,
};
use tokio::sync::oneshot;

use super::claims::{Bodies, Decoded};
use super::data_plane::{self, DataPlane, LeaderHint, Refusal};
use super::fetch_session::TopicRef;
use super::produce_check::{BadBatch, admit};
use super::produce_pace::{Pace, Pause};
use super::produce_txn::Claim;
use super::reply;
use crate::coordinator::transactions::Transactions;
use crate::metadata::image::is_internal;
use crate::replica::leader::{Refused, Required};
use crate::replica::write::{Outcome, Write, WriteError};
use crate::replica::{Partition, Table};
use crate::runtime::{Mono, Runtime, memory};
use crate::server::service::{Reply, Request, Started, Starting};

/// First version that names topics by id.
const FIRST_BY_ID: i16 = 13;

/// Starts Produce requests that came in one turn, in order; as many results in that order.
///
/// Dropped before it is done, nothing of them was begun: all batches are checked, then all are handed over.
pub fn start<R: Runtime>(
    data: &Arc<DataPlane<R>>,
    transactions: &Arc<Transactions<R>>,
    requests: Vec<Request>,
) -> Starting {
    let mut turn = Turn::new(requests);
    let Some(pause) = turn.go_on(data, false) else {
        return Starting::Done(turn.finish(data, transactions));
    };
    let (data, transactions) = (data.clone(), transactions.clone());
    Starting::Later(Box::pin(async move {
        turn.go_on_later(&data, pause).await;
        turn.finish(&data, &transactions)
    }))
}

/// The requests of one turn while their batches are looked at, one after the other.
struct Turn<R: Runtime> {
    requests: vec::IntoIter<Request>,
    bodies: Bodies<ProduceRequest>,
    pace: Pace,
    /// The request at hand, if it has to wait in between.
    checking: Option<Checking<R>>,
    checked: Vec<Result<Checked<R>, Reply>>,
}

impl<R: Runtime> Turn<R> {
    fn new(requests: Vec<Request>) -> Turn<R> {
        let bodies = Bodies::of(requests.iter().map(|request| (request.version, &request.body)));
        let checked = Vec::with_capacity(requests.len());
        Turn { requests: requests.into_iter(), bodies, pace: Pace::new(), checking: None, checked }
    }

    /// Looks at what is left, up to where it has to wait, or only at the batch at hand if it has the permit to do so `alone`.
    fn go_on(&mut self, data: &DataPlane<R>, alone: bool) -> Option<Pause> {
        if self.bodies.wants_claim() {
            return Some(Pause::Memory);
        }
        let table = data.directory.table();
        let now = Now { table: &table, ms: data.runtime.unix_ms() };
        loop {
            let mut checking = match self.checking.take() {
                Some(checking) => checking,
                None if self.requests.len() == 0 => return None,
                None if self.pace.is_spent() => return Some(Pause::Share),
                None => {
                    let (request, body) = (self.requests.next()?, self.bodies.next()?);
                    match body {
                        Ok(body) => Checking::new(data, request, body, &mut self.pace),
                        Err(close) => {
                            self.checked.push(Err(close));
                            continue;
                        }
                    }
                }
            };
            if let Some(pause) = checking.go_on(&now, &mut self.pace, alone) {
                self.checking = Some(checking);
                return Some(pause);
            }
            self.checked.push(Ok(checking.checked));
        }
    }

    /// Looks at all that is left, beginning with a wait.
    async fn go_on_later(&mut self, data: &DataPlane<R>, pause: Pause) {
        let mut next = Some(pause);
        while let Some(pause) = next {
            next = match pause {
                Pause::Memory => {
                    self.bodies.claim(data).await;
                    self.go_on(data, false)
                }
                Pause::Share => {
                    mark!("a turn of produce requests lets others go first");
                    tokio::task::yield_now().await;
                    self.pace.renew();
                    self.go_on(data, false)
                }
                Pause::Alone => {
                    mark!("a batch unpacks to so much that it does so alone");
                    tokio::task::yield_now().await; // nothing is waited for with the permit
                    let _alone = data.unpacking.acquire().await.expect("the semaphore is never closed");
                    self.go_on(data, true)
                }
            };
        }
    }

    /// Hands over what was looked at.
    fn finish(self, data: &Arc<DataPlane<R>>, transactions: &Arc<Transactions<R>>) -> Vec<Started> {
        let mut going = Going { writes: Writes::new(), claims: Vec::new() };
        let checked = self.checked.into_iter();
        let answers: Vec<_> = checked.map(|checked| Ok(checked?.go(data, &mut going))).collect();
        for (partition, writes) in going.writes.into_values() {
            partition.write(writes);
        }
        for claim in going.claims {
            // Others may wait behind it, so that it must not end with its connection.
            data.runtime.spawn("vouch", data.vouching.clone().settle(transactions.clone(), claim));
        }
        let finish = |answer: Result<Answer, Reply>| match answer {
            Err(close) => Started::Done(close),
            Ok(answer) => answer.finish(data),
        };
        answers.into_iter().map(finish).collect()
    }
}

/// Writes of one turn by partition, in the order of the requests.
type Writes<R> = BTreeMap<(TopicId, PartitionId), (Arc<Partition<R>>, Vec<Write>)>;

/// What the requests of one turn bring.
struct Going<R: Runtime> {
    writes: Writes<R>,
    claims: Vec<Claim<R>>,
}

impl<R: Runtime> Going<R> {
    fn add(
        &mut self,
        data: &DataPlane<R>,
        of: (Option<&str>, i16),
        partition: Arc<Partition<R>>,
        write: Write,
    ) {
        let write = match write.batch.header().is_transactional() {
            false => Some(write),
            true => data.vouching.take(of, &partition, write, &mut self.claims),
        };
        let Some(write) = write else { return };
        let identity = partition.identity();
        let key = (identity.topic_id, identity.partition);
        self.writes.entry(key).or_insert_with(|| (partition, Vec::new())).1.push(write);
    }
}

/// One request whose batches were looked at, and nothing else.
struct Checked<R: Runtime> {
    answer: Answer,
    transactional_id: Option<String>,
    /// What goes on, in the order of the request.
    batches: Vec<(Arc<Partition<R>>, Write)>,
}

/// The answer to one request, growing.
struct Answer {
    request: About,
    /// On the memory that it takes, if that is not little.
    claim: Option<memory::Claim>,
    /// 0, 1 or -1; anything else is refused partition by partition.
    acks: i16,
    deadline: Mono,
    topics: Vec<TopicAnswer>,
}

#[derive(Clone, Copy)]
struct About {
    version: i16,
    correlation_id: CorrelationId,
}

struct TopicAnswer {
    topic: TopicRef,
    partitions: Vec<(PartitionId, State)>,
}

enum State {
    Refused(BadBatch, Offset),
    Waiting { outcome: oneshot::Receiver<Outcome>, seen: Seen },
    Settled { outcome: Outcome, seen: Seen },
}

/// What is known of a batch when it is handed to its partition.
#[derive(Clone, Copy)]
struct Seen {
    /// The time that the topic gave its records.
    append_time_ms: Option<i64>,
    /// Where the log starts, for a refusal that tells it.
    log_start: Offset,
}

/// One request while its batches are looked at.
struct Checking<R: Runtime> {
    checked: Checked<R>,
    required: Result<Required, BadBatch>,
    twice: Twice,
    topics: vec::IntoIter<TopicProduceData>,
    /// The topic at hand, and what is left of it.
    topic: (TopicId, String),
    parts: vec::IntoIter<PartitionProduceData>,
}

impl<R: Runtime> Checking<R> {
    fn new(
        data: &DataPlane<R>,
        request: Request,
        (body, claim): Decoded<ProduceRequest>,
        pace: &mut Pace,
    ) -> Checking<R> {
        pace.begin(request.body.len());
        let answer = Answer {
            request: About { version: request.version, correlation_id: request.correlation_id },
            claim,
            acks: body.acks,
            deadline: data.deadline(request.received_at, body.timeout_ms),
            topics: Vec::with_capacity(body.topic_data.len()),
        };
        let count = body.topic_data.iter().map(|topic| topic.partition_data.len()).sum();
        let batches = Vec::with_capacity(count);
        Checking {
            checked: Checked { answer, transactional_id: body.transactional_id, batches },
            required: required(body.acks),
            twice: named_twice(&body.topic_data),
            topics: body.topic_data.into_iter(),
            topic: (TopicId::ZERO, String::new()),
            parts: Vec::new().into_iter(),
        }
    }

    /// As [`Turn::go_on`].
    fn go_on(&mut self, now: &Now<'_, R>, pace: &mut Pace, alone: bool) -> Option<Pause> {
        loop {
            let Some(part) = self.parts.as_slice().first() else {
                let topic = self.topics.next()?;
                self.begin(topic);
                continue;
            };
            if !alone {
                if pace.is_spent() {
                    return Some(Pause::Share);
                }
                pace.next();
            }
            let (index, version) = (part.index, self.checked.answer.request.version);
            let topic = self.checked.answer.topics.last_mut().expect("a topic is at hand");
            let placed = match self.twice.get(&self.topic).is_some_and(|indexes| indexes.contains(&index)) {
                true => Err(NotPlaced::Refused(asked_twice(index), Offset::NONE)),
                false => place(now, (&topic.topic, part), (version, &self.required), (pace, alone)),
            };
            let state = match placed {
                Ok(placed) => {
                    self.checked.batches.push((placed.partition, placed.write));
                    State::Waiting { outcome: placed.outcome, seen: placed.seen }
                }
                Err(NotPlaced::Refused(bad, log_start)) => State::Refused(bad, log_start),
                Err(NotPlaced::Paused(pause)) => return Some(pause),
            };
            topic.partitions.push((index, state));
            self.parts.next();
            if alone {
                return Some(Pause::Share); // others have the permit, whatever became of the batch
            }
        }
    }

    fn begin(&mut self, topic: TopicProduceData) {
        self.topic = (topic.topic_id, topic.name);
        let name = if self.checked.answer.request.version >= FIRST_BY_ID {
            TopicRef::Id(self.topic.0)
        } else {
            TopicRef::Name(self.topic.1.as_str().into())
        };
        let partitions = Vec::with_capacity(topic.partition_data.len());
        self.checked.answer.topics.push(TopicAnswer { topic: name, partitions });
        self.parts = topic.partition_data.into_iter();
    }
}

impl<R: Runtime> Checked<R> {
    /// Adds its batches to `going`.
    fn go(self, data: &DataPlane<R>, going: &mut Going<R>) -> Answer {
        let of = (self.transactional_id.as_deref(), self.answer.request.version);
        for (partition, write) in self.batches {
            going.add(data, of, partition, write);
        }
        self.answer
    }
}

impl Answer {
    /// Answers at once if every outcome is there.
    fn finish<R: Runtime>(mut self, data: &Arc<DataPlane<R>>) -> Started {
        if self.take_outcomes() {
            return Started::Done(self.into_reply(data));
        }
        let data = data.clone();
        Started::Later(Box::pin(async move {
            self.wait(&data.runtime).await;
            self.into_reply(&data)
        }))
    }

    /// Takes the outcomes that are there; whether that is all of them.
    fn take_outcomes(&mut self) -> bool {
        let mut is_all = true;
        for state in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions).map(|(_, state)| state) {
            let State::Waiting { outcome, seen } = state else { continue };
            match outcome.try_recv() {
                Ok(outcome) => *state = State::Settled { outcome, seen: *seen },
                // A dropped sender is the end of the node: the reply goes nowhere.
                Err(oneshot::error::TryRecvError::Empty | oneshot::error::TryRecvError::Closed) => {
                    is_all = false
                }
            }
        }
        is_all
    }

    /// Waits for the outcomes that are not there yet, until the deadline.
    async fn wait<R: Runtime>(&mut self, runtime: &R) {
        let states = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions).map(|(_, state)| state);
        let all = async {
            for state in states {
                let State::Waiting { outcome, seen } = state else { continue };
                if let Ok(outcome) = outcome.await {
                    *state = State::Settled { outcome, seen: *seen };
                }
            }
        };
        if runtime.before(self.deadline, all).await.is_none() {
            mark!("a produce request timed out");
            self.take_outcomes(); // the first that is late must not hide those behind it
        }
    }

    fn into_reply<R: Runtime>(self, data: &DataPlane<R>) -> Reply {
        let About { version, correlation_id } = self.request;
        let (acks, claim) = (self.acks, self.claim);
        let mut leaders = BTreeMap::new();
        let mut responses = Vec::with_capacity(self.topics.len());
        for topic in self.topics {
            let name = topic.topic.clone();
            let mut response = topic.into_response();
            for part in &mut response.partition_responses {
                if data_plane::tells_leader(part.error_code)
                    && let Some(hint) = data_plane::leader_hint(&data.directory.image(), &name, part.index)
                {
                    let (leader_id, leader_epoch) = (hint.leader, hint.epoch);
                    part.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
                    leaders.insert(leader_id, hint);
                }
            }
            responses.push(response);
        }
        let endpoint = |hint: LeaderHint| NodeEndpoint {
            node_id: hint.leader,
            host: hint.host,
            port: i32::from(hint.port),
            rack: hint.rack,
        };
        let node_endpoints = leaders.into_values().map(endpoint).collect();
        let response = ProduceResponse { responses, node_endpoints, ..Default::default() };
        if acks != 0 {
            return reply::held(reply::frame(version, correlation_id, &response), claim);
        }
        let mut parts = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        // What was appended before is no failure.
        let failed = |code: ErrorCode| code.is_error() && code != ErrorCode::DUPLICATE_SEQUENCE_NUMBER;
        match parts.find(|part| failed(part.error_code)) {
            None => Reply::Nothing,
            Some(part) => {
                let why = part.error_message.as_deref().unwrap_or_default();
                Reply::Close(format!("produce with acks=0 failed: {:?} {why}", part.error_code))
            }
        }
    }
}

/// What the producer demands.
fn required(acks: i16) -> Result<Required, BadBatch> {
    match acks {
        0 | 1 => Ok(Required::Leader),
        -1 => Ok(Required::Client),
        _ => Err(refused(Refusal::new(
            ErrorCode::INVALID_REQUIRED_ACKS,
            format!("acks={acks} is not -1, 0 or 1"),
        ))),
    }
}

/// What a transaction commits must all be there, whoever leads at its end.
fn whole(required: Required, is_transactional: bool) -> Required {
    match required {
        Required::Client if is_transactional => Required::All,
        Required::Client | Required::All | Required::Leader => required,
    }
}

struct Placed<R: Runtime> {
    partition: Arc<Partition<R>>,
    write: Write,
    outcome: oneshot::Receiver<Outcome>,
    seen: Seen,
}

/// What holds until the next pause.
struct Now<'a, R: Runtime> {
    table: &'a Table<R>,
    ms: i64,
}

/// The partitions that a request names more than once, by topic.
type Twice = BTreeMap<(TopicId, String), BTreeSet<PartitionId>>;

/// Two answers for one partition could contradict each other, and a client that keeps one of them would take a lost batch
/// for a written one, so that both batches are refused. (Kafka writes the last of them and forgets the others.)
fn named_twice(topics: &[TopicProduceData]) -> Twice {
    let mut twice = Twice::new();
    if matches!(topics, [topic] if topic.partition_data.len() == 1) {
        return twice;
    }
    let mut seen = BTreeSet::new();
    for topic in topics {
        for part in &topic.partition_data {
            if !seen.insert((topic.topic_id, topic.name.as_str(), part.index)) {
                twice.entry((topic.topic_id, topic.name.clone())).or_default().insert(part.index);
            }
        }
    }
    twice
}

fn asked_twice(index: PartitionId) -> BadBatch {
    let message = format!("the request has two batches for partition {}: send one in each request", index.0);
    refused(Refusal::new(ErrorCode::INVALID_REQUEST, message))
}

/// Why a batch is not placed.
enum NotPlaced {
    /// With where the log starts, if the answer tells it.
    Refused(BadBatch, Offset),
    /// It is to be placed again after this.
    Paused(Pause),
}

/// Finds the partition and checks the batch for it.
fn place<R: Runtime>(
    Now { table, ms }: &Now<'_, R>,
    (topic, part): (&TopicRef, &PartitionProduceData),
    (version, required): (i16, &Result<Required, BadBatch>),
    (pace, alone): (&mut Pace, bool),
) -> Result<Placed<R>, NotPlaced> {
    let nowhere = |bad: BadBatch| NotPlaced::Refused(bad, Offset::NONE);
    let required = required.clone().map_err(nowhere)?;
    let unknown = |code: ErrorCode| nowhere(refused(code.into()));
    let entry = data_plane::topic(table, topic).map_err(unknown)?;
    if is_internal(&entry.name) {
        let message = format!("{} is written by brokers only", entry.name);
        return Err(nowhere(refused(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message))));
    }
    let partition = data_plane::partition(table, topic, part.index).map_err(unknown)?.clone();
    if buggify!("a batch is refused as if too many waited", 20) {
        return Err(unknown(ErrorCode::REQUEST_TIMED_OUT));
    }
    let log_start = partition.view().reader().start();
    let look = |most| admit(part.records.clone(), version, &entry.config, *ms, most);
    let admitted = pace.admit(alone, look).map_err(NotPlaced::Paused)?.map_err(|bad| {
        let told = if bad.tells_start { log_start } else { Offset::NONE };
        NotPlaced::Refused(bad, told)
    })?;
    let (sender, outcome) = oneshot::channel();
    let required = whole(required, admitted.batch.header().is_transactional());
    let write = Write { batch: admitted.batch, required, only_in: LeaderEpoch::NONE, outcome: sender };
    let seen = Seen { append_time_ms: admitted.append_time_ms, log_start };
    Ok(Placed { partition, write, outcome, seen })
}

/// A refusal of the request, and not of a record in the batch.
pub(super) fn refused(refusal: Refusal) -> BadBatch {
    BadBatch { refusal, record: None, tells_start: false }
}

impl TopicAnswer {
    fn into_response(self) -> TopicProduceResponse {
        let parts = self.partitions.into_iter();
        let partition_responses =
            parts.map(|(index, state)| state.into_response(index, &self.topic)).collect();
        let (name, topic_id) = match self.topic {
            TopicRef::Name(name) => (String::from(&*name), TopicId::ZERO),
            TopicRef::Id(id) => (String::new(), id),
        };
        TopicProduceResponse { name, topic_id, partition_responses }
    }
}

impl State {
    fn into_response(self, index: PartitionId, topic: &TopicRef) -> PartitionProduceResponse {
        let (outcome, seen) = match self {
            State::Refused(bad, log_start) => return refusal_response(index, bad, log_start),
            State::Waiting { .. } => {
                let late = refused(ErrorCode::REQUEST_TIMED_OUT.into());
                return refusal_response(index, late, Offset::NONE);
            }
            State::Settled { outcome, seen } => (outcome, seen),
        };
        match outcome {
            Ok(written) if !written.base.is_valid() => {
                let told = "the batch was appended before; its offset is not remembered any more";
                let known = Refusal::new(ErrorCode::DUPLICATE_SEQUENCE_NUMBER, told);
                refusal_response(index, refused(known), written.log_start)
            }
            Ok(written) => PartitionProduceResponse {
                index,
                base_offset: written.base,
                log_append_time_ms: seen.append_time_ms.unwrap_or(-1),
                log_start_offset: written.log_start,
                ..Default::default()
            },
            Err(why) => {
                let log_start = if is_of_sequence(&why) { seen.log_start } else { Offset::NONE };
                let refusal = Refusal::new(code_of(&why, topic), why.to_string());
                refusal_response(index, refused(refusal), log_start)
            }
        }
    }
}

fn refusal_response(index: PartitionId, bad: BadBatch, log_start: Offset) -> PartitionProduceResponse {
    let record_errors = bad.record.map(|batch_index| BatchIndexAndErrorMessage {
        batch_index,
        batch_index_error_message: bad.refusal.message.clone(),
    });
    PartitionProduceResponse {
        index,
        error_code: bad.refusal.code,
        base_offset: Offset::NONE,
        log_start_offset: log_start,
        record_errors: record_errors.into_iter().collect(),
        error_message: bad.refusal.message,
        ..Default::default()
    }
}

/// Whether the log refused the batch for its place in its producer's row: a producer compares the log's start with
/// what was acknowledged to it before, to tell records that retention took from records that were lost.
fn is_of_sequence(error: &WriteError) -> bool {
    matches!(
        error,
        WriteError::Append(AppendError::StaleProducer { .. } | AppendError::OutOfOrderSequence { .. })
    )
}

/// What a failed write is answered with.
fn code_of(error: &WriteError, topic: &TopicRef) -> ErrorCode {
    match error {
        WriteError::Refused(Refused::NotEnoughReplicas) => ErrorCode::NOT_ENOUGH_REPLICAS,
        WriteError::TooFew => ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        // Nothing was appended; a producer waits and tries again, as it does after a timeout.
        WriteError::Refused(Refused::Overloaded) => ErrorCode::REQUEST_TIMED_OUT,
        WriteError::Refused(Refused::Resigned(why)) | WriteError::Abandoned(why) => {
            data_plane::stopped(*why, topic)
        }
        WriteError::NotVouched(code) => *code,
        WriteError::Append(error) => match error {
            AppendError::Sealed | AppendError::Io(_) | AppendError::DiskFull => {
                ErrorCode::KAFKA_STORAGE_ERROR
            }
            AppendError::FencedEpoch { .. } | AppendError::Busy => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            AppendError::StaleProducer { .. } => ErrorCode::INVALID_PRODUCER_EPOCH,
            AppendError::OutOfOrderSequence { .. } => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            AppendError::NotInTransaction | AppendError::NotVerified => ErrorCode::INVALID_TXN_STATE,
            AppendError::StaleCoordinator { .. } => ErrorCode::TRANSACTION_COORDINATOR_FENCED, // markers only
            AppendError::TooManyProducers => ErrorCode::REQUEST_TIMED_OUT,
            AppendError::TooLarge => ErrorCode::RECORD_LIST_TOO_LARGE,
            AppendError::NotNext { .. } => ErrorCode::UNKNOWN_SERVER_ERROR, // followers only
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_waits_for_all_in_sync_whatever_the_topic_asks_for() {
        assert_eq!(whole(Required::Client, true), Required::All);
        assert_eq!(whole(Required::Client, false), Required::Client);
        assert_eq!(whole(Required::Leader, true), Required::Leader);
    }
}
