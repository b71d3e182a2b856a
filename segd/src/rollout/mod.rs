//! The way from observing to enforcing: the modes that people set at run time, what flowed before a change and who
//! guards it, the policies that were in force before, and the journal of who changed what.

pub mod guard;
pub mod history;
pub mod journal;
pub mod modes;
pub mod probe;
pub mod seen;
