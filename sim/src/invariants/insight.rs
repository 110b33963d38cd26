//! REP-1, REP-10 and LOG-2: what the processes of all brokers believe of a partition, beside each other. (REP-8 takes the
//! same sights, and asks the disks: see `replicas`.)
//!
//! Source: CORRECTNESS.md 1.1, 1.2 and the ghost THW of 0.2. Looked at from time to time and right before a process dies, so
//! that no watermark that a leader reached is missed. Reads what readers of the product read (its published view), never its
//! metrics.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::inside::Inside;

/// What one process believes of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The broker.
    pub node: u32,
    /// Which start of it.
    pub incarnation: u32,
    /// The partition's folder.
    pub folder: String,
    /// Whether it leads; else it follows, or does nothing.
    pub leads: bool,
    /// In which leader epoch.
    pub epoch: i32,
    /// Where its log starts.
    pub start: i64,
    /// What it lets readers see.
    pub watermark: i64,
    /// Where its log ends.
    pub end: i64,
    /// What it believes beyond what readers see; `None` while its log is closed.
    pub inside: Option<Inside>,
}

impl Sight {
    /// In one word, for a person: partition, what it does and in which epoch, start, watermark and end.
    #[must_use]
    pub fn short(&self) -> String {
        let Sight { folder, leads, epoch, start, watermark, end, .. } = self;
        let (topic, index) = folder.rsplit_once('-').unwrap_or((folder, ""));
        let part = if *leads { "leads" } else { "follows" };
        format!("{}-{index}:{part}@{epoch}[{start},{watermark},{end}]", &topic[..topic.len().min(4)])
    }
}

/// What no broker knows. See the module.
#[derive(Debug, Default)]
pub struct Ghosts {
    /// The highest watermark that anybody had, by partition.
    true_watermark: BTreeMap<String, i64>,
    /// Who led in an epoch of a partition.
    leaders: BTreeMap<(String, i32), u32>,
    /// The newest epoch of each process, by partition.
    epochs: BTreeMap<(u32, u32, String), i32>,
    /// From which leader epoch on a partition counts, where what was before was given up behind some offset.
    anew: BTreeMap<String, i32>,
    /// The processes that had a partition at the last look.
    holders: BTreeMap<String, BTreeSet<(u32, u32)>>,
}

impl Ghosts {
    /// Takes in what was seen at one moment, of some brokers or of all; tells what cannot be.
    pub fn see(&mut self, sights: &[Sight]) -> Option<Broken> {
        let wrong = sights.iter().find_map(|sight| self.one(sight));
        wrong.or_else(|| sights.iter().filter(|sight| sight.leads).find_map(|sight| self.complete(sight)))
    }

    /// Everything of a partition from an offset on was given up when this leader epoch began, and the cluster told of it: from now
    /// on only what leaders of it or of a later one show was ever committed there. Followers may show what they still have to cut.
    pub fn begin_anew(&mut self, folder: &str, epoch: i32, from: i64) {
        self.anew.insert(folder.to_owned(), epoch);
        let highest = self.true_watermark.entry(folder.to_owned()).or_insert(from);
        *highest = (*highest).min(from);
    }

    /// Whether a process shows what was given up before, or may.
    #[must_use]
    pub fn is_of_before(&self, sight: &Sight) -> bool {
        self.anew.get(&sight.folder).is_some_and(|epoch| sight.epoch < *epoch || !sight.leads)
    }

    /// The highest watermark that anybody had.
    #[must_use]
    pub fn highest(&self, folder: &str) -> i64 {
        self.true_watermark.get(folder).copied().unwrap_or(0)
    }

    /// REP-8 of all that readers were given by now. A process that gave a partition up since the last look (its topic was
    /// deleted, the replica moved away, or it was stopped) cannot be asked any more how far it was visible: what readers were
    /// given counts as committed then, and REP-1 asks the next leader for it. Not so one that `fell`: what it believed at that
    /// moment was seen.
    pub fn shown(
        &mut self,
        shown: &[(String, i64)],
        living: &[Sight],
        fell: impl Fn(u32, u32) -> bool,
    ) -> Option<Broken> {
        let mut holders: BTreeMap<String, BTreeSet<(u32, u32)>> = BTreeMap::new();
        for sight in living {
            holders.entry(sight.folder.clone()).or_default().insert((sight.node, sight.incarnation));
        }
        let before = std::mem::replace(&mut self.holders, holders);
        for (folder, shown) in shown {
            let now = self.holders.get(folder);
            let left = |process: &(u32, u32)| {
                !now.is_some_and(|now| now.contains(process)) && !fell(process.0, process.1)
            };
            if before.get(folder).is_some_and(|before| before.iter().any(left)) {
                let highest = self.true_watermark.entry(folder.clone()).or_default();
                *highest = (*highest).max(*shown);
            }
        }
        shown.iter().find_map(|(folder, shown)| self.early(folder, *shown))
    }

    /// REP-8: a reader was given what is below `shown`, so some leader's watermark has reached that.
    #[must_use]
    pub fn early(&self, folder: &str, shown: i64) -> Option<Broken> {
        let highest = self.highest(folder);
        (shown > highest).then(|| Broken {
            name: "REP-8",
            evidence: format!("{folder}: a reader was given what is below {shown}, visible was {highest}"),
        })
    }

