//! Kafka's APIs: keys, names, and the version table that ApiVersions answers from.
//!
//! Owns: for every API that we can decode its lowest and newest version and where the flexible
//! encoding starts. Promises: what is advertised is decodable; Produce alone advertises more than it
//! serves (see [`ApiKey::advertised_min`]).
//! Leaves out: which of these the broker really answers; the node passes that set to [`advertise`],
//! so that nothing is advertised that does not work.

use crate::kafka::api_versions::ApiVersion;

/// What the table says of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Versions {
    min: i16,
    max: i16,
    /// First version with compact lengths and tagged fields; `i16::MAX` for never.
    flexible: i16,
}

const NEVER: i16 = i16::MAX;

macro_rules! apis {
    ($($name:ident = $key:literal, $min:literal..=$max:literal, flexible $flexible:expr;)*) => {
        /// An API that this crate can encode and decode.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[allow(missing_docs, reason = "the variants are Kafka's names")]
        pub enum ApiKey {
            $($name = $key,)*
        }

        impl ApiKey {
            /// Every API, ascending by key.
            pub const ALL: &[ApiKey] = &[$(ApiKey::$name),*];

            /// The API of a key on the wire, if we know it.
            pub const fn from_key(key: i16) -> Option<ApiKey> {
                match key {
                    $($key => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name of the API.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$name => stringify!($name),)*
                }
            }

            const fn versions(self) -> Versions {
                match self {
                    $(ApiKey::$name => Versions { min: $min, max: $max, flexible: $flexible },)*
                }
            }
        }
    };
}

apis! {
    Produce = 0, 3..=13, flexible 9;
    Fetch = 1, 4..=18, flexible 12;
    ListOffsets = 2, 1..=10, flexible 6;
    Metadata = 3, 0..=13, flexible 9;
    OffsetCommit = 8, 2..=10, flexible 8;
    OffsetFetch = 9, 1..=10, flexible 6;
    FindCoordinator = 10, 0..=6, flexible 3;
    JoinGroup = 11, 0..=9, flexible 6;
    Heartbeat = 12, 0..=4, flexible 4;
    LeaveGroup = 13, 0..=5, flexible 4;
    SyncGroup = 14, 0..=5, flexible 4;
    DescribeGroups = 15, 0..=6, flexible 5;
    ListGroups = 16, 0..=5, flexible 3;
    ApiVersions = 18, 0..=4, flexible 3;
    CreateTopics = 19, 2..=7, flexible 5;
    DeleteTopics = 20, 1..=6, flexible 4;
    DeleteRecords = 21, 0..=2, flexible 2;
    InitProducerId = 22, 0..=5, flexible 2;
    OffsetForLeaderEpoch = 23, 2..=4, flexible 4;
    AddPartitionsToTxn = 24, 0..=5, flexible 3;
    AddOffsetsToTxn = 25, 0..=4, flexible 3;
    EndTxn = 26, 0..=5, flexible 3;
    WriteTxnMarkers = 27, 1..=1, flexible 1;
    TxnOffsetCommit = 28, 0..=5, flexible 3;
    DescribeConfigs = 32, 1..=4, flexible 4;
    AlterConfigs = 33, 0..=2, flexible 2;
    DescribeLogDirs = 35, 1..=4, flexible 2;
    CreatePartitions = 37, 0..=3, flexible 2;
    DeleteGroups = 42, 0..=2, flexible 2;
    ElectLeaders = 43, 0..=2, flexible 2;
    IncrementalAlterConfigs = 44, 0..=1, flexible 1;
    AlterPartitionReassignments = 45, 0..=1, flexible 0;
    ListPartitionReassignments = 46, 0..=0, flexible 0;
    OffsetDelete = 47, 0..=0, flexible NEVER;
    DescribeQuorum = 55, 0..=2, flexible 0;
    UpdateFeatures = 57, 0..=2, flexible 0;
    DescribeCluster = 60, 0..=2, flexible 0;
    DescribeProducers = 61, 0..=0, flexible 0;
    UnregisterBroker = 64, 0..=0, flexible 0;
    DescribeTransactions = 65, 0..=0, flexible 0;
    ListTransactions = 66, 0..=2, flexible 0;
    ConsumerGroupHeartbeat = 68, 0..=1, flexible 0;
    ConsumerGroupDescribe = 69, 0..=1, flexible 0;
    DescribeTopicPartitions = 75, 0..=0, flexible 0;
    AddRaftVoter = 80, 0..=0, flexible 0;
    RemoveRaftVoter = 81, 0..=0, flexible 0;
}

