//! Zone files: from text to kernel tables. Pure: no kernel, no clock, no network.

mod builtin;
pub mod check;
pub mod compile;
pub mod compiled;
pub mod diagnostics;
mod ends;
pub mod explain;
pub mod failsafe;
pub mod host;
pub mod ids;
pub mod load;
mod locate;
pub mod model;
pub mod ports;
pub mod source;
pub mod view;
pub(crate) mod walk;

pub use check::check;
pub use compile::{CompileError, Host, compile};
pub use compiled::Compiled;
pub use diagnostics::Diagnostics;
pub use explain::{Explanation, explain};
pub use failsafe::{Failsafe, default_failsafes};
pub use host::{HostZoneError, host_zone};
pub use load::load;
pub use model::Policy;
pub use source::Sources;
pub use view::Tables;

#[cfg(test)]
mod tests;
