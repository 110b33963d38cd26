//! Seeds of a quorum under every fault we know; with `--ignored`, as many as `RAFT_SEEDS` says.

mod raft;

fn seeds(from: u64, count: u64) {
    let mut sum = raft::world::Stats::default();
    let mut worst = 0;
    for seed in from..from + count {
        match raft::run(seed) {
            Ok(stats) => {
                sum.elections += stats.elections;
                sum.committed += stats.committed;
                sum.acked += stats.acked;
                sum.reads += stats.reads;
                sum.changes += stats.changes;
                sum.snapshots += stats.snapshots;
                sum.crashes += stats.crashes;
                sum.wipes += stats.wipes;
                sum.healed_ms += stats.healed_ms;
                worst = worst.max(stats.healed_ms);
            }
            Err(why) => panic!("seed {seed}: {why}"),
        }
    }
    println!("{count} seeds from {from}: {sum:?}, slowest healing {worst} ms");
}

#[test]
fn single_nodes_behave_as_told() {
    for (name, story) in raft::directed::STORIES {
        story().unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn whole_quorums_behave_as_told() {
    raft::told::all().unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn a_quorum_under_chaos_is_safe_and_heals() {
    seeds(0, 60);
}

#[test]
#[ignore = "minutes to hours: the bar of 100 000 seeds"]
#[allow(clippy::disallowed_methods, reason = "how many seeds a person asks for is no setting of the product")]
fn a_quorum_under_chaos_is_safe_and_heals_for_long() {
    let number =
        |name: &str, or: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    seeds(number("RAFT_FROM", 0), number("RAFT_SEEDS", 100_000));
}
