//! God's view of a fleet: the disks of all brokers beside each other.
//!
//! Owns: when to look, and what was found. Promises: looks change nothing and draw nothing; the first finding counts.
//! Leaves out: the properties themselves (`crate::invariants::replicas`).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::invariants::Broken;
use crate::invariants::image::Logs;
use crate::invariants::replicas::{self, Copy};
use crate::story::Stage;

/// How often the disks are compared while faults strike.
const LOOK: Duration = Duration::from_millis(500);

/// What was found. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct God(Arc<Mutex<Option<Broken>>>);

impl God {
    /// Begins to look from time to time, as long as the story lasts.
    pub fn watch(stage: &Stage) -> God {
        let god = God::default();
        let (watching, stage) = (god.clone(), stage.clone());
        stage.broker.clone().aside(async move {
            loop {
                stage.world.sleep(LOOK).await;
                watching.look(&stage);
            }
        });
        god
    }

    /// The first property that was found broken.
    pub fn broken(&self) -> Option<Broken> {
        self.0.lock().expect("nothing panics in here").clone()
    }

    fn note(&self, stage: &Stage, broken: Option<Broken>) {
        if let Some(broken) = broken {
            stage.world.event(crate::world::NOBODY, "broken", &[], || format!("{broken:?}"));
            self.0.lock().expect("nothing panics in here").get_or_insert(broken);
        }
    }

    /// What must hold at every moment: REP-2, MQ-3, REP-1g.
    pub fn look(&self, stage: &Stage) {
        if self.broken().is_some() {
            return;
        }
        let disks = disks(stage);
        self.note(stage, replicas::matching(&disks));
        for (folder, acked) in stage.recorder.promised() {
            if acked < stage.recorder.trimmed(&folder) {
                continue;
            }
            let Some(part) = stage.recorder.part_of_folder(&folder) else { continue };
            let need = stage.recorder.topic_of(part, &stage.plan).min_insync;
            self.note(stage, replicas::copies(&disks, &folder, acked, need));
        }
    }

    /// What must hold when everything is healed and all have stopped: REP-16.
    pub fn at_rest(&self, stage: &Stage) {
        let disks = disks(stage);
        for topic in &stage.plan.topics {
            for index in 0..topic.partitions {
                let Some(folder) = stage.recorder.folder_of(&topic.name, index) else { continue };
                let holders: Vec<u32> = disks
                    .iter()
                    .filter(|copy| copy.written.0.contains_key(&folder))
                    .map(|copy| copy.node)
                    .collect();
                self.note(stage, replicas::identical(&disks, &folder, &holders));
            }
        }
    }
}

fn disks(stage: &Stage) -> Vec<Copy> {
    let of = |broker: &crate::story::BrokerNode| {
        let platter = broker.device().platter;
        let damage = platter.damage();
        let written = Logs::undamaged(platter.files(), &damage);
        Copy::of(broker.node(), written, &Logs::undamaged(platter.durable_files(), &damage))
    };
    stage.brokers.iter().map(of).collect()
}
