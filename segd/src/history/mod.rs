//! What flowed, hour by hour: the unit that maps, proposals, replays and reviews are made of.
//!
//! A [`Summary`] says how often flows of one [`Conversation`] were seen within one hour. The agent keeps them in its
//! state directory; the same are made of flow records in log files, of one host or of many.

pub mod logs;
pub mod summary;

pub use summary::{Conversation, Peer, Summary};
