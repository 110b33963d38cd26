//! The in-sync set: what is reported, what follows; one claim a test.

use super::*;

const EPOCH: LeaderEpoch = LeaderEpoch(5);
const LIFE: BrokerEpoch = BrokerEpoch(7);
const LAG: Duration = Duration::from_secs(10);
const DURABLE: Durability = Durability::Durable;

fn set(brokers: &[i32]) -> BTreeSet<BrokerId> {
    brokers.iter().map(|id| BrokerId(*id)).collect()
}

fn three() -> Isr {
    Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2, 3]), set(&[1, 2]), Mono(0))
}

fn at(fetched: i64, durable: i64) -> Report {
    Report { epoch: EPOCH, life: LIFE, fetched: Offset(fetched), durable: Offset(durable) }
}

fn tell(isr: &mut Isr, broker: i32, report: Report) -> bool {
    isr.report(BrokerId(broker), report, false, (Mono(0), Offset(9)), DURABLE)
}

fn second(seconds: u64) -> Mono {
    Mono(seconds * 1_000_000_000)
}

fn lives(heard: &[(i32, u64)]) -> Lives {
    Lives {
        live: [1, 2, 3].map(|id| (BrokerId(id), LIFE)).into(),
        heard: heard.iter().map(|(id, at)| (BrokerId(*id), second(*at))).collect(),
    }
}

fn hole(from: i64, to: i64) -> OffsetRange {
    OffsetRange { from: Offset(from), to: Offset(to) }
}

/// A follower wants to cut its log there.
fn loses(isr: &mut Isr, broker: i32, from: i64) {
    isr.lose(BrokerId(broker), LIFE, Some(Offset(from)));
}

fn ends(floor: i64, local_end: i64, watermark: i64) -> Ends {
    let (floor, local_end, watermark) = (Offset(floor), Offset(local_end), Offset(watermark));
    Ends { floor, local_end, watermark, leash: Offset(0), holes: None }
}

#[test]
fn only_who_may_lead_next_holds_a_copy() {
    let mut isr = three();
    for (broker, end) in [(2, 5), (3, 9)] {
        assert!(tell(&mut isr, broker, at(end, end)));
    }
    let held = |isr: &Isr, count| isr.held_by(count, Offset(7), DURABLE).expect("nothing moves");
    assert_eq!(held(&isr, 1), Offset(7));
    assert_eq!(held(&isr, 2), Offset(5), "3 is not in sync");
    assert_eq!(held(&isr, 3), Offset(0), "nor are three");
    assert_eq!(held(&isr, 9), Offset(0), "of three at most");
    assert_eq!(proposed(&mut isr, 1, &lives(&[]), 9), Some(vec![1, 2, 3]));
    assert_eq!(held(&isr, 2), Offset(5), "3 is not in the committed set");
    isr.commit(1, set(&[1, 2, 3]), set(&[1, 2, 3]));
    assert_eq!((held(&isr, 2), held(&isr, 9)), (Offset(7), Offset(5)));
    let late = isr.propose(second(60), LAG, &lives(&[]), ends(0, 20, 0), DURABLE).map(|late| late.isr.len());
    assert_eq!(late, Some(1));
    assert_eq!((held(&isr, 1), held(&isr, 2)), (Offset(7), Offset(0)), "2 and 3 may be out");
}

fn proposed(isr: &mut Isr, now: u64, lives: &Lives, floor: i64) -> Option<Vec<i32>> {
    let proposal = isr.propose(second(now), LAG, lives, ends(floor, 9, 0), DURABLE)?;
    Some(proposal.isr.iter().map(|(broker, _)| broker.0).collect())
}

#[test]
fn alone_the_common_end_is_our_own() {
    let isr = Isr::new(BrokerId(1), EPOCH, 0, set(&[1]), set(&[1]), Mono(0));
    assert_eq!(isr.common_end(Offset(7), Durability::Durable), Some(Offset(7)));
    assert!(isr.is_enough(1));
    assert!(isr.is_enough(2), "one replica is all there can be");
}

