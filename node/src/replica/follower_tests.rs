//! One claim a test. The lineages of the tables are written as the epochs and where they begin.

use super::*;

const EPOCH: LeaderEpoch = LeaderEpoch(5);
/// Of the last record of our log.
const LAST: LeaderEpoch = LeaderEpoch(1);

fn follower(start: i64, end: i64, flushed: i64, watermark: i64) -> Follower {
    let start = Start {
        leader: BrokerId(1),
        epoch: EPOCH,
        log_start: Offset(start),
        local_end: Offset(end),
        flushed_end: Offset(flushed),
        watermark: Offset(watermark),
        policy: Policy::default(),
    };
    Follower::start(start, &mut Vec::new())
}

fn heard(at: i64, watermark: i64, found: Found) -> Heard {
    let (at, watermark, start) = (Offset(at), Offset(watermark), Offset(0));
    Heard { epoch: EPOCH, at, last_epoch: LAST, watermark, start, first: None, found }
}

fn epoch_end(epoch: i32, end: i64) -> EpochEnd {
    EpochEnd { epoch: LeaderEpoch(epoch), end: Offset(end) }
}

fn diverged(theirs: (i32, i64), ours: (i32, i64)) -> Found {
    Found::Diverged { theirs: epoch_end(theirs.0, theirs.1), ours: epoch_end(ours.0, ours.1) }
}

/// A log as its epochs and where they begin, as `storage` answers for it.
struct Lineage(Vec<(i32, i64)>, i64);

impl Lineage {
    fn end_of(&self, epoch: i32) -> EpochEnd {
        let Lineage(epochs, end) = self;
        let above = epochs.partition_point(|(known, _)| *known <= epoch);
        match (above.checked_sub(1).map(|at| epochs[at]), epochs.get(above)) {
            (Some(floor), None) if floor.0 == epoch => epoch_end(epoch, *end),
            (_, None) => EpochEnd::UNKNOWN,
            (None, Some(next)) => epoch_end(epoch, next.1),
            (Some(floor), Some(next)) => epoch_end(floor.0, next.1),
        }
    }

    fn last_epoch(&self) -> Option<i32> {
        self.0.iter().rev().find(|(_, start)| *start < self.1).map(|(epoch, _)| *epoch)
    }

    fn cut(&mut self, to: i64) {
        self.1 = to;
        self.0.retain(|(_, start)| *start < to);
    }
}

/// Asks and cuts until the logs agree; where each cut was.
fn cuts(leader: &Lineage, mut ours: Lineage) -> Vec<i64> {
    let mut cuts = Vec::new();
    while let Some(last) = ours.last_epoch() {
        let theirs = leader.end_of(last);
        if theirs.epoch.0 == last && theirs.end.0 >= ours.1 {
            break;
        }
        let to = cut_at(theirs, ours.end_of(theirs.epoch.0), Offset(ours.1)).0;
        assert!(to < ours.1, "a cut at {to} of {} gets nowhere", ours.1);
        ours.cut(to);
        cuts.push(to);
    }
    cuts
}

#[test]
fn the_logs_are_cut_where_they_part() {
    let log = |epochs: &[(i32, i64)], end| Lineage(epochs.to_vec(), end);
    let cases = [
        ("the leader wrote on", log(&[(1, 0)], 20), log(&[(1, 0)], 10), vec![]),
        ("a tail that nobody took over", log(&[(1, 0), (2, 7)], 9), log(&[(1, 0)], 10), vec![7]),
        // S04: A(e1) writes x. C(e2) writes y, dies. B(e3) writes z. C asks for e2, which B never saw.
        ("two quick failovers", log(&[(1, 0), (3, 1)], 2), log(&[(1, 0), (2, 1)], 2), vec![1]),
        ("epochs that interleave", log(&[(1, 0), (4, 12)], 20), log(&[(1, 0), (2, 5), (3, 8)], 10), vec![5]),
        (
            "an epoch of each that parts twice",
            log(&[(1, 0), (3, 4), (5, 9)], 12),
            log(&[(1, 0), (2, 3), (4, 6)], 11),
            vec![6, 3],
        ),
        (
            "a leader that led without a record",
            log(&[(1, 0), (2, 10), (3, 10)], 10),
            log(&[(1, 0)], 10),
            vec![],
        ),
        ("nothing in common", log(&[(3, 0)], 5), log(&[(1, 0)], 5), vec![0]),
        ("a later epoch with less", log(&[(1, 0), (2, 4), (5, 6)], 6), log(&[(1, 0), (2, 4)], 9), vec![6]),
    ];
    for (what, leader, ours, expected) in cases {
        assert_eq!(cuts(&leader, ours), expected, "{what}");
    }
}

