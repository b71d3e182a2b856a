//! The lab: simulated hosts on one kernel.
