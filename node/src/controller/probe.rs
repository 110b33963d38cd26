//! Whether the process of a node is gone: asked when a connection of that node ended, by the active controller about
//! everybody, and by everybody about the active controller.
//!
//! Decided (2026-11-28): a broker is fenced early, before its session is over, when its connection to the active
//! controller broke *and* nobody listens where it listened, three times in a row: the machine itself refuses, so the
//! process is dead. Because with the session alone a `kill -9` takes nine seconds to notice. Fencing is always safe:
//! leadership moves under new epochs, the old ones are refused, and a broker that lives is let in again with its next
//! heartbeat. A cut or slow network does not refuse, so that it is judged by the session alone. A new controller asks
//! once about everybody. Who does not refuse is asked again for about a second before it is taken for alive: a process that
//! is killed closes its connections one after the other, its listener maybe last, and until then the machine accepts for
//! it. A follower of the quorum that finds its leader gone asks the others at once instead of waiting
//! for an election timeout; those who hear it refuse. Revisit when brokers listen behind a proxy that refuses for them.
//! SHELL.

use std::io::ErrorKind;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::BrokerId;

use super::quorum::inbox::Inbox;
use crate::peer::Peers;
use crate::runtime::Runtime;
use crate::runtime::net::Net;

/// Refusals in a row that are believed.
const REFUSALS: u32 = 3;
/// Who refused less often in a row after so many attempts lives.
const ATTEMPTS: u32 = 10;
/// After a refusal, at least; at most twice that, so that two followers do not stand at the same moment.
const PAUSE: Duration = Duration::from_millis(20);
/// After any other attempt, likewise: ten of them take about a second.
const LONG_PAUSE: Duration = Duration::from_millis(75);
/// Nobody who lives takes longer to be connected to, or to be refused by.
const PATIENCE: Duration = Duration::from_millis(250);

/// What the attempts so far say.
#[derive(Debug, Default)]
struct Attempts {
    made: u32,
    /// The last ones, without another in between.
    refused: u32,
}

/// What to do after an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Try again, after this at least.
    After(Duration),
    Gone,
    Lives,
}

impl Attempts {
    /// At most [`ATTEMPTS`] + [`REFUSALS`] - 1 attempts: refusals that have begun are seen through.
    fn tried(&mut self, is_refused: bool) -> Next {
        self.made += 1;
        self.refused = if is_refused { self.refused + 1 } else { 0 };
        match self.refused {
            0 if self.made >= ATTEMPTS => Next::Lives,
            0 => Next::After(LONG_PAUSE),
            REFUSALS => Next::Gone,
            _ => Next::After(PAUSE),
        }
    }
}

/// Looks, and tells the inbox if nobody is there.
pub(super) fn start<R: Runtime>(runtime: &R, peers: &Peers<R>, inbox: &Inbox, broker: BrokerId) {
    let Some(address) = peers.address(broker) else { return };
    let (task_runtime, inbox) = (runtime.clone(), inbox.clone());
    runtime.spawn("probe-broker", async move {
        if is_gone(&task_runtime, &address).await {
            mark!("the process of a broker is gone");
            tracing::info!(%broker, address, "nobody listens where this broker listened: its process is gone");
            inbox.gone(broker);
        }
    });
}

async fn is_gone<R: Runtime>(runtime: &R, address: &str) -> bool {
    let mut attempts = Attempts::default();
    loop {
        let deadline = runtime.now().plus(PATIENCE);
        let connected = runtime.before(deadline, runtime.net().connect(address)).await;
        let is_refused = matches!(connected, Some(Err(why)) if why.kind() == ErrorKind::ConnectionRefused);
        match attempts.tried(is_refused) {
            Next::Gone => return true,
            Next::Lives => return false,
            Next::After(pause) => {
                let more = runtime.random_u64() % 256;
                runtime.sleep(pause + pause.mul_f64(more as f64 / 256.0)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dejaq_storage::file_disk::FileDisk;
    use dejaq_wire::peer::FEATURE_LEVEL;

    use super::*;
    use crate::peer::{ClusterId, Identity, PeerLimits};
    use crate::runtime::net::Listener;
    use crate::runtime::tokio::TokioRuntime;
    use crate::runtime::tokio_net::SocketOptions;

    /// What follows from attempts of which those that are `true` were refused.
    fn after(tried: &[bool]) -> Next {
        let mut attempts = Attempts::default();
        let mut next = None;
        for is_refused in tried {
            assert!(matches!(next, None | Some(Next::After(_))), "it was over before {tried:?}");
            next = Some(attempts.tried(*is_refused));
        }
        next.expect("there was one")
    }

    #[test]
    fn three_refusals_in_a_row_are_believed_and_ten_attempts_without_them_are_a_life() {
        assert_eq!(after(&[true, true]), Next::After(PAUSE));
        assert_eq!(after(&[true; 3]), Next::Gone);
        assert_eq!(after(&[false]), Next::After(LONG_PAUSE), "its listener may be the last that dies");
        assert_eq!(after(&[false, true, true, false, true, true, true]), Next::Gone);
        assert_eq!(after(&[true, true, false]), Next::After(LONG_PAUSE), "not in a row");
        assert_eq!(after(&[false; 9]), Next::After(LONG_PAUSE));
        assert_eq!(after(&[false; 10]), Next::Lives);
        let late = [[false; 9].as_slice(), &[true; 3]].concat();
        assert_eq!(after(&late), Next::Gone, "refusals that have begun are seen through");
    }

    fn world(dir: &tempfile::TempDir) -> TokioRuntime {
        let disk = FileDisk::open(dir.path()).expect("the directory is there");
        TokioRuntime::new(disk, SocketOptions::default())
    }

    /// Runs a probe of a listener that goes after `life`; returns whether the broker was told to be gone within 3 s.
    async fn probed(life: Duration) -> bool {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let runtime = world(&dir);
        let listener = runtime.net().listen("127.0.0.1:0").await.expect("a free port");
        let me = Identity { node: BrokerId(1), cluster: ClusterId::known("c"), speaks: FEATURE_LEVEL };
        let peers = Peers::new(runtime.clone(), me, PeerLimits::default());
        peers.know(BrokerId(2), &listener.local_address());
        let inbox = Inbox::new();
        start(&runtime, &peers, &inbox, BrokerId(2));
        runtime.sleep(life).await;
        drop(listener);
        let told = runtime.before(runtime.now().plus(Duration::from_secs(3)), inbox.wait()).await;
        told.is_some() && inbox.take().gone.contains(&BrokerId(2))
    }

    #[tokio::test]
    async fn a_process_whose_listener_dies_after_its_connections_is_seen_to_be_gone() {
        assert!(probed(Duration::from_millis(200)).await);
    }
}
