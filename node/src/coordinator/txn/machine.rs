//! Transactions as a shard drives them: the way between its words and theirs.

use std::sync::Arc;

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::LeaderEpoch;
use dejaq_wire::record::control::EndTxnMarker;

use super::ask::{Ask, At, Effect, Errand, Event, Reply, coordinator_epoch};
use super::record::Record;
use super::txns::{Loading, Settings, Txns};
use crate::coordinator::home::TRANSACTIONS_TOPIC;
use crate::coordinator::machine::{Batch, Counts, Machine, Now, Ticket, Todo, Token, Who};
use crate::metadata::Image;
use crate::runtime::Mono;

/// A marker that is to be brought into partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// To report by.
    pub errand: Errand,
    /// What.
    pub marker: EndTxnMarker,
    /// Where.
    pub partitions: Vec<At>,
}

fn take(effects: Vec<Effect>, todo: &mut Vec<Todo<Txns>>) {
    todo.extend(effects.into_iter().map(|effect| match effect {
        Effect::Reply { token, reply } => Todo::Reply(token, reply),
        Effect::Write { ticket, record } => Todo::Write(ticket, Batch::Plain(vec![record.encode()])),
        Effect::Mark { errand, marker, partitions } => Todo::Errand(Delivery { errand, marker, partitions }),
    }));
}

impl Txns {
    fn take(&mut self, event: Event, now: Now, todo: &mut Vec<Todo<Txns>>) {
        let mut effects = Vec::new();
        self.step(event, now, &mut effects);
        take(effects, todo);
    }
}

impl Machine for Txns {
    const TOPIC: &'static str = TRANSACTIONS_TOPIC;
    const TASK: &'static str = "txn-coordinator";
    type Settings = Settings;
    /// About which transactional id.
    type Ask = (Arc<str>, Ask);
    type Reply = Reply;
    /// A marker is where it belongs.
    type News = (Errand, At);
    type Errand = Delivery;
    type Loading = Loading;

    fn replay(
        loading: &mut Loading,
        _: Option<Who>,
        key: &Bytes,
        value: Option<&Bytes>,
    ) -> Result<(), String> {
        let record = Record::decode(key, value.map(|value| &value[..])).map_err(|error| error.to_string())?;
        record.into_iter().for_each(|record| loading.replay(record));
        Ok(())
    }

    fn replay_marker(_: &mut Loading, _: &EndTxnMarker) {}

    fn begin(
        loading: Loading,
        settings: Settings,
        epoch: LeaderEpoch,
        now: Now,
        todo: &mut Vec<Todo<Txns>>,
    ) -> Txns {
        let mut effects = Vec::new();
        let txns = loading.finish(settings, coordinator_epoch(epoch), now, &mut effects);
        take(effects, todo);
        txns
    }

    fn see(&mut self, _: Arc<Image>) {}

    fn asked(&mut self, token: Token, (id, ask): (Arc<str>, Ask), now: Now, todo: &mut Vec<Todo<Txns>>) {
        self.take(Event::Asked { token, id, ask }, now, todo);
    }

    fn written(
        &mut self,
        ticket: Ticket,
        result: Result<(), ErrorCode>,
        now: Now,
        todo: &mut Vec<Todo<Txns>>,
    ) {
        self.take(Event::Written { ticket, result }, now, todo);
    }

    fn heard(&mut self, (errand, at): (Errand, At), now: Now, todo: &mut Vec<Todo<Txns>>) {
        self.take(Event::Marked { errand, at }, now, todo);
    }

    fn tick(&mut self, now: Now, todo: &mut Vec<Todo<Txns>>) {
        self.take(Event::Tick, now, todo);
    }

    fn next_deadline(&self) -> Mono {
        Txns::next_deadline(self)
    }

    fn counts(&self) -> Counts {
        Counts { held: self.len() as u64, active: self.open() as u64, turns: self.timed_out() }
    }

    fn deleted(_: &[Arc<str>]) -> Option<(Errand, At)> {
        None // who brings the markers finds out
    }
}
