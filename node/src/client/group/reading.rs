//! How a member of a group reads what it owns: what the consumer below it can be told and asked.

use super::member::GroupConsumer;
use crate::client::consumer::Consumer;
use crate::client::producer::core::TopicPartition;
use crate::runtime::Runtime;

impl<R: Runtime> GroupConsumer<R> {
    /// The consumer that reads: positions, ends.
    #[must_use]
    pub fn reader(&self) -> &Consumer<R> {
        &self.consumer
    }

    /// Stops or resumes handing out one partition; it stays this member's.
    pub fn set_paused(&mut self, at: &TopicPartition, paused: bool) {
        self.consumer.set_paused(at, paused);
    }

    /// No poll returns more records than this from now on, so that no more than these are taken for done.
    ///
    /// # Panics
    /// If it is zero.
    pub fn set_max_poll_records(&mut self, most: usize) {
        self.consumer.set_max_poll_records(most);
    }
}
