//! The way from observing to enforcing: the modes that people set at run time, what a change would break, what flowed
//! before it and who guards it, exceptions, the policies that were in force before, and the journal of it all.

pub mod exceptions;
pub mod guard;
pub mod history;
pub mod journal;
pub mod modes;
pub mod preview;
pub mod probe;
pub mod seen;
