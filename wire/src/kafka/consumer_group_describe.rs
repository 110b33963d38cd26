//! ConsumerGroupDescribe (key 69): state and members of KIP-848 groups. Always flexible; 1 tells the
//! member's type.

use crate::ErrorCode;
use crate::ids::{Generation, PartitionId, TopicId};
use crate::kafka::message::message;

message! {
    ConsumerGroupDescribeRequest {
        group_ids: Vec<String>, ..;
        include_authorized_operations: bool, ..;
    }

    ConsumerGroupDescribeResponse {
        throttle_time_ms: i32, ..;
        groups: Vec<DescribedGroup>, ..;
    }

    DescribedGroup {
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        group_id: String, ..;
        group_state: String, ..;
        group_epoch: Generation, ..;
        assignment_epoch: Generation, ..;
        assignor_name: String, ..;
        members: Vec<Member>, ..;
        authorized_operations: i32, .., = i32::MIN;
    }

    Member {
        member_id: String, ..;
        instance_id: Option<String>, ..;
        rack_id: Option<String>, ..;
        member_epoch: Generation, ..;
        client_id: String, ..;
        client_host: String, ..;
        subscribed_topic_names: Vec<String>, ..;
        subscribed_topic_regex: Option<String>, ..;
        assignment: Assignment, ..;
        target_assignment: Assignment, ..;
        member_type: i8, 1.., = -1;
    }

    TopicPartitions {
        topic_id: TopicId, ..;
        topic_name: String, ..;
        partitions: Vec<PartitionId>, ..;
    }

    Assignment {
        topic_partitions: Vec<TopicPartitions>, ..;
    }
}
