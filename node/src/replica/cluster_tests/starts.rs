//! A log start inside of a batch, which DeleteRecords makes: replicas that come, that were away, and that are damaged there.

use super::*;

fn of(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

/// Writes batches of five records each, `a0` to `a4` and so on.
async fn fives(live: &Live, letters: &[&str]) {
    for letter in letters {
        let values: Vec<String> = (0..5).map(|at| format!("{letter}{at}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        told(live, batch(1_800_000_000_000, &values)).await;
    }
}

async fn trim(live: &Live, to: i64) {
    assert_eq!(retention::move_start(&live.partition(), Some(Offset(to))).await, Ok(Offset(to)));
}

impl Cluster {
    async fn starts_at(&self, start: i64) {
        let is_there = |live: &Live| {
            live.directory.partition(PLACE).is_some_and(|one| one.view().reader().start() == Offset(start))
        };
        self.until("the start is followed", |cluster| cluster.live.values().all(is_there)).await;
    }
}

#[tokio::test]
async fn a_replica_that_comes_gets_the_batch_that_holds_the_start_and_shows_nothing_below() {
    let mut cluster = Cluster::start(&[]).await;
    fives(&cluster.live[&1], &["a", "b", "c"]).await;
    cluster.converged(1).await;
    cluster.between.change(|state| (state.replicas, state.isr) = (of(&[1, 2]), of(&[1, 2])));
    cluster
        .until("node 3 has nothing", |cluster| cluster.live[&3].directory.partition(PLACE).is_none())
        .await;
    trim(&cluster.live[&1], 7).await;
    cluster.between.change(|state| state.replicas = of(&[1, 2, 3]));
    cluster.until("node 3 is in sync", |cluster| cluster.isr().len() == 3).await;
    cluster.starts_at(7).await;
    fives(&cluster.live[&1], &["d"]).await;
    cluster.converged(1).await;
    for (id, live) in &cluster.live {
        let rack = format!("r{id}");
        let (below, _) = fetched(live, 11, 5, &rack).await;
        assert_eq!(below.error_code, ErrorCode::OFFSET_OUT_OF_RANGE, "node {id}");
        let (there, _) = fetched(live, 11, 7, &rack).await;
        let values = values(there.records.unwrap_or_default()).0;
        assert_eq!((values.len(), values[0].as_str()), (15, "b0"), "node {id}: its batch is whole");
    }
    cluster.kill(3, Some(CrashMode::Lose)).await;
    cluster.restart(3).await;
    cluster.until("node 3 is in sync again", |cluster| cluster.isr().len() == 3).await;
    cluster.live[&1].acked("after").await;
    cluster.converged(1).await;
    cluster.elect(3, &[3, 2, 1]);
    cluster.until("node 3 leads", |cluster| cluster.leads(3)).await;
    cluster.live[&3].acked("after all").await;
    cluster.converged(3).await;
}

/// It stands where the batch begins that holds the start, or before, or its log is empty and begins inside of that batch.
#[tokio::test]
async fn a_follower_that_was_away_while_the_start_moved_into_a_batch_comes_back() {
    for (start, begins_at) in [(7, None), (12, None), (7, Some(0)), (12, Some(12)), (15, None), (15, Some(7))]
    {
        let mut cluster = Cluster::new();
        cluster.lag = Duration::from_millis(200);
        let cluster = cluster.born(&[]).await;
        fives(&cluster.live[&1], &["a"]).await;
        cluster.converged(1).await;
        cluster.cut(1, 3);
        fives(&cluster.live[&1], &["b", "c"]).await;
        trim(&cluster.live[&1], start).await;
        if let Some(base) = begins_at {
            let follower = &cluster.live[&3];
            follower.directory.restart(PLACE, &follower.partition(), Offset(base)).await;
        }
        cluster.heal();
        cluster.until("node 3 is in sync again", |cluster| cluster.isr().len() == 3).await;
        fives(&cluster.live[&1], &["d"]).await;
        cluster.starts_at(start).await;
        cluster.converged(1).await;
    }
}

#[tokio::test]
async fn what_lies_below_the_leaders_start_is_not_shown_while_ours_cannot_move() {
    let mut cluster = Cluster::new();
    cluster.lag = Duration::from_millis(200);
    let cluster = cluster.born(&[]).await;
    fives(&cluster.live[&1], &["a"]).await;
    cluster.converged(1).await;
    cluster.cut(1, 3);
    fives(&cluster.live[&1], &["b"]).await;
    trim(&cluster.live[&1], 7).await;
    // The log is begun anew at 5, and then the start cannot be written once.
    cluster.platters[&3].plan(Plan { fault: Fault::WriteError, path_contains: "start".to_owned(), after: 1 });
    cluster.heal();
    cluster
        .until("node 3 has all", |cluster| {
            let partition = cluster.live[&3].directory.partition(PLACE);
            partition.is_some_and(|one| one.view().reader().flushed() == Offset(10))
        })
        .await;
    cluster.until("node 3 is in sync again", |cluster| cluster.isr().len() == 3).await;
    let view = |cluster: &Cluster| {
        let partition = cluster.live[&3].partition();
        (partition.view().reader().start(), partition.view().watermark())
    };
    assert_eq!(view(&cluster), (Offset(5), Offset(5)));
    let (below, _) = fetched(&cluster.live[&3], 11, 5, "r3").await;
    assert!(below.records.is_none_or(|records| records.is_empty()));
    cluster.starts_at(7).await;
    cluster.until("it shows the rest", |cluster| view(cluster) == (Offset(7), Offset(10))).await;
    cluster.converged(1).await;
}

/// Nothing is left that names where a follower stands: what it told of that before is not what it is answered to any more.
#[tokio::test]
async fn a_follower_goes_on_after_all_that_it_had_is_gone() {
    let cluster = Cluster::start(&[]).await;
    fives(&cluster.live[&1], &["a"]).await;
    cluster.converged(1).await;
    trim(&cluster.live[&1], 5).await;
    cluster.starts_at(5).await;
    fives(&cluster.live[&1], &["b"]).await;
    cluster.converged(1).await;
    assert_eq!(cluster.isr().len(), 3);
}

/// All of the damage, or the first of it, is gone at the leader: the follower's start follows, and the rest of its log stays.
#[tokio::test]
async fn damage_below_the_leaders_start_goes_with_a_move_of_the_start() {
    for (start, damaged) in [(10, &["a2"][..]), (15, &["a2"]), (12, &["a2", "b1"]), (7, &["a2", "b1"])] {
        let cluster = Cluster::start(&[]).await;
        fives(&cluster.live[&1], &["a", "b", "c"]).await;
        cluster.converged(1).await;
        cluster.cut(1, 3);
        trim(&cluster.live[&1], start).await;
        let before = cluster.live[&3].partition();
        for value in damaged {
            cluster.rot(3, value);
        }
        let found = before.view().reader().scrub_segment(Offset::ZERO, |_| async { true }).await;
        assert!(!found.expect("healthy").damage.is_empty());
        before.notice_damage();
        cluster.heal();
        cluster.starts_at(start).await;
        cluster.until("it is whole", |cluster| cluster.live[&3].partition().damaged().is_empty()).await;
        fives(&cluster.live[&1], &["d"]).await;
        cluster.converged(1).await;
        let is_same = Arc::ptr_eq(&before, &cluster.live[&3].partition());
        assert!(is_same, "{start}, {damaged:?}: its log was given up");
        assert_eq!(cluster.isr().len(), 3);
    }
}

/// One flipped bit on each of two disks, at different offsets: nothing is lost, wherever the start lies.
#[tokio::test]
async fn damage_in_the_batch_that_holds_the_start_is_mended_and_nothing_behind_it_is_given_up() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.between.change(|state| (state.replicas, state.isr) = (of(&[1, 3]), of(&[1, 3])));
    cluster
        .until("node 2 has nothing", |cluster| cluster.live[&2].directory.partition(PLACE).is_none())
        .await;
    cluster.kill(2, None).await;
    fives(&cluster.live[&1], &["a", "b", "c"]).await;
    cluster.converged(1).await;
    trim(&cluster.live[&1], 2).await;
    cluster.starts_at(2).await;
    cluster.rot(3, "a3");
    cluster.rot(1, "b1");
    for (id, offset) in [(3, 2), (1, 5)] {
        let (met, _) = fetched(&cluster.live[&id], 11, offset, &format!("r{id}")).await;
        assert_eq!(met.error_code, ErrorCode::KAFKA_STORAGE_ERROR, "node {id}");
        cluster
            .until("it is mended", |cluster| {
                let directory = &cluster.live[&id].directory;
                let is_whole = cluster.live[&id].partition().damaged().is_empty();
                is_whole && directory.health().counts.mended_ranges.get() == 1
            })
            .await;
        cluster.until("both are in sync", |cluster| cluster.isr() == BTreeSet::from([1, 3])).await;
        assert_eq!(cluster.live[&id].directory.replication().damaged, 0);
    }
    let leader = cluster.between.state().leader.0;
    cluster.live[&leader].acked("after").await;
    cluster.converged(leader).await;
    assert_eq!(cluster.live[&3].values().await.len(), 16);
}
