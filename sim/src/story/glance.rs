//! What must hold of a broker that is alone, looked at whenever a client sees something.
//!
//! Owns: what god remembers of its processes between two looks. Promises: a look is made inside of the event, by no task and
//! without a draw, so that looking changes no run. Leaves out: the properties (`crate::invariants::{insight, inside}`); what
//! only its disk can tell (`ghost`, at each crash); fleets (`fleet::god`).
//!
//! ```text
//! client: acknowledged, polled ──► recorder ──► what its process believes now ──► LOG-2, LOG-7, REP-1, REP-7, REP-8, REP-10, REP-15
//! ```

use std::sync::Mutex;

use super::{Fault, Stage};
use crate::invariants::Broken;
use crate::invariants::inside::{self, Promise};
use crate::invariants::insight::{Ghosts, Sight};
use crate::oracle::{Acks, Event, Outcome, Part};

/// Looks from now on. The story keeps its stage as long as it keeps its recorder: one process is one story.
pub(super) fn watch(stage: &Stage) {
    if stage.plan.brokers > 1 {
        return;
    }
    let forgets = |fault: Fault| matches!(fault, Fault::Rot | Fault::LyingDisk | Fault::Misplaced);
    let disks_forget = stage.plan.faults.iter().any(|(weight, fault)| *weight > 0 && forgets(*fault));
    let glance = Glance { stage: stage.clone(), ghosts: Mutex::default(), disks_forget };
    stage.recorder.on_event(Box::new(move |event| {
        if let Some(broken) = glance.look(event) {
            glance.stage.broker.blame(broken);
        }
    }));
}

struct Glance {
    stage: Stage,
    ghosts: Mutex<Ghosts>,
    /// Whether the disk may lose what was synced there.
    disks_forget: bool,
}

impl Glance {
    fn look(&self, event: &Event) -> Option<Broken> {
        let part = part_of(event)?;
        let mut ghosts = self.ghosts.lock().expect("nothing panics in here");
        let mut found = None;
        let mut living: Vec<Sight> = Vec::new();
        for (_, sights) in self.stage.broker.sights() {
            // What a loss that is allowed takes may have been visible.
            let wrong = ghosts.see(&sights).filter(|wrong| wrong.name != "REP-1" || self.keeps_all());
            found = found.or(wrong);
            living = sights;
        }
        living.retain(|sight| self.stage.broker.lives(sight.incarnation));
        for sight in &living {
            found = found.or_else(|| inside::check(sight, self.promise(&sight.folder)?));
        }
        found.or_else(|| self.told(event, part, &mut ghosts, &living))
    }

    /// What the client was told, beside what the living process believes.
    fn told(&self, event: &Event, part: Part, ghosts: &mut Ghosts, living: &[Sight]) -> Option<Broken> {
        let folder = self.stage.recorder.folder_of_part(part)?;
        let fell = |_, incarnation| self.stage.broker.fell(incarnation);
        match event {
            Event::Poll(poll) => {
                let given = poll.records.last().map(|last| (folder, last.offset + 1));
                ghosts.shown(given.as_slice(), living, fell)
            }
            Event::Send(send) if send.acks == Acks::All => {
                let Outcome::Ok { offset: Some(offset) } = send.outcome else { return None };
                self.durable(living.iter().find(|sight| sight.folder == folder)?, offset)
            }
            _ => None,
        }
    }

    /// REP-7: what acks=all acknowledged under `durability=durable` counts as synced.
    fn durable(&self, sight: &Sight, acked: i64) -> Option<Broken> {
        let promise =
            self.promise(&sight.folder).filter(|promise| promise.durable && !promise.disks_forget)?;
        let inside = sight.inside.as_ref()?;
        (inside.flushed <= acked).then(|| Broken {
            name: "REP-7",
            evidence: format!("{sight:?}: offset {acked} was acknowledged, under {promise:?}"),
        })
    }

    fn keeps_all(&self) -> bool {
        !self.disks_forget && self.stage.plan.topics.iter().all(|topic| topic.durable)
    }

    /// What the plan says of a partition; `None` if it has none such.
    fn promise(&self, folder: &str) -> Option<Promise> {
        let part = self.stage.recorder.part_of_folder(folder)?;
        let durable = self.stage.recorder.topic_of(part, &self.stage.plan).durable;
        Some(Promise { durable, min_insync: 1, disks_forget: self.disks_forget })
    }
}

/// The partition of which a client was told something.
fn part_of(event: &Event) -> Option<Part> {
    match event {
        Event::Send(send) => Some(send.part),
        Event::Poll(poll) => Some(poll.part),
        _ => None,
    }
}
