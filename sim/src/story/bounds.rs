//! How long each step of a story may take in virtual time, and how long it took.
//!
//! Owns: the bounds. Promises: a step that takes longer fails the run as stuck, naming the step, its bound and where every
//! broker stands; what each step took goes into the report, so that a campaign tells how near to its bound it comes.
//! Leaves out: the steps (the acts of `story` and `fleet`). The bounds are three to five times the worst that campaigns saw
//! (TESTING.md, "Liveness"): a bound that is never near finds nothing, one that is always near cries wolf.
//!
//! ```text
//!  heal ─► ready ─► producers finish ─► in sync ─► final read ─► stop
//!          └─ each with its own bound; only what nothing disturbs any more is bounded
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::recorder::FAILOVER;
use super::{BrokerNode, Fault, Stage, Stop};
use crate::ledger::{Ledger, STARTED};

/// A step with its bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    name: &'static str,
    seconds: u64,
}

impl Step {
    const fn new(name: &'static str, seconds: u64) -> Step {
        Step { name, seconds }
    }
}

/// All brokers of a fleet are up for the first time: the quorum has a leader, who has registered them.
pub(super) const FIRST_READY: Step = Step::new("all brokers ready at the first start", 60);
/// The topics of the plan are there.
pub(super) const TOPICS: Step = Step::new("the topics made", 60);
/// The broker, or all of a fleet, serve again after the last fault: recovery, election, unfencing.
pub(super) const READY: Step = Step::new("ready after the last fault", 120);
/// Producers know what became of every record: leaders are elected, in-sync sets large enough.
pub(super) const PRODUCERS: Step = Step::new("producers done after the last fault", 120);
/// A consumer group has read everything that was there, with one owner for each partition.
pub(super) const GROUP: Step = Step::new("the group settled after the last fault", 120);
/// Pipelines have passed everything that is committed, and nothing is undecided.
pub(super) const PIPES: Step = Step::new("the pipelines at the end after the last fault", 120);
/// Every replica of every partition is in sync.
pub(super) const IN_SYNC: Step = Step::new("every replica in sync after the last fault", 120);
/// Every broker holds as many replicas as the others, to within one, the ones that came later, too.
pub(super) const LEVEL: Step = Step::new("replicas levelled after the last fault", 120);
/// Drains are taken back, and who lost its disk votes again.
pub(super) const OPERATOR: Step = Step::new("the operator done after the last fault", 120);
/// A cluster that goes to the next release, and back, has got there: six brokers stopped and started, one after the other.
pub(super) const UPGRADED: Step = Step::new("the upgrade over after the last fault", 400);
/// What rotted on a member's disk is found, and fetched from another.
pub(super) const MENDED: Step = Step::new("all damage mended after the last fault", 120);
/// A broker is drained: everything of it is elsewhere.
pub(super) const EMPTIED: Step = Step::new("a broker drained", 120);
/// A fresh reader has read every partition from its start to its end.
pub(super) const DRAIN: Step = Step::new("the final read", 60);
/// Times are asked for and compared with the whole log.
pub(super) const EDGES: Step = Step::new("times looked up", 60);
/// A request of many thousand elements has its answer, though others asked for as much and went: whatever they had claimed is
/// back, or the time of who does not read its answer is over.
pub(super) const FLOOD: Step = Step::new("a large request answered after the last flood", 120);
/// A graceful stop.
pub(super) const STOP: Step = Step::new("a graceful stop", 60);

/// A broker that is alone serves so long after its start: it waits for nobody.
const RECOVERED: Duration = Duration::from_secs(30);
/// Another broker acknowledges what is sent, so long after the end of a leader, where brokers end and come back, but nothing
/// cuts them off from each other: a session, an election, and what strikes meanwhile.
const FAILED_OVER: Duration = Duration::from_secs(60);
/// Faults of which a majority comes back by itself.
const ENDS: [Fault; 4] = [Fault::Kill, Fault::Restart, Fault::Pause, Fault::PowerCut];

/// What took too long of what only the whole run tells: the first span beyond its bound.
pub(super) fn overdue(stage: &Stage) -> Result<(), Stop> {
    let (bounded, limit) = match stage.plan.brokers {
        1 => (stage.world.trace().ledger(Ledger::spans_ms), (STARTED, RECOVERED)),
        _ => (stage.recorder.spans(), (FAILOVER, FAILED_OVER)),
    };
    let mut drawn = stage.plan.faults.iter().filter(|(weight, _)| *weight > 0);
    // On a full disk a start may wait for room.
    let is_bounded = match stage.plan.brokers {
        1 => stage.plan.capacity.is_none(),
        _ => drawn.all(|(_, fault)| ENDS.contains(fault)),
    };
    if !is_bounded {
        return Ok(());
    }
    over(&bounded, limit).map_or(Ok(()), |why| Err(Stop::Stuck(why)))
}

fn over(spans: &BTreeMap<String, Vec<u64>>, (name, limit): (&str, Duration)) -> Option<String> {
    let most = *spans.get(name)?.iter().max()?;
    let is_over = u128::from(most) > limit.as_millis();
    is_over.then(|| format!("`{name}` took {most} ms, more than {} s", limit.as_secs()))
}

/// Does `work` within the bound of `step`.
pub(super) async fn within<T>(stage: &Stage, step: Step, work: impl Future<Output = T>) -> Result<T, Stop> {
    let begun = stage.world.now_ns();
    let limit = stage.world.sleep(Duration::from_secs(step.seconds));
    let done = tokio::select! {
        biased; // the work first: what is done in time counts
        done = work => done,
        () = limit => return Err(match stage.broker.broken() {
            Some(broken) => Stop::Broken(broken),
            None => {
                let states: Vec<String> = stage.brokers.iter().map(BrokerNode::state).collect();
                let Step { name, seconds } = step;
                Stop::Stuck(format!("`{name}` took more than {seconds} s: {}", states.join("; ")))
            }
        }),
    };
    stage.recorder.took(step.name, (stage.world.now_ns() - begun) / 1_000_000);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_span_counts_and_what_was_never_measured_does_not() {
        let spans = BTreeMap::from([(STARTED.to_owned(), vec![5, 30_001, 7])]);
        let why = over(&spans, (STARTED, RECOVERED)).expect("one is beyond it");
        assert!(why.contains("30001 ms, more than 30 s"), "{why}");
        assert_eq!(over(&spans, (STARTED, Duration::from_millis(30_001))), None);
        assert_eq!(over(&spans, (FAILOVER, FAILED_OVER)), None);
    }
}
