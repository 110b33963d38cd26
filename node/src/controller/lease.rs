//! How long a broker may tell what only the newest leader knows, as a lease that each accepted heartbeat renews.
//!
//! Owns: [`Lease`]. Promises: while it holds, no other broker was made leader of what this one leads because this one was
//! silent: who is cut off from its cluster notices by its own clock, before the controller gives what it led to others.
//! Leaves out: leaderships that move while both live (a move, a drain, the preferred replica's turn, a leader that steps aside); who stands
//! still or is cut off in that moment hears of it with the end of the lease only, and tells until then what it knew. A machine that refuses connections though its process
//! lives (a firewall that resets) is taken for dead, sooner than this. The clock of a machine that was suspended stood still
//! (CLOCK_MONOTONIC): what is left of the lease then is left behind it, until the cluster is heard. Brokers whose two timeouts differ.
//! Kept by `member`, asked by the APIs of groups. PURE.
//!
//! ```text
//!  sent ── accepted, with an end of the metadata ── that end applied here: held ── length ──► over
//! ```
//!
//! The time of an answer says nothing, since the controller counts from when it heard the question: a lease runs from when
//! that was sent. An answer counts only once the metadata behind which it was given is applied here: the first heartbeat after
//! a cut is accepted, while this broker still believes to lead what others were given meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use dejaq_storage::mutant;
use dejaq_wire::ids::Offset;

use crate::runtime::Mono;

/// A controller that was deposed may accept heartbeats for two election timeouts and what messages take, while the session that its
/// successor gives everybody begins after one.
const DEPOSED: u32 = 3;
/// Accepted heartbeats that wait for their metadata at most.
const WAITING: usize = 8;

/// An accepted heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Granted {
    sent: Mono,
    /// It was given on the metadata before this.
    end: Offset,
}

/// The lease of one broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// `None` never ends.
    length: Option<Duration>,
    /// When the heartbeat was sent that counts.
    held: Option<Mono>,
    /// Those that count once their metadata is applied, oldest first.
    granted: VecDeque<Granted>,
}

impl Lease {
    /// Of a broker that others may replace. All brokers have the same two timeouts; where a session is hardly longer than
    /// an election, half of it must do, or a quarter of it between heartbeats would not.
    #[must_use]
    pub fn new(session_timeout: Duration, election_timeout: Duration) -> Lease {
        let length = session_timeout.saturating_sub(election_timeout * DEPOSED).max(session_timeout / 2);
        Lease { length: Some(length), held: None, granted: VecDeque::new() }
    }

    /// Of a broker that stands alone: nobody else could lead.
    #[must_use]
    pub fn endless() -> Lease {
        Lease { length: None, held: None, granted: VecDeque::new() }
    }

    /// A heartbeat that was sent at `sent` is accepted, on the metadata before `end`.
    pub fn renew(&mut self, sent: Mono, end: Offset) {
        // The newest gives way, not the oldest: metadata that always runs ahead must not put it off for ever.
        let is_full = self.granted.len() == WAITING;
        if is_full || self.granted.back().is_some_and(|last| last.end == end) {
            self.granted.pop_back();
        }
        self.granted.push_back(Granted { sent, end });
    }

    /// The cluster has said that this broker is fenced, or is another life: nothing that it was granted counts.
    pub fn lose(&mut self) {
        self.held = None;
        self.granted.clear();
    }

    /// Whether it holds at `now`, where the metadata before `applied` is in effect.
    #[must_use]
    pub fn holds(&mut self, now: Mono, applied: Offset) -> bool {
        // M242: whoever is heard again counts as the leader of what it led before.
        let is_here = |granted: &mut Granted| granted.end <= applied || mutant!(242);
        while let Some(granted) = self.granted.pop_front_if(is_here) {
            self.held = self.held.max(Some(granted.sent));
        }
        let Some(length) = self.length else { return true };
        self.held.is_some_and(|sent| now < sent.plus(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(9);
    const ELECTION: Duration = Duration::from_millis(300);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn lease() -> Lease {
        Lease::new(SESSION, ELECTION)
    }

    #[test]
    fn it_ends_a_session_after_the_last_heartbeat_was_sent_less_what_a_deposed_controller_may_accept() {
        let mut lease = lease();
        assert!(!lease.holds(at(0), Offset(9)), "nothing was accepted yet");
        lease.renew(at(1000), Offset(5));
        assert!(lease.holds(at(9099), Offset(5)));
        assert!(!lease.holds(at(9100), Offset(5)));
        lease.renew(at(9500), Offset(5));
        assert!(lease.holds(at(17_599), Offset(5)));
        lease.lose();
        assert!(!lease.holds(at(9501), Offset(9)), "the cluster said that it is over");
    }

    #[test]
    fn an_answer_counts_once_the_metadata_is_here_on_which_it_was_given() {
        let mut lease = lease();
        lease.renew(at(0), Offset(5));
        assert!(lease.holds(at(1), Offset(5)));
        lease.renew(at(20_000), Offset(8));
        assert!(!lease.holds(at(20_001), Offset(7)), "others may lead by what comes before 8");
        assert!(lease.holds(at(20_001), Offset(8)));
    }

    #[test]
    fn metadata_that_runs_ahead_does_not_put_it_off_for_ever() {
        let mut lease = lease();
        for beat in 0..40 {
            lease.renew(at(beat * 50), Offset(i64::try_from(beat).expect("small")));
        }
        assert!(lease.holds(at(2000), Offset(0)), "the first of them counts");
        assert!(!lease.holds(at(9000), Offset(38)));
        assert!(lease.holds(at(9000), Offset(39)), "and the last one");
    }

    #[test]
    fn an_older_answer_that_comes_late_does_not_shorten_it() {
        let mut lease = lease();
        lease.renew(at(5000), Offset(5));
        lease.renew(at(1000), Offset(6));
        assert!(lease.holds(at(13_000), Offset(6)));
    }

    #[test]
    fn a_session_that_is_hardly_longer_than_an_election_leaves_half_of_it() {
        let mut lease = Lease::new(Duration::from_millis(500), Duration::from_millis(300));
        lease.renew(at(0), Offset(0));
        assert!(lease.holds(at(249), Offset(0)) && !lease.holds(at(250), Offset(0)));
    }

    #[test]
    fn who_stands_alone_needs_nobody() {
        assert!(Lease::endless().holds(at(u64::from(u32::MAX)), Offset(0)));
    }
}
