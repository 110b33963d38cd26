//! Whether the process of a node is gone: asked when a connection of that node ended, by the active controller about
//! everybody, and by everybody about the active controller.
//!
//! Decided (2026-11-28): a broker is fenced early, before its session is over, when its connection to the active
//! controller broke *and* nobody listens where it listened, three times in a row: the machine itself refuses, so the
//! process is dead. Because with the session alone a `kill -9` takes nine seconds to notice. Fencing is always safe:
//! leadership moves under new epochs, the old ones are refused, and a broker that lives is let in again with its next
//! heartbeat. A cut or slow network does not refuse, so that it is judged by the session alone. A new controller asks
//! once about everybody. A follower of the quorum that finds its leader gone asks the others at once instead of waiting
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
/// Between two of them, at least; at most twice that, so that two followers do not stand at the same moment.
const PAUSE: Duration = Duration::from_millis(20);
/// Nobody who lives takes longer to be connected to, or to be refused by.
const PATIENCE: Duration = Duration::from_millis(250);

/// Looks, and tells the inbox if nobody is there.
pub(super) fn start<R: Runtime>(runtime: &R, peers: &Peers<R>, inbox: &Inbox, broker: BrokerId) {
    let Some(address) = peers.address(broker) else { return };
    let (task_runtime, inbox) = (runtime.clone(), inbox.clone());
    runtime.spawn("probe-broker", async move {
        for attempt in 0..REFUSALS {
            if attempt > 0 {
                let more = task_runtime.random_u64() % 256;
                task_runtime.sleep(PAUSE + PAUSE.mul_f64(more as f64 / 256.0)).await;
            }
            let deadline = task_runtime.now().plus(PATIENCE);
            match task_runtime.before(deadline, task_runtime.net().connect(&address)).await {
                Some(Err(why)) if why.kind() == ErrorKind::ConnectionRefused => {}
                Some(Ok(_) | Err(_)) | None => return,
            }
        }
        mark!("the process of a broker is gone");
        tracing::info!(%broker, address, "nobody listens where this broker listened: its process is gone");
        inbox.gone(broker);
    });
}