    fn one(&mut self, sight: &Sight) -> Option<Broken> {
        if !(sight.start <= sight.watermark && sight.watermark <= sight.end) {
            return broken("LOG-2", sight, "start <= watermark <= end does not hold");
        }
        let process = (sight.node, sight.incarnation, sight.folder.clone());
        let newest = self.epochs.entry(process).or_insert(sight.epoch);
        if sight.epoch < *newest {
            let text = format!("it was in leader epoch {newest} before");
            return broken("REP-10", sight, &text);
        }
        *newest = sight.epoch;
        if !self.is_of_before(sight) {
            let highest = self.true_watermark.entry(sight.folder.clone()).or_insert(sight.watermark);
            *highest = (*highest).max(sight.watermark);
        }
        if !sight.leads {
            return None;
        }
        let other = *self.leaders.entry((sight.folder.clone(), sight.epoch)).or_insert(sight.node);
        if other != sight.node {
            return broken("REP-10", sight, &format!("broker {other} led in this epoch"));
        }
        None
    }

    /// REP-1: the newest leader has everything that was ever committed.
    fn complete(&self, sight: &Sight) -> Option<Broken> {
        let ((_, epoch), leader) = self.leaders.range(range_of(&sight.folder)).next_back()?;
        let highest = self.highest(&sight.folder);
        if *epoch == sight.epoch && *leader == sight.node && sight.end < highest {
            return broken("REP-1", sight, &format!("{highest} was committed before"));
        }
        None
    }
}

fn range_of(folder: &str) -> std::ops::RangeInclusive<(String, i32)> {
    (folder.to_owned(), i32::MIN)..=(folder.to_owned(), i32::MAX)
}

fn broken(name: &'static str, sight: &Sight, text: &str) -> Option<Broken> {
    Some(Broken { name, evidence: format!("{sight:?}: {text}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(node: u32, leads: bool, epoch: i32, watermark: i64, end: i64) -> Sight {
        let folder = "a-0".into();
        Sight { node, incarnation: 1, folder, leads, epoch, start: 0, watermark, end, inside: None }
    }

    #[test]
    fn what_a_reader_was_given_by_who_left_since_is_asked_of_the_next_leader() {
        let given = [("a-0".to_owned(), 7)];
        let (old, new) = (sight(1, true, 1, 5, 7), sight(2, true, 2, 5, 6));
        let mut ghosts = Ghosts::default();
        assert_eq!(name(ghosts.see(std::slice::from_ref(&old))), None);
        let (old, new) = (std::slice::from_ref(&old), std::slice::from_ref(&new));
        let lives = |_, _| false;
        assert_eq!(name(ghosts.shown(&given, old, lives)), Some("REP-8"), "it is still there");
        let mut killed = Ghosts { holders: ghosts.holders.clone(), ..Ghosts::default() };
        assert_eq!(name(killed.shown(&given, new, |_, _| true)), Some("REP-8"), "what it knew was seen");
        assert_eq!(name(ghosts.shown(&given, new, lives)), None, "nobody can tell");
        assert_eq!(name(ghosts.see(new)), Some("REP-1"), "but the next leader must have it");
    }

    fn name(broken: Option<Broken>) -> Option<&'static str> {
        broken.map(|broken| broken.name)
    }

    #[test]
    fn what_was_given_up_counts_no_more_and_nothing_else_is_excused() {
        let mut ghosts = Ghosts::default();
        assert_eq!(ghosts.see(&[sight(1, true, 1, 9, 9)]), None);
        ghosts.begin_anew("a-0", 2, 6);
        let old = sight(1, false, 2, 9, 9);
        assert_eq!(ghosts.see(&[sight(2, true, 2, 4, 6), old]), None, "who follows has not cut it yet");
        assert_eq!(ghosts.highest("a-0"), 6);
        assert_eq!(ghosts.see(&[sight(2, true, 2, 8, 8)]), None);
        assert_eq!(name(ghosts.see(&[sight(3, true, 3, 5, 7)])), Some("REP-1"), "that is of the new history");
        let mut less = Ghosts::default();
        assert_eq!(less.see(&[sight(1, true, 1, 9, 9)]), None);
        less.begin_anew("a-0", 2, 6);
        assert_eq!(name(less.see(&[sight(2, true, 2, 4, 5)])), Some("REP-1"), "more is gone than was told");
    }

    #[test]
    fn what_a_reader_was_given_too_early_is_found() {
        let mut ghosts = Ghosts::default();
        assert_eq!(ghosts.see(&[sight(1, true, 1, 5, 9), sight(2, false, 1, 3, 9)]), None);
        assert_eq!(ghosts.early("a-0", 5), None);
        assert_eq!(name(ghosts.early("a-0", 6)), Some("REP-8"));
    }

    #[test]
    fn a_watermark_beyond_the_log_is_found() {
        assert_eq!(name(Ghosts::default().see(&[sight(1, true, 1, 5, 4)])), Some("LOG-2"));
    }

    #[test]
    fn two_leaders_of_one_epoch_and_an_epoch_that_goes_back_are_found() {
        let mut ghosts = Ghosts::default();
        assert_eq!(ghosts.see(&[sight(1, true, 1, 0, 0), sight(2, true, 2, 0, 0)]), None);
        assert_eq!(name(ghosts.see(&[sight(3, true, 2, 0, 0)])), Some("REP-10"));
        assert_eq!(name(ghosts.see(&[sight(2, true, 1, 0, 0)])), Some("REP-10"));
    }

    #[test]
    fn a_new_leader_that_lacks_something_committed_is_found_and_an_old_one_is_not_asked() {
        let mut ghosts = Ghosts::default();
        assert_eq!(ghosts.see(&[sight(1, true, 1, 5, 9)]), None);
        assert_eq!(ghosts.see(&[sight(2, true, 2, 3, 5)]), None, "its watermark may lag");
        assert_eq!(ghosts.see(&[sight(2, true, 2, 7, 7), sight(1, true, 1, 5, 5)]), None);
        assert_eq!(name(ghosts.see(&[sight(3, true, 3, 3, 6)])), Some("REP-1"));
    }
}
