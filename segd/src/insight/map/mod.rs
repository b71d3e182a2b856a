//! The dependency map: who talks to whom, by zone, service and verdict.
//!
//! [`Map::of`] makes it of summaries of one host or of many; [`compare()`] marks what differs from another time. Each format
//! has a file of its own under [`render`]. Pure: no clock, no files, no network. Every text in a map is printable.

mod build;
mod compare;
mod hosts;
mod label;
mod layout;
mod merge;
mod model;
mod names;
mod parties;
mod picture;
pub mod render;
mod strands;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

pub use build::Terms;
pub use compare::compare;
pub use model::{Bytes, Change, Compared, Edge, Map, Node, NodeKind, Parties, Party, SCHEMA, Span};
