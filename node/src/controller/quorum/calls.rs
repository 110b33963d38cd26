//! What an operator asks of the quorum, as it travels to its leader (room Control).
//!
//! Owns: tag and version of each call, and what is told when the voters are not changed.
//! Leaves out: what is asked for (`driver`), finding the leader (`reach`).
//!
//! ```text
//!  0x0321 look at the quorum      0x0322 change who votes      answers: 0x03a1 …
//! ```

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::Offset;
use dejaq_wire::peer::{Ask, Body, Parts, PeerError};
use serde::{Deserialize, Serialize};

use crate::controller::calls::{Answered, plain};
use crate::controller::draft::Refusal;
use crate::controller::handle::Quorum;
use crate::controller::raft::{BadVoters, Change, ChangeRefused, Lost};

/// How does it stand?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look;

/// Change who votes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeVoters(pub Change);

plain!(0x0321, Look);
plain!(0x03a1, Answered<Quorum>);
plain!(0x0322, ChangeVoters);
plain!(0x03a2, Answered<Offset>);

impl Ask for Look {
    type Answer = Answered<Quorum>;
    const REPEATABLE: bool = true;
}

impl Ask for ChangeVoters {
    type Answer = Answered<Offset>;
    const REPEATABLE: bool = false;
}

/// What the one who asked is told.
#[must_use]
pub fn refusal(lost: &Lost) -> Refusal {
    let code = match lost {
        Lost::NotLeader | Lost::NotReady => ErrorCode::NOT_CONTROLLER,
        Lost::Unknown => ErrorCode::REQUEST_TIMED_OUT,
        Lost::Refused(ChangeRefused::NoVoter(_)) => ErrorCode::VOTER_NOT_FOUND,
        Lost::Refused(ChangeRefused::Bad(BadVoters::Twice(_))) => ErrorCode::DUPLICATE_VOTER,
        Lost::Refused(ChangeRefused::NoDirectory(_) | ChangeRefused::Bad(_)) => ErrorCode::INVALID_REQUEST,
        // To be asked again when it has caught up, or when the other change is through.
        Lost::Refused(
            ChangeRefused::InFlight | ChangeRefused::NotCaughtUp(_) | ChangeRefused::WouldLoseQuorum { .. },
        ) => ErrorCode::REQUEST_TIMED_OUT,
    };
    Refusal::new(code, lost.to_string())
}
