//! Two nodes over real sockets on loopback: what is promised about calls, links and their ends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::{Ask, Body, Call, FEATURE_LEVEL, Parts, PeerError, PeerMessage, Refusal};
use serde::{Deserialize, Serialize};

use super::*;
use crate::runtime::Runtime;
use crate::runtime::net::{FrameReader, FrameWriter, Net};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::SocketOptions;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Say {
    text: String,
    /// Milliseconds until the answer.
    after_ms: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Said {
    raw: Bytes,
}

impl Body for Say {
    const TAG: u16 = 0x0201;
    const VERSION: u16 = 0;
    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::plain(&self)
    }
    fn from_parts(parts: Parts) -> Result<Self, PeerError> {
        parts.into_plain()
    }
}

impl Ask for Say {
    type Answer = Said;
    const REPEATABLE: bool = true;
}

impl Body for Said {
    const TAG: u16 = 0x0281;
    const VERSION: u16 = 0;
    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::with_tail::<Said>(&(), vec![self.raw])
    }
    fn from_parts(parts: Parts) -> Result<Self, PeerError> {
        let ((), raw) = parts.into_head_and_tail::<Said, ()>()?;
        Ok(Said { raw })
    }
}

/// The same question where nobody takes it.
#[derive(Debug, Serialize, Deserialize)]
struct Elsewhere;

impl Body for Elsewhere {
    const TAG: u16 = 0x0301;
    const VERSION: u16 = 0;
    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::plain(&self)
    }
    fn from_parts(parts: Parts) -> Result<Self, PeerError> {
        parts.into_plain()
    }
}

impl Ask for Elsewhere {
    type Answer = Said;
    const REPEATABLE: bool = false;
}

struct Echo {
    runtime: TokioRuntime,
    heard: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicU32>,
}

impl PeerService for Echo {
    fn start(&self, session: &Arc<PeerSession>, parts: Parts) -> Answering {
        assert_eq!((session.node, session.feature_level), (BrokerId(2), FEATURE_LEVEL));
        let say: Say = match read(parts) {
            Ok(say) => say,
            Err(refusal) => return Answering::Now(Err(refusal)),
        };
        self.heard.lock().unwrap().push(say.text.clone());
        let raw = Bytes::from(say.text);
        if say.after_ms == 0 {
            return Answering::Now(answer(Said { raw }));
        }
        let runtime = self.runtime.clone();
        Answering::Later(Box::pin(async move {
            runtime.sleep(Duration::from_millis(say.after_ms)).await;
            answer(Said { raw })
        }))
    }

    fn ended(&self, _session: &PeerSession) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

struct Pair {
    runtime: TokioRuntime,
    heard: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicU32>,
    address: String,
    server: Option<PeerServer<TokioRuntime>>,
    peers: Peers<TokioRuntime>,
    _dir: tempfile::TempDir,
}

fn identity(node: i32, cluster: &str) -> Identity {
    Identity { node: BrokerId(node), cluster: ClusterId::known(cluster), speaks: FEATURE_LEVEL }
}

impl Pair {
    async fn new(limits: PeerLimits) -> Pair {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = FileDisk::open(dir.path()).expect("the directory is there");
        let runtime = TokioRuntime::new(disk, SocketOptions::default());
        let peers = Peers::new(runtime.clone(), identity(2, "c"), limits);
        let (heard, ended) = (Arc::default(), Arc::default());
        let mut pair =
            Pair { runtime, heard, ended, address: "127.0.0.1:0".into(), server: None, peers, _dir: dir };
        pair.start(limits).await;
        pair.peers.know(BrokerId(1), &pair.address);
        pair
    }

    /// Starts node 1, at its old address if it had one.
    async fn start(&mut self, limits: PeerLimits) {
        let echo =
            Echo { runtime: self.runtime.clone(), heard: self.heard.clone(), ended: self.ended.clone() };
        let routes = Routes { replica: Some(Arc::new(echo)), ..Routes::default() };
        let bound = PeerBound::bind(&self.runtime, &self.address).await.expect("free");
        self.address = bound.address();
        self.server = Some(bound.serve(identity(1, "c"), limits, routes));
    }

