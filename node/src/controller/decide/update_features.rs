//! UpdateFeatures: the level of the cluster goes up when everybody supports it, and down when nothing needs it any more.
//!
//! Promises: all of a request or nothing; the level is raised only when every registered broker has told this controller, in
//! its current life, that it supports the new one, so that no broker ever reads what it does not know; it is lowered only when
//! nothing of the metadata needs it, and what does is named.
//! Leaves out: what a level means (`metadata::level`), the snapshot without newer forms that follows a lower level (`driver`).
//!
//! ```text
//!  1 ── every broker supports 2 ──► 2: its configs may be set, its records written
//!  1 ◄── nothing of 2 is in use ─── 2
//! ```
//!
//! Other features are what they are: Kafka's tools may ask for the level that there is, and for no other.
//! Decided: no unsafe downgrade. It would throw away what somebody set, with a guarantee that applications count on (how many
//! copies acknowledge); who wants that removes the config, and sees what it does.

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use serde::{Deserialize, Serialize};

use super::register_broker::METADATA_VERSION_FEATURE;
use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::metadata::Image;
use crate::metadata::level::{DEJAQ_VERSION, Levels};
use crate::metadata::record::FeatureLevelSet;

/// Features that every broker of this build has, so that nobody has to switch them on: clients look at them before
/// they use what they name. `group.version` 1 is KIP-848. `transaction.version` 2 is KIP-890: a producer gets a new epoch
/// with each transaction, and partitions join as they are written to.
pub const BUILT_IN: &[(&str, i16)] = &[("group.version", 1), ("transaction.version", 2)];

/// Which way a level may go. The order of the variants is their number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Up only.
    Up,
    /// Down, if nothing is lost.
    Down,
    /// Down, whatever is lost.
    DownAndLose,
}

/// What is to become of one feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Its name.
    pub feature: String,
    /// The level that it is to have.
    pub level: i16,
    /// Which way that may be; `None` if the request names a way that there is not.
    pub way: Option<Way>,
}

/// The request. Every update is of another feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateFeatures {
    /// What is to change.
    pub updates: Vec<Update>,
    /// Whether to say only what would happen.
    pub validate_only: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Updated {
    /// One for each update, in their order; if one is refused, nothing is changed.
    pub results: Vec<Result<(), Refusal>>,
}

impl Decide for UpdateFeatures {
    type Answer = Updated;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Self::Answer {
        let before = draft.savepoint();
        let results: Vec<_> = self.updates.iter().map(|update| change(update, draft, context)).collect();
        if self.validate_only || results.iter().any(Result::is_err) {
            draft.roll_back(before);
        }
        Updated { results }
    }
}

fn invalid(update: &Update, why: &str) -> Refusal {
    let why = format!("Invalid update version {} for feature {}. {why}", update.level, update.feature);
    Refusal::new(ErrorCode::INVALID_UPDATE_VERSION, why)
}

fn failed(why: String) -> Refusal {
    Refusal::new(ErrorCode::FEATURE_UPDATE_FAILED, why)
}

fn change(update: &Update, draft: &mut Draft, context: &Context<'_>) -> Result<(), Refusal> {
    let image = draft.image();
    let now = match update.feature.as_str() {
        DEJAQ_VERSION => image.level(),
        METADATA_VERSION_FEATURE => image.feature(METADATA_VERSION_FEATURE).unwrap_or(0),
        other => match BUILT_IN.iter().find(|(name, _)| *name == other) {
            Some((_, level)) => *level,
            None => return Err(invalid(update, "This cluster has no such feature.")),
        },
    };
    let Some(way) = update.way else {
        return Err(invalid(update, "The controller does not support the given upgrade type."));
    };
    if update.level == now {
        return Ok(());
    }
    if update.feature != DEJAQ_VERSION {
        return Err(invalid(update, &format!("This release has it at level {now} and at no other.")));
    }
    let own = context.settings.levels;
    if !own.have(update.level) {
        let why = format!("The active controller, on broker {}, supports {own}.", context.settings.node);
        return Err(invalid(update, &why));
    }
    match (way, update.level > now) {
        (Way::Up, true) => check_all_support(update.level, image, context)?,
        (Way::Up, false) => {
            return Err(invalid(
                update,
                &format!(
                    "It stands at {now}; can't downgrade without setting the upgrade type to safe downgrade."
                ),
            ));
        }
        (Way::Down | Way::DownAndLose, true) => {
            return Err(invalid(update, &format!("It stands at {now}; can't downgrade to a newer level.")));
        }
        (Way::DownAndLose, false) => {
            mark!("an unsafe downgrade is refused");
            return Err(invalid(
                update,
                "An unsafe downgrade is not supported: remove what needs the newer level, then ask for a safe one.",
            ));
        }
        (Way::Down, false) => check_unused(update.level, image)?,
    }
    draft.push(FeatureLevelSet { name: DEJAQ_VERSION.into(), level: update.level });
    Ok(())
}

