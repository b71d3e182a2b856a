//! Zone files: from text to kernel tables. Pure: no kernel, no clock, no network.

pub(crate) mod builtin;
pub mod canary;
pub mod check;
mod claims;
pub mod compile;
pub mod compiled;
pub mod diagnostics;
pub(crate) mod duration;
pub(crate) mod ends;
pub mod exceptions;
pub mod explain;
pub mod failsafe;
pub mod guard;
pub mod host;
pub mod ids;
mod index;
pub(crate) mod lift;
pub mod load;
pub(crate) mod locate;
pub mod members;
pub mod model;
pub mod ports;
pub mod resolved;
mod situation;
pub mod source;
pub mod view;
pub(crate) mod walk;
pub mod workload;

pub use check::check;
pub use claims::{Claimant, Conflict, conflicts};
pub use compile::{CompileError, Host, compile};
pub use compiled::Compiled;
pub use diagnostics::Diagnostics;
pub use explain::{Explanation, explain};
pub use failsafe::{Failsafe, default_failsafes};
pub use host::{HostZoneError, host_zone};
pub use load::{Lists, load, load_stored};
pub use model::{Exception, Policy};
pub use resolved::Resolved;
pub use situation::Situation;
pub use source::Sources;
pub use view::Tables;

#[cfg(test)]
pub(crate) mod tests;
