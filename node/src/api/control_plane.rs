//! What the APIs of the control plane share: the controller, the image, and how a wait for them ends.
//!
//! Owns: [`ControlPlane`], deadlines of changes, the address under which a client sees a broker, and the operations
//! that a client may do (all of them: there is no authorisation yet).
//! Promises: a change that was answered without an error is durable, and in effect on this broker unless it took
//! longer than the request's timeout.
//! Leaves out: what each API answers (one file each beside this one), requests' bytes (`api`).

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;

use crate::config::Config;
use crate::controller::calls::ControlCall;
use crate::controller::{Reach, Refusal, Settings};
use crate::metadata::image::{Broker, PEER_LISTENER};
use crate::metadata::{BrokerDefaults, Image, Published};
use crate::runtime::Runtime;
use crate::server::service::Session;

/// Shortest wait for the controller: librdkafka asks with a timeout of 0 and means "do not wait for followers".
const MIN_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the controller, whatever the request says.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// Bits of the operations that Kafka has for a topic: read, write, create, delete, alter, describe, describe configs
/// and alter configs.
pub const TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// Bits of the operations that Kafka has for a cluster: create, alter, describe, cluster action, describe configs,
/// alter configs and idempotent write.
pub const CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);
/// What stands there when nobody asked for operations.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

const fn bits(operations: &[u32]) -> i32 {
    let (mut all, mut at) = (0, 0);
    while at < operations.len() {
        all |= 1 << operations[at];
        at += 1;
    }
    all
}

/// The control plane as an API handler sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ControlPlane<R: Runtime> {
    /// For deadlines.
    pub runtime: R,
    /// Changes the metadata, wherever the active controller is.
    pub reach: Reach<R>,
    /// The metadata.
    pub published: Published,
    /// The cluster's id.
    pub cluster_id: Arc<str>,
    /// What the controller decides by.
    pub settings: Arc<Settings>,
    /// All settings of this broker.
    pub config: Arc<Config>,
}

/// Where a client reaches a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host name or address, IPv6 without brackets, as Kafka has it.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Address {
    /// Reads `host:port`; `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Address> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some(Address { host: host.to_owned(), port: port.parse().ok()? }).filter(|_| !host.is_empty())
    }
}

impl<R: Runtime> ControlPlane<R> {
    /// Has a request decided, and waits until it is durable and in effect on this broker.
    ///
    /// # Errors
    /// The refusal to answer for every part of the request: timeout, disk full, or controller stopped.
    pub async fn change<Q: ControlCall>(&self, request: Q, timeout_ms: i32) -> Result<Q::Told, Refusal> {
        let asked = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        let deadline = self.runtime.now().plus(asked.clamp(MIN_WAIT, MAX_WAIT));
        let answered = self.reach.ask(request, deadline).await;
        let told = answered.result?;
        if self.runtime.before(deadline, self.published.wait_applied(answered.end)).await.is_none() {
            // It is durable and will be in effect; clients retry what comes too early.
            mark!("a change of the metadata was not in effect within its timeout");
        }
        Ok(told)
    }

    /// The broker that clients are told to be the controller; none while nobody is known to be.
    #[must_use]
    pub fn controller_id(&self) -> BrokerId {
        self.reach.controller().leader().unwrap_or(BrokerId::NONE)
    }

    /// Where the client of `session` reaches `broker`: this one by the listener by which the client came.
    #[must_use]
    pub fn address_of(&self, broker: &Broker, session: &Session) -> Option<Address> {
        let here = (broker.id == self.settings.node).then(|| Address::parse(&session.advertised)).flatten();
        let registered = || {
            broker
                .endpoints
                .iter()
                .find(|endpoint| endpoint.listener != PEER_LISTENER)
                .map(|endpoint| Address { host: endpoint.host.clone(), port: endpoint.port })
        };
        here.or_else(registered)
    }

    /// What brokers say about topics that do not say it themselves, as this broker sees it.
    #[must_use]
    pub fn broker_defaults(&self, image: &Image) -> BrokerDefaults {
        image.broker_defaults(self.settings.node, &self.settings.topic_defaults)
    }
}

/// Code and text of a result, as answers have them side by side.
#[must_use]
pub fn outcome<T>(result: &Result<T, Refusal>) -> (ErrorCode, Option<String>) {
    match result {
        Ok(_) => (ErrorCode::NONE, None),
        Err(refusal) => (refusal.code, refusal.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_without_brackets() {
        let address = |host: &str, port| Some(Address { host: host.to_owned(), port });
        assert_eq!(Address::parse("localhost:9092"), address("localhost", 9092));
        assert_eq!(Address::parse("[::1]:9092"), address("::1", 9092));
        assert_eq!(Address::parse("9092"), None);
        assert_eq!(Address::parse(":9092"), None);
        assert_eq!(Address::parse("h:99999"), None);
    }

    #[test]
    fn operations_are_those_of_a_kafka_without_authorisation() {
        assert_eq!((TOPIC_OPERATIONS, CLUSTER_OPERATIONS), (3576, 8096));
    }
}
