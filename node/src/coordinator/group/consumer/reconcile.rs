//! One member's next step towards the plan: give up first, then take what is free.
//!
//! Owns: [`step`]. Promises: what a member is given nobody else owns (GRP-6); it enters the plan's epoch only when it
//! has given up all that it had to; a member where the plan wants it is left alone. Pure: `KIP-848`'s rules, one call.
//! Called by `plan`, with what the member says that it owns.

use dejaq_storage::mutant;
use dejaq_wire::ids::Generation;

use super::member::{Member, Phase};
use crate::coordinator::consumer_record::Parts;

/// The plan for one member.
pub(super) struct Target<'a> {
    /// For which epoch it is.
    pub epoch: Generation,
    /// What the member shall own.
    pub parts: &'a Parts,
}

/// Where the member goes next.
#[derive(Debug, PartialEq)]
pub(super) struct Next {
    pub epoch: Generation,
    pub phase: Phase,
    pub assigned: Parts,
    pub revoking: Parts,
}

/// The next step of `member`. `owned` is what it says that it owns, if it says so; `is_free` whether nobody owns a
/// partition. `None`: it stays where it is.
pub(super) fn step(
    member: &Member,
    target: &Target<'_>,
    owned: Option<&Parts>,
    is_free: impl Fn(&(dejaq_wire::ids::TopicId, dejaq_wire::ids::PartitionId)) -> bool,
) -> Option<Next> {
    let holds = |parts: &Parts| owned.is_none_or(|owned| !owned.is_disjoint(parts));
    match member.phase {
        Phase::Stable if member.epoch == target.epoch => return None,
        Phase::Unrevoked if holds(&member.revoking) => return None,
        Phase::Stable | Phase::Unrevoked | Phase::Unreleased => {}
    }
    let mut assigned: Parts = member.assigned.intersection(target.parts).copied().collect();
    let revoking: Parts = member.assigned.difference(target.parts).copied().collect();
    if !revoking.is_empty() && holds(&revoking) {
        return Some(Next { epoch: member.epoch, phase: Phase::Unrevoked, assigned, revoking });
    }
    let wanted: Parts = target.parts.difference(&member.assigned).copied().collect();
    // M45: given before the old owner said that it gave it up.
    let free: Parts = wanted.iter().filter(|part| is_free(part) || mutant!(45)).copied().collect();
    let phase = if free.len() < wanted.len() { Phase::Unreleased } else { Phase::Stable };
    assigned.extend(free);
    Some(Next { epoch: target.epoch, phase, assigned, revoking: Parts::new() })
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{PartitionId, TopicId};

    use super::*;
    use crate::runtime::Mono;

    fn parts(of: &[i32]) -> Parts {
        of.iter().map(|partition| (TopicId([1; 16]), PartitionId(*partition))).collect()
    }

    fn member(epoch: i32, assigned: &[i32]) -> Member {
        let mut member = Member::new("m".into(), Mono(0));
        (member.epoch, member.assigned) = (Generation(epoch), parts(assigned));
        member
    }

    fn next(member: &Member, target: &[i32], owned: Option<&[i32]>, taken: &[i32]) -> Option<Next> {
        let (target, owned, taken) = (parts(target), owned.map(parts), parts(taken));
        let target = Target { epoch: Generation(2), parts: &target };
        step(member, &target, owned.as_ref(), |part| !taken.contains(part))
    }

    fn is(epoch: i32, phase: Phase, assigned: &[i32], revoking: &[i32]) -> Option<Next> {
        let (assigned, revoking) = (parts(assigned), parts(revoking));
        Some(Next { epoch: Generation(epoch), phase, assigned, revoking })
    }

    #[test]
    fn it_gives_up_before_it_takes_and_enters_the_epoch_then() {
        let mut one = member(1, &[0, 1]);
        let step = next(&one, &[1, 2], Some(&[0, 1]), &[]);
        assert_eq!(step, is(1, Phase::Unrevoked, &[1], &[0]));
        (one.phase, one.assigned, one.revoking) = (Phase::Unrevoked, parts(&[1]), parts(&[0]));
        assert_eq!(next(&one, &[1, 2], None, &[]), None, "it did not say that it gave it up");
        assert_eq!(next(&one, &[1, 2], Some(&[0, 1]), &[]), None, "it said that it did not");
        assert_eq!(next(&one, &[1, 2], Some(&[1]), &[]), is(2, Phase::Stable, &[1, 2], &[]));
    }

    /// Kills M45.
    #[test]
    fn what_others_own_is_waited_for() {
        let one = member(1, &[1]);
        assert_eq!(next(&one, &[1, 2, 3], None, &[2]), is(2, Phase::Unreleased, &[1, 3], &[]));
    }

    #[test]
    fn a_member_that_owns_nothing_of_what_it_had_has_nothing_to_give_up() {
        let one = member(1, &[0]);
        assert_eq!(next(&one, &[5], Some(&[]), &[]), is(2, Phase::Stable, &[5], &[]));
    }

    #[test]
    fn a_member_in_its_place_is_left_alone() {
        assert_eq!(next(&member(2, &[0]), &[0], None, &[]), None);
    }
}