impl ApiKey {
    /// The key on the wire.
    pub const fn key(self) -> i16 {
        self as i16
    }

    /// Lowest version that we decode and serve.
    pub const fn min_version(self) -> i16 {
        self.versions().min
    }

    /// Newest version that we decode and serve.
    pub const fn max_version(self) -> i16 {
        self.versions().max
    }

    /// Whether we decode and serve `version`.
    pub const fn has_version(self, version: i16) -> bool {
        self.min_version() <= version && version <= self.max_version()
    }

    /// Lowest version that ApiVersions shows.
    ///
    /// Produce shows 0 although 0 to 2 are refused: librdkafka before a fix of 2025 takes a higher
    /// minimum for "no compression" and silently sends uncompressed (KAFKA-18659).
    pub const fn advertised_min(self) -> i16 {
        match self {
            ApiKey::Produce => 0,
            _ => self.min_version(),
        }
    }

    /// Whether `version` has compact lengths and tagged fields (KIP-482).
    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.versions().flexible
    }

    /// Version of the header before a request.
    pub const fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the header before a response; ApiVersions always has the old one, so that a client
    /// that knows nothing of this broker can read it.
    pub const fn response_header_version(self, version: i16) -> i16 {
        match self {
            ApiKey::ApiVersions => 0,
            _ if self.is_flexible(version) => 1,
            _ => 0,
        }
    }
}

/// The ranges that ApiVersions answers for the APIs that the broker serves, in the order given.
pub fn advertise(served: impl IntoIterator<Item = ApiKey>) -> Vec<ApiVersion> {
    let range = |api: ApiKey| ApiVersion {
        api_key: api.key(),
        min_version: api.advertised_min(),
        max_version: api.max_version(),
    };
    served.into_iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ascend_and_lead_back_to_their_api() {
        assert!(ApiKey::ALL.windows(2).all(|pair| pair[0].key() < pair[1].key()));
        for api in ApiKey::ALL {
            assert_eq!(ApiKey::from_key(api.key()), Some(*api));
            assert!(api.min_version() <= api.max_version(), "{api:?}");
        }
        assert_eq!(ApiKey::from_key(7), None, "ControlledShutdown went with ZooKeeper");
        assert_eq!(ApiKey::from_key(-1), None);
    }

    #[test]
    fn only_produce_advertises_versions_that_it_refuses() {
        for range in advertise(ApiKey::ALL.iter().copied()) {
            let api = ApiKey::from_key(range.api_key).expect("advertised APIs are known");
            assert_eq!(range.min_version < api.min_version(), api == ApiKey::Produce, "{api:?}");
            assert_eq!(range.max_version, api.max_version());
        }
    }

    #[test]
    fn the_table_agrees_with_the_judge() {
        for api in ApiKey::ALL {
            let judge = kafka_protocol::messages::ApiKey::try_from(api.key()).expect("the judge knows it");
            assert_eq!(format!("{judge:?}"), api.name());
            for version in api.min_version()..=api.max_version() {
                let judged = (judge.request_header_version(version), judge.response_header_version(version));
                assert_eq!(
                    (api.request_header_version(version), api.response_header_version(version)),
                    judged,
                    "{api:?} {version}"
                );
            }
        }
    }
}
