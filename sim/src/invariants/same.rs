//! MQ-8: whoever applied the metadata log up to one offset has the same metadata.
//!
//! Source: CORRECTNESS.md 1.3. It covers MQ-9, too: one broker came to an offset by a snapshot and the records behind it, another by
//! all records, a third by the snapshot that was sent to it, a fourth by its disk after a crash.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Broken;

/// For so many offsets it is remembered what the metadata was there.
const REMEMBERED: usize = 256;

/// What was seen, by the offset behind the last record that was applied.
#[derive(Debug, Default)]
pub struct Same {
    seen: BTreeMap<i64, (u32, Bytes)>,
    /// What each broker showed last.
    last: BTreeMap<u32, i64>,
}

impl Same {
    /// Takes in what `node` shows at `end`; `encoded` is called if that is news.
    pub fn see(&mut self, node: u32, end: i64, encoded: impl FnOnce() -> Bytes) -> Option<Broken> {
        if self.last.insert(node, end) == Some(end) {
            return None;
        }
        let bytes = encoded();
        let Some((other, known)) = self.seen.get(&end) else {
            self.seen.insert(end, (node, bytes));
            if self.seen.len() > REMEMBERED {
                self.seen.pop_first();
            }
            return None;
        };
        (*known != bytes).then(|| {
            let at = known.iter().zip(&bytes).position(|(one, two)| one != two);
            let evidence = format!(
                "brokers {other} and {node} applied the metadata up to {end} and have {} and {} bytes of it, which differ from \
                 byte {at:?} on",
                known.len(),
                bytes.len()
            );
            Broken { name: "MQ-8", evidence }
        })
    }

    /// Its process begins anew: what it shows is news, also at the offset at which the last one stood.
    pub fn forget(&mut self, node: u32) {
        self.last.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_applied_the_same_and_differ_are_found() {
        let mut same = Same::default();
        assert_eq!(same.see(1, 7, || Bytes::from_static(b"abc")), None);
        assert_eq!(same.see(2, 6, || Bytes::from_static(b"ab")), None);
        assert_eq!(same.see(2, 7, || Bytes::from_static(b"abc")), None);
        assert_eq!(same.see(2, 7, || panic!("it is no news")), None);
        let found = same.see(3, 7, || Bytes::from_static(b"abd")).expect("it differs");
        assert_eq!(found.name, "MQ-8");
        same.forget(2);
        assert!(same.see(2, 7, || Bytes::from_static(b"x")).is_some(), "its next life is looked at");
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let mut same = Same::default();
        (0..1000).for_each(|end| assert_eq!(same.see(1, end, Bytes::new), None));
        assert_eq!(same.seen.len(), REMEMBERED);
    }
}
