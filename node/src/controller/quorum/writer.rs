//! SHELL. Makes the quorum's writes durable: takes all that waits, one sync for all of it, then says so.
//!
//! Owns: the journal, and with it the order of writes. Promises: a ticket is told as durable only after every write up to
//! it is; after any error nothing is told any more, and nothing is written any more, for the life of the process: what is
//! durable is known again only after a restart. A full disk is not an error but a wait: the same write is tried again.
//! Leaves out: what to write (`raft`). Told by the driver, tells the inbox.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::Offset;
use tokio::sync::{Notify, oneshot};
use tracing::{info, warn};

use super::inbox::Inbox;
use crate::controller::journal::{Journal, WriteError};
use crate::controller::raft::{Snapshot, Ticket, Write};
use crate::runtime::Runtime;

/// Time without a write after which the durable point is written down.
const IDLE: Duration = Duration::from_secs(1);
/// How often a write that found no room is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// What is to be done; bounded by what the quorum lets be under way.
#[derive(Default)]
struct Work {
    writes: Vec<Write>,
    ticket: Option<Ticket>,
    snapshot: Option<Arc<Snapshot>>,
    close: Option<oneshot::Sender<Result<(), String>>>,
    abandoned: bool,
}

impl Work {
    fn is_some(&self) -> bool {
        self.ticket.is_some() || self.snapshot.is_some() || self.close.is_some() || self.abandoned
    }
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    /// One waiter: the writer.
    notice: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver's end. When it is dropped, the writer ends.
pub(crate) struct Orders(Arc<Shared>);

impl Orders {
    /// What a turn wants written.
    pub fn write(&self, writes: Vec<Write>, ticket: Option<Ticket>) {
        assert_eq!(writes.is_empty(), ticket.is_none(), "writes have a ticket");
        if ticket.is_some() {
            self.put(|work| {
                work.writes.extend(writes);
                work.ticket = ticket;
            });
        }
    }

    /// A snapshot that this node made, after what was told before. It is left out if a later one is installed meanwhile.
    pub fn keep(&self, snapshot: Arc<Snapshot>) {
        self.put(|work| work.snapshot = Some(snapshot));
    }

    /// Closes the journal after all that was told before.
    pub fn close(&self, done: oneshot::Sender<Result<(), String>>) {
        self.put(|work| work.close = Some(done));
    }

    fn put(&self, put: impl FnOnce(&mut Work)) {
        put(&mut self.0.lock());
        self.0.notice.notify_one();
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.put(|work| work.abandoned = true);
    }
}

/// Starts the task.
pub(crate) fn start<R: Runtime>(runtime: &R, journal: Journal<R::Disk>, inbox: Inbox) -> Orders {
    let shared = Arc::new(Shared::default());
    let (runtime_of, shared_of) = (runtime.clone(), shared.clone());
    let writer = Writer { runtime: runtime_of, journal, inbox, shared: shared_of, installed: Offset::ZERO };
    runtime.spawn("quorum-writer", writer.run());
    Orders(shared)
}

struct Writer<R: Runtime> {
    runtime: R,
    journal: Journal<R::Disk>,
    inbox: Inbox,
    shared: Arc<Shared>,
    /// End of the last snapshot that was installed.
    installed: Offset,
}

/// Why the writer ends.
enum End {
    /// Nobody tells it anything any more.
    Abandoned,
    Failed(&'static str),
}

impl<R: Runtime> Writer<R> {
    async fn run(mut self) {
        let mut idle_due = true;
        loop {
            let work = match self.next(idle_due).await {
                Some(work) => work,
                None => {
                    idle_due = false;
                    match self.journal.sync_idle().await {
                        Ok(()) | Err(WriteError::Full) => continue,
                        Err(WriteError::Sealed(why)) => return self.inbox.failed(why.to_owned()),
                    }
                }
            };
            if work.abandoned && work.close.is_none() {
                return;
            }
            idle_due |= work.ticket.is_some();
            match self.carry_out(&work).await {
                Ok(()) => {}
                Err(End::Abandoned) => return,
                Err(End::Failed(why)) => {
                    self.inbox.failed(why.to_owned());
                    // It may have been asked to close while it waited for room.
                    let close = work.close.or_else(|| self.shared.lock().close.take());
                    if let Some(done) = close {
                        let _ = done.send(Err(format!("the metadata log: {why}")));
                    }
                    return;
                }
            }
            if let Some(done) = work.close {
                let closed = self.journal.close().await.map_err(|why| format!("the metadata log: {why}"));
                let _ = done.send(closed); // the broker waits for it; if it does not, nobody needs it
                return;
            }
        }
    }

    /// What is to be done; `None` when it is time for the durable point.
    async fn next(&self, idle_due: bool) -> Option<Work> {
        let give_up = self.runtime.now().plus(IDLE);
        loop {
            {
                let mut work = self.shared.lock();
                if work.is_some() {
                    return Some(std::mem::take(&mut work));
                }
            }
            let notice = self.shared.notice.notified();
            if idle_due {
                self.runtime.before(give_up, notice).await?;
            } else {
                notice.await;
            }
        }
    }

    async fn carry_out(&mut self, work: &Work) -> Result<(), End> {
        let mut was_full = false;
        for write in &work.writes {
            loop {
                let now_ms = self.runtime.unix_ms();
                let done = self.journal.carry_out(write, now_ms).await;
                if self.is_over(done, &mut was_full).await? {
                    break;
                }
            }
        }
        if let Some(ticket) = work.ticket {
            loop {
                let done = self.journal.sync().await;
                if self.is_over(done, &mut was_full).await? {
                    break;
                }
            }
            if was_full {
                info!("the disk has room again for the metadata");
                self.inbox.full(false);
            }
            self.inbox.durable(ticket);
        }
        let installed = work.writes.iter().filter_map(|write| match write {
            Write::Install(snapshot) => Some(snapshot.id.position.end),
            _ => None,
        });
        self.installed = installed.fold(self.installed, Offset::max);
        if work.snapshot.as_ref().is_some_and(|snapshot| snapshot.id.position.end <= self.installed) {
            // The log begins behind what was installed: an older snapshot in its place would leave a gap.
            mark!("a snapshot of the metadata is overtaken by one that was installed");
            self.inbox.left_out();
        } else if let Some(snapshot) = &work.snapshot {
            match self.journal.write_snapshot(snapshot).await {
                Ok(()) => self.inbox.compacted(snapshot.clone()),
                Err(WriteError::Full) => {
                    warn!("the disk is full: a snapshot of the metadata is left out for now");
                    self.inbox.left_out();
                }
                Err(WriteError::Sealed(why)) => return Err(End::Failed(why)),
            }
        }
        Ok(())
    }

    /// Whether it is done; false is to try again, after a pause.
    async fn is_over(&self, done: Result<(), WriteError>, was_full: &mut bool) -> Result<bool, End> {
        match done {
            Ok(()) => return Ok(true),
            Err(WriteError::Sealed(why)) => return Err(End::Failed(why)),
            Err(WriteError::Full) => {}
        }
        if !std::mem::replace(was_full, true) {
            mark!("a write of the metadata waits for room");
            warn!("the disk is full: changes of the metadata wait for room, new ones are refused");
            self.inbox.full(true);
        }
        {
            let work = self.shared.lock();
            if work.close.is_some() {
                return Err(End::Failed("the disk is full"));
            }
            if work.abandoned {
                return Err(End::Abandoned);
            }
        }
        self.runtime.sleep(FULL_PAUSE).await;
        Ok(false)
    }
}
