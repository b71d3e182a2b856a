//! What flowed, hour by hour: the unit that maps, proposals, replays and reviews are made of.
//!
//! A [`Summary`] says how often flows of one [`Conversation`] were seen within one hour. The agent keeps them in its
//! state directory ([`Recorder`] writes them, [`open_read_only`] reads them); the same are made of flow records in log
//! files, of one host or of many.

mod fold;
pub mod logs;
mod recorder;
mod sketch;
mod store;
pub mod summary;

use std::path::Path;

pub use recorder::{HistoryStatus, Recorder};
pub use store::{FILE, HistoryError, Range, Reader, RuleFacts};
pub use summary::{Conversation, Peer, Summary};

/// Reads the history of a state directory, whether or not an agent writes to it.
///
/// # Errors
/// There is none, it may not be read, it is damaged, or a later version of segd wrote it.
pub fn open_read_only(state_dir: &Path) -> Result<Reader, HistoryError> {
    Reader::open(&state_dir.join(FILE))
}