#[test]
fn a_silent_member_holds_everything() {
    assert_eq!(three().common_end(Offset(7), Durability::Replicated), None);
}

#[test]
fn the_policy_decides_which_end_of_a_member_counts() {
    let mut isr = three();
    assert!(tell(&mut isr, 2, at(6, 4)));
    assert_eq!(isr.common_end(Offset(7), Durability::Replicated), Some(Offset(6)));
    assert_eq!(isr.common_end(Offset(7), Durability::Durable), Some(Offset(4)));
}

#[test]
fn a_report_of_an_older_epoch_or_an_earlier_life_does_not_count() {
    let mut isr = three();
    assert!(!tell(&mut isr, 2, Report { epoch: LeaderEpoch(4), ..at(9, 9) }));
    assert_eq!(isr.common_end(Offset(9), DURABLE), None);
    assert!(tell(&mut isr, 2, at(5, 5)));
    assert!(!tell(&mut isr, 2, Report { life: BrokerEpoch(6), ..at(9, 9) }));
    assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(5)));
    isr.see_lives(&[(BrokerId(2), BrokerEpoch(8))].into());
    assert_eq!(isr.common_end(Offset(9), DURABLE), None, "it must report in its new life");
}

#[test]
fn a_proposed_member_counts_before_the_controller_answers() {
    let mut isr = three();
    tell(&mut isr, 2, at(9, 9));
    tell(&mut isr, 3, at(5, 5));
    assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(9)));
    assert_eq!(proposed(&mut isr, 0, &lives(&[]), 6), None, "it lacks what was promised");
    assert_eq!(proposed(&mut isr, 0, &lives(&[]), 5), Some(vec![1, 2, 3]));
    assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(5)));
    assert!(!isr.commit(0, set(&[1, 2, 3]), set(&[1, 2])), "an old state answers nothing");
    assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(5)));
    assert!(isr.commit(1, set(&[1, 2, 3]), set(&[1, 2])));
    assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(9)));
}

#[test]
fn a_leader_with_a_hole_names_the_others_if_they_can_commit_without_it() {
    let whole = || Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2, 3]), set(&[1, 2, 3]), Mono(0));
    let over = |isr: &mut Isr, min| {
        let proposal = isr.hand_over(&lives(&[]), Offset(5), min, hole(3, 4))?;
        Some(proposal.isr.iter().map(|(broker, _)| broker.0).collect::<Vec<_>>())
    };
    let mut isr = whole();
    assert_eq!(over(&mut isr, 2), None, "nobody has told what it has");
    tell(&mut isr, 2, at(4, 4));
    assert_eq!(over(&mut isr, 2), None, "2 lacks what is visible");
    tell(&mut isr, 3, at(5, 5));
    assert_eq!(over(&mut isr, 2), Some(vec![2, 3]));
    assert_eq!(over(&mut isr, 2), None, "it is asked once");
    assert!(isr.refused(0, Mono(0)));
    assert_eq!(over(&mut isr, 2), Some(vec![2, 3]));
    assert!(isr.refused(0, Mono(0)));
    assert_eq!(over(&mut isr, 3), Some(vec![2, 3]), "where all are needed, all the others are enough");
    assert_eq!(over(&mut three(), 2), None, "alone with one, it stays");
}

#[test]
fn under_durable_what_is_only_written_lets_nobody_join() {
    let mut isr = three();
    tell(&mut isr, 2, at(9, 9));
    tell(&mut isr, 3, at(9, 5));
    assert_eq!(proposed(&mut isr, 0, &lives(&[]), 6), None);
}

#[test]
fn who_is_not_live_or_lives_anew_is_not_proposed() {
    let mut isr = three();
    tell(&mut isr, 2, at(9, 9));
    tell(&mut isr, 3, at(9, 9));
    let mut fenced = lives(&[]);
    fenced.live.remove(&BrokerId(3));
    assert_eq!(proposed(&mut isr, 0, &fenced, 5), None);
    fenced.live.insert(BrokerId(3), LIFE.next());
    assert_eq!(proposed(&mut isr, 0, &fenced, 5), None);
}