#[test]
fn a_watermark_is_learned_only_when_the_logs_agree() {
    let mut effects = Vec::new();
    let mut ours = follower(0, 20, 20, 10);
    let answer = heard(20, 18, diverged((1, 10), (1, 20)));
    assert_eq!(ours.judge(&answer, LAST), Next::Cut(Offset(10)));
    ours.cutting(Offset(10), &mut effects);
    ours.cut(Offset(10), &mut effects);
    assert_eq!((ours.watermark(), ours.local_end()), (Offset(10), Offset(10)));
    assert_eq!(effects, [], "readers see nothing of the leader's watermark yet");
    assert_eq!(ours.judge(&heard(10, 18, Found::Agrees), LAST), Next::Take);
    ours.appended(Offset(15), 100, &mut effects);
    assert_eq!(ours.learn(Offset(18), Offset(0), &mut effects), None);
    assert_eq!(ours.watermark(), Offset(15), "never beyond the own end");
}

#[test]
fn a_follower_that_begins_keeps_what_lies_above_its_own_watermark() {
    let ours = follower(0, 20, 20, 3);
    assert_eq!(ours.judge(&heard(20, 20, Found::Agrees), LAST), Next::Take);
}

#[test]
fn an_answer_of_another_epoch_or_position_changes_nothing() {
    let ours = follower(0, 20, 20, 3);
    let other = Heard { epoch: LeaderEpoch(4), ..heard(20, 20, Found::Agrees) };
    let late = heard(19, 20, diverged((1, 5), (1, 20)));
    // It tells of the log that was here before a cut; now others of a later epoch are at the same offset.
    let before = Heard { last_epoch: LeaderEpoch(0), ..heard(20, 20, diverged((0, 5), (0, 20))) };
    for answer in [other, late, before] {
        assert_eq!(ours.judge(&answer, LAST), Next::Ignore, "{answer:?}");
    }
}

#[test]
fn a_log_of_which_nothing_can_be_kept_begins_anew() {
    let ours = follower(10, 20, 20, 10);
    let answer = Heard { start: Offset(2), ..heard(20, 9, diverged((1, 5), (1, 10))) };
    assert_eq!(ours.judge(&answer, LAST), Next::Restart(Offset(2)));
    let behind = Heard { start: Offset(40), ..heard(20, 90, Found::Below(Offset(38))) };
    assert_eq!(ours.judge(&behind, LAST), Next::Restart(Offset(38)));
}

#[test]
fn who_has_nothing_of_the_batch_that_holds_a_start_begins_where_it_begins() {
    let answer = |at, start, first| Heard {
        start: Offset(start),
        first: Some(Offset(first)),
        last_epoch: LeaderEpoch::NONE,
        ..heard(at, 90, Found::Agrees)
    };
    let judge = |start, end, answer| follower(start, end, end, start).judge(&answer, LeaderEpoch::NONE);
    assert_eq!(judge(38, 38, answer(38, 40, 38)), Next::Take, "the leader's start lies inside of it");
    assert_eq!(judge(40, 40, answer(40, 40, 38)), Next::Restart(Offset(38)), "ours does");
    assert_eq!(judge(10, 38, answer(38, 40, 38)), Next::Restart(Offset(38)), "nothing of ours is left there");
    assert_eq!(judge(10, 40, answer(40, 40, 40)), Next::Take);
    assert_eq!(judge(10, 40, answer(40, 12, 44)), Next::Take, "a gap");
}

