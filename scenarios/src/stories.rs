//! Directed stories: scripted faults with fixed latencies, each with one timeline that changes only when behaviour does.
//!
//! The timelines are snapshots beside this file (`snapshots/`), for a person to read; columns: `dejaq_sim::story::direct`.
//! Accept a wanted change with `INSTA_UPDATE=always cargo test -p dejaq-scenarios stories`.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{Plan, Scene, direct};
use dejaq_storage::model_disk::{CrashMode, Fault, Plan as DiskPlan};

type Told = (RunReport, String);

const fn story(name: &'static str, about: &'static str, run: fn(&RunParams) -> RunReport) -> Scenario {
    Scenario { name, about, run, random: false }
}

/// All of them.
pub const KILL: Scenario = story(
    "story_kill",
    "the process is killed between a write and its sync; the producer's retry is told the first offset",
    |params| kill(params).0,
);
/// See its text.
pub const POWER_CUT: Scenario = story(
    "story_power_cut",
    "the power fails between a write and its sync; the record was not acknowledged, and is sent again",
    |params| power_cut(params).0,
);
/// See its text.
pub const FAILED_SYNC: Scenario = story(
    "story_failed_sync",
    "a sync fails: the directory goes offline, nothing is acknowledged until a restart",
    |params| failed_sync(params).0,
);
/// See its text.
pub const TORN_TAIL: Scenario = story(
    "story_torn_tail",
    "of two unsynced batches the second is torn (seed 3): recovery keeps the first and cuts exactly the second",
    |params| torn_tail(params).0,
);
/// See its text.
pub const DISK_FULL: Scenario = story(
    "story_disk_full",
    "the disk is full, then freed: writes wait, reads go on, nothing is lost",
    |params| disk_full(params).0,
);
/// See its text.
pub const RETENTION: Scenario = story(
    "story_retention",
    "segments roll and the start moves, then the power fails: the start does not come back",
    |params| retention(params).0,
);

fn as_drawn(_: &mut Plan) {}

fn kill(params: &RunParams) -> Told {
    direct(params, as_drawn, |scene: Scene| async move {
        scene.send(100).await;
        scene.settle().await;
        scene.send(100).await;
        scene.until_written(2).await;
        scene.kill();
        scene.wait(50).await;
        scene.start().await;
        scene.settle().await;
        scene.send(100).await;
    })
}

fn power_cut(params: &RunParams) -> Told {
    direct(params, as_drawn, |scene: Scene| async move {
        scene.send(100).await;
        scene.settle().await;
        scene.send(100).await;
        scene.until_written(2).await;
        scene.power_cut(CrashMode::Lose);
        scene.wait(50).await;
        scene.start().await;
        scene.settle().await;
        scene.send(100).await;
    })
}

fn failed_sync(params: &RunParams) -> Told {
    direct(params, as_drawn, |scene: Scene| async move {
        scene.send(100).await;
        scene.settle().await;
        let sync = DiskPlan { fault: Fault::SyncError, path_contains: ".log".into(), after: 0 };
        scene.platter().plan(sync);
        scene.say("the next sync of a log will fail");
        scene.send(100).await;
        scene.wait(200).await;
        scene.say("and the one after it would succeed");
        scene.send(100).await;
        scene.wait(800).await;
        scene.kill();
        scene.wait(50).await;
        scene.start().await;
    })
}

fn torn_tail(params: &RunParams) -> Told {
    direct(params, as_drawn, |scene: Scene| async move {
        scene.send(100).await;
        scene.settle().await;
        scene.send(2000).await;
        scene.wait(2).await;
        scene.send(2000).await;
        scene.until_written(3).await;
        scene.power_cut(CrashMode::Prefix);
        scene.say("this much is left of what was not synced");
        scene.wait(50).await;
        scene.start().await;
        scene.settle().await;
    })
}

fn disk_full(params: &RunParams) -> Told {
    direct(params, as_drawn, |scene: Scene| async move {
        scene.send(100).await;
        scene.settle().await;
        let used: u64 = scene.platter().lengths().iter().map(|(_, length)| length).sum();
        scene.platter().set_capacity(Some(used + 300));
        scene.say("the disk has room for 300 bytes");
        scene.send(1000).await;
        scene.wait(300).await;
        scene.read().await;
        scene.platter().set_capacity(None);
        scene.say("there is room again");
        scene.settle().await;
        scene.send(100).await;
    })
}

fn retention(params: &RunParams) -> Told {
    direct(
        params,
        |plan: &mut Plan| *plan = plan.clone().with_segments(1024),
        |scene: Scene| async move {
            for _ in 0..6 {
                scene.send(600).await;
                scene.settle().await;
            }
            scene.trim(4).await;
            scene.wait(500).await;
            scene.power_cut(CrashMode::Lose);
            scene.wait(50).await;
            scene.start().await;
            scene.read().await;
            scene.send(600).await;
        },
    )
}

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::Status;

    use super::*;

    fn check(name: &str, (report, timeline): Told) {
        assert_eq!((report.status, &*report.message), (Status::Pass, ""), "\n{timeline}");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, timeline);
        });
    }

    fn params() -> RunParams {
        RunParams { seed: 1, ..RunParams::default() }
    }

    #[test]
    fn a_retry_after_a_kill_is_told_its_first_offset() {
        check("kill", kill(&params()));
    }

    #[test]
    fn what_was_not_synced_was_not_acknowledged() {
        check("power_cut", power_cut(&params()));
    }

    #[test]
    fn after_a_failed_sync_nothing_is_acknowledged_before_a_restart() {
        check("failed_sync", failed_sync(&params()));
    }

    #[test]
    fn recovery_cuts_the_torn_tail_and_nothing_else() {
        check("torn_tail", torn_tail(&RunParams { seed: 3, ..params() }));
    }

    #[test]
    fn a_full_disk_delays_and_loses_nothing() {
        check("disk_full", disk_full(&params()));
    }

    #[test]
    fn a_start_that_was_answered_does_not_come_back() {
        check("retention", retention(&params()));
    }
}