    async fn say(&self, text: &str, after_ms: u64) -> Result<Bytes, AskError> {
        let deadline = self.runtime.now() + Duration::from_secs(5);
        let say = Say { text: text.into(), after_ms };
        self.peers.request(BrokerId(1), say, deadline).await.map(|said| said.raw)
    }
}

#[tokio::test]
async fn a_slow_answer_does_not_hold_up_a_quick_one_and_order_is_kept_on_the_way_in() {
    let pair = Pair::new(PeerLimits::default()).await;
    let slow = pair.say("slow", 300);
    let quick = async {
        let (one, two) = tokio::join!(pair.say("a", 0), pair.say("b", 0));
        assert_eq!(pair.ended.load(Ordering::Relaxed), 0);
        (one, two, pair.runtime.now())
    };
    let ((slow, done), (one, two, quick_done)) =
        tokio::join!(async { (slow.await, pair.runtime.now()) }, quick);
    assert_eq!((slow, one, two), (Ok("slow".into()), Ok("a".into()), Ok("b".into())));
    assert!(quick_done < done);
    assert_eq!(*pair.heard.lock().unwrap(), ["slow", "a", "b"]);
    assert_eq!(pair.server.as_ref().unwrap().connected(), [BrokerId(2)]);
}

#[tokio::test]
async fn what_waits_when_the_other_side_restarts_is_asked_again_once() {
    let mut pair = Pair::new(PeerLimits::default()).await;
    pair.say("a", 0).await.expect("answered");
    let asked = pair.peers.clone();
    let deadline = pair.runtime.now() + Duration::from_secs(5);
    let waiting = asked.request(BrokerId(1), Say { text: "w".into(), after_ms: 100 }, deadline);
    let restart = async {
        pair.runtime.sleep(Duration::from_millis(30)).await;
        pair.server.take().expect("it runs").stop().await;
        assert_eq!(pair.ended.load(Ordering::Relaxed), 1);
        pair.start(PeerLimits::default()).await;
    };
    let (answered, ()) = tokio::join!(waiting, restart);
    // Connecting may meet the moment between stop and start: then it was asked once.
    assert!(matches!(answered, Ok(_) | Err(AskError::NotConnected(_))), "{answered:?}");
    let heard = pair.heard.lock().unwrap().iter().filter(|text| *text == "w").count();
    assert_eq!(heard, if answered.is_ok() { 2 } else { 1 });
    assert_eq!(pair.say("b", 0).await, Ok("b".into()));
}

#[tokio::test]
async fn a_request_ends_at_its_deadline_and_its_late_answer_disturbs_nobody() {
    let pair = Pair::new(PeerLimits::default()).await;
    let deadline = pair.runtime.now() + Duration::from_millis(100);
    let late = pair.peers.request(BrokerId(1), Say { text: "x".into(), after_ms: 200 }, deadline).await;
    assert_eq!(late, Err(AskError::TimedOut(BrokerId(1))));
    assert_eq!(pair.say("y", 200).await, Ok("y".into()));
}

#[tokio::test]
async fn a_link_that_is_full_refuses_at_once_and_serves_when_there_is_room() {
    let limits = PeerLimits { in_flight: 2, ..PeerLimits::default() };
    let pair = Pair::new(limits).await;
    pair.say("a", 0).await.expect("answered");
    let asked: Vec<_> = (0..10)
        .map(|_| {
            let (peers, runtime) = (pair.peers.clone(), pair.runtime.clone());
            async move {
                let deadline = runtime.now() + Duration::from_secs(5);
                peers.request(BrokerId(1), Say { text: "s".into(), after_ms: 50 }, deadline).await
            }
        })
        .collect();
    let mut full = 0;
    let mut tasks = tokio::task::JoinSet::new();
    asked.into_iter().for_each(|one| drop(tasks.spawn(one)));
    while let Some(done) = tasks.join_next().await {
        full += usize::from(done.expect("no panic") == Err(AskError::Full(BrokerId(1))));
    }
    assert!((1..=8).contains(&full), "{full} were refused");
    assert_eq!(pair.say("b", 0).await, Ok("b".into()));
}

#[tokio::test]
async fn nobody_talks_to_another_cluster_to_himself_or_to_the_wrong_node() {
    let pair = Pair::new(PeerLimits::default()).await;
    let ask = |me: Identity, to: i32| {
        let peers = Peers::new(pair.runtime.clone(), me, PeerLimits::default());
        peers.know(BrokerId(to), &pair.address);
        let deadline = pair.runtime.now() + Duration::from_secs(5);
        async move { peers.request(BrokerId(to), Say { text: "?".into(), after_ms: 0 }, deadline).await }
    };
    assert_eq!(ask(identity(2, "d"), 1).await, Err(AskError::NotConnected(BrokerId(1))));
    assert_eq!(ask(identity(1, "c"), 3).await, Err(AskError::NotConnected(BrokerId(3))));
    assert_eq!(ask(identity(2, "c"), 3).await, Err(AskError::NotConnected(BrokerId(3))));
    assert_eq!(*pair.heard.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_room_that_nobody_serves_and_a_node_that_nobody_knows_are_told() {
    let pair = Pair::new(PeerLimits::default()).await;
    let deadline = pair.runtime.now() + Duration::from_secs(5);
    let refused = pair.peers.request(BrokerId(1), Elsewhere, deadline).await;
    assert_eq!(refused, Err(AskError::Refused(BrokerId(1), Refusal::Unknown)));
    let nobody = pair.peers.request(BrokerId(9), Elsewhere, deadline).await;
    assert_eq!(nobody, Err(AskError::NoAddress(BrokerId(9))));
    pair.peers.stop();
    let stopped = pair.peers.request(BrokerId(1), Elsewhere, deadline).await;
    assert_eq!(stopped, Err(AskError::Stopping));
}

/// A message of which level 2 has a version of its own.
#[derive(Debug, PartialEq, Eq)]
struct Grown(u16);

impl Body for Grown {
    const TAG: u16 = 0x0301;
    const VERSION: u16 = 1;
    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::with_tail::<Grown>(&(), Vec::new())
    }
    fn older(&self) -> Result<Option<Parts>, PeerError> {
        Parts::older_plain::<Grown>(0, &()).map(Some)
    }
    fn from_parts(parts: Parts) -> Result<Self, PeerError> {
        Ok(Grown(parts.version))
    }
}

/// A message that there is only from level 2 on.
#[derive(Debug)]
struct New;

impl Body for New {
    const TAG: u16 = 0x0318;
    const VERSION: u16 = 0;
    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::with_tail::<New>(&(), Vec::new())
    }
    fn from_parts(_: Parts) -> Result<Self, PeerError> {
        Ok(New)
    }
}

/// The version in which something arrived.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CameAs(u16);

impl Body for CameAs {
    const TAG: u16 = 0x0381;
    const VERSION: u16 = 0;
    fn into_parts(self) -> Result<Parts, PeerError> {
        Parts::plain(&self)
    }
    fn from_parts(parts: Parts) -> Result<Self, PeerError> {
        parts.into_plain()
    }
}

impl Ask for Grown {
    type Answer = CameAs;
    const REPEATABLE: bool = true;
}

impl Ask for New {
    type Answer = CameAs;
    const REPEATABLE: bool = false;
}

struct Versions;

impl PeerService for Versions {
    fn start(&self, _session: &Arc<PeerSession>, parts: Parts) -> Answering {
        Answering::Now(answer(CameAs(parts.version)))
    }
}

#[tokio::test]
async fn a_connection_carries_nothing_of_a_level_that_one_of_its_ends_does_not_speak() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disk = FileDisk::open(dir.path()).expect("the directory is there");
    let runtime = TokioRuntime::new(disk, SocketOptions::default());
    let deadline = runtime.now() + Duration::from_secs(20);
    for (asks, answers, level) in [(2, 2, 2), (2, 1, 1), (1, 2, 1), (1, 1, 1)] {
        let routes = Routes { control: Some(Arc::new(Versions)), ..Routes::default() };
        let bound = PeerBound::bind(&runtime, "127.0.0.1:0").await.expect("free");
        let address = bound.address();
        let server =
            bound.serve(Identity { speaks: answers, ..identity(1, "c") }, PeerLimits::default(), routes);
        let me = Identity { speaks: asks, ..identity(2, "c") };
        let peers = Peers::new(runtime.clone(), me.clone(), PeerLimits::default());
        peers.know(BrokerId(1), &address);
        assert_eq!(peers.request(BrokerId(1), Grown(9), deadline).await, Ok(CameAs(level - 1)));
        let unknown = Err(AskError::Refused(BrokerId(1), Refusal::Unknown));
        let new = peers.request(BrokerId(1), New, deadline).await;
        assert_eq!(new, if level == 2 { Ok(CameAs(0)) } else { unknown });

        // Who says more than was agreed on is not understood.
        let (mut reader, mut writer) = runtime.net().connect(&address).await.expect("it listens");
        greeting::greet(&me, BrokerId(1), &mut reader, &mut writer).await.expect("taken");
        let parts = Grown(0).into_parts().expect("short");
        let call = PeerMessage::Call(Call { correlation: 7, parts }).encode().expect("short");
        writer.send(vec![call]).await.expect("connected");
        let mut frames = Vec::new();
        reader.recv(&mut frames, 1, 1 << 20).await.expect("it answers");
        let refused = PeerMessage::Refused { correlation: 7, why: Refusal::Unknown };
        let said = PeerMessage::decode(&frames[0]).expect("ours");
        assert_eq!(said == refused, level < 2, "{said:?}");
        server.stop().await;
    }
}
