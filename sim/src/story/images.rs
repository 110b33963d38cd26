//! What must be true of the files of every log whenever nobody writes: once a broker has recovered, and after it stopped.
//!
//! Owns: which checker looks at which log. Promises: a log with a byte that was damaged on purpose is left out, since what
//! is made again beside such a log tells of less than was there. Leaves out: the checks (`invariants`), comparing with
//! the past (`ghost`). Called by `ghost` and at the end of the story.

use std::collections::BTreeSet;

use crate::disk::Device;
use crate::invariants::image::Logs;
use crate::invariants::{Broken, bounds, epochs, files, index, producers};

/// The first thing that is wrong. A folder that `gaps` names is compacted.
#[must_use]
pub fn check(device: &Device, gaps: impl Fn(&str) -> bool) -> Option<Broken> {
    let image = device.platter.files();
    let logs = Logs::of(&image);
    let struck: BTreeSet<String> = device
        .platter
        .damage()
        .iter()
        .filter_map(|damage| Some(damage.path.parent()?.file_name()?.to_str()?.to_owned()))
        .collect();
    let partitions = files::partitions(&image);
    partitions.into_iter().filter(|(folder, _)| !struck.contains(*folder)).find_map(|(folder, names)| {
        let log = logs.0.get(folder).map_or(&[][..], Vec::as_slice);
        bounds::check(folder, &names, log)
            .or_else(|| index::check(folder, &names, log))
            .or_else(|| epochs::check(folder, &names, log, gaps(folder)))
            .or_else(|| producers::check(folder, &names, log, gaps(folder)))
    })
}
