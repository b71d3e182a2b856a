//! The way from observing to enforcing: the modes that people set at run time.

pub mod modes;
