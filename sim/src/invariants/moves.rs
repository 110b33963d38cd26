//! RSG-1 and RSG-2: how the replicas of a partition change from one committed state to the next one.
//!
//! Source: CORRECTNESS.md 1.10. A move grows, catches up and then shrinks: who goes, goes when the whole target is in sync, and
//! then no fewer are than the topic asks for. A cancelled move takes away who came. Asked of two states of which one
//! directly follows the other (`partition_epoch`); what lies between two looks of god that are further apart is not judged.
//!
//! ```text
//!  1 2 3 ─► 1 2 3 +4 −1 ─┬─ 2 3 4, all in sync     done
//!                        ├─ 1 2 3                  cancelled
//!                        └─ 2 3 4, 4 is not yet    RSG-1
//! ```

use std::collections::BTreeSet;

use super::Broken;
use super::committed::{Committed, Placed};

/// What must be right between two images.
#[must_use]
pub fn moved(
    before: &Committed,
    now: &Committed,
    min_insync: impl Fn(&str) -> Option<usize>,
) -> Option<Broken> {
    now.partitions.iter().find_map(|(folder, placed)| {
        let old = before.partitions.get(folder)?;
        if placed.partition_epoch != old.partition_epoch + 1 {
            return None;
        }
        let (name, text) = one_step(old, placed, min_insync(folder)?)?;
        let evidence = format!("{folder} at {}: {placed:?} follows {old:?}: {text}", now.end);
        Some(Broken { name, evidence })
    })
}

fn one_step(old: &Placed, new: &Placed, min_insync: usize) -> Option<(&'static str, &'static str)> {
    let set = |of: &[u32]| of.iter().copied().collect::<BTreeSet<u32>>();
    let (had, has) = (set(&old.replicas), set(&new.replicas));
    if !new.isr.is_subset(&old.isr) && has != had && !has.is_subset(&had) {
        return Some(("RSG-1", "a change of the replicas let somebody in sync"));
    }
    if had.is_subset(&has) {
        return None;
    }
    let original: BTreeSet<u32> = had.difference(&set(&old.adding)).copied().collect();
    // A move may be turned into another one: who only was on the way then goes.
    if !original.is_subset(&has) && !has.is_subset(&new.isr) {
        return Some(("RSG-1", "who goes went before all that stay are in sync"));
    }
    let needed = min_insync.min(has.len() - new.removing);
    let enough = |of: &Placed| of.isr.len() >= needed;
    (enough(old) && !enough(new))
        .then_some(("RSG-2", "fewer are in sync than before, and than are asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(epoch: i32, replicas: &[u32], adding: &[u32], removing: usize, isr: &[u32]) -> Placed {
        Placed {
            leader: isr.first().copied(),
            leader_epoch: 1,
            partition_epoch: epoch,
            replicas: replicas.to_vec(),
            adding: adding.to_vec(),
            removing,
            isr: isr.iter().copied().collect(),
            elr: BTreeSet::new(),
        }
    }

    fn name(old: &Placed, new: &Placed) -> Option<&'static str> {
        let image = |placed: &Placed| Committed {
            partitions: [("a-0".to_owned(), placed.clone())].into(),
            ..Committed::default()
        };
        moved(&image(old), &image(new), |_| Some(2)).map(|broken| broken.name)
    }

    #[test]
    fn a_move_that_ends_before_its_target_is_in_sync_is_found() {
        let moving = placed(4, &[1, 2, 3, 4], &[4], 1, &[1, 2, 3]);
        assert_eq!(name(&moving, &placed(5, &[2, 3, 4], &[], 0, &[2, 3])), Some("RSG-1"));
        assert_eq!(name(&moving, &placed(6, &[2, 3, 4], &[], 0, &[2, 3])), None, "it may have been in sync");
        let caught_up = placed(5, &[1, 2, 3, 4], &[4], 1, &[1, 2, 3, 4]);
        assert_eq!(name(&caught_up, &placed(6, &[2, 3, 4], &[], 0, &[2, 3, 4])), None);
        let had = placed(3, &[1, 2, 3], &[], 0, &[1, 2, 3]);
        assert_eq!(name(&had, &moving), None);
        assert_eq!(name(&had, &placed(4, &[1, 2, 3, 4], &[4], 1, &[1, 2, 3, 4])), Some("RSG-1"), "by itself");
    }

    #[test]
    fn a_cancelled_move_restores_what_was_and_enough_of_it() {
        let moving = placed(4, &[1, 2, 3, 4, 5], &[4, 5], 2, &[1, 4, 5]);
        assert_eq!(name(&moving, &placed(5, &[1, 2, 3], &[], 0, &[1])), Some("RSG-2"));
        let moving = placed(4, &[1, 2, 3, 4, 5], &[4, 5], 2, &[1, 2, 4]);
        assert_eq!(name(&moving, &placed(5, &[1, 2, 3], &[], 0, &[1, 2])), None);
        assert_eq!(name(&moving, &placed(5, &[1, 3], &[], 0, &[1])), Some("RSG-1"), "3 is not in sync");
    }
}
