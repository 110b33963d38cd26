//! Admin clients: create, alter, grow, delete and look at topics of their own, and write down what they were answered.
//!
//! Owns: the metadata workload. Promises: a topic belongs to one client, which asks one thing at a time; after an answer
//! that leaves the outcome open it only looks at that topic any more, so that what may be true stays a list of two.
//! In the calm act every topic is looked at once more. Leaves out: judging (`oracle::metadata`). Called by the story.

use std::collections::BTreeMap;
use std::time::Duration;

use dejaq::client::admin::{Admin, AdminError, ConfigChange, ConfigOwner, NewTopic};
use dejaq::client::cluster::ClusterError;
use dejaq::runtime::{Mono, Runtime};
use dejaq_wire::ErrorCode;

use super::{Stage, producers};
use crate::oracle::{AdminAct, AdminOp, Event, Told, TopicSeen};
use crate::rng::Dice;
use crate::runtime::SimRuntime;

/// The machine of the first one; the others follow.
pub const FIRST_MACHINE: u32 = 140;
/// The setting that is altered: any value of it is longer than a story.
const SETTING: &str = "retention.ms";
/// Its smallest value: ten days.
const LEAST: i64 = 10 * 24 * 3600 * 1000;

/// Answers that prove that nothing was done.
const REFUSED: &[ErrorCode] = &[
    ErrorCode::TOPIC_ALREADY_EXISTS,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode::INVALID_TOPIC_EXCEPTION,
    ErrorCode::INVALID_PARTITIONS,
    ErrorCode::INVALID_CONFIG,
    ErrorCode::INVALID_REQUEST,
    ErrorCode::INVALID_REPLICATION_FACTOR,
    ErrorCode::POLICY_VIOLATION,
];

/// Starts the plan's admin clients, each on a machine of its own.
pub fn start(stage: &Stage) {
    for number in 0..stage.plan.admins {
        let stage = stage.clone();
        stage.recorder.working(1);
        stage.clone().broker.client(FIRST_MACHINE + number as u32, move |runtime| async move {
            let dice = stage.world.streams().dice("admin", number as u64);
            let admin = Admin::new(producers::cluster(&stage, runtime.clone()));
            Client { stage: stage.clone(), runtime, admin, dice, number, made: 0, next_value: LEAST }
                .run()
                .await;
            stage.recorder.working(-1);
        });
    }
}

struct Client {
    stage: Stage,
    runtime: SimRuntime,
    admin: Admin<SimRuntime>,
    dice: Dice,
    number: usize,
    made: u32,
    next_value: i64,
}

/// A topic that exists for certain.
struct Topic {
    name: String,
    partitions: i32,
}