#[test]
fn a_member_that_lags_for_too_long_leaves_and_one_that_is_idle_stays() {
    let mut isr = three();
    tell(&mut isr, 2, at(9, 9));
    assert_eq!(proposed(&mut isr, 11, &lives(&[(2, 10)]), 0), None, "it has everything and is heard");
    assert_eq!(proposed(&mut isr, 21, &lives(&[(2, 10)]), 0), Some(vec![1]));
    let mut isr = three();
    tell(&mut isr, 2, at(8, 8));
    assert_eq!(proposed(&mut isr, 10, &lives(&[(2, 10)]), 0), None);
    assert_eq!(proposed(&mut isr, 11, &lives(&[(2, 11)]), 0), Some(vec![1]), "heard, but behind");
}

#[test]
fn a_member_that_lacks_too_many_records_leaves_however_often_it_is_heard() {
    let mut isr = three();
    tell(&mut isr, 2, at(8, 6));
    let leash = |leash| Ends { leash: Offset(leash), ..ends(0, 9, 0) };
    assert_eq!(isr.propose(Mono(0), LAG, &lives(&[(2, 0)]), leash(6), DURABLE), None);
    let shrunk = isr.propose(Mono(0), LAG, &lives(&[(2, 0)]), leash(7), DURABLE).expect("it strays");
    assert!(shrunk.shrinks && shrunk.isr == [(BrokerId(1), LIFE)], "its durable end counts");
}

#[test]
fn a_follower_that_reaches_where_we_were_has_caught_up_then() {
    let mut isr = three();
    let mut tell = |seconds, fetched, end| {
        let now = (second(seconds), Offset(end));
        assert!(isr.report(BrokerId(2), at(fetched, fetched), true, now, DURABLE));
    };
    for seconds in 0..30 {
        tell(seconds, seconds as i64, seconds as i64 + 1);
    }
    let lives = lives(&[]);
    assert_eq!(isr.propose(second(30), LAG, &lives, ends(0, 99, 0), DURABLE), None);
}

#[test]
fn a_member_that_lost_what_is_visible_leaves_at_once() {
    let mut isr = three();
    tell(&mut isr, 2, at(9, 9));
    tell(&mut isr, 2, at(4, 4));
    assert!(isr.is_broken(Offset(5)) && !isr.is_broken(Offset(4)));
    let proposal = isr.propose(Mono(0), LAG, &lives(&[(2, 0)]), ends(9, 9, 5), DURABLE).expect("it leaves");
    assert!(proposal.shrinks && proposal.isr == [(BrokerId(1), LIFE)]);
}

#[test]
fn a_proposal_without_an_answer_is_kept_and_repeated() {
    let mut isr = three();
    tell(&mut isr, 2, at(9, 9));
    tell(&mut isr, 3, at(9, 9));
    let first = isr.propose(Mono(0), LAG, &lives(&[]), ends(0, 9, 0), DURABLE);
    isr.unsure(0, Mono(0));
    assert!(!isr.refused(0, second(1)), "the first copy may be under way");
    assert_eq!(isr.propose(second(1), LAG, &lives(&[]), ends(0, 9, 0), DURABLE), first);
    assert!(isr.refused(0, second(31)));
}

#[test]
fn what_is_known_of_a_follower_goes_with_states_that_were_not_seen() {
    let mut isr = three();
    tell(&mut isr, 2, at(9, 9));
    assert!(isr.commit(1, set(&[1, 2, 3]), set(&[1, 2])));
    assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(9)));
    assert!(isr.commit(3, set(&[1, 2, 3]), set(&[1, 2])), "removed in 2, added again in 3");
    assert_eq!(isr.common_end(Offset(9), DURABLE), None);
}

