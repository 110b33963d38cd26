//! REP-7 on one node: what acks=all acknowledged under `durability=durable` is durable.
//!
//! Source: CORRECTNESS.md 1.2 (REP-7) and 5.3; LOG-9, LOG-12: it does not matter why a record that was acknowledged is not
//! on the platter. Called at the moment of a crash, before the crash is applied.

use super::Broken;
use super::image::Logs;

/// The run of batches that would survive holds offset `acked` of `folder`, the highest that a client was told.
#[must_use]
pub fn check(folder: &str, acked: i64, promised: &Logs) -> Option<Broken> {
    let end = promised.0.get(folder).and_then(|log| log.last()).map_or(0, |batch| batch.last + 1);
    (acked >= end).then(|| Broken {
        name: "REP-7",
        evidence: format!(
            "{folder}: offset {acked} was acknowledged, but only what is below {end} is durable"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::image::tests::batch;
    use super::*;

    #[test]
    fn an_acknowledged_offset_behind_the_durable_end_is_found() {
        let logs = Logs::of(&[("partitions/a-0/00000000000000000000.log".into(), batch(0, 3, 1))]);
        assert_eq!(check("a-0", 2, &logs), None);
        assert_eq!(check("a-0", 3, &logs).map(|broken| broken.name), Some("REP-7"));
        assert_eq!(
            check("b-0", 0, &logs).map(|broken| broken.name),
            Some("REP-7"),
            "nothing of it is durable"
        );
    }
}
