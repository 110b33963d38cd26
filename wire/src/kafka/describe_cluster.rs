//! DescribeCluster (key 60): brokers and controller. Always flexible; 1 tells brokers from controllers;
//! 2 shows fenced brokers.

use crate::ErrorCode;
use crate::ids::BrokerId;
use crate::kafka::message::message;

message! {
    DescribeClusterRequest {
        include_cluster_authorized_operations: bool, ..;
        endpoint_type: i8, 1.., = 1;
        include_fenced_brokers: bool, 2..;
    }

    DescribeClusterResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        endpoint_type: i8, 1.., = 1;
        cluster_id: String, ..;
        controller_id: BrokerId, .., = BrokerId::NONE;
        brokers: Vec<DescribeClusterBroker>, ..;
        cluster_authorized_operations: i32, .., = i32::MIN;
    }

    DescribeClusterBroker {
        broker_id: BrokerId, ..;
        host: String, ..;
        port: i32, ..;
        rack: Option<String>, ..;
        is_fenced: bool, 2..;
    }
}
