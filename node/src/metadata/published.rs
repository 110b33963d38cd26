//! The current image, for everyone to read, and a notice when there is a newer one.
//!
//! Owns: the newest durable [`Image`], and how far this broker has brought its partitions in line with it.
//! Promises: only durable metadata is ever seen here (MQ-12); images only move forward.
//! Leaves out: who makes images (`controller::driver`), who acts on them (`replica::Directory`).
//!
//! ```text
//!  driver ── publish ──► current ──► any reader
//!                          └ notice ─► broker: Directory::apply ── applied ──► who waits for its topic to be usable
//! ```

use std::sync::{Arc, PoisonError, RwLock};

use dejaq_wire::ids::Offset;
use tokio::sync::Notify;

use super::image::Image;

/// Shares the current image. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Published(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held for the copy of a pointer, never across an await; a reader never waits for a decision.
    now: RwLock<Now>,
    published: Notify,
    applied: Notify,
}

#[derive(Debug, Default)]
struct Now {
    current: Arc<Image>,
    /// Everything before this metadata offset is in effect on this broker; `applied ≤ current.end()`.
    applied: Offset,
}

impl Published {
    /// Starts from this image.
    #[must_use]
    pub fn new(image: Arc<Image>) -> Published {
        let published = Published::default();
        published.publish(image);
        published
    }

    /// The newest durable image.
    #[must_use]
    pub fn current(&self) -> Arc<Image> {
        self.0.now.read().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    /// Makes `image` the current one and wakes everyone who waits for a change. Called by the driver, after the sync.
    pub fn publish(&self, image: Arc<Image>) {
        let mut now = self.0.now.write().unwrap_or_else(PoisonError::into_inner);
        assert!(image.end() >= now.current.end(), "{:?} after {:?}", image.end(), now.current.end());
        now.current = image;
        drop(now);
        self.0.published.notify_waiters();
    }

    /// Waits until there is an image that ends after `seen`, and returns the newest. Cancel safe.
    pub async fn after(&self, seen: Offset) -> Arc<Image> {
        loop {
            let notice = self.0.published.notified(); // taken before the look, so that no publication is missed
            let current = self.current();
            if current.end() > seen {
                return current;
            }
            notice.await;
        }
    }

    /// Says that everything in `image` is in effect on this broker. Called after `Directory::apply`.
    pub fn applied(&self, image: &Image) {
        let mut now = self.0.now.write().unwrap_or_else(PoisonError::into_inner);
        assert!(image.end() <= now.current.end(), "{:?} was never published", image.end());
        now.applied = now.applied.max(image.end());
        drop(now);
        self.0.applied.notify_waiters();
    }

    /// Everything before this metadata offset is in effect on this broker.
    #[must_use]
    pub fn applied_end(&self) -> Offset {
        self.0.now.read().unwrap_or_else(PoisonError::into_inner).applied
    }

    /// Waits until everything before `end` is in effect on this broker. Has no deadline of its own. Cancel safe.
    pub async fn wait_applied(&self, end: Offset) {
        loop {
            let notice = self.0.applied.notified();
            if self.0.now.read().unwrap_or_else(PoisonError::into_inner).applied >= end {
                return;
            }
            notice.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending_at(offset: i64) -> Arc<Image> {
        Arc::new(Image::default().after(&[], Offset(offset)).expect("no records, no trouble"))
    }

    #[tokio::test]
    async fn a_waiter_gets_the_newest_image() {
        let published = Published::new(ending_at(3));
        assert_eq!(published.after(Offset(2)).await.end(), Offset(3));
        let (seen, ()) = tokio::join!(published.after(Offset(3)), async { published.publish(ending_at(5)) });
        assert_eq!(seen.end(), Offset(5));
    }

    #[tokio::test]
    async fn applied_is_waited_for() {
        let published = Published::new(ending_at(3));
        let image = published.current();
        tokio::join!(published.wait_applied(Offset(3)), async { published.applied(&image) });
    }

    #[test]
    #[should_panic(expected = "o2 after o3")]
    fn images_never_go_back() {
        Published::new(ending_at(3)).publish(ending_at(2));
    }
}
