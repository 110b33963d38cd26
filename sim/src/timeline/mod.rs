//! A run as one self-contained page: a lane for each node and client, a chart for each partition, and the list of events.
//!
//! Owns: what the page says of a run ([`model`]) and how it shows it ([`page`]). Promises: pure: the lines of a `.jsonl`
//! trace, the history and the report go in, HTML comes out; nothing is loaded from anywhere; a run with more events than
//! asked for is thinned in its chatter (disk, frames, draws), never in faults, starts, ends, what clients saw, what was
//! logged, and what was found; what was left out is told. Leaves out: running anything. Called by `runner::timeline`.
//!
//! ```text
//! lines of the trace ─┐
//! history ────────────┼─► model (numbers) ─► page (numbers as JSON + page.js that draws them)
//! report ─────────────┘
//! ```

mod model;
mod page;
#[cfg(test)]
mod tests;
mod words;

pub use model::{Model, Run};
pub use page::html;
