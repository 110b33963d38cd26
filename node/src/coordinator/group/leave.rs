//! LeaveGroup: by members themselves, or by an operator who names instance ids.

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::leave_group::{MemberIdentity, MemberResponse};

use super::classic::{Group, State};
use super::turn::Turn;

impl Group {
    /// Takes members out; each has its own result, in the order given.
    pub(super) fn leave(&mut self, leaving: &[MemberIdentity], turn: &mut Turn<'_>) -> Vec<MemberResponse> {
        let mut results = Vec::with_capacity(leaving.len());
        let before = (self.members.len(), self.promised.len());
        for one in leaving {
            results.push(MemberResponse {
                member_id: one.member_id.clone(),
                group_instance_id: one.group_instance_id.clone(),
                error_code: self.leave_one(one, turn).err().unwrap_or(ErrorCode::NONE),
            });
        }
        if self.members.len() < before.0 {
            self.members_left(turn);
        } else if self.promised.len() < before.1 {
            self.try_complete_join(turn);
        }
        results
    }

    fn leave_one(&mut self, one: &MemberIdentity, turn: &mut Turn<'_>) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        let instance = one.group_instance_id.as_deref();
        if instance.is_none() && self.promised.remove(one.member_id.as_str()).is_some() {
            return Ok(());
        }
        let id = match instance {
            // An operator knows the instance, not the id that its process has now.
            Some(instance) if one.member_id.is_empty() => {
                self.instances.get(instance).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?.to_string()
            }
            Some(_) | None => one.member_id.clone(),
        };
        self.check_member(&id, instance)?;
        self.remove(&id, turn);
        Ok(())
    }
}