#[test]
fn what_lies_below_the_leaders_start_is_not_shown_by_who_comes_late() {
    let mut effects = Vec::new();
    let mut ours = follower(38, 38, 38, 38);
    ours.appended(Offset(45), 10, &mut effects);
    effects.clear();
    assert_eq!(ours.start_limit(), Offset(38), "the logs may part");
    assert_eq!(ours.learn(Offset(90), Offset(40), &mut effects), Some(Offset(40)));
    assert_eq!(
        (ours.watermark(), ours.start_limit(), ours.wanted_start()),
        (Offset(38), Offset(45), Offset(40))
    );
    assert_eq!(ours.learn(Offset(91), Offset(40), &mut effects), None, "once");
    assert_eq!(effects, []);
    ours.start_moved(Offset(40), &mut effects);
    assert_eq!(effects, [Effect::Watermark(Offset(40)), Effect::Watermark(Offset(45))]);
    assert_eq!(ours.learn(Offset(91), Offset(44), &mut effects), Some(Offset(44)), "it moves on");
    ours.cutting(Offset(43), &mut effects);
    assert_eq!(ours.wanted_start(), Offset(40), "a cut takes that back");
}

#[test]
fn what_is_appended_is_synced_by_the_policy() {
    let mut effects = Vec::new();
    let mut ours = follower(0, 0, 0, 0);
    ours.appended(Offset(5), 10, &mut effects);
    ours.appended(Offset(6), 10, &mut effects);
    assert_eq!(effects, [Effect::Flush], "one ask at a time");
    ours.flush_began();
    ours.appended(Offset(9), 10, &mut effects);
    ours.flushed(Offset(6), &mut effects);
    assert_eq!(effects, [Effect::Flush, Effect::Flush]);
    assert_eq!((ours.flushed_end(), ours.unsynced_bytes()), (Offset(6), 10));
}

#[test]
fn the_start_follows_and_shows_itself() {
    let mut effects = Vec::new();
    let mut ours = follower(0, 20, 20, 5);
    ours.start_moved(Offset(8), &mut effects);
    assert_eq!((ours.log_start(), ours.watermark()), (Offset(8), Offset(8)));
    assert_eq!(effects, [Effect::Watermark(Offset(8))]);
}

/// Whatever was known to be visible here: its leader begins behind what is damaged.
#[test]
fn a_start_follows_past_damage_as_far_as_the_log_goes() {
    let below = |start: i64| Heard { start: Offset(start), ..heard(5, 20, Found::Below(Offset(start))) };
    let mut one = follower(0, 20, 20, 0);
    assert_eq!(one.start_limit(), Offset(0));
    assert_eq!(one.leave_below(&below(21)), None, "nothing of the log would be left");
    assert_eq!(one.leave_below(&below(20)), None, "nothing would be left to compare");
    assert_eq!(one.leave_below(&below(5)), None, "the damage begins there");
    assert_eq!(one.leave_below(&Heard { found: Found::Agrees, ..below(12) }), None, "it may be put back");
    assert_eq!(one.leave_below(&below(12)), Some(Offset(12)));
    assert_eq!((one.start_limit(), one.wanted_start(), one.watermark()), (Offset(12), Offset(12), Offset(0)));
    let mut effects = Vec::new();
    one.start_moved(Offset(12), &mut effects);
    assert_eq!((one.watermark(), one.is_settled()), (Offset(12), false), "the rest is compared first");
    assert_eq!(effects, [Effect::Watermark(Offset(12))]);
    let mut cut = follower(0, 20, 20, 0);
    cut.leave_below(&below(12));
    cut.cutting(Offset(8), &mut Vec::new());
    assert_eq!(cut.start_limit(), Offset(0), "it is told anew");
}