#[test]
fn a_shrunk_set_is_not_enough() {
    let mut isr = three();
    assert!(isr.is_enough(2));
    isr.commit(1, set(&[1, 2, 3]), set(&[1]));
    assert!(!isr.is_enough(2));
}

#[test]
#[should_panic(expected = "durable beyond written")]
fn a_follower_cannot_have_synced_what_it_has_not_written() {
    tell(&mut three(), 2, at(3, 4));
}

/// Who is named as lost by the next proposal, and who stays in the set.
fn lost(isr: &mut Isr, watermark: i64, holes: Option<OffsetRange>) -> Option<(Vec<i32>, Vec<i32>)> {
    let ends = Ends { holes, ..ends(watermark, 9, watermark) };
    let proposal = isr.propose(Mono(0), LAG, &lives(&[]), ends, DURABLE)?;
    let ids = |list: Vec<BrokerId>| list.into_iter().map(|one| one.0).collect::<Vec<_>>();
    Some((ids(proposal.lost), ids(proposal.isr.into_iter().map(|(one, _)| one).collect())))
}

#[test]
fn a_member_that_lost_what_was_visible_is_counted_on_no_more_unless_we_have_a_hole_too() {
    for (holes, named) in [(None, vec![2]), (Some(hole(7, 8)), vec![])] {
        let mut isr = three();
        tell(&mut isr, 2, at(4, 4));
        assert_eq!(lost(&mut isr, 5, holes), Some((named, vec![1])));
    }
    let mut isr = three();
    tell(&mut isr, 2, at(5, 5));
    assert_eq!(lost(&mut isr, 5, None), None, "it has all of that");
    let late = isr.propose(second(60), LAG, &lives(&[]), ends(5, 9, 5), DURABLE).expect("it lags");
    assert_eq!(late.lost, [], "who is only late has lost nothing");
}

#[test]
fn who_may_be_elected_and_lost_something_is_disowned_and_the_set_stays() {
    let disown = |isr: &mut Isr, eligible: &[i32]| {
        let eligible: Vec<BrokerId> = eligible.iter().copied().map(BrokerId).collect();
        isr.disown(&eligible, &lives(&[]), Offset(5), None).map(|one| (one.isr, one.lost, one.shrinks))
    };
    let mut isr = three();
    assert_eq!(disown(&mut isr, &[3]), None, "it told nothing");
    tell(&mut isr, 3, at(5, 5));
    assert_eq!(disown(&mut isr, &[3]), None, "it has all that is visible");
    tell(&mut isr, 3, at(4, 4));
    assert_eq!(disown(&mut isr, &[]), None, "it may not be elected anyway");
    tell(&mut isr, 2, at(4, 4));
    assert_eq!(disown(&mut isr, &[2]), None, "a member leaves by another way");
    let stays = vec![(BrokerId(1), LIFE), (BrokerId(2), LIFE)];
    assert_eq!(disown(&mut isr, &[3]), Some((stays, vec![BrokerId(3)], false)));
    assert_eq!(disown(&mut isr, &[3]), None, "it is asked once");
}

#[test]
fn a_leader_gives_itself_up_only_alone_in_its_set() {
    let give_up = |isr: &mut Isr| isr.give_up(true, &[], hole(7, 8)).map(|one| (one.isr, one.lost));
    assert_eq!(give_up(&mut three()), None, "2 is in sync, too");
    let one = |replicas: &[i32]| Isr::new(BrokerId(1), EPOCH, 0, set(replicas), set(&[1]), Mono(0));
    assert_eq!(give_up(&mut one(&[1])), None, "there is nobody else");
    let mut isr = one(&[1, 2]);
    assert_eq!(give_up(&mut isr), Some((vec![], vec![BrokerId(1)])));
    assert_eq!(give_up(&mut isr), None, "it is asked once");
    assert_eq!(isr.common_end(Offset(9), DURABLE), Some(Offset(9)));
}

