//! Fetch (1): reads record batches below the watermark, waiting for more if the client wants to.
//!
//! Owns: the way from a request over its session to one or more passes, and to the answer; the wait in between.
//! Promises: an answer comes when min_bytes are there, when something went wrong, or at max_wait, which has an upper
//! bound; a wait ends at once when a partition of it stops serving, the client has closed its side, or the broker begins
//! to stop; the bytes of all answers that are not sent yet are bounded: who waits, for records or for memory, holds none of
//! them, and what was read is kept only under a claim that covers it (a first batch is as large as it is, KIP-74).
//! Leaves out: sessions (`fetch_session`, pure), one partition (`fetch_read`).
//! A follower's fetch does not come here (see `replica::serve`). A reader in another rack is sent to a replica of its own
//! rack that is in sync; a follower answers up to the watermark that it knows (KIP-392). Who comes to the wrong broker is
//! told the right one, where the version can say it (KIP-951).
//!
//! ```text
//!  session ─► claim ─► pass ─► claim too small? all back, claim what was read ─► pass …
//!                        └────► enough? answer : all back, watch every partition ─► moved or deadline ─► claim …
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_storage::{buggify, mark};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, TopicId};
use dejaq_wire::kafka::Records;
use dejaq_wire::kafka::fetch::{
    FetchRequest, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use tokio::sync::Notify;

use super::data_plane::{self, DataPlane, LeaderHint, READ_COMMITTED};
use super::fetch_read::{self, Pass, Reader, told};
use super::fetch_session::{Ask, Key, Plan, SessionError, TopicRef, Wanted};
use crate::runtime::memory::{Claim, MemoryBudget};
use crate::runtime::{Mono, Runtime};
use crate::server::service::Session;

/// First version that names topics by id.
const FIRST_BY_ID: i16 = 13;
/// First version with sessions.
const FIRST_WITH_SESSIONS: i16 = 7;
/// First version of clients that know how to read from followers (KIP-392).
const FIRST_FROM_FOLLOWERS: i16 = 11;

/// Answers one request that was received at `received_at`.
pub async fn answer<R: Runtime>(
    data: &DataPlane<R>,
    session: &Session,
    received_at: Mono,
    version: i16,
    request: FetchRequest,
) -> FetchResponse {
    let terms = Terms {
        session,
        deadline: data.deadline(received_at, request.max_wait_ms),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(data.limits.answer_bytes),
        reader: Reader {
            read_committed: request.isolation_level == READ_COMMITTED,
            from_followers: version >= FIRST_FROM_FOLLOWERS,
            rack: request.rack_id.clone(),
        },
    };
    let ask = ask(version, request);
    let (now, random) = (data.runtime.now(), data.runtime.random_u64());
    let begun = data.sessions().begin(ask, now, random);
    let plan = match begun {
        Ok(plan) => plan,
        Err(why) => return session_failed(why),
    };
    let (pass, claim) = passes(data, &plan, &terms).await;
    let shown: Vec<_> = pass.answers.iter().map(|(key, answer)| (key.clone(), told(answer))).collect();
    let finished = data.sessions().finish(&plan, &shown);
    match finished {
        Ok(is_shown) => respond(data, plan.id, hold(pass.answers, claim), &is_shown),
        Err(why) => session_failed(why),
    }
}

/// What the client wants of the answer as a whole.
struct Terms<'a> {
    session: &'a Session,
    deadline: Mono,
    min_bytes: usize,
    max_bytes: usize,
    reader: Reader,
}

impl Terms<'_> {
    /// `work`, as long as the client waits for it.
    async fn before_the_end<R: Runtime, T: Send>(
        &self,
        runtime: &R,
        work: impl Future<Output = T> + Send,
    ) -> Option<T> {
        let unless_closed = async {
            tokio::select! {
                biased; // the work first: a result that is there is never thrown away
                done = work => Some(done),
                () = self.session.closing() => None,
            }
        };
        runtime.before(self.deadline, unless_closed).await.flatten()
    }
}

fn ask(version: i16, request: FetchRequest) -> Ask {
    let name = |name: String, id: TopicId| {
        if version >= FIRST_BY_ID { TopicRef::Id(id) } else { TopicRef::Name(name.into()) }
    };
    let mut wanted = Vec::new();
    for topic in request.topics {
        let name = name(topic.topic, topic.topic_id);
        for part in topic.partitions {
            let key = Key { topic: name.clone(), partition: part.partition };
            let want = Wanted {
                offset: part.fetch_offset,
                max_bytes: usize::try_from(part.partition_max_bytes).unwrap_or(0),
                current_epoch: part.current_leader_epoch,
                last_epoch: part.last_fetched_epoch,
            };
            wanted.push((key, want));
        }
    }
    let mut forgotten = Vec::new();
    for topic in request.forgotten_topics_data {
        let name = name(topic.topic, topic.topic_id);
        forgotten
            .extend(topic.partitions.into_iter().map(|partition| Key { topic: name.clone(), partition }));
    }
    let epoch = if version >= FIRST_WITH_SESSIONS { request.session_epoch } else { -1 };
    Ask { id: request.session_id, epoch, wanted, forgotten }
}

