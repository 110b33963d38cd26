//! Who a member is, told to those that act in its name: a transaction that commits its offsets. Pure.

use dejaq_wire::ids::Generation;

/// Who a member is right now: what fences a commit of its offsets in a transaction (KIP-447).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The group.
    pub group: String,
    /// The member's id.
    pub member: String,
    /// Its generation.
    pub generation: Generation,
    /// Its instance id, if it is static.
    pub instance: Option<String>,
}
