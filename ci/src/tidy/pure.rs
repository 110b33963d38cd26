//! Files where rules about Kafka live: no async, no clock, no lock, no randomness, no unordered map.
//!
//! Owns: what "pure" forbids. The list of files is `ci/tidy/pure.txt`: a path, or a folder with a `/`.

use super::source::{Source, line_of, words};
use super::{Finding, finding};

const FORBIDDEN: &[&str] =
    &["async", "await", "tokio", "Instant", "SystemTime", "rand", "HashMap", "HashSet", "Mutex", "RwLock"];

pub fn check(source: &Source, found: &mut Vec<Finding>) {
    for what in FORBIDDEN {
        for at in words(&source.product, what) {
            found.push(finding(
                source,
                line_of(&source.product, at),
                format!("`{what}` in a file listed as pure"),
            ));
        }
    }
}

/// The entries of the list, without comments.
pub fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

/// Whether an entry names this file.
pub fn covers(entry: &str, path: &str) -> bool {
    if entry.ends_with('/') { path.starts_with(entry) } else { path == entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_that_waits_locks_or_rolls_dice_is_red() {
        for what in FORBIDDEN {
            let mut found = Vec::new();
            check(&Source::new("node/src/replica/leader.rs", &format!("fn f() {{ {what}; }}")), &mut found);
            assert_eq!(found.len(), 1, "{what}");
        }
        let mut found = Vec::new();
        check(&Source::new("a.rs", "fn f(asynchronous: Operand) {} // no tokio here"), &mut found);
        assert_eq!(found.len(), 0, "{found:?}");
    }

    #[test]
    fn an_entry_is_a_file_or_a_folder() {
        assert_eq!(entries("# pure\na/b/\n\nc.rs # why\n").collect::<Vec<_>>(), ["a/b/", "c.rs"]);
        assert!(covers("a/b/", "a/b/c.rs") && covers("c.rs", "c.rs") && !covers("c.rs", "c.rs.rs"));
    }
}