/// Reads until the terms are met; the claim covers the bytes that were read.
async fn passes<R: Runtime>(data: &DataPlane<R>, plan: &Plan, terms: &Terms<'_>) -> (Pass<R>, Option<Claim>) {
    let (mut least, mut is_last) = (1, false);
    loop {
        let budget = expected_bytes(data, plan, &terms.reader).min(terms.max_bytes);
        let claim = data.answers.claim(budget.max(least));
        let Some(mut claim) = terms.before_the_end(&data.runtime, claim).await else {
            mark!("the memory for answers was used up until the deadline of a fetch");
            return (fetch_read::pass(data, &[], 0, &terms.reader).await, None);
        };
        let mut pass = fetch_read::pass(data, &plan.wanted, budget, &terms.reader).await;
        if !is_covered(&data.answers, &mut claim, pass.bytes) {
            mark!("a fetch gives back a batch that the memory for answers has no room for");
            // All goes back before the next claim is waited for: who held a part would keep others from theirs.
            least = pass.bytes;
            continue;
        }
        let is_enough = pass.bytes >= terms.min_bytes
            || pass.is_urgent
            || pass.seen.is_empty()
            || buggify!("a fetch is answered before it has enough", 100);
        if is_enough || is_last {
            let claim = claim.split(pass.bytes);
            return (pass, Some(claim));
        }
        // Who waits gives back what he read and reads it again, so that asking for more than there is holds no memory.
        drop(claim);
        let is_empty = pass.bytes == 0;
        if !is_empty {
            pass.answers.clear();
        }
        is_last = !wait(data, &pass, terms).await;
        if is_last && is_empty {
            return (pass, None);
        }
    }
}

/// Makes `claim` cover `bytes`, if what it lacks is free now. More than there is at all counts as covered by all of it.
fn is_covered(answers: &MemoryBudget, claim: &mut Claim, bytes: usize) -> bool {
    let lacking = bytes.min(answers.most()).saturating_sub(claim.bytes());
    if lacking == 0 {
        return true;
    }
    let more = answers.try_claim(lacking);
    more.map(|more| claim.join(more)).is_some()
}

/// Bytes that a pass may read now: nothing of a partition that has nothing new.
fn expected_bytes<R: Runtime>(data: &DataPlane<R>, plan: &Plan, reader: &Reader) -> usize {
    let table = data.directory.table();
    let of_one = |(key, want): &(Key, Wanted)| {
        let found =
            data_plane::readable(&table, &key.topic, key.partition, LeaderEpoch::NONE, reader.from_followers);
        let Ok(partition) = found else { return 0 };
        let view = partition.view();
        let end = if reader.read_committed { view.stable_end() } else { view.watermark() };
        if want.offset >= end {
            return 0;
        }
        usize::try_from(view.reader().size_bytes()).map_or(want.max_bytes, |size| size.min(want.max_bytes))
    };
    plan.wanted.iter().map(of_one).fold(0, usize::saturating_add)
}

/// Waits until one of the partitions has more; false if the deadline or the end of the client came first.
async fn wait<R: Runtime>(data: &DataPlane<R>, pass: &Pass<R>, terms: &Terms<'_>) -> bool {
    if data.runtime.now() >= terms.deadline || terms.session.is_closing() {
        return false;
    }
    let waiter = Arc::new(Notify::new());
    let mut has_moved = false;
    for (partition, seen) in &pass.seen {
        has_moved |= partition.view().watch(&waiter, *seen);
    }
    if data.directory.waits_no_more() {
        return false; // asked after the waiter was listed, so that the last wake is not missed
    }
    has_moved || terms.before_the_end(&data.runtime, waiter.notified()).await.is_some()
}

/// Ties the claim to the first records, so that it lasts until they are sent.
fn hold(mut answers: Vec<(Key, PartitionData)>, claim: Option<Claim>) -> Vec<(Key, PartitionData)> {
    let records = answers.iter_mut().filter_map(|(_, answer)| answer.records.as_mut());
    if let (Some(claim), Some(first)) = (claim, records.into_iter().find(|records| !records.is_empty())) {
        let bytes = std::mem::take(first).into_bytes();
        *first = Records::from(claim.hold(bytes));
    }
    answers
}

/// The answer: what is shown, topic by topic as the partitions follow each other.
fn respond<R: Runtime>(
    data: &DataPlane<R>,
    session_id: i32,
    answers: Vec<(Key, PartitionData)>,
    is_shown: &[bool],
) -> FetchResponse {
    assert_eq!(answers.len(), is_shown.len(), "one word about every partition");
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    let mut last: Option<TopicRef> = None;
    let mut leaders = BTreeMap::new();
    for ((key, mut answer), _) in answers.into_iter().zip(is_shown).filter(|(_, is_shown)| **is_shown) {
        if data_plane::tells_leader(answer.error_code)
            && let Some(hint) = data_plane::leader_hint(&data.directory.image(), &key.topic, key.partition)
        {
            answer.current_leader = LeaderIdAndEpoch { leader_id: hint.leader, leader_epoch: hint.epoch };
            leaders.insert(hint.leader, hint);
        }
        if last.as_ref() != Some(&key.topic) {
            let (topic, topic_id) = match &key.topic {
                TopicRef::Name(name) => (name.to_string(), TopicId::ZERO),
                TopicRef::Id(id) => (String::new(), *id),
            };
            responses.push(FetchableTopicResponse { topic, topic_id, partitions: Vec::new() });
            last = Some(key.topic);
        }
        responses.last_mut().expect("just pushed if it was missing").partitions.push(answer);
    }
    let endpoint = |hint: LeaderHint| NodeEndpoint {
        node_id: hint.leader,
        host: hint.host,
        port: i32::from(hint.port),
        rack: hint.rack,
    };
    let node_endpoints = leaders.into_values().map(endpoint).collect();
    FetchResponse { session_id, responses, node_endpoints, ..Default::default() }
}

fn session_failed(why: SessionError) -> FetchResponse {
    let error_code = match why {
        SessionError::NotFound => ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
        SessionError::WrongEpoch => ErrorCode::INVALID_FETCH_SESSION_EPOCH,
        SessionError::MixedTopics => ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR,
    };
    FetchResponse { error_code, ..Default::default() }
}