/// A broker that is down counts, too: it would not be let in again, and nobody would have told its operator before.
fn check_all_support(level: i16, image: &Image, context: &Context<'_>) -> Result<(), Refusal> {
    let supported = |broker: BrokerId| -> Option<Levels> {
        let own = (broker == context.settings.node).then_some(context.settings.levels);
        own.or_else(|| context.liveness.levels(broker))
    };
    for broker in image.brokers().map(|broker| broker.id) {
        match supported(broker) {
            Some(levels) if levels.have(level) => {}
            Some(levels) => {
                mark!("a level that a broker does not support is not finalized");
                let why = format!(
                    "{DEJAQ_VERSION} {level} needs every broker, and broker {broker} supports {levels}. Stop it, start the \
                     newer release on it, and ask again."
                );
                return Err(failed(why));
            }
            None => {
                mark!("a level waits until the controller has heard every broker");
                let why = format!(
                    "{DEJAQ_VERSION} {level} needs every broker, and broker {broker} has not been heard since this \
                     controller became active. Ask again in a moment, start the broker, or unregister it."
                );
                return Err(failed(why));
            }
        }
    }
    Ok(())
}

fn check_unused(level: i16, image: &Image) -> Result<(), Refusal> {
    let Some(need) = image.in_use_above(level) else { return Ok(()) };
    mark!("a level that is in use is not taken back");
    let why = format!(
        "{DEJAQ_VERSION} {} is in use: {}. Remove it, then ask again; nothing was changed.",
        need.level, need.what
    );
    Err(failed(why))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dejaq_wire::ids::BrokerEpoch;

    use super::super::alter_configs::{Operation, Target};
    use super::super::broker_heartbeat::BrokerHeartbeat;
    use super::super::register_broker::{Entry, RegisterBroker};
    use super::super::tests::{Desk, topic};
    use super::*;
    use crate::controller::liveness::Liveness;
    use crate::metadata::level::NEWEST;

    fn to(level: i16, way: Way) -> Update {
        Update { feature: DEJAQ_VERSION.into(), level, way: Some(way) }
    }

    fn ask(desk: &mut Desk, update: Update) -> Result<(), Refusal> {
        desk.decide(UpdateFeatures { updates: vec![update], validate_only: false }).results.remove(0)
    }

    fn code(result: Result<(), Refusal>) -> ErrorCode {
        result.expect_err("it is refused").code
    }

    /// Brokers of the last release, with a controller of this one.
    fn old(brokers: i32) -> Desk {
        let mut desk = Desk::with_brokers(0);
        desk.settings.levels = Levels::FIRST;
        for id in 1..=brokers {
            register(&mut desk, id, 1, Levels::FIRST).expect("a number of its own");
        }
        desk.settings.levels = Levels::default();
        assert_eq!(desk.image.level(), 1);
        desk
    }

    fn register(desk: &mut Desk, id: i32, incarnation: u128, levels: Levels) -> Result<(), Refusal> {
        let request = RegisterBroker {
            broker: BrokerId(id),
            incarnation,
            endpoints: Vec::new(),
            rack: None,
            directory_id: [0; 16],
            clean: true,
            closed_in: BrokerEpoch::NONE,
            entry: Entry::Live,
            levels,
        };
        desk.decide(request).map(drop)
    }

    fn set_acks(desk: &mut Desk, operation: Operation) -> Result<(), Refusal> {
        desk.alter_at(Target::Topic("t".into()), false, &[("acks.required", operation)])
    }

    #[test]
    fn a_new_cluster_stands_at_the_newest_level_and_writes_no_feature_at_the_first() {
        assert_eq!(Desk::with_brokers(1).image.level(), NEWEST);
        let desk = old(1);
        assert_eq!(desk.image.feature(DEJAQ_VERSION), None);
        assert!(desk.log.iter().all(|record| record.level() == 1), "{:?}", desk.log);
    }

    #[test]
    fn the_level_goes_up_once_every_broker_supports_it() {
        let mut desk = old(3);
        for id in 1..=3 {
            let refused = ask(&mut desk, to(2, Way::Up)).expect_err("one is old");
            assert_eq!(refused.code, ErrorCode::FEATURE_UPDATE_FAILED);
            let next = if id == 1 { 2 } else { id };
            assert!(refused.message.expect("a text").contains(&format!("broker {next} supports 1-1")));
            register(&mut desk, id, 2, Levels::default()).expect("its own");
        }
        let only_asked = UpdateFeatures { updates: vec![to(2, Way::Up)], validate_only: true };
        assert_eq!((desk.decide(only_asked).results, desk.image.level()), (vec![Ok(())], 1));
        assert_eq!(ask(&mut desk, to(2, Way::Up)), Ok(()));
        assert_eq!(desk.image.level(), 2);
        let records = desk.log.len();
        assert_eq!(ask(&mut desk, to(2, Way::Down)), Ok(()), "it is there already");
        assert_eq!(desk.log.len(), records);
    }

    #[test]
    fn a_new_controller_asks_brokers_again_what_they_support() {
        let mut desk = old(2);
        register(&mut desk, 1, 2, Levels::default()).expect("its own");
        register(&mut desk, 2, 2, Levels::default()).expect("its own");
        desk.liveness = Liveness::take_over(desk.now, &desk.image);
        assert_eq!(code(ask(&mut desk, to(2, Way::Up))), ErrorCode::FEATURE_UPDATE_FAILED);
        let broker_epoch = desk.image.broker(BrokerId(2)).expect("registered").epoch;
        let beat = BrokerHeartbeat {
            broker: BrokerId(2),
            broker_epoch,
            metadata_end: desk.image.end(),
            want_fence: false,
            want_shutdown: false,
            levels: Levels::default(),
        };
        desk.decide(beat).expect("registered");
        assert_eq!(ask(&mut desk, to(2, Way::Up)), Ok(()));
    }

    #[test]
    fn what_level_2_brought_is_refused_before_it_and_keeps_it_from_going_down() {
        let mut desk = old(1);
        desk.create(topic("t", 1, 1)).expect("new");
        let refused = set_acks(&mut desk, Operation::Set("2".into())).expect_err("too early");
        assert_eq!(refused.code, ErrorCode::INVALID_CONFIG);
        assert!(refused.message.expect("a text").contains("dejaq cluster upgrade"));
        let mut early = topic("u", 1, 1);
        early.configs = vec![config("replica.lag.max.messages", "9")];
        assert_eq!(desk.create(early.clone()).map_err(|why| why.code), Err(ErrorCode::INVALID_CONFIG));
        register(&mut desk, 1, 2, Levels::default()).expect("its own");
        ask(&mut desk, to(2, Way::Up)).expect("it supports it");
        set_acks(&mut desk, Operation::Set("2".into())).expect("it is time");
        desk.create(early).expect("it is time");

        let refused = ask(&mut desk, to(1, Way::Down)).expect_err("in use");
        assert_eq!(refused.code, ErrorCode::FEATURE_UPDATE_FAILED);
        assert!(refused.message.expect("a text").contains("topic t has the config acks.required"));
        assert_eq!(code(ask(&mut desk, to(1, Way::DownAndLose))), ErrorCode::INVALID_UPDATE_VERSION);
        set_acks(&mut desk, Operation::Delete).expect("there");
        let refused = ask(&mut desk, to(1, Way::Down)).expect_err("in use");
        assert!(refused.message.expect("a text").contains("topic u"));
        let target = Target::Topic("u".into());
        desk.alter_at(target, false, &[("replica.lag.max.messages", Operation::Delete)]).expect("there");
        assert_eq!(ask(&mut desk, to(1, Way::Down)), Ok(()));
        assert_eq!(desk.image.level(), 1);
    }

    fn config(name: &str, value: &str) -> dejaq_wire::kafka::create_topics::CreatableTopicConfig {
        dejaq_wire::kafka::create_topics::CreatableTopicConfig {
            name: name.into(),
            value: Some(value.into()),
        }
    }

    #[test]
    fn a_broker_that_does_not_support_the_level_is_not_let_in() {
        let mut desk = Desk::with_brokers(1);
        let refused = register(&mut desk, 2, 1, Levels::FIRST).expect_err("too old");
        assert_eq!(refused.code, ErrorCode::UNSUPPORTED_VERSION);
        let text = refused.message.expect("a text");
        assert!(text.contains("supports dejaq.version 1-1") && text.contains("stands at 2"), "{text}");
        ask(&mut desk, to(1, Way::Down)).expect("nothing is in use");
        assert_eq!(register(&mut desk, 2, 1, Levels::FIRST), Ok(()));
        let newer = Levels { min: 2, max: 3 };
        let text = register(&mut desk, 3, 1, newer).expect_err("too new").message.expect("a text");
        assert!(text.contains("dejaq cluster upgrade"), "{text}");
    }

    #[test]
    fn wrong_ways_and_levels_are_refused_and_nothing_is_changed() {
        let mut desk = Desk::with_brokers(1);
        let before = desk.image.clone();
        let invalid = ErrorCode::INVALID_UPDATE_VERSION;
        for update in [
            to(NEWEST + 1, Way::Up),
            to(0, Way::Down),
            to(-1, Way::Down),
            to(1, Way::Up),
            Update { way: None, ..to(2, Way::Up) },
            Update { feature: "no.such".into(), ..to(2, Way::Up) },
            Update { feature: METADATA_VERSION_FEATURE.into(), ..to(26, Way::Up) },
            Update { feature: "group.version".into(), ..to(0, Way::Down) },
        ] {
            assert_eq!(code(ask(&mut desk, update.clone())), invalid, "{update:?}");
        }
        let same = Update { feature: METADATA_VERSION_FEATURE.into(), ..to(25, Way::Up) };
        assert_eq!(ask(&mut desk, same), Ok(()));
        let all = desk.decide(UpdateFeatures {
            updates: vec![to(1, Way::Down), Update { feature: "no.such".into(), ..to(2, Way::Up) }],
            validate_only: false,
        });
        assert!(all.results[0].is_ok() && all.results[1].is_err());
        assert_eq!(desk.image, before, "one refusal, and nothing is changed");
        assert_eq!(BTreeMap::from_iter(BUILT_IN.iter().copied()).len(), BUILT_IN.len());
    }
}
