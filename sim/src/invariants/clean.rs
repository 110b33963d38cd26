//! LOG-8: where the marker of a clean shutdown stands, nothing is unsynced; where a start has made it the list of what is
//! not open yet, nothing is unsynced of the logs on that list.
//!
//! Source: CORRECTNESS.md 1.1 (KAFKA-10471, 15375, 13773). The marker tells the next start to believe what is there without
//! looking; so it goes before the first change, and comes after the last sync. Called at the moment of a crash, before the
//! crash is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dejaq_storage::DataDir;
use dejaq_storage::layout::{CLEAN_MARKER, named_clean};
use dejaq_storage::model_disk::ModelDisk;

use super::Broken;

type Files = [(PathBuf, Vec<u8>)];

/// If the marker is there, for the process or on the platter, every partition file is on the platter as the process sees it.
#[must_use]
pub fn check(volatile: &Files, durable: &Files) -> Option<Broken> {
    let marked = |files: &Files| marker(files).is_some_and(|bytes| named_clean(bytes).0);
    if !marked(volatile) && !marked(durable) {
        return listed(volatile, durable);
    }
    // What is being removed is swept at the next start, whether its removal was durable or not.
    let is_left = |path: &Path| {
        path.parent().is_some_and(|folder| folder.extension().is_some_and(|end| end == "deleted"))
    };
    // Neither are files that every start looks at: an index, a list or a snapshot that does not verify is made again. One
    // that a killed process wrote at a roll is believed as it reads, and nobody syncs it. But the newest snapshot is what
    // the clean stop says of the end.
    let newest = |folder: Option<&Path>| {
        let all = volatile.iter().chain(durable).map(|(path, _)| path);
        let of_folder = all.filter(|path| path.parent() == folder);
        of_folder.filter(|path| path.extension().is_some_and(|end| end == "producers")).max()
    };
    let is_derived = |path: &Path| match path.extension().and_then(|end| end.to_str()) {
        Some("index" | "aborted") => true,
        Some("producers") => newest(path.parent()).is_some_and(|newest| newest != path),
        _ => false,
    };
    let is_of_log = |path: &Path| path.starts_with("partitions") && !is_left(path) && !is_derived(path);
    let partitions = |files: &Files| -> BTreeMap<PathBuf, Vec<u8>> {
        files.iter().filter(|(path, _)| is_of_log(path)).cloned().collect()
    };
    let (volatile, durable) = (partitions(volatile), partitions(durable));
    let differs = volatile.iter().find(|(path, content)| durable.get(*path) != Some(content));
    let left = durable.keys().find(|path| !volatile.contains_key(*path));
    let path = differs.map(|(path, _)| path).or(left)?;
    let length = |files: &BTreeMap<PathBuf, Vec<u8>>| files.get(path).map(Vec::len);
    let evidence = format!(
        "the clean marker stands, but {} is {:?} bytes long and {:?} of them durable",
        path.display(),
        length(&volatile),
        length(&durable)
    );
    Some(Broken { name: "LOG-8", evidence })
}

fn marker(files: &Files) -> Option<&[u8]> {
    files.iter().find(|(path, _)| path == Path::new(CLEAN_MARKER)).map(|(_, bytes)| &bytes[..])
}

/// The logs that are listed as not open yet: whatever a start has done beside them, their batches are as they were.
fn listed(volatile: &Files, durable: &Files) -> Option<Broken> {
    let names = [volatile, durable].into_iter().filter_map(marker).flat_map(|bytes| named_clean(bytes).1);
    let closed: BTreeSet<PathBuf> =
        names.map(|(topic, index)| DataDir::<ModelDisk>::partition_path(topic, index)).collect();
    let logs = |files: &Files| -> BTreeMap<PathBuf, Vec<u8>> {
        let is_listed = |path: &Path| {
            let is_log = path.extension().is_some_and(|end| end == "log");
            is_log && path.parent().is_some_and(|folder| closed.contains(folder))
        };
        // One that is empty may have been made by the recovery of a log that rotted.
        files.iter().filter(|(path, bytes)| is_listed(path) && !bytes.is_empty()).cloned().collect()
    };
    let (volatile, durable) = (logs(volatile), logs(durable));
    let path =
        volatile.keys().chain(durable.keys()).find(|path| volatile.get(*path) != durable.get(*path))?;
    let length = |files: &BTreeMap<PathBuf, Vec<u8>>| files.get(path).map(Vec::len);
    let evidence = format!(
        "{} is listed as not open since the clean stop, but is {:?} bytes long and {:?} of them durable",
        path.display(),
        length(&volatile),
        length(&durable)
    );
    Some(Broken { name: "LOG-8", evidence })
}

#[cfg(test)]
mod tests {
    use dejaq_storage::layout::clean_marker;
    use dejaq_wire::ids::BrokerEpoch;

    use super::*;

    #[test]
    fn a_marker_beside_anything_unsynced_is_found() {
        let files = |marker: bool, log: &[u8]| {
            let mut files = vec![(PathBuf::from("partitions/a-0/0.log"), log.to_vec())];
            files.extend(marker.then(|| {
                (PathBuf::from(CLEAN_MARKER), clean_marker([1; 16], BrokerEpoch::NONE, &[]).to_vec())
            }));
            files
        };
        assert_eq!(check(&files(true, b"ab"), &files(true, b"ab")), None);
        assert_eq!(check(&files(false, b"ab"), &files(false, b"a")), None, "no marker, no claim");
        for (volatile, durable) in [(true, true), (true, false), (false, true)] {
            assert!(check(&files(volatile, b"ab"), &files(durable, b"a")).is_some());
        }
        assert!(
            check(&files(true, b"")[1..], &files(true, b"")).is_some(),
            "a name that is not gone for good"
        );
    }
}
