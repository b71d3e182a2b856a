//! What the host's traffic looks like from outside: flow records, where they go, and metrics.
//!
//! The task that reads the kernel's ring buffer hands every event to the [`Collector`]; from there it goes to
//! the recent history, to live readers and to the sinks. Metrics do not pass through here: they are read from
//! the kernel's counters when they are asked for. Nothing in this module may hold the ring buffer's reader
//! up.

pub mod clock;
pub mod collector;
pub mod exporter;
pub mod filter;
pub mod line;
pub mod metrics;
pub(crate) mod named;
pub mod needed;
pub mod process;
pub mod protocol;
pub mod record;
pub mod sink;
pub(crate) mod text;

pub use collector::{Batch, Collector};
pub use filter::Filter;
pub use record::FlowRecord;
