//! SHELL. The broker that coordinates a group, or a transactional id, as a client sees it.
//!
//! Owns: finding it, and a connection to it apart from those that records go over: a request to join may wait for
//! minutes, and nothing behind it on its connection is answered meanwhile.
//! Promises: one attempt a call; what the caller may try again it is told. Leaves out: what is asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::find_coordinator::FindCoordinatorRequest;

use super::GroupError;
use crate::client::cluster::{Cluster, ClusterError};
use crate::client::connection::{Connection, RequestError};
use crate::client::versions::Versions;
use crate::runtime::{Mono, Runtime};

/// What is coordinated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Group,
    Transactions,
}

/// The way to one group's, or one transactional id's, coordinator. Cheap to clone; clones share the connection.
#[derive(Debug)]
pub struct Coordinator<R: Runtime> {
    cluster: Cluster<R>,
    kind: Kind,
    name: Arc<str>,
    live: Arc<Mutex<Option<Connection<R>>>>,
}

impl<R: Runtime> Clone for Coordinator<R> {
    fn clone(&self) -> Coordinator<R> {
        Coordinator {
            cluster: self.cluster.clone(),
            kind: self.kind,
            name: self.name.clone(),
            live: self.live.clone(),
        }
    }
}

impl<R: Runtime> Coordinator<R> {
    /// The coordinator of `group`. Nothing is sent until something is asked.
    #[must_use]
    pub fn new(cluster: Cluster<R>, group: &str) -> Coordinator<R> {
        Coordinator { cluster, kind: Kind::Group, name: group.into(), live: Arc::default() }
    }

    /// The coordinator of the transactional id `id`. Nothing is sent until something is asked.
    #[must_use]
    pub fn of_transactions(cluster: Cluster<R>, id: &str) -> Coordinator<R> {
        Coordinator { cluster, kind: Kind::Transactions, name: id.into(), live: Arc::default() }
    }

    /// The group, or the transactional id.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.name
    }

    /// What the coordinator announced, once it is connected to.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn versions(&self, deadline: Mono) -> Result<Versions, ClusterError> {
        Ok(self.connection(deadline).await?.versions().clone())
    }

    /// Whether the answer says that there is, or is about to be, another coordinator; it is looked for then.
    pub fn is_elsewhere(&self, code: ErrorCode) -> bool {
        let elsewhere = matches!(
            code,
            ErrorCode::NOT_COORDINATOR
                | ErrorCode::COORDINATOR_NOT_AVAILABLE
                | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
        );
        if elsewhere {
            self.forget();
        }
        elsewhere
    }

    /// Whether nobody coordinates just now, is sure that it does, or answers, and it is looked for then; or whether the answer has to
    /// wait for a transaction.
    pub(super) fn may_answer_later(&self, error: &GroupError) -> bool {
        match error {
            GroupError::Refused { code: ErrorCode::UNSTABLE_OFFSET_COMMIT, .. } => true,
            GroupError::Refused { code, .. } => self.is_elsewhere(*code),
            GroupError::Cluster(error) if error.is_transient() => {
                self.forget();
                true
            }
            _ => false,
        }
    }

    /// Looks for the coordinator anew with the next call.
    pub fn forget(&self) {
        if let Some(connection) = self.live().take() {
            connection.close("the coordinator is looked for anew");
        }
    }

    /// Asks the coordinator once, in a version that is at most `newest`.
    ///
    /// # Errors
    /// [`ClusterError`]; the coordinator is looked for anew after it.
    pub async fn ask<Q: Request>(
        &self,
        request: &Q,
        newest: i16,
        deadline: Mono,
    ) -> Result<Q::Response, ClusterError> {
        let connection = self.connection(deadline).await?;
        let answer = ask_over(&connection, request, newest, deadline).await;
        answer.map_err(|error| {
            self.forget();
            ClusterError::Request(error)
        })
    }

    async fn connection(&self, deadline: Mono) -> Result<Connection<R>, ClusterError> {
        {
            let mut live = self.live();
            live.take_if(|connection| connection.is_closed());
            if let Some(connection) = &*live {
                return Ok(connection.clone());
            }
        }
        let address = self.find(deadline).await?;
        let (runtime, config) = (self.cluster.runtime(), self.cluster.config());
        let give_up = runtime.now().plus(config.connect_timeout).min(deadline);
        let opened = Connection::open(runtime.clone(), &address, &config.connection, give_up).await;
        let connection = opened.map_err(|error| ClusterError::Unreachable { tried: error.to_string() })?;
        *self.live() = Some(connection.clone());
        Ok(connection)
    }

    async fn find(&self, deadline: Mono) -> Result<Arc<str>, ClusterError> {
        let name = self.name.to_string();
        let key_type = match self.kind {
            Kind::Group => 0,
            Kind::Transactions => 1,
        };
        // Old versions have one key, new ones several.
        let request = FindCoordinatorRequest { key: name.clone(), key_type, coordinator_keys: vec![name] };
        let mut rounds = 0;
        loop {
            let answer = self.cluster.ask_any(&request, deadline).await?;
            let (code, host, port) = match answer.coordinators.into_iter().next() {
                Some(found) => (found.error_code, found.host, found.port),
                None => (answer.error_code, answer.host, answer.port),
            };
            if code.is_none() {
                let is_v6 = host.contains(':') && !host.starts_with('[');
                return Ok(if is_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }.into());
            }
            rounds += 1;
            if !code.is_retriable() || !self.cluster.pause(rounds, deadline).await {
                let tried = match self.kind {
                    Kind::Group => format!("the coordinator of group {}: {code}", self.name),
                    Kind::Transactions => format!("the coordinator of transactions {}: {code}", self.name),
                };
                return Err(ClusterError::Unreachable { tried });
            }
        }
    }

    fn live(&self) -> MutexGuard<'_, Option<Connection<R>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a request in the newest common version that is at most `newest`, and waits for its answer.
///
/// # Errors
/// [`RequestError`].
pub async fn ask_over<R: Runtime, Q: Request>(
    connection: &Connection<R>,
    request: &Q,
    newest: i16,
    deadline: Mono,
) -> Result<Q::Response, RequestError> {
    let version = connection.versions().choose_up_to(Q::API, newest)?;
    let slot = connection.slot(deadline).await?;
    connection.start_with(request, version, slot, deadline)?.wait().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::cluster::ClusterConfig;
    use crate::client::testing::runtime;

    #[test]
    fn what_passes_is_asked_again_and_what_does_not_is_told() {
        let coordinator = Coordinator::new(Cluster::new(runtime(), ClusterConfig::default()), "g");
        let refused = |code| GroupError::Refused { what: "read the group's offsets".into(), code };
        let lost = RequestError::Lost("it ended".into());
        let unreachable = ClusterError::Unreachable { tried: "nobody".into() };
        for passes in [
            refused(ErrorCode::NOT_COORDINATOR),
            refused(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            refused(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            refused(ErrorCode::UNSTABLE_OFFSET_COMMIT),
            GroupError::Cluster(unreachable),
            GroupError::Cluster(ClusterError::Unanswered { address: "b1".into(), error: lost.clone() }),
            GroupError::Cluster(ClusterError::Request(lost)),
        ] {
            assert!(coordinator.may_answer_later(&passes), "{passes}");
        }
        for stays in [
            refused(ErrorCode::GROUP_AUTHORIZATION_FAILED),
            refused(ErrorCode::UNKNOWN_MEMBER_ID),
            GroupError::Cluster(ClusterError::Request(RequestError::Unsendable("too large".into()))),
        ] {
            assert!(!coordinator.may_answer_later(&stays), "{stays}");
        }
    }
}
