//! The lab: simulated hosts on this kernel for segd's end-to-end tests and its demonstration.
//!
//! A [`Lab`] is a switch with [`Host`]s on it. A host is a network namespace, a cgroup and a few directories;
//! processes started on it have real sockets that belong to that cgroup. [`Host::agent`] runs `segd` for it.
//! Nothing is added to the machine's own network, and all of it is removed when the lab is dropped, when a test
//! panics, on SIGINT, SIGTERM and SIGHUP, and, if the process was killed outright, by the next lab that starts.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let lab = segd_tests::Lab::new("greeting")?;
//! let orders = lab.host("orders")?;
//! let transport = lab.host("transport")?;
//! let server = orders.tcp_server(8443)?;
//! let outcome = transport.tcp_connect(orders.v4_port(8443))?;
//! assert_eq!(outcome.errno(), None);
//! # drop(server); Ok(())
//! # }
//! ```

mod actor;
mod agent;
mod cgroup;
mod client;
mod enter;
mod host;
mod http;
mod interrupt;
mod lab;
mod lab_id;
mod leftovers;
mod load;
mod metrics;
mod netns;
mod process;
mod report;
mod server;
mod skip;
mod wait;

pub use actor::{Actor, program as actor_program};
pub use agent::{Agent, AgentBuilder, Refusal, segd};
pub use host::Host;
pub use http::Response;
pub use lab::Lab;
pub use load::{Load, LoadReport};
pub use metrics::Metrics;
pub use process::{Finished, Process};
pub use report::{Report, TIMEOUT};
pub use server::{Dnsmasq, Journald, Logged, Prometheus, Rsyslog, Server};
pub use skip::skip;
pub use wait::wait_for;
