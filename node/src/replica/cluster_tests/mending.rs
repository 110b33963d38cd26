//! A damaged log on a follower and on a leader: found, never served, mended from a peer, and counted.

use super::*;

impl Cluster {
    /// A bit of the record with this value flips on a node's disk.
    pub(super) fn rot(&self, id: i32, value: &str) {
        let files = self.platters[&id].files();
        let is_log = |path: &std::path::Path| path.to_string_lossy().ends_with("00000000000000000000.log");
        let (path, content) = files.into_iter().find(|(path, _)| is_log(path)).expect("the log is there");
        let value = value.as_bytes();
        let at =
            content.windows(value.len()).position(|window| window == value).expect("it is not compressed");
        assert!(self.platters[&id].rot(&path, at as u64, 1));
    }

    /// A bit flips in what a node's side file says of the batch with this value: what was written there is not known then.
    fn rot_side(&self, id: i32, value: &str) {
        let files = self.platters[&id].files();
        let ends = |end: &'static str| {
            let is_it =
                move |(path, _): &&(std::path::PathBuf, Vec<u8>)| path.to_string_lossy().ends_with(end);
            files.iter().find(is_it).expect("it is there")
        };
        let (_, log) = ends("00000000000000000000.log");
        let (side, records) = ends("00000000000000000000.sum");
        let value = value.as_bytes();
        let at = log.windows(value.len()).position(|window| window == value).expect("it is not compressed");
        let number =
            |at: usize| u32::from_be_bytes(records[at..at + 4].try_into().expect("four bytes")) as usize;
        let holds = |record: &usize| (number(*record)..number(*record) + number(record + 4)).contains(&at);
        let record = (32..records.len()).step_by(32).find(holds).expect("it is written");
        assert!(self.platters[&id].rot(side, record as u64 + 26, 1));
    }

    /// A node has mended what was damaged, and all are in sync.
    async fn whole_again(&self, id: i32) {
        let mended = |cluster: &Cluster| cluster.live[&id].directory.health().counts.mended_ranges.get();
        self.until("it is mended", |cluster| {
            mended(cluster) > 0 && cluster.live[&id].partition().damaged().is_empty()
        })
        .await;
        self.until("all are in sync again", |cluster| cluster.isr().len() == 3).await;
        assert_eq!(mended(self), 1);
        assert_eq!(self.live[&id].directory.replication().damaged, 0);
    }
}

impl Live {
    /// What a scrub finds now.
    async fn scrubbed(&self) -> usize {
        let reader = self.partition().view().reader().clone();
        let found = reader.scrub_segment(Offset::ZERO, |_| async { true }).await.expect("healthy");
        if !found.damage.is_empty() {
            self.partition().notice_damage();
        }
        found.damage.len()
    }
}