/// The controller (`succession::effective_min`) counts them so: a leader that counts fewer could acknowledge what it elects without.
#[test]
fn who_comes_is_counted_for_the_minimum_and_who_goes_is_not() {
    let mut isr = Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2, 3, 4]), set(&[1, 2]), Mono(0));
    isr.moves(Moving { coming: 2, going: 0 });
    assert!(isr.is_enough(2) && !isr.is_enough(3));
    isr.moves(Moving { coming: 2, going: 2 });
    assert!(isr.is_enough(2) && isr.is_enough(3), "two are to stay");
    assert!(!Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2, 3]), set(&[1]), Mono(0)).is_enough(2));
}

#[test]
fn a_leader_that_hands_over_leaves_out_who_lost_something_too() {
    let all = || Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2, 3]), set(&[1, 2, 3]), Mono(0));
    let mut isr = all();
    tell(&mut isr, 2, at(3, 3));
    tell(&mut isr, 3, at(9, 9));
    let handed = isr.hand_over(&lives(&[]), Offset(9), 1, hole(5, 6)).expect("3 has all");
    let led: Vec<i32> = handed.isr.iter().map(|(broker, _)| broker.0).collect();
    assert_eq!((led, handed.lost), (vec![3], vec![BrokerId(1), BrokerId(2)]));
    let mut isr = all();
    tell(&mut isr, 2, at(3, 3));
    tell(&mut isr, 3, at(9, 9));
    let handed = isr.hand_over(&lives(&[]), Offset(9), 2, hole(5, 6)).expect("two are needed");
    assert_eq!((handed.isr.len(), handed.lost), (2, vec![BrokerId(1)]));
}

#[test]
fn while_replicas_come_or_go_no_number_of_copies_is_enough() {
    let mut isr = three();
    tell(&mut isr, 2, at(9, 9));
    assert_eq!(isr.held_by(2, Offset(9), DURABLE), Some(Offset(9)));
    for moving in [Moving { coming: 1, going: 0 }, Moving { coming: 0, going: 1 }] {
        isr.moves(moving);
        assert_eq!(isr.held_by(2, Offset(9), DURABLE), None, "{moving:?}");
    }
}

/// A leader that began anew knows of nothing that was visible: what a follower lost is told by the follower.
#[test]
fn who_may_be_elected_and_wants_to_cut_its_log_is_disowned_whatever_is_known_to_be_visible() {
    let disowned = |isr: &mut Isr, holes| {
        let proposal = isr.disown(&[BrokerId(3)], &lives(&[]), Offset(0), holes)?;
        isr.commit(isr.partition_epoch() + 1, set(&[1, 2, 3]), set(&[1, 2]));
        Some(proposal.lost)
    };
    let mut isr = three();
    tell(&mut isr, 3, at(4, 4));
    assert_eq!(disowned(&mut isr, None), None, "it may only be behind");
    loses(&mut isr, 3, 4);
    assert_eq!(disowned(&mut isr, None), Some(vec![BrokerId(3)]));
    assert_eq!(disowned(&mut isr, Some(hole(2, 4))), Some(vec![BrokerId(3)]), "it keeps what we lack");
    assert_eq!(disowned(&mut isr, Some(hole(2, 5))), None, "it would give up what we lack");
    assert_eq!(disowned(&mut isr, Some(hole(6, 6))), Some(vec![BrokerId(3)]), "we lack nothing");
    isr.lose(BrokerId(3), LIFE, None);
    assert_eq!(disowned(&mut isr, None), None, "it was put back");
}

