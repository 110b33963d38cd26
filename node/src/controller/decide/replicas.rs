//! From lists of brokers, placed by us or by hand, to new partitions.

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;

use crate::controller::draft::Refusal;
use crate::metadata::Image;

/// Checks one partition of a manual assignment.
///
/// # Errors
/// INVALID_REPLICA_ASSIGNMENT, with the broker or the count that is wrong.
pub fn check_manual(image: &Image, replicas: &[BrokerId], expected: Option<usize>) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, why));
    if replicas.is_empty() {
        return refuse("The manual partition assignment includes an empty replica list.".into());
    }
    for (at, broker) in replicas.iter().enumerate() {
        if image.broker(*broker).is_none() {
            return refuse(format!(
                "The manual partition assignment includes broker {broker}, but no such broker is registered."
            ));
        }
        if replicas[..at].contains(broker) {
            return refuse(format!(
                "The manual partition assignment includes the broker {broker} more than once."
            ));
        }
    }
    match expected {
        Some(count) if count != replicas.len() => refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent \
             with previous partitions, which have {count} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}

/// Checks that so many more partitions still fit.
///
/// # Errors
/// POLICY_VIOLATION with the limit.
pub fn check_room(image: &Image, more: usize, limit: usize) -> Result<(), Refusal> {
    let count = image.partition_count();
    if count.saturating_add(more) <= limit {
        return Ok(());
    }
    let why = format!(
        "{more} more partition(s) on top of {count} would exceed the limit of {limit} (max-partitions)."
    );
    Err(Refusal::new(ErrorCode::POLICY_VIOLATION, why))
}