impl Client {
    async fn run(mut self) {
        let mut own: Option<Topic> = None;
        let mut names: Vec<String> = Vec::new();
        for _ in 0..self.dice.between(10, 60) {
            if self.stage.recorder.is_calm() {
                break;
            }
            let wait = self.dice.log_between(1, 400);
            self.runtime.sleep(Duration::from_millis(wait)).await;
            own = match own {
                None => self.create(&mut names).await,
                Some(topic) => self.one(topic).await,
            };
        }
        while !self.stage.recorder.is_calm() {
            self.runtime.sleep(Duration::from_millis(100)).await;
        }
        for name in &names {
            while !self.look(name).await {
                self.runtime.sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn deadline(&self) -> Mono {
        self.runtime.now().plus(Duration::from_secs(6))
    }

    async fn create(&mut self, names: &mut Vec<String>) -> Option<Topic> {
        // A name that was deleted for certain is used again now and then.
        let again = names.last().filter(|_| self.dice.chance(300)).cloned();
        let name = again.unwrap_or_else(|| {
            self.made += 1;
            format!("admin-{}-{}", self.number, self.made)
        });
        let partitions = self.dice.between(1, 4) as i32;
        let value = self.fresh_value();
        let configs = BTreeMap::from([(SETTING.to_owned(), value.to_string())]);
        let topic =
            NewTopic { name: name.clone(), partitions: Some(partitions), replication: Some(1), configs };
        if !names.contains(&name) {
            names.push(name.clone());
        }
        let begun = self.stage.world.now_ns();
        let answer = self.admin.create_topic(&topic, false, self.deadline()).await;
        let id = answer.as_ref().map_or([0; 16], |created| created.id.0);
        let act = AdminAct::Create { partitions, value, id: hex(&id) };
        let told = self.note(&name, act, begun, answer.err().as_ref());
        (told == Told::Ok).then_some(Topic { name, partitions })
    }

    /// One step on a topic that exists; what is left of it if that is certain.
    async fn one(&mut self, topic: Topic) -> Option<Topic> {
        let begun = self.stage.world.now_ns();
        let deadline = self.deadline();
        let Topic { name, partitions } = topic;
        let (told, left) = match self.dice.below(8) {
            0 => {
                let answer = self.admin.delete_topic(&name, deadline).await;
                return match self.note(&name, AdminAct::Delete, begun, answer.err().as_ref()) {
                    Told::No => Some(Topic { name, partitions }),
                    Told::Ok | Told::Maybe => None,
                };
            }
            1 if partitions < 8 => {
                let answer = self.admin.create_partitions(&name, partitions + 1, deadline).await;
                let act = AdminAct::Grow { partitions: partitions + 1 };
                let told = self.note(&name, act, begun, answer.err().as_ref());
                (told, partitions + i32::from(told == Told::Ok))
            }
            2..=4 => {
                self.look(&name).await;
                (Told::Ok, partitions)
            }
            _ => {
                let value = self.fresh_value();
                let change = BTreeMap::from([(SETTING.to_owned(), ConfigChange::Set(value.to_string()))]);
                let owner = ConfigOwner::Topic(name.clone());
                let answer = self.admin.alter_configs(&owner, &change, deadline).await;
                (self.note(&name, AdminAct::Set { value }, begun, answer.err().as_ref()), partitions)
            }
        };
        (told != Told::Maybe).then_some(Topic { name, partitions: left })
    }

    fn fresh_value(&mut self) -> i64 {
        self.next_value += 1;
        self.next_value
    }

    fn note(&self, topic: &str, act: AdminAct, begun: u64, error: Option<&AdminError>) -> Told {
        let told = match error {
            None => Told::Ok,
            Some(error) if error.code().is_some_and(|code| REFUSED.contains(&code)) => Told::No,
            Some(_) => Told::Maybe,
        };
        self.stage.recorder.count(format!("admin requests answered {told:?}"));
        let done = self.stage.world.now_ns();
        let op = AdminOp { topic: topic.to_owned(), act, told, begun, done };
        self.stage.recorder.event(self.runtime.who(), Event::Admin(op));
        told
    }

    /// Writes down how a topic stands; `false` if nobody told.
    async fn look(&self, name: &str) -> bool {
        let begun = self.stage.world.now_ns();
        let unknown = |error: &AdminError| {
            matches!(error, AdminError::Cluster(ClusterError::UnknownTopic { .. }))
                || error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        };
        let found = match self.admin.describe_topic(name, self.deadline()).await {
            Err(error) if unknown(&error) => None,
            Err(_) => return false,
            Ok(route) => {
                let owner = ConfigOwner::Topic(name.to_owned());
                let Ok(entries) = self.admin.describe_configs(&owner, self.deadline()).await else {
                    return false;
                };
                let value =
                    entries.iter().find(|entry| entry.name == SETTING).and_then(|entry| entry.value.as_ref());
                let Some(value) = value.and_then(|value| value.parse().ok()) else { return false };
                Some(TopicSeen { id: hex(&route.id.0), partitions: route.partitions.len() as i32, value })
            }
        };
        self.note(name, AdminAct::Look { found }, begun, None);
        true
    }
}

fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}
