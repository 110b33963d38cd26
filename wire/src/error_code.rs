//! Kafka's error codes: number, name, whether a client may simply try again, and a default message.
//!
//! Owns: the table up to Kafka 4.1. An unknown number is kept as it is and counts as not retriable,
//! so decoding an answer of a newer broker never fails.
//! Leaves out: which code an operation answers (one function per API in `node`).

use std::fmt;

/// One of Kafka's error codes as it stands on the wire; [`ErrorCode::NONE`] is success.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ErrorCode(pub i16);

macro_rules! error_codes {
    ($($code:literal $name:ident $retry:ident $message:literal;)*) => {
        impl ErrorCode {
            $(#[doc = $message] pub const $name: ErrorCode = ErrorCode($code);)*
            /// Every code of the table, ascending.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode($code)),*];

            const fn entry(self) -> Option<(&'static str, Retry, &'static str)> {
                match self.0 {
                    $($code => Some((stringify!($name), Retry::$retry, $message)),)*
                    _ => None,
                }
            }
        }
    };
}

#[derive(PartialEq)]
#[allow(non_camel_case_types, reason = "the variants are the words of the table below")]
enum Retry {
    retriable,
    fatal,
}

impl ErrorCode {
    /// Whether this is success.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether this is a failure.
    pub const fn is_error(self) -> bool {
        self.0 != 0
    }

    /// Kafka's name of the code, or `UNKNOWN_CODE` for one that this table does not have.
    pub const fn name(self) -> &'static str {
        match self.entry() {
            Some((name, _, _)) => name,
            None => "UNKNOWN_CODE",
        }
    }

    /// Whether clients retry the same request by themselves (Kafka's RetriableException).
    pub const fn is_retriable(self) -> bool {
        matches!(self.entry(), Some((_, Retry::retriable, _)))
    }

    /// A sentence for people; used where an operation has nothing more precise to say.
    pub const fn message(self) -> &'static str {
        match self.entry() {
            Some((_, _, message)) => message,
            None => "an error code that this version does not know",
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name(), self.0, self.message())
    }
}

