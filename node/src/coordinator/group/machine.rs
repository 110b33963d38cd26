//! Groups as a shard drives them: the way between its words and theirs.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::LeaderEpoch;
use dejaq_wire::record::control::EndTxnMarker;

use super::ask::{Ask, Effect, Event, Reply};
use super::load::Loading;
use super::{Groups, Settings};
use crate::coordinator::home::OFFSETS_TOPIC;
use crate::coordinator::machine::{Batch, Counts, KeyValue, Machine, Now, Ticket, Todo, Token, Who};
use crate::coordinator::record::Record;
use crate::metadata::Image;
use crate::runtime::Mono;

impl Groups {
    fn take(&mut self, event: Event, now: Now, todo: &mut Vec<Todo<Groups>>) {
        let mut effects = Vec::new();
        self.step(event, now, &mut effects);
        todo.extend(effects.into_iter().map(|effect| match effect {
            Effect::Reply { token, reply } => Todo::Reply(token, reply),
            Effect::Write { ticket, records } => Todo::Write(ticket, Batch::Plain(encode(&records))),
            Effect::WriteInTxn { ticket, who, guard, records } => {
                Todo::Write(ticket, Batch::InTxn(who, guard, encode(&records)))
            }
            Effect::WriteMarker { ticket, marker } => Todo::Write(ticket, Batch::Marker(marker)),
        }));
    }
}

fn encode(records: &[Record]) -> Vec<KeyValue> {
    records.iter().map(Record::encode).collect()
}

impl Machine for Groups {
    const TOPIC: &'static str = OFFSETS_TOPIC;
    const TASK: &'static str = "coordinator";
    type Settings = Settings;
    type Ask = Ask;
    type Reply = Reply;
    /// Topics that are deleted.
    type News = Vec<Arc<str>>;
    type Errand = Infallible;
    type Loading = Loading;

    fn replay(
        loading: &mut Loading,
        of: Option<Who>,
        key: &Bytes,
        value: Option<&Bytes>,
    ) -> Result<(), String> {
        match (Record::decode(key, value).map_err(|error| error.to_string())?, of) {
            (None, _) => {}
            (Some(record), None) => loading.replay(record),
            (Some(record), Some(who)) => loading.replay_in_txn(who.producer_id, record),
        }
        Ok(())
    }

    fn replay_marker(loading: &mut Loading, marker: &EndTxnMarker) {
        loading.replay_marker(marker.producer_id, marker.commit);
    }

    fn begin(
        loading: Loading,
        settings: Settings,
        _: LeaderEpoch,
        now: Now,
        _: &mut Vec<Todo<Groups>>,
    ) -> Groups {
        loading.finish(settings, now)
    }

    fn see(&mut self, image: Arc<Image>) {
        Groups::see(self, image);
    }

    fn asked(&mut self, token: Token, ask: Ask, now: Now, todo: &mut Vec<Todo<Groups>>) {
        self.take(Event::Asked { token, ask }, now, todo);
    }

    fn written(
        &mut self,
        ticket: Ticket,
        result: Result<(), ErrorCode>,
        now: Now,
        todo: &mut Vec<Todo<Groups>>,
    ) {
        self.take(Event::Written { ticket, result }, now, todo);
    }

    fn heard(&mut self, deleted: Vec<Arc<str>>, now: Now, todo: &mut Vec<Todo<Groups>>) {
        self.take(Event::TopicsDeleted(deleted), now, todo);
    }

    fn tick(&mut self, now: Now, todo: &mut Vec<Todo<Groups>>) {
        self.take(Event::Tick, now, todo);
    }

    fn next_deadline(&self) -> Mono {
        Groups::next_deadline(self)
    }

    fn counts(&self) -> Counts {
        Counts { held: self.len() as u64, active: self.members() as u64, turns: self.rebalances() }
    }

    fn deleted(topics: &[Arc<str>]) -> Option<Vec<Arc<str>>> {
        Some(topics.to_vec())
    }
}
