//! Records with times at the edges of what a time can be: whoever asks for the offset of a time, or for the newest record, is
//! told what a look from the front of the log tells (KIP-734), after kills and power cuts, too.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story::{self, DURABLE, Fault, Plan};

/// The story.
pub const TIMESTAMPS: Scenario = Scenario {
    name: "timestamps",
    about: "records of the year 0, of the end of time and of no time at all, on one broker or three that are killed and without \
            power: lookups by time answer as a look at every record does",
    run,
    random: true,
};

fn run(params: &RunParams) -> RunReport {
    story::run(params, |world| {
        let mut dice = world.streams().dice("plan", 0);
        let mut plan = Plan::drawn(&mut dice).with_durability(DURABLE);
        if dice.chance(300) {
            plan = plan.fleet((3, 3), (3, 2)).settled();
        }
        plan.edges = true;
        for topic in &mut plan.topics {
            // Nothing may go, whatever its time is; and most topics take any time.
            topic.configs.insert("retention.ms".into(), "-1".into());
            if dice.chance(800) {
                topic.configs.insert("message.timestamp.after.max.ms".into(), i64::MAX.to_string());
            }
            if dice.chance(150) {
                topic.configs.insert("message.timestamp.type".into(), "LogAppendTime".into());
            }
        }
        plan.fault(3, Fault::Kill)
            .fault(3, Fault::PowerCut)
            .fault(dice.below(2), Fault::Restart)
            .fault(dice.below(2), Fault::ClockStep)
    })
}

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::Status;

    use super::*;

    #[test]
    fn a_seed_that_the_gate_runs_in_debug() {
        let report = run(&RunParams { seed: 1, ..RunParams::default() });
        assert_eq!((report.status, &*report.message), (Status::Pass, ""));
    }
}
