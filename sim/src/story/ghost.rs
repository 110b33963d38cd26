//! What god remembers of the broker's disk, and the checks that compare it with what a recovery made of it.
//!
//! Owns: the images at each crash that no recovery has been checked against, and which batches were damaged on purpose.
//! Promises: draws nothing, changes nothing; damaged bytes are undone in every image, so that no log is left out of a
//! check because something in it was damaged. Leaves out: crashing (see `broker`). Called by [`super::broker`].

use std::collections::{BTreeMap, BTreeSet};

use super::recorder::Recorder;
use crate::disk::{Device, LogWrite};
use crate::invariants::image::{Batch, Logs};
use crate::invariants::recovery::promised_from;
use crate::invariants::{Broken, acknowledged, clean, order, recovery, resurrection, start};
use crate::oracle::Event;
use crate::world::NOBODY;

/// A crash that no recovery has been checked against.
struct Crash {
    /// What had to survive it.
    durable: Logs,
    /// What was durable, whatever kind of crash it was: all that remains to be claimed once the power fails.
    promised: Logs,
    /// What the process itself had.
    before: Logs,
    /// What it was about to swap in.
    aside: Logs,
    /// How many writes to the metadata log the device had seen.
    wrote: usize,
    /// Whether the power failed.
    power: bool,
}

/// See the module.
#[derive(Default)]
pub struct Ghost {
    /// Whether the broker is one of several: then what a log may lose is not decided by its own disk alone (a follower is
    /// told to cut), and `invariants::replicas` judges instead of LOG-3, LOG-4 and REP-7 of one disk.
    fleet: bool,
    crashes: Vec<Crash>,
    /// Whether the power failed and no start since has surely opened every log: one that could not be read is as it was then.
    left_dark: bool,
    /// Batches that were damaged on purpose, by partition folder, as (first, last) offset.
    damaged: BTreeMap<String, BTreeSet<(i64, i64)>>,
}

impl Ghost {
    /// Knows nothing yet.
    #[must_use]
    pub fn of_fleet(fleet: bool) -> Ghost {
        Ghost { fleet, ..Ghost::default() }
    }

    /// The process is about to be killed, or to lose its power (`power`): remembers what stood on the disk, and checks
    /// what must hold at any moment.
    pub fn down(
        &mut self,
        device: &Device,
        (power, serves): (bool, bool),
        recorder: &Recorder,
    ) -> Option<Broken> {
        let platter = &device.platter;
        let (volatile, durable, damage) = (platter.files(), platter.durable_files(), platter.damage());
        let unclean = clean::check(&volatile, &durable).or_else(|| start::check(&volatile, &durable));
        if self.fleet {
            return unclean;
        }
        let starts = start::all(&volatile);
        let aside = Logs::swapped_in(&volatile);
        let before = Logs::undamaged(volatile, &damage);
        let gaps = |folder: &str| recorder.has_gaps(folder);
        let start_of = |folder: &str| starts.get(folder).copied().unwrap_or(0);
        let durable = promised_from(&Logs::undamaged(durable, &damage), &before, gaps, start_of);
        let mut early = recorder.promised().into_iter().filter_map(|(folder, offset)| {
            let checked = acknowledged::check(&folder, offset, &durable);
            checked.filter(|_| offset >= recorder.trimmed(&folder))
        });
        // A process that is inside of its recovery may be giving files their names anew: neither name is certain then.
        let early = early.next().filter(|_| serves);
        // A kill keeps what was written: all of it counts as durable, unless the power fails before a recovery, or had
        // failed before the killed process was through with its own: what has no record is not believed then.
        let dark = power || self.left_dark || self.crashes.iter().any(|crash| crash.power);
        let kept = if dark { durable.clone() } else { before.clone() };
        if power {
            self.crashes.iter_mut().for_each(|crash| crash.durable = crash.promised.clone());
        }
        let wrote = device.metadata_writes().len();
        self.crashes.push(Crash { durable: kept, promised: durable, before, aside, wrote, power });
        unclean.or(early)
    }

    /// The broker serves: its logs must hold what the crashes had to leave, and nothing else. If the device failed it
    /// meanwhile it may have left a log as it was: then what lies beside the logs is not looked at (`is_whole`).
    pub fn recovered(
        &mut self,
        device: &Device,
        recorder: &Recorder,
        is_whole: bool,
    ) -> (Logs, Option<Broken>) {
        let now = Logs::undamaged(device.platter.files(), &device.platter.damage());
        let gaps = |folder: &str| recorder.has_gaps(folder);
        // A member of a fleet that serves fetches and cuts already: its files are looked at when it has stopped.
        let mut broken = if self.fleet { Vec::new() } else { order::check(&now, gaps) };
        let writes = device.metadata_writes();
        if !self.fleet && is_whole {
            broken.extend(super::images::check(device, gaps));
        }
        let let_go = |folder: &str, batch: &Batch| recorder.is_let_go(folder, batch.last);
        for Crash { durable, before, aside, wrote, .. } in &self.crashes {
            let written = |folder: &str, batch: &Batch| {
                writes[*wrote..].iter().any(|write| write.holds(folder, batch.segment, batch.at, batch.bytes))
            };
            broken.extend(recovery::check(durable, &now, gaps, let_go));
            broken.extend(resurrection::check((before, aside), durable, &now, gaps, written));
        }
        self.left_dark = !is_whole && (self.left_dark || self.crashes.iter().any(|crash| crash.power));
        self.crashes.clear();
        device.forget_metadata_writes();
        (now, broken.into_iter().next())
    }

    /// Learns which batches silent damage has struck since, and tells the history that they are destroyed.
    pub fn learn(&mut self, device: &Device, recorder: &Recorder) {
        let damage = device.platter.damage();
        if damage.is_empty() {
            return;
        }
        for (folder, ranges) in Logs::struck(device.platter.files(), &damage) {
            let known = self.damaged.entry(folder.clone()).or_default();
            for (from, last) in ranges {
                if known.insert((from, last))
                    && let Some(part) = recorder.part_of_folder(&folder)
                {
                    recorder.event(NOBODY, Event::Destroyed { part, from, last });
                }
            }
        }
    }

    /// The offset behind a damaged batch that holds `offset`, if there is one.
    pub fn behind(&self, folder: &str, offset: i64) -> Option<i64> {
        let ranges = self.damaged.get(folder)?;
        ranges.iter().find(|(from, last)| (*from..=*last).contains(&offset)).map(|(_, last)| last + 1)
    }

    /// Whether bytes of this log were damaged on purpose.
    pub fn is_damaged(&self, folder: &str) -> bool {
        self.damaged.contains_key(folder)
    }

    /// Whether there is a crash that no recovery has been checked against.
    pub fn is_unclean(&self) -> bool {
        !self.crashes.is_empty()
    }
}

/// For tests and for `disk`: whether a write covers a batch.
impl LogWrite {
    fn holds(&self, folder: &str, segment: u64, at: u64, bytes: u64) -> bool {
        self.folder == folder && self.segment == segment && self.at <= at && at + bytes <= self.end
    }
}
