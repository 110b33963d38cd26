use super::*;

const LIMITS: Limits = Limits { sessions: 2, partitions: 6 };
const NOW: Mono = Mono(1);

fn key(partition: i32) -> Key {
    Key { topic: TopicRef::Name("t".into()), partition: PartitionId(partition) }
}

fn at(offset: i64) -> Wanted {
    let none = LeaderEpoch::NONE;
    Wanted { offset: Offset(offset), max_bytes: 1 << 20, current_epoch: none, last_epoch: none }
}

fn ask(id: i32, epoch: i32, partitions: &[i32]) -> Ask {
    let wanted = partitions.iter().map(|p| (key(*p), at(0))).collect();
    Ask { id, epoch, wanted, forgotten: Vec::new() }
}

fn told(partition: i32, watermark: i64, has_records: bool) -> (Key, Told) {
    let told = Told { watermark: Offset(watermark), log_start: Offset(0), has_records, is_notable: false };
    (key(partition), told)
}

fn partitions(plan: &Plan) -> Vec<i32> {
    plan.wanted.iter().map(|(key, _)| key.partition.0).collect()
}

/// A session on partitions 0, 1 and 2 whose first answer was sent.
fn started() -> (Sessions, i32) {
    let mut sessions = Sessions::new(LIMITS);
    let plan = sessions.begin(ask(0, 0, &[0, 1, 2]), NOW, 77).expect("full");
    let shown = sessions.finish(&plan, &[told(0, 5, false), told(1, 5, false), told(2, 5, false)]);
    assert_eq!(shown, Ok(vec![true, true, true]), "a full answer tells everything");
    (sessions, plan.id)
}

#[test]
fn an_incremental_answer_tells_only_what_is_new() {
    let (mut sessions, id) = started();
    let plan = sessions.begin(ask(id, 1, &[]), NOW, 0).expect("the session goes on");
    assert_eq!(partitions(&plan), [0, 1, 2]);
    let shown = sessions.finish(&plan, &[told(0, 5, false), told(1, 6, false), told(2, 5, true)]);
    assert_eq!(shown, Ok(vec![false, true, true]));
}

#[test]
fn a_partition_that_brought_records_is_read_last_the_next_time() {
    let (mut sessions, id) = started();
    let plan = sessions.begin(ask(id, 1, &[]), NOW, 0).expect("the session goes on");
    sessions.finish(&plan, &[told(0, 9, true)]).expect("the session goes on");
    let plan = sessions.begin(ask(id, 2, &[]), NOW, 0).expect("the session goes on");
    assert_eq!(partitions(&plan), [1, 2, 0]);
}

#[test]
fn a_request_changes_adds_and_forgets() {
    let (mut sessions, id) = started();
    let mut change = ask(id, 1, &[1, 7]);
    change.wanted[0].1 = at(40);
    change.forgotten = vec![key(0)];
    let plan = sessions.begin(change, NOW, 0).expect("the session goes on");
    assert_eq!(partitions(&plan), [1, 2, 7]);
    assert_eq!(plan.wanted[0].1.offset, Offset(40));
}

#[test]
fn an_error_is_told_every_time_and_once_more_when_it_is_over() {
    let (mut sessions, id) = started();
    let mut broken = told(0, 5, false);
    broken.1.is_notable = true;
    for (epoch, answer, shown) in [
        (1, broken.clone(), true),
        (2, broken, true),
        (3, told(0, 5, false), true),
        (4, told(0, 5, false), false),
    ] {
        let plan = sessions.begin(ask(id, epoch, &[]), NOW, 0).expect("the session goes on");
        assert_eq!(sessions.finish(&plan, &[answer]), Ok(vec![shown]), "in epoch {epoch}");
    }
}

#[test]
fn an_unknown_id_and_a_wrong_epoch_are_refused_and_change_nothing() {
    let (mut sessions, id) = started();
    assert_eq!(sessions.begin(ask(id ^ 1, 1, &[]), NOW, 0), Err(SessionError::NotFound));
    assert_eq!(sessions.begin(ask(id, 2, &[]), NOW, 0), Err(SessionError::WrongEpoch));
    assert!(sessions.begin(ask(id, 1, &[]), NOW, 0).is_ok());
}

#[test]
fn names_and_ids_do_not_mix_in_one_session() {
    let (mut sessions, id) = started();
    let mut other = ask(id, 1, &[]);
    let by_id = Key { topic: TopicRef::Id(TopicId([9; 16])), partition: PartitionId(0) };
    other.wanted = vec![(by_id, at(0))];
    assert_eq!(sessions.begin(other, NOW, 0), Err(SessionError::MixedTopics));
}

#[test]
fn epoch_minus_one_ends_the_session_and_answers_in_full() {
    let (mut sessions, id) = started();
    let plan = sessions.begin(ask(id, -1, &[3]), NOW, 0).expect("full");
    assert_eq!((plan.id, partitions(&plan)), (0, vec![3]));
    assert!(sessions.is_empty());
}

#[test]
fn the_epoch_after_the_last_is_one() {
    let (mut sessions, id) = started();
    sessions.by_id.get_mut(&id).expect("started").epoch = i32::MAX;
    sessions.begin(ask(id, i32::MAX, &[]), NOW, 0).expect("the session goes on");
    assert!(sessions.begin(ask(id, 1, &[]), NOW, 0).is_ok());
}

#[test]
fn without_room_a_fetch_is_answered_without_a_session_until_one_is_old() {
    let mut sessions = Sessions::new(LIMITS);
    let first = sessions.begin(ask(0, 0, &[0]), NOW, 5).expect("full").id;
    let second = sessions.begin(ask(0, 0, &[0]), NOW, 5).expect("full").id;
    assert_ne!(first, second, "the same random number gives two ids");
    assert_eq!(sessions.begin(ask(0, 0, &[0]), NOW, 5).expect("full").id, 0);
    let later = NOW.plus(EVICT_AFTER);
    assert_ne!(sessions.begin(ask(0, 0, &[0]), later, 9).expect("full").id, 0);
    assert_eq!(sessions.begin(ask(first, 1, &[]), later, 0), Err(SessionError::NotFound));
}

#[test]
fn the_partitions_of_all_sessions_are_bounded() {
    let (mut sessions, id) = started();
    assert_eq!(sessions.begin(ask(0, 0, &[0, 1, 2, 3]), NOW, 5).expect("full").id, 0);
    assert_eq!(sessions.begin(ask(id, 1, &[0, 1, 2, 3, 4, 5, 6]), NOW, 5), Err(SessionError::NotFound));
}

#[test]
fn a_session_that_forgot_everything_is_over() {
    let (mut sessions, id) = started();
    let mut forget = ask(id, 1, &[]);
    forget.forgotten = vec![key(0), key(1), key(2)];
    assert_eq!(sessions.begin(forget, NOW, 0).expect("full").id, 0);
    assert!(sessions.is_empty());
}