#[tokio::test]
async fn a_leader_with_a_damaged_log_lets_another_lead_mends_itself_and_comes_back() {
    let cluster = six(&[("min.insync.replicas", "2")]).await;
    cluster.rot(1, "v2");
    let (met, _) = fetched(&cluster.live[&1], 11, 2, "r1").await;
    assert_eq!(met.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    cluster.whole_again(1).await;
    let leader = cluster.between.state().leader.0;
    assert_ne!(leader, 1);
    cluster.live[&leader].acked("after").await;
    cluster.converged(leader).await;
    assert_eq!(cluster.live[&1].values().await.len(), 7);
}

#[tokio::test]
async fn damage_that_nobody_reads_is_found_by_a_scrub_and_mended_on_the_leader_and_on_a_follower() {
    let mut cluster = Cluster::new();
    cluster.scrub_every = Duration::from_millis(50);
    let cluster = cluster.born(&[("min.insync.replicas", "2")]).await;
    for at in 0..6 {
        cluster.live[&1].acked(&format!("v{at}")).await;
    }
    cluster.converged(1).await;
    for id in [1, 3] {
        cluster.rot(id, "v4");
        cluster.whole_again(id).await;
    }
    let leader = cluster.between.state().leader.0;
    assert_ne!(leader, 1);
    cluster.converged(leader).await;
    assert_eq!(cluster.live[&3].values().await.len(), 6);
}

#[tokio::test]
async fn a_follower_with_a_damaged_log_leaves_the_set_mends_itself_and_comes_back() {
    let cluster = six(&[]).await;
    cluster.rot(3, "v2");
    let (met, _) = fetched(&cluster.live[&3], 11, 2, "r3").await;
    assert_eq!(met.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    cluster
        .until("node 3 leaves the set, and is mended", |cluster| {
            let is_whole = cluster.live[&3].partition().damaged().is_empty();
            cluster.live[&1].directory.replication().shrinks > 0 && is_whole
        })
        .await;
    cluster.until("node 3 is in sync again", |cluster| cluster.isr().len() == 3).await;
    cluster.live[&1].acked("after").await;
    cluster.converged(1).await;
    assert_eq!(cluster.live[&3].values().await.len(), 7);
    let seen = cluster.live[&1].directory.replication();
    assert_eq!((seen.led, seen.under_replicated, seen.lag), (1, 0, 0));
}

#[tokio::test]
async fn where_every_replica_must_be_in_sync_a_damaged_follower_and_a_damaged_leader_are_mended_too() {
    let cluster = six(&[("min.insync.replicas", "3")]).await;
    for id in [3, 1] {
        cluster.rot(id, "v2");
        let (met, _) = fetched(&cluster.live[&id], 11, 2, &format!("r{id}")).await;
        assert_eq!(met.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
        cluster.whole_again(id).await;
    }
    let leader = cluster.between.state().leader.0;
    assert_ne!(leader, 1, "it let another lead");
    cluster.live[&leader].acked("after").await;
    cluster.converged(leader).await;
    assert_eq!(cluster.live[&1].values().await.len(), 7);
}

/// Every copy is damaged, each elsewhere, and nobody knows: what one lacks another has, and nothing that is whole is given up.
#[tokio::test]
async fn copies_that_are_damaged_at_different_places_mend_each_other() {
    for hits in [["v1", "v3", "v3"], ["v4", "v2", "v2"], ["v0", "v2", "v5"]] {
        let cluster = six(&[("min.insync.replicas", "2")]).await;
        for (id, value) in (1..).zip(hits) {
            cluster.rot(id, value);
        }
        let deadline = cluster.live[&1].node.now() + PATIENCE;
        let mended = |cluster: &Cluster| -> u64 {
            cluster.live.values().map(|live| live.directory.health().counts.mended_ranges.get()).sum()
        };
        while mended(&cluster) < 3 {
            assert!(cluster.live[&1].node.now() < deadline, "{hits:?}: {} of 3 are mended", mended(&cluster));
            // Readers, and a scrub that comes by, find one after the other.
            for (id, live) in &cluster.live {
                let _ = fetched(live, 11, 0, &format!("r{id}")).await;
                live.scrubbed().await;
            }
            cluster.live[&1].node.sleep(Duration::from_millis(20)).await;
        }
        cluster.until("all are in sync again", |cluster| cluster.isr().len() == 3).await;
        let leader = cluster.between.state().leader.0;
        cluster.live[&leader].acked("after").await;
        cluster.converged(leader).await;
        for live in cluster.live.values() {
            assert_eq!(live.values().await.len(), 7, "{hits:?}");
        }
    }
}

/// Whoever was eligible when it was found damaged is let go of first: else it would wait for ever, and its leader for it.
#[tokio::test]
async fn a_damaged_replica_that_may_be_elected_is_mended_too() {
    let cluster = six(&[("min.insync.replicas", "3")]).await;
    cluster.cut(1, 3);
    stand(&cluster, &[1, 2], &[3]);
    cluster.rot_side(3, "v2");
    assert_eq!(cluster.live[&3].scrubbed().await, 1);
    cluster.heal();
    cluster.whole_again(3).await;
    assert!(cluster.between.state().elr.is_empty());
    cluster.live[&1].acked("after").await;
}

/// What only the leader had, and nobody ever saw, is given up when it is damaged: whoever needs it could never come back.
#[tokio::test]
async fn a_leader_alone_gives_up_a_damaged_tail_that_was_never_visible() {
    let cluster = six(&[("min.insync.replicas", "3")]).await;
    damaged_tail(&cluster, &[2, 3]).await;
    cluster.until("another leads", |cluster| cluster.between.state().leader.0 > 1).await;
    cluster.whole_again(1).await;
    let leader = cluster.between.state().leader.0;
    cluster.live[&leader].acked("after").await;
    cluster.converged(leader).await;
    assert_eq!(cluster.live[&1].values().await.len(), 7, "six that were acknowledged, and the one after");
}

/// A controller of the release before does not read who lost records: nothing is mended then, and nobody else waits for it.
#[tokio::test]
async fn a_proposal_that_changes_nothing_holds_up_no_other() {
    let cluster = six(&[("min.insync.replicas", "2")]).await;
    *cluster.between.is_old.lock().unwrap() = true;
    for other in [2, 3] {
        cluster.cut(1, other);
    }
    stand(&cluster, &[1], &[2, 3]);
    cluster.rot_side(3, "v2");
    assert_eq!(cluster.live[&3].scrubbed().await, 1);
    cluster.between.cut.lock().unwrap().remove(&(BrokerId(1), BrokerId(3)));
    let asked = |cluster: &Cluster| cluster.between.unchanged.load(Ordering::Relaxed) > 0;
    cluster.until("3 is disowned in vain", asked).await;
    cluster.heal();
    cluster.until("2 is in sync again", |cluster| cluster.isr().contains(&2)).await;
    cluster.live[&1].acked("after").await;
}

/// A leader that cannot be given up goes on: what follows as far as its hole comes in sync, and leads then.
#[tokio::test]
async fn a_leader_that_nobody_may_follow_lets_others_join_below_its_hole() {
    let cluster = six(&[("min.insync.replicas", "3")]).await;
    damaged_tail(&cluster, &[]).await;
    cluster.until("another leads", |cluster| cluster.between.state().leader.0 > 1).await;
    cluster.whole_again(1).await;
    let leader = cluster.between.state().leader.0;
    cluster.live[&leader].acked("after").await;
    cluster.converged(leader).await;
}

/// The controller may elect it, after everybody stopped uncleanly: nothing of it is given up before that is over.
#[tokio::test]
async fn a_damaged_replica_that_was_eligible_before_an_unclean_stop_is_let_go_of_first() {
    let cluster = six(&[("min.insync.replicas", "3")]).await;
    *cluster.between.is_old.lock().unwrap() = true; // who lost records stays in the lists
    cluster.cut(1, 3);
    stand_known(&cluster, &[1, 2], &[], &[3]);
    cluster.rot_side(3, "v2");
    assert_eq!(cluster.live[&3].scrubbed().await, 1);
    cluster.heal();
    let asked = |cluster: &Cluster| cluster.between.unchanged.load(Ordering::Relaxed) > 0;
    cluster.until("3 is disowned in vain", asked).await;
    cluster.live[&1].node.sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.live[&3].partition().view().reader().end(), Offset(6), "it may lead yet");
    *cluster.between.is_old.lock().unwrap() = false;
    cluster.whole_again(3).await;
    assert!(cluster.between.state().last_known_elr.is_empty());
    cluster.live[&1].acked("after").await;
}

/// It knows of nothing that is visible while too few are in sync, so that nobody seems to lack anything.
#[tokio::test]
async fn a_damaged_replica_that_may_be_elected_is_mended_after_its_leader_began_anew() {
    let mut cluster = six(&[("min.insync.replicas", "3")]).await;
    cluster.kill(1, None).await;
    cluster.rot_side(3, "v2");
    assert_eq!(cluster.live[&3].scrubbed().await, 1);
    stand(&cluster, &[1], &[2, 3]);
    cluster.restart(1).await;
    cluster.whole_again(3).await;
    assert_eq!(cluster.between.state().leader, BrokerId(1));
    cluster.live[&1].acked("after").await;
    cluster.converged(1).await;
}

/// Where the logs part, the tail goes, whole or damaged, and nobody needs to let it go.
#[tokio::test]
async fn a_damaged_tail_that_the_leader_does_not_have_is_cut_as_a_whole_one() {
    let mut cluster = six(&[("min.insync.replicas", "3")]).await;
    cluster.cut(1, 2);
    for value in ["tail1", "tail2"] {
        cluster.live[&1].write(value, Required::Leader).await.expect("answered").expect("written");
    }
    let has_tail = |cluster: &Cluster| cluster.live[&3].partition().view().reader().flushed() == Offset(8);
    cluster.until("3 has it", has_tail).await;
    cluster.kill(1, None).await;
    cluster.rot(3, "tail2");
    assert_eq!(cluster.live[&3].scrubbed().await, 1);
    *cluster.between.is_old.lock().unwrap() = true; // nobody would be let go of
    cluster.between.change(|state| {
        (state.leader, state.leader_epoch) = (BrokerId(2), state.leader_epoch.next());
        (state.isr, state.elr) = (vec![BrokerId(2)], [1, 3].map(BrokerId).into());
    });
    cluster.until("3 is in sync", |cluster| cluster.isr() == BTreeSet::from([2, 3])).await;
    assert_eq!(cluster.live[&3].values().await.len(), 6);
    assert!(cluster.live[&3].partition().damaged().is_empty());
    cluster.heal();
    cluster.restart(1).await;
    cluster.live[&2].acked("after").await;
    cluster.converged(2).await;
}

/// Two copies, each with a hole, of which the follower's cannot be put back: whichever comes first, nothing is lost.
#[tokio::test]
async fn a_leader_and_an_eligible_follower_that_are_damaged_at_different_places_are_mended() {
    for (leaders, followers) in [("v2", "v4"), ("v4", "v2")] {
        let cluster = six(&[("min.insync.replicas", "2")]).await;
        let two = || [1, 2].map(BrokerId).to_vec();
        cluster.between.change(|state| (state.replicas, state.isr) = (two(), two()));
        cluster.cut(1, 2);
        stand(&cluster, &[1], &[2]);
        cluster.rot(1, leaders);
        cluster.rot_side(2, followers);
        for id in [1, 2] {
            assert_eq!(cluster.live[&id].scrubbed().await, 1);
        }
        cluster.heal();
        let is_whole = |cluster: &Cluster, id: &i32| cluster.live[id].partition().damaged().is_empty();
        let all =
            |cluster: &Cluster| cluster.isr().len() == 2 && [1, 2].iter().all(|id| is_whole(cluster, id));
        cluster.until("both are whole and in sync", all).await;
        let leader = cluster.between.state().leader.0;
        cluster.live[&leader].acked("after").await;
        for id in [1, 2] {
            let has_all =
                |cluster: &Cluster| cluster.live[&id].partition().view().reader().end() == Offset(7);
            cluster.until("it has all", has_all).await;
            let values = cluster.live[&id].values().await;
            assert_eq!(values, ["v0", "v1", "v2", "v3", "v4", "v5", "after"], "{leaders}, {followers}");
        }
    }
}

/// It was removed, and does not know yet: it waits until it does, and asks nothing again meanwhile.
#[tokio::test]
async fn who_is_no_replica_any_more_and_wants_to_cut_its_log_is_answered_with_nothing() {
    let mut cluster = six(&[]).await;
    cluster.kill(3, None).await;
    let two = || [1, 2].map(BrokerId).to_vec();
    cluster.between.change(|state| (state.replicas, state.isr) = (two(), two()));
    let knows = |cluster: &Cluster| {
        let seen = cluster.live[&1].partition().inspect().and_then(|seen| seen.leading);
        seen.is_some_and(|leading| leading.replicas.len() == 2)
    };
    cluster.until("the leader knows", knows).await;
    let serve = cluster.between.serving.lock().unwrap()[&BrokerId(1)].clone();
    let broker_epoch = cluster.between.image.lock().unwrap().broker(BrokerId(3)).expect("registered").epoch;
    let standing = Standing {
        place: PLACE,
        epoch: cluster.between.state().leader_epoch,
        end: Offset(2),
        last_epoch: LeaderEpoch(0),
        durable: Offset(2),
        lost: true,
    };
    for round in 0..3 {
        let changed = if round == 0 { vec![standing] } else { Vec::new() };
        let gone = Vec::new();
        let (session, max_wait_ms, max_bytes) = (7, 20, 1 << 20);
        let fetch = ReplicaFetch { broker_epoch, session, round, max_wait_ms, max_bytes, changed, gone };
        let answer = serve.begin(BrokerId(3), fetch).expect("the conversation goes on").run().await;
        assert!(answer.news.is_empty(), "{:?}", answer.news);
    }
}

/// A follower whose log parts from its leader's, on a disk without room for what a cut writes: it is tried again, and not at once.
#[tokio::test]
async fn a_cut_that_finds_no_room_is_not_asked_for_all_the_time() {
    let mut hits = 0;
    for spare in (64..256).step_by(16) {
        let mut cluster = six(&[("min.insync.replicas", "3")]).await;
        cluster.cut(1, 2);
        let used: u64 = cluster.platters[&3].lengths().iter().map(|(_, length)| length).sum();
        cluster.platters[&3].set_capacity(Some(used + spare));
        cluster.live[&1].write("tail", Required::Leader).await.expect("answered").expect("written");
        cluster.live[&1].node.sleep(Duration::from_millis(100)).await;
        let ends = |cluster: &Cluster| {
            let partition = cluster.live[&3].partition();
            (partition.view().reader().end(), partition.view().reader().flushed())
        };
        if ends(&cluster) != (Offset(7), Offset(6)) {
            continue; // it did not fit, or all of it did
        }
        cluster.kill(1, None).await;
        cluster.between.change(|state| {
            (state.leader, state.leader_epoch) = (BrokerId(2), state.leader_epoch.next());
            (state.isr, state.elr) = (vec![BrokerId(2)], [1, 3].map(BrokerId).into());
        });
        cluster.until("2 leads", |cluster| cluster.leads(2)).await;
        cluster.live[&2].node.sleep(Duration::from_millis(100)).await;
        let before = cluster.between.fetches.load(Ordering::Relaxed);
        cluster.live[&2].node.sleep(Duration::from_millis(500)).await;
        let asked = cluster.between.fetches.load(Ordering::Relaxed) - before;
        if ends(&cluster).0 == Offset(7) {
            hits += 1;
            assert!(asked <= 4, "{spare}: asked {asked} times in half a second");
        }
        cluster.platters[&3].set_capacity(None);
        cluster.until("3 is in sync", |cluster| cluster.isr() == BTreeSet::from([2, 3])).await;
        assert_eq!(cluster.live[&3].values().await.len(), 6);
    }
    assert!(hits > 0, "no cut was without room");
}

/// Each copy has what the other lacks, and no sum tells that it is the right one: nothing is given up, and it is told.
#[tokio::test]
async fn two_copies_that_wait_for_each_other_are_told_of_and_mended_once_what_both_lack_may_go() {
    let cluster = six(&[("min.insync.replicas", "2")]).await;
    let two = || [1, 2].map(BrokerId).to_vec();
    cluster.between.change(|state| (state.replicas, state.isr) = (two(), two()));
    cluster.cut(1, 2);
    stand(&cluster, &[1], &[2]);
    for (id, values) in [(1, ["v1", "v3"]), (2, ["v2", "v4"])] {
        for value in values {
            cluster.rot_side(id, value);
        }
        cluster.live[&id].scrubbed().await;
    }
    cluster.heal();
    let told = |cluster: &Cluster| -> u64 {
        [1, 2].iter().map(|id| cluster.live[id].directory.replication().stalemates).sum()
    };
    cluster.until("it is told", |cluster| told(cluster) == 1).await;
    for id in [1, 2] {
        let partition = cluster.live[&id].partition();
        assert_eq!(partition.view().reader().end(), Offset(6), "nothing of it is cut");
        assert!(!partition.damaged().is_empty());
    }
    let leader = &cluster.live[&cluster.between.state().leader.0];
    let trimmed = retention::move_start(&leader.partition(), Some(Offset(5))).await;
    println!("{trimmed:?} {:?}", cluster.between.state());
    let is_whole = |id: &i32| cluster.live[id].partition().damaged().is_empty();
    cluster
        .until("both are whole and in sync", |cluster| {
            cluster.isr().len() == 2 && [1, 2].iter().all(is_whole)
        })
        .await;
    cluster.until("it is over", |cluster| told(cluster) == 0).await;
}

/// Three nodes with six records, `v0` to `v5`, everywhere.
async fn six(configs: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::start(configs).await;
    for at in 0..6 {
        cluster.live[&1].acked(&format!("v{at}")).await;
    }
    cluster.converged(1).await;
    cluster
}

/// The leader is alone for a while, with a record that nobody else gets and nobody sees; that is damaged.
async fn damaged_tail(cluster: &Cluster, elr: &[i32]) {
    for other in [2, 3] {
        cluster.cut(1, other);
    }
    stand(cluster, &[1], elr);
    let seen = |cluster: &Cluster| cluster.live[&1].partition().inspect();
    let alone = |cluster: &Cluster| {
        seen(cluster).is_some_and(|one| one.leading.is_some_and(|leading| leading.members.len() == 1))
    };
    cluster.until("it leads alone", alone).await;
    let written = cluster.live[&1].write("tail", Required::Leader).await.expect("answered").expect("written");
    assert_eq!(written.base, Offset(6));
    let flushed = |cluster: &Cluster| seen(cluster).is_some_and(|one| one.flushed_end == Offset(7));
    cluster.until("it is on the disk", flushed).await;
    cluster.rot(1, "tail");
    cluster.heal();
}

/// Who is in sync and who may be elected, from now on. Nothing that followers told before counts: a state in between was not
/// seen by their leader.
fn stand(cluster: &Cluster, isr: &[i32], elr: &[i32]) {
    stand_known(cluster, isr, elr, &[]);
}

fn stand_known(cluster: &Cluster, isr: &[i32], elr: &[i32], known: &[i32]) {
    let ids = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
    let mut records: Vec<Record> = Vec::new();
    let mut state = cluster.between.state();
    for _ in 0..2 {
        state.partition_epoch += 1;
        (state.isr, state.elr, state.last_known_elr) = (ids(isr), ids(elr), ids(known));
        let (topic_id, partition) = (TOPIC, PartitionId(0));
        records.push(PartitionChanged { topic_id, partition, state: state.clone() }.into());
    }
    cluster.between.commit(&records);
}
