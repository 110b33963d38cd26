//! A replica that does not open: who has everything leads, and it comes back.

use dejaq_storage::Disk;

use super::*;

impl Cluster {
    /// A clean stop.
    async fn stop(&mut self, id: i32) {
        self.between.serving.lock().unwrap().remove(&BrokerId(id));
        self.between.told.lock().unwrap().remove(&BrokerId(id));
        let Live { node, directory, data_dir } = self.live.remove(&id).expect("it runs");
        let closed = directory.open_partitions();
        directory.shutdown().await.expect("clean");
        node.drop_tasks().await;
        let data_dir = Arc::into_inner(data_dir).expect("nobody else has it after the shutdown");
        data_dir.mark_clean(BrokerEpoch::NONE, &closed).await.expect("the marker is written");
        self.platters[&id].kill();
    }

    /// The files of the partition go while its node is down.
    async fn lose_files(&self, id: i32) {
        let path = DataDir::<ModelDisk>::partition_path(TOPIC, PartitionId(0));
        self.platters[&id].mount().remove_dir_all(&path).await.expect("it is there");
    }

    /// What the controller says now.
    fn say(&self, leader: i32, isr: &[i32], elr: &[i32]) {
        self.elect(leader, isr);
        self.between.change(|state| state.elr = elr.iter().map(|id| BrokerId(*id)).collect());
    }

    fn is_open(&self, id: i32) -> bool {
        self.live[&id].directory.partition(PLACE).is_some()
    }
}

async fn three(configs: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::start(configs).await;
    for value in ["a", "b", "c"] {
        cluster.live[&1].acked(value).await;
    }
    cluster.converged(1).await;
    cluster
}

/// The first to come back after a stop of all leads alone, and its files are gone; the others have everything.
#[tokio::test]
async fn a_leader_whose_files_are_gone_lets_another_lead_and_is_made_anew() {
    let mut cluster = three(&[("min.insync.replicas", "2")]).await;
    for id in [3, 2, 1] {
        cluster.stop(id).await;
        cluster.register(id);
    }
    cluster.lose_files(2).await;
    cluster.say(2, &[2], &[1, 3]);
    for id in [2, 3, 1] {
        cluster.open(id).await;
    }
    assert!(!cluster.is_open(2));
    assert_eq!(cluster.live[&2].directory.replication().unopened, 1);
    cluster.until("another leads", |cluster| [1, 3].contains(&cluster.between.state().leader.0)).await;
    cluster.until("all are in sync", |cluster| cluster.isr().len() == 3).await;
    let leader = cluster.between.state().leader.0;
    cluster.live[&leader].acked("d").await;
    cluster.converged(leader).await;
    assert_eq!(cluster.live[&2].values().await, ["a", "b", "c", "d"]);
    assert_eq!(cluster.live[&2].directory.replication().unopened, 0);
}

/// Where every replica is needed nothing is committed without it, so that it would stay eligible, and gone, for ever.
#[tokio::test]
async fn a_follower_whose_files_are_gone_says_so_and_is_made_anew() {
    let mut cluster = three(&[("min.insync.replicas", "3")]).await;
    cluster.stop(3).await;
    cluster.lose_files(3).await;
    cluster.register(3);
    cluster.say(1, &[1, 2], &[3]);
    cluster.open(3).await;
    assert!(!cluster.is_open(3));
    cluster.until("all are in sync", |cluster| cluster.isr().len() == 3).await;
    cluster.live[&1].acked("d").await;
    cluster.converged(1).await;
    assert_eq!(cluster.live[&3].values().await, ["a", "b", "c", "d"]);
}

/// It is alone in sync, and who is eligible has all that was committed, too. Its own copy is whole, and is not called lost.
#[tokio::test]
async fn a_leader_alone_that_cannot_open_its_log_goes_before_who_is_eligible() {
    let mut cluster = three(&[("min.insync.replicas", "3")]).await;
    cluster.stop(1).await;
    for _ in 0..100 {
        let plan = Plan { fault: Fault::ReadError, path_contains: ".sum".to_owned(), after: 0 };
        cluster.platters[&1].plan(plan);
    }
    cluster.register(1);
    cluster.say(1, &[1], &[2, 3]);
    cluster.open(1).await;
    assert!(!cluster.is_open(1));
    cluster.until("another leads", |cluster| cluster.between.state().leader != BrokerId(1)).await;
    cluster.until("the others are in sync", |cluster| cluster.isr().len() == 2).await;
    assert_eq!(cluster.between.state().elr, [BrokerId(1)], "it has everything");
    cluster.platters[&1].heal();
    cluster.until("all are in sync", |cluster| cluster.isr().len() == 3).await;
    let leader = cluster.between.state().leader.0;
    cluster.live[&leader].acked("d").await;
    cluster.converged(leader).await;
}

/// A disk that answers every read of the log with an error.
#[tokio::test]
async fn a_leader_that_cannot_read_its_log_lets_another_lead_and_comes_back_when_it_can() {
    let mut cluster = three(&[("min.insync.replicas", "2")]).await;
    cluster.stop(1).await;
    for _ in 0..100 {
        let plan = Plan { fault: Fault::ReadError, path_contains: ".sum".to_owned(), after: 0 };
        cluster.platters[&1].plan(plan);
    }
    cluster.register(1);
    cluster.say(1, &[1, 2, 3], &[]);
    cluster.open(1).await;
    assert!(!cluster.is_open(1));
    cluster.until("another leads", |cluster| cluster.between.state().leader != BrokerId(1)).await;
    assert!(!cluster.isr().contains(&1) && !cluster.is_open(1));
    let leader = cluster.between.state().leader.0;
    cluster.live[&leader].acked("d").await;
    cluster.platters[&1].heal();
    cluster.until("all are in sync", |cluster| cluster.isr().len() == 3).await;
    cluster.converged(leader).await;
}
