//! The judge of compacted partitions: what may be missing, and what may not.

use super::history::{Compacted, Event, Outcome};
use super::tests::Story;
use super::{Acks, Anomaly};

fn story(markers_go: bool) -> Story {
    let mut story = Story::new(true);
    story.history.partitions[0].compacted = Some(Compacted { markers_go });
    story
}

/// A record of a key that was acknowledged at an offset.
fn put(story: Story, value: u64, offset: i64, key: u64) -> Story {
    story.event(Event::Keyed { value, key, deletes: false }).ok(value, offset)
}

fn delete(story: Story, value: u64, offset: i64, key: u64) -> Story {
    story.event(Event::Keyed { value, key, deletes: true }).ok(value, offset)
}

#[test]
fn what_a_newer_record_of_the_key_replaced_may_be_gone_and_nothing_else() {
    let told = || put(put(put(story(false), 1, 0, 7), 2, 1, 8), 3, 2, 7);
    told().drain(0, 3, &[(1, 2), (2, 3)]).is(&[]);
    told().drain(0, 3, &[(0, 1), (1, 2), (2, 3)]).is(&[]);
    told().drain(0, 3, &[(2, 3)]).is(&[Anomaly::LostWrite]);
    told().drain(0, 3, &[(0, 1), (1, 2)]).is(&[Anomaly::LostWrite]);
    let mut strict = told();
    strict.history.partitions[0].compacted = None;
    strict.drain(0, 3, &[(1, 2), (2, 3)]).is(&[Anomaly::LostWrite]);
}

#[test]
fn what_was_not_promised_excuses_nothing_once_it_is_gone() {
    let told = put(story(false), 1, 0, 7).event(Event::Keyed { value: 2, key: 7, deletes: false });
    let told = told.send_as(2, Outcome::Ok { offset: Some(1) }, Acks::Leader, 1).cut();
    told.drain(0, 1, &[]).is(&[Anomaly::LostWrite]);
}

#[test]
fn a_delete_marker_may_go_in_its_time_but_only_after_what_it_deletes() {
    let told = |markers_go| delete(put(story(markers_go), 1, 0, 7), 2, 1, 7);
    told(true).drain(0, 2, &[]).is(&[]);
    told(true).drain(0, 2, &[(1, 2)]).is(&[]);
    told(true).drain(0, 2, &[(0, 1)]).is(&[Anomaly::Resurrected]);
    told(false).drain(0, 2, &[(1, 2)]).is(&[]);
    told(false).drain(0, 2, &[]).is(&[Anomaly::LostWrite]);
}

#[test]
fn a_reader_must_be_given_what_is_never_cleaned_away() {
    let told = || put(put(put(story(false), 1, 0, 7), 2, 1, 8), 3, 2, 7);
    told().poll(0, &[(0, 1)], 1).poll(0, &[(1, 2), (2, 3)], 3).drain(0, 3, &[(1, 2), (2, 3)]).is(&[
        Anomaly::NonmonotonicPoll, // it stood at 1
    ]);
    told().poll(0, &[(2, 3)], 3).drain(0, 3, &[(1, 2), (2, 3)]).is(&[Anomaly::PollSkip]);
}
