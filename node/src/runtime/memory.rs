//! One budget for the bytes that requests hold, so that many clients together cannot exhaust memory.
//!
//! Owns: [`MemoryBudget`] and the [`Claim`] on a part of it. Promises: the sum of claims never exceeds the budget;
//! who asks first is served first, so a large claim is not starved by small ones; where a part is set aside for small
//! claims ([`MemoryBudget::for_requests`]), large ones cannot make them wait either.
//! Leaves out: what is counted. A reader claims a receive buffer before it hands out frames of it, or before it grows
//! beyond 64 KiB; the claim is released when the last slice of that buffer is dropped, which is when the last request
//! in it was answered. Who waits for a first claim holds none: a large frame is claimed whole, once it has filled the
//! 64 KiB that every connection may hold, so that an announced length alone takes nothing. Growing step by step was
//! tried: readers that each hold a part and wait for more lock each other up.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may be claimed. Cheap to clone; clones share the budget.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    /// Set aside for small claims, if anything is.
    small: Option<Arc<Semaphore>>,
    /// Of both.
    total: usize,
    /// Of `small`.
    aside: usize,
}

/// A part of the budget, returned when dropped.
#[derive(Debug)]
pub struct Claim {
    permit: OwnedSemaphorePermit,
}

impl Claim {
    /// Bytes claimed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Gives `bytes` of this claim a life of their own; all of it if it is not larger.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Claim {
        let part = self.permit.split(bytes.min(self.bytes()));
        Claim { permit: part.expect("at most what is there") }
    }

    /// Ties the claim to bytes: it lasts until they are dropped, that is sent.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _claim: self })
    }

    /// Joins two claims on one budget.
    pub fn join(&mut self, other: Claim) {
        self.permit.merge(other.permit);
    }
}

struct Held {
    bytes: Bytes,
    _claim: Claim,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl MemoryBudget {
    /// A budget of `total` bytes, at least 1 and at most 2^60.
    #[must_use]
    pub fn new(total: usize) -> MemoryBudget {
        assert!((1..=1 << 60).contains(&total), "a budget of {total} bytes");
        MemoryBudget { free: Arc::new(Semaphore::new(total)), small: None, total, aside: 0 }
    }

    /// The same, with an eighth of it set aside for [`MemoryBudget::claim_small`].
    #[must_use]
    pub fn for_requests(total: usize) -> MemoryBudget {
        let aside = total / 8;
        let small = (aside > 0).then(|| Arc::new(Semaphore::new(aside)));
        MemoryBudget { small, aside, total, ..MemoryBudget::new(total - aside) }
    }

    /// Waits in the line of the small claims until `bytes` are free. Cancel safe. Never [`Claim::join`] it with a claim
    /// of the other kind.
    pub async fn claim_small(&self, bytes: usize) -> Claim {
        let Some(small) = &self.small else { return self.claim(bytes).await };
        let permits = u32::try_from(bytes.min(self.aside)).expect("a small claim");
        let permit = Arc::clone(small).acquire_many_owned(permits).await;
        Claim { permit: permit.expect("the semaphore is never closed") }
    }

    /// Waits in line until `bytes` are free. More than the whole budget is taken as the whole budget. Cancel safe.
    pub async fn claim(&self, bytes: usize) -> Claim {
        let permit = Arc::clone(&self.free).acquire_many_owned(self.permits(bytes)).await;
        Claim { permit: permit.expect("the semaphore is never closed") }
    }

    /// `bytes`, if they are free now and nobody waits.
    #[must_use]
    pub fn try_claim(&self, bytes: usize) -> Option<Claim> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.permits(bytes)).ok()?;
        Some(Claim { permit })
    }

    /// Bytes that are claimed now.
    #[must_use]
    pub fn claimed(&self) -> usize {
        let small = self.small.as_ref().map_or(0, |small| small.available_permits());
        self.total - self.free.available_permits() - small
    }

    /// The most that one claim can have.
    #[must_use]
    pub fn most(&self) -> usize {
        self.total - self.aside
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.most())).expect("a frame is at most 2 GiB by its prefix")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_large_claim_in_line_is_not_overtaken_by_a_small_one() {
        let budget = MemoryBudget::new(100);
        let first = budget.try_claim(60).expect("free");
        let mut context = Context::from_waker(Waker::noop());
        let mut large = pin!(budget.claim(80));
        assert!(large.as_mut().poll(&mut context).is_pending(), "only 40 are free");
        assert!(budget.try_claim(10).is_none(), "the large one is first in line");
        drop(first);
        let Poll::Ready(held) = large.as_mut().poll(&mut context) else { panic!("100 were free") };
        assert_eq!(budget.claimed(), 80);
        drop(held);
        assert_eq!(budget.claimed(), 0);
    }

    #[test]
    fn a_claim_above_the_budget_takes_all_of_it_instead_of_waiting_for_ever() {
        let budget = MemoryBudget::new(100);
        assert!(budget.try_claim(1_000).is_some());
    }
}