#[test]
fn a_follower_is_let_go_when_nobody_counts_on_it_and_no_proposal_under_way_does() {
    let mut isr = three();
    let goes = |isr: &Isr, eligible: &[i32], holes| {
        let eligible: Vec<BrokerId> = eligible.iter().copied().map(BrokerId).collect();
        isr.lets_go(BrokerId(3), &eligible, holes)
    };
    tell(&mut isr, 2, at(9, 9));
    tell(&mut isr, 3, at(9, 9));
    assert!(!goes(&isr, &[], None), "it did not ask");
    assert_eq!(proposed(&mut isr, 0, &lives(&[]), 9), Some(vec![1, 2, 3]));
    tell(&mut isr, 3, at(4, 4));
    loses(&mut isr, 3, 4);
    assert!(!goes(&isr, &[], None), "the controller may take it for in sync yet");
    isr.unsure(0, Mono(0));
    assert!(!isr.refused(0, second(1)) && !goes(&isr, &[], None), "an earlier copy may be under way");
    assert!(isr.refused(0, second(31)) && goes(&isr, &[], None));
    assert_eq!(proposed(&mut isr, 31, &lives(&[(2, 31), (3, 31)]), 4), None, "it is not proposed again");
    assert!(!goes(&isr, &[3], None), "it may be elected");
    assert!(goes(&isr, &[], Some(hole(1, 4))) && !goes(&isr, &[], Some(hole(1, 5))));
    isr.see_lives(&[(BrokerId(3), LIFE.next())].into());
    assert!(!goes(&isr, &[], None), "what it asks in its new life is not known");
    loses(&mut isr, 3, 4);
    isr.commit(1, set(&[1, 2, 3]), set(&[1, 2, 3]));
    assert!(!goes(&isr, &[], None), "it is in sync");
}

#[test]
fn a_member_that_wants_to_cut_its_log_leaves_at_once_and_is_lost_if_we_have_what_it_gives_up() {
    for (holes, named) in [(None, vec![2]), (Some(hole(3, 6)), vec![2]), (Some(hole(3, 7)), vec![])] {
        let mut isr = three();
        tell(&mut isr, 2, at(6, 6));
        loses(&mut isr, 2, 6);
        assert!(isr.is_broken(Offset(5)));
        assert_eq!(lost(&mut isr, 5, holes), Some((named, vec![1])), "{holes:?}");
    }
}

/// Each has what the other lacks: the one whose hole is the first cannot cut there, so that it leads, and the other is mended.
#[test]
fn a_leader_goes_before_one_that_has_what_it_lacks_behind_a_hole_of_its_own() {
    let give_up = |told: &[i32], from, eligible: &[i32]| {
        let mut isr = Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2]), set(&[1]), Mono(0));
        told.iter().for_each(|one| loses(&mut isr, *one, from));
        let eligible: Vec<BrokerId> = eligible.iter().copied().map(BrokerId).collect();
        isr.give_up(false, &eligible, hole(5, 7)).map(|one| (one.isr, one.lost))
    };
    let gone = Some((vec![], vec![BrokerId(1)]));
    assert_eq!(give_up(&[2], 4, &[2]), gone);
    assert_eq!(give_up(&[2], 7, &[2]), None, "it can be let go");
    assert_eq!(give_up(&[2], 4, &[]), None, "it may not be elected");
    assert_eq!(give_up(&[], 4, &[2]), None, "it is whole, or is mended");
    let hand_over = |from| {
        let mut isr = Isr::new(BrokerId(1), EPOCH, 0, set(&[1, 2]), set(&[1, 2]), Mono(0));
        tell(&mut isr, 2, at(from, from));
        loses(&mut isr, 2, from);
        let handed = isr.hand_over(&lives(&[]), Offset(3), 1, hole(5, 7))?;
        Some((handed.isr.len(), handed.lost))
    };
    assert_eq!(hand_over(4), Some((1, vec![BrokerId(1)])));
    assert_eq!(hand_over(7), None, "it is let go, and comes back first");
}

#[test]
fn who_may_have_what_we_lack_is_withheld() {
    let mut isr = three();
    loses(&mut isr, 2, 4);
    assert_eq!(isr.withheld(hole(2, 4)), None, "it has all of what we lack, and gives none of it up");
    assert_eq!(isr.withheld(hole(2, 5)), Some((BrokerId(2), Offset(4))));
    assert_eq!(isr.withheld(hole(2, 2)), None, "nothing is lacking");
}
