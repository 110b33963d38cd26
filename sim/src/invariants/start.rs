//! LOG-14: nothing is deleted before the start that permits it is durable.
//!
//! Source: CORRECTNESS.md 1.1 (KAFKA-15352, 16073, 14238). What the process has removed may be gone after a power cut at this
//! very moment; so the start on the platter must lie at or behind the first segment that is left. Called at each crash,
//! before it is applied, and while a start moves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Broken;
use super::image::renewed;

type Files = [(PathBuf, Vec<u8>)];

/// The first segment of each partition, as the process has it, begins at or below the start that is durable.
#[must_use]
pub fn check(volatile: &Files, durable: &Files) -> Option<Broken> {
    let mut first: BTreeMap<PathBuf, i64> = BTreeMap::new();
    for (path, _) in volatile.iter().filter(|(path, _)| path.starts_with("partitions")) {
        let path = renewed(path).unwrap_or_else(|| path.clone());
        let base = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
        let base = base.filter(|base| base.len() == 20).and_then(|base| base.parse().ok());
        if let Some((folder, base)) = path.parent().map(Path::to_path_buf).zip(base) {
            let known = first.entry(folder).or_insert(base);
            *known = base.min(*known);
        }
    }
    let start_of = |folder: &Path| {
        let (start, again) = (folder.join("start"), folder.join("start.again"));
        let file = durable.iter().find(|(path, _)| *path == start);
        let file = file.or_else(|| durable.iter().find(|(path, _)| *path == again));
        file.map_or(Some(0), |(_, bytes)| payload(bytes))
    };
    first.into_iter().find_map(|(folder, base)| {
        let start = start_of(&folder)?; // a file that cannot be read says nothing
        (base > start).then(|| Broken {
            name: "LOG-14",
            evidence: format!("{}: begins at {base}, but the durable start is {start}", folder.display()),
        })
    })
}

/// The start that a partition's file says; `None` if it says nothing.
#[must_use]
pub fn told(files: &Files, folder: &str) -> Option<i64> {
    let path = Path::new("partitions").join(folder).join("start");
    files.iter().find(|(known, _)| *known == path).and_then(|(_, bytes)| payload(bytes))
}

/// The starts that the partitions' files say, by folder.
#[must_use]
pub fn all(files: &Files) -> BTreeMap<String, i64> {
    let starts = files.iter().filter(|(path, _)| path.file_name().is_some_and(|name| name == "start"));
    let folder = |path: &Path| Some(path.parent()?.file_name()?.to_str()?.to_owned());
    starts.filter_map(|(path, bytes)| Some((folder(path)?, payload(bytes)?))).collect()
}

/// The offset in a start file: magic 4, version 2, length 4, the offset 8, checksum 4, all big-endian.
fn payload(bytes: &[u8]) -> Option<i64> {
    let whole: &[u8; 22] = bytes.try_into().ok()?;
    whole[10..18].try_into().ok().map(i64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_whose_name_is_being_renewed_is_still_the_first() {
        let named = |name: &str| (PathBuf::from(format!("partitions/a-0/{name}")), vec![]);
        let names = ["00000000000000000000.log.again", "00000000000000000005.log"].map(named);
        assert!(check(&names, &[]).is_none());
        assert!(check(&names[1..], &[]).is_some());
    }

    #[test]
    fn a_first_segment_behind_the_durable_start_is_found() {
        let log = |base: i64| (PathBuf::from(format!("partitions/a-0/{base:020}.log")), vec![]);
        let start = |to: i64| {
            let bytes = [vec![0; 10], to.to_be_bytes().to_vec(), vec![0; 4]].concat();
            (PathBuf::from("partitions/a-0/start"), bytes)
        };
        assert_eq!(check(&[log(0), log(9)], &[]), None);
        assert_eq!(check(&[log(9)], &[]).map(|broken| broken.name), Some("LOG-14"));
        assert_eq!(check(&[log(9)], &[start(8)]).map(|broken| broken.name), Some("LOG-14"));
        assert_eq!(check(&[log(9)], &[start(9)]), None);
        assert_eq!(check(&[log(9)], &[start(12)]), None);
    }
}