error_codes! {
     -1 UNKNOWN_SERVER_ERROR fatal "unexpected error inside the broker; its log says more";
      0 NONE fatal "no error";
      1 OFFSET_OUT_OF_RANGE fatal "the offset lies outside the range that the partition holds";
      2 CORRUPT_MESSAGE retriable "the record batch fails its checksum or is damaged in another way";
      3 UNKNOWN_TOPIC_OR_PARTITION retriable "this broker does not host that topic or partition";
      4 INVALID_FETCH_SIZE fatal "the fetch size is not valid";
      5 LEADER_NOT_AVAILABLE retriable "the partition has no leader yet; an election or creation is under way";
      6 NOT_LEADER_OR_FOLLOWER retriable "this broker does not lead, or does not replicate, the partition";
      7 REQUEST_TIMED_OUT retriable "the request was not finished within its timeout";
      8 BROKER_NOT_AVAILABLE fatal "the broker is not available";
      9 REPLICA_NOT_AVAILABLE retriable "the replica is not available here";
     10 MESSAGE_TOO_LARGE fatal "the record batch is larger than the broker accepts";
     11 STALE_CONTROLLER_EPOCH fatal "the controller has moved to another broker";
     12 OFFSET_METADATA_TOO_LARGE fatal "the metadata string of an offset commit is too large";
     13 NETWORK_EXCEPTION retriable "the connection ended before a response came";
     14 COORDINATOR_LOAD_IN_PROGRESS retriable "the coordinator is still loading its state";
     15 COORDINATOR_NOT_AVAILABLE retriable "the coordinator is not available";
     16 NOT_COORDINATOR retriable "this broker does not coordinate that group or transaction";
     17 INVALID_TOPIC_EXCEPTION fatal "the topic name is not valid or the topic may not be used so";
     18 RECORD_LIST_TOO_LARGE fatal "the record batch is larger than a log segment";
     19 NOT_ENOUGH_REPLICAS retriable "fewer replicas are in sync than the topic demands";
     20 NOT_ENOUGH_REPLICAS_AFTER_APPEND retriable "the records were written, but to fewer in-sync replicas than the topic demands";
     21 INVALID_REQUIRED_ACKS fatal "acks must be -1, 0 or 1";
     22 ILLEGAL_GENERATION fatal "the generation is not the group's current one";
     23 INCONSISTENT_GROUP_PROTOCOL fatal "the member's protocols do not fit those of the group";
     24 INVALID_GROUP_ID fatal "the group id is not valid";
     25 UNKNOWN_MEMBER_ID fatal "the coordinator does not know this member";
     26 INVALID_SESSION_TIMEOUT fatal "the session timeout lies outside the range that the broker allows";
     27 REBALANCE_IN_PROGRESS fatal "the group is rebalancing; join again";
     28 INVALID_COMMIT_OFFSET_SIZE fatal "the size of the offset commit is not valid";
     29 TOPIC_AUTHORIZATION_FAILED fatal "not authorised for the topic";
     30 GROUP_AUTHORIZATION_FAILED fatal "not authorised for the group";
     31 CLUSTER_AUTHORIZATION_FAILED fatal "not authorised for the cluster";
     32 INVALID_TIMESTAMP fatal "the timestamp of a record lies outside the accepted range";
     33 UNSUPPORTED_SASL_MECHANISM fatal "the SASL mechanism is not offered";
     34 ILLEGAL_SASL_STATE fatal "the request does not fit the state of the SASL exchange";
     35 UNSUPPORTED_VERSION fatal "the broker does not serve this version of the API";
     36 TOPIC_ALREADY_EXISTS fatal "a topic with this name exists already";
     37 INVALID_PARTITIONS fatal "the number of partitions is not valid";
     38 INVALID_REPLICATION_FACTOR fatal "the replication factor is below 1 or above the number of brokers";
     39 INVALID_REPLICA_ASSIGNMENT fatal "the replica assignment is not valid";
     40 INVALID_CONFIG fatal "a configuration name or value is not valid";
     41 NOT_CONTROLLER retriable "this broker is not the controller";
     42 INVALID_REQUEST fatal "the request is malformed or contradicts itself";
     43 UNSUPPORTED_FOR_MESSAGE_FORMAT fatal "the message format does not allow this request";
     44 POLICY_VIOLATION fatal "the request breaks a policy of the cluster";
     45 OUT_OF_ORDER_SEQUENCE_NUMBER fatal "the producer's sequence number leaves a gap";
     46 DUPLICATE_SEQUENCE_NUMBER fatal "the producer's sequence number was seen before";
     47 INVALID_PRODUCER_EPOCH fatal "the producer's epoch is older than the current one";
     48 INVALID_TXN_STATE fatal "the transaction is not in a state that allows this";
     49 INVALID_PRODUCER_ID_MAPPING fatal "the producer id does not belong to the transactional id";
     50 INVALID_TRANSACTION_TIMEOUT fatal "the transaction timeout is larger than the broker allows";
     51 CONCURRENT_TRANSACTIONS retriable "another operation on the same transaction is still going on";
     52 TRANSACTION_COORDINATOR_FENCED fatal "the sender no longer coordinates this producer's transactions";
     53 TRANSACTIONAL_ID_AUTHORIZATION_FAILED fatal "not authorised for the transactional id";
     54 SECURITY_DISABLED fatal "the broker runs without the security feature that this needs";
     55 OPERATION_NOT_ATTEMPTED fatal "not attempted, because another part of the batch failed";
     56 KAFKA_STORAGE_ERROR retriable "the broker's disk failed under this partition";
     57 LOG_DIR_NOT_FOUND fatal "the broker has no such log directory";
     58 SASL_AUTHENTICATION_FAILED fatal "authentication failed";
     59 UNKNOWN_PRODUCER_ID fatal "the broker holds no state of this producer for the partition";
     60 REASSIGNMENT_IN_PROGRESS fatal "a reassignment of the partition is under way";
     61 DELEGATION_TOKEN_AUTH_DISABLED fatal "delegation tokens are not enabled";
     62 DELEGATION_TOKEN_NOT_FOUND fatal "the delegation token is not known";
     63 DELEGATION_TOKEN_OWNER_MISMATCH fatal "the principal neither owns nor may renew the token";
     64 DELEGATION_TOKEN_REQUEST_NOT_ALLOWED fatal "delegation tokens may not be requested over this channel";
     65 DELEGATION_TOKEN_AUTHORIZATION_FAILED fatal "not authorised for the delegation token";
     66 DELEGATION_TOKEN_EXPIRED fatal "the delegation token has expired";
     67 INVALID_PRINCIPAL_TYPE fatal "the principal type is not supported";
     68 NON_EMPTY_GROUP fatal "the group still has members";
     69 GROUP_ID_NOT_FOUND fatal "the group does not exist";
     70 FETCH_SESSION_ID_NOT_FOUND retriable "the fetch session is not known; start a new one";
     71 INVALID_FETCH_SESSION_EPOCH retriable "the fetch session epoch is not the expected one; start a new session";
     72 LISTENER_NOT_FOUND retriable "the leader has no listener of the name that the request came by";
     73 TOPIC_DELETION_DISABLED fatal "topic deletion is disabled";
     74 FENCED_LEADER_EPOCH retriable "the leader epoch of the request is older than the broker's";
     75 UNKNOWN_LEADER_EPOCH retriable "the leader epoch of the request is newer than the broker's";
     76 UNSUPPORTED_COMPRESSION_TYPE fatal "the compression type may not be used here";
     77 STALE_BROKER_EPOCH fatal "the broker epoch has changed";
     78 OFFSET_NOT_AVAILABLE retriable "the new leader's high watermark has not caught up yet";
     79 MEMBER_ID_REQUIRED fatal "join again with the member id given in this answer";
     80 PREFERRED_LEADER_NOT_AVAILABLE retriable "the preferred leader is not available";
     81 GROUP_MAX_SIZE_REACHED fatal "the group has as many members as it may";
     82 FENCED_INSTANCE_ID fatal "another member has taken over this group instance id";
     83 ELIGIBLE_LEADERS_NOT_AVAILABLE retriable "no eligible leader is available";
     84 ELECTION_NOT_NEEDED retriable "the partition needs no leader election";
     85 NO_REASSIGNMENT_IN_PROGRESS fatal "no reassignment of the partition is under way";
     86 GROUP_SUBSCRIBED_TO_TOPIC fatal "the group still subscribes to the topic";
     87 INVALID_RECORD fatal "a record or its batch breaks the rules of the broker";
     88 UNSTABLE_OFFSET_COMMIT retriable "offsets of an open transaction are not settled yet";
     89 THROTTLING_QUOTA_EXCEEDED retriable "a quota is exceeded; try again after the throttle time";
     90 PRODUCER_FENCED fatal "a newer producer with the same transactional id has taken over";
     91 RESOURCE_NOT_FOUND fatal "the resource does not exist";
     92 DUPLICATE_RESOURCE fatal "the request names the same resource twice";
     93 UNACCEPTABLE_CREDENTIAL fatal "the credential does not meet the rules";
     94 INCONSISTENT_VOTER_SET fatal "sender or receiver is not one of the expected voters";
     95 INVALID_UPDATE_VERSION fatal "the feature version to update to is not valid";
     96 FEATURE_UPDATE_FAILED fatal "the features could not be updated";
     97 PRINCIPAL_DESERIALIZATION_FAILURE fatal "the forwarded principal could not be read";
     98 SNAPSHOT_NOT_FOUND fatal "the snapshot does not exist";
     99 POSITION_OUT_OF_RANGE fatal "the position lies outside the snapshot";
    100 UNKNOWN_TOPIC_ID retriable "this broker does not host a topic of that id";
    101 DUPLICATE_BROKER_REGISTRATION fatal "the broker id is in use already";
    102 BROKER_ID_NOT_REGISTERED fatal "the broker id is not registered";
    103 INCONSISTENT_TOPIC_ID retriable "the topic id of the request is not the one of the log";
    104 INCONSISTENT_CLUSTER_ID fatal "the cluster id of the request is not this cluster's";
    105 TRANSACTIONAL_ID_NOT_FOUND fatal "the transactional id does not exist";
    106 FETCH_SESSION_TOPIC_ID_ERROR retriable "the fetch session mixes topic names and ids";
    107 INELIGIBLE_REPLICA fatal "the proposed in-sync set holds a replica that is not eligible";
    108 NEW_LEADER_ELECTED fatal "the partition was altered, but its leader has changed";
    109 OFFSET_MOVED_TO_TIERED_STORAGE fatal "the offset has moved to the archive";
    110 FENCED_MEMBER_EPOCH fatal "the member epoch is fenced; give up all partitions and join again";
    111 UNRELEASED_INSTANCE_ID fatal "the instance id is still used by another member";
    112 UNSUPPORTED_ASSIGNOR fatal "the assignor is not supported by the group";
    113 STALE_MEMBER_EPOCH fatal "the member epoch is stale; retry with the one of the next heartbeat";
    114 MISMATCHED_ENDPOINT_TYPE fatal "the request came to the wrong kind of endpoint";
    115 UNSUPPORTED_ENDPOINT_TYPE fatal "the endpoint type is not supported";
    116 UNKNOWN_CONTROLLER_ID fatal "the controller id is not known";
    117 UNKNOWN_SUBSCRIPTION_ID fatal "the telemetry subscription id is not valid or out of date";
    118 TELEMETRY_TOO_LARGE fatal "the telemetry push is larger than the broker accepts";
    119 INVALID_REGISTRATION fatal "the controller holds the broker registration to be invalid";
    120 TRANSACTION_ABORTABLE fatal "the transaction failed; abort it to go on with this transactional id";
    121 INVALID_RECORD_STATE fatal "the record is not in a state that allows the acknowledgement";
    122 SHARE_SESSION_NOT_FOUND retriable "the share session is not known";
    123 INVALID_SHARE_SESSION_EPOCH retriable "the share session epoch is not the expected one";
    124 FENCED_STATE_EPOCH fatal "the state epoch of the share group does not match";
    125 INVALID_VOTER_KEY fatal "the voter key is not the one of the receiving replica";
    126 DUPLICATE_VOTER fatal "the voter is in the set of voters already";
    127 VOTER_NOT_FOUND fatal "the voter is not in the set of voters";
    128 INVALID_REGULAR_EXPRESSION fatal "the regular expression is not valid";
    129 REBOOTSTRAP_REQUIRED fatal "the client's metadata is stale; start again from the bootstrap servers";
    130 STREAMS_INVALID_TOPOLOGY fatal "the streams topology is not valid";
    131 STREAMS_INVALID_TOPOLOGY_EPOCH fatal "the streams topology epoch is not valid";
    132 STREAMS_TOPOLOGY_FENCED fatal "the streams topology epoch is out of date";
    133 SHARE_SESSION_LIMIT_REACHED retriable "the broker holds as many share sessions as it may";
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;
    use kafka_protocol::error::ResponseError;

    /// Codes where the judge is wrong about retrying; Kafka's class is named beside each.
    const JUDGE_ERRS: &[i16] = &[51 /* ConcurrentTransactionsException extends RetriableException */];

    #[test]
    fn every_code_is_retriable_exactly_where_the_judge_says() {
        for code in -1i16..=133 {
            let ours = ErrorCode(code);
            assert!(ErrorCode::ALL.contains(&ours), "{code} is missing");
            if let Some(judge) = ResponseError::try_from_code(code).filter(|_| !JUDGE_ERRS.contains(&code)) {
                assert_eq!(ours.is_retriable(), judge.is_retriable(), "{ours:?}");
                let name = format!("{judge:?}").to_lowercase();
                assert_eq!(
                    ours.name().replace('_', "").to_lowercase(),
                    name.split('(').next().expect("never empty")
                );
            }
        }
    }

    #[test]
    fn an_unknown_code_keeps_its_number_and_is_not_retried() {
        let code = ErrorCode(9999);
        assert_eq!(format!("{code:?}"), "UNKNOWN_CODE(9999)");
        assert!(!code.is_retriable());
    }
}
