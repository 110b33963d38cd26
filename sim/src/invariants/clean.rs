//! LOG-8: where the marker of a clean shutdown stands, nothing is unsynced.
//!
//! Source: CORRECTNESS.md 1.1 (KAFKA-10471, 15375, 13773). The marker tells the next start to believe what is there without
//! looking; so it goes before the first change, and comes after the last sync. Called at the moment of a crash, before the
//! crash is applied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Broken;

/// The marker's name in the data directory.
const MARKER: &str = "clean";

type Files = [(PathBuf, Vec<u8>)];

/// If the marker is there, for the process or on the platter, every partition file is on the platter as the process sees it.
#[must_use]
pub fn check(volatile: &Files, durable: &Files) -> Option<Broken> {
    let marked = |files: &Files| files.iter().any(|(path, _)| path == Path::new(MARKER));
    if !marked(volatile) && !marked(durable) {
        return None;
    }
    let partitions = |files: &Files| -> BTreeMap<PathBuf, Vec<u8>> {
        files.iter().filter(|(path, _)| path.starts_with("partitions")).cloned().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_beside_anything_unsynced_is_found() {
        let files = |marker: bool, log: &[u8]| {
            let mut files = vec![(PathBuf::from("partitions/a-0/0.log"), log.to_vec())];
            files.extend(marker.then(|| (PathBuf::from(MARKER), vec![1])));
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
