//! SHELL. Keeps the in-sync sets of the partitions that this node leads: proposes, asks the controller, tells the leaders.
//!
//! Owns: which proposals were asked when. Promises: one proposal a partition at a time, asked again until the metadata
//! answers it; what is proposed is counted from before it is asked (REP-4); a set that could grow is looked at at once,
//! one that should shrink within a quarter of the allowed lag.
//! Leaves out: who should be in it (`isr`), deciding (the controller). One task a node.
//!
//! ```text
//!  tick, may grow ─► propose (counts from now on) ─► ask ─► taken: the metadata will say │ refused │ unsure: again
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::peer::replica::Place;

use super::directory::Directory;
use super::isr::Proposal;
use super::links::{Answer, Links};
use crate::runtime::{Mono, Runtime};

/// A proposal is not asked again before.
const AGAIN: Duration = Duration::from_millis(500);
/// Proposals in one question.
const AT_ONCE: usize = 10_000;

/// Runs until the directory stops.
pub(super) async fn run<R: Runtime>(directory: Arc<Directory<R>>, links: Arc<Links>) {
    let tick = (links.lag / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let runtime = directory.runtime.clone();
    let mut next_tick = runtime.now().plus(tick);
    let mut asked: BTreeMap<Place, (Proposal, Mono)> = BTreeMap::new();
    while !directory.is_stopping() {
        if directory.hub.leads_any() {
            runtime.before(next_tick, directory.hub.growing()).await;
        } else {
            directory.hub.growing().await; // a node that leads nobody is not woken
        }
        let now = runtime.now();
        let mut places = directory.hub.take_growing();
        if now >= next_tick {
            next_tick = now.plus(tick);
            places = directory.hub.led();
            asked.retain(|_, (_, at)| now.since(*at) < AGAIN);
        }
        let lives = directory.hub.lives();
        let mut proposals = Vec::new();
        for place in places {
            let Some(partition) = directory.partition(place) else { continue };
            let Some(proposal) = partition.propose(now, links.lag, &lives) else { continue };
            let is_asked =
                asked.get(&place).is_some_and(|(last, at)| *last == proposal && now.since(*at) < AGAIN);
            if !is_asked && proposals.len() < AT_ONCE {
                proposals.push((place, proposal));
            }
        }
        if proposals.is_empty() {
            continue;
        }
        let answers = links.controller.propose(proposals.clone()).await;
        let now = runtime.now();
        for ((place, proposal), answer) in proposals.into_iter().zip(answers) {
            settle(&directory, place, &proposal, answer, now);
            asked.insert(place, (proposal, now));
        }
    }
}

fn settle<R: Runtime>(
    directory: &Directory<R>,
    place: Place,
    proposal: &Proposal,
    answer: Answer,
    now: Mono,
) {
    let Some(partition) = directory.partition(place) else { return };
    let name = partition.name();
    match answer {
        Answer::Taken => {
            let isr: Vec<i32> = proposal.isr.iter().map(|(broker, _)| broker.0).collect();
            tracing::info!(partition = name, ?isr, shrinks = proposal.shrinks, "another in-sync set");
        }
        Answer::Unchanged => partition.proposal_failed(proposal, true, now),
        Answer::Unsure => {
            mark!("a proposal of an in-sync set got no answer");
            partition.proposal_failed(proposal, false, now);
        }
        // Others than the active controller, and the metadata that is under way, do not answer the question.
        Answer::Refused(
            ErrorCode::NOT_CONTROLLER
            | ErrorCode::FENCED_LEADER_EPOCH
            | ErrorCode::INVALID_UPDATE_VERSION
            | ErrorCode::STALE_BROKER_EPOCH,
        ) => mark!("a proposal of an in-sync set was made on an old state"),
        Answer::Refused(code) => {
            tracing::warn!(partition = name, ?code, "the in-sync set stays as it is");
            partition.proposal_failed(proposal, true, now);
        }
    }
}
