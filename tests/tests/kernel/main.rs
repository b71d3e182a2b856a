//! End to end on the running kernel: real sockets on simulated hosts, judged by real agents.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also in its helpers")]

mod deadline;
mod modes;
mod prefixes;
mod refusals;
mod restart;
mod revoke;
mod seeds;
mod sockets;
mod support;
mod udp;
mod verdicts;
mod workloads;
