//! End to end on the running kernel: real sockets on simulated hosts, judged by real agents.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also in its helpers")]

mod canary;
mod confirm;
mod crash;
mod dashboards;
mod deadline;
mod exceptions;
mod failsafe;
mod flows;
mod guard;
mod history;
mod identities;
mod modes;
mod names;
mod prefixes;
mod preview;
mod refusals;
mod restart;
mod revoke;
mod seats;
mod seeds;
mod sinks;
mod sockets;
mod story;
mod support;
mod tampering;
mod udp;
mod verdicts;
mod whatif;
mod workloads;
