//! `segd explain`.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::output::{self, Output};
use super::{Failure, NO, Outcome, Reach, zones};
use crate::config::{self, Config};
use crate::control::ClientError;
use crate::control::api::Status;
use crate::policy::model::{Override, ServiceRef};
use crate::policy::{self, Policy, Resolved, Situation};
use crate::rollout::modes;

/// Tell the verdict on a flow and the way to it, at both ends
///
/// Answers from the zone files, by the same code that decides in the kernel, with what `segd mode` has set if
/// the agent runs. Exit code 1 if the flow is denied.
///
/// Only its own host knows a workload; the other end sees its zone. A rule from a workload lets its whole zone in
/// at the server, and a rule to a workload lets the client reach its whole zone.
#[derive(Args, Debug)]
pub(super) struct Explain {
    /// Who begins: a zone, a workload or an address
    from: String,
    /// With whom: a zone, a workload or an address
    to: String,
    /// A port (`5432` is `tcp/5432`), `udp/53`, `icmp/echo`, or a service
    port: String,
    /// Other zone files than those that the configuration names; then nothing that the agent knows counts
    #[arg(long, value_name = "DIR")]
    zones: Option<PathBuf>,
    /// The agent's configuration, for its failsafes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The host whose canaries count [default: this one]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// What `segd mode` has set here holds for the hosts of no other zone.
fn of_host(policy: &Policy, status: &Status) -> Vec<Override> {
    let zone = &status.host.zone;
    let mut overrides = modes::for_compiler(&status.overrides);
    overrides
        .retain(|o| o.subject.as_ref().is_none_or(|s| !policy.zones.contains_key(s)) || o.subject == *zone);
    for o in overrides.iter_mut().filter(|o| o.subject.is_none()) {
        o.subject.clone_from(zone);
    }
    overrides
}

/// What the agent knows that names stand for.
fn resolved(status: &Status) -> Resolved {
    status.names.iter().map(|name| (name.name.clone(), name.addresses.clone())).collect()
}

impl Explain {
    pub(super) async fn run(self) -> Outcome {
        let config = config::read(self.config.as_deref()).map_err(Failure::bad_input)?;
        let dir = self.zones.as_ref().unwrap_or(&config.policy_dir);
        let now = Timestamp::now();
        let policy = zones::load(dir, now)?;
        let status = self.status().await?;
        let overrides = status.as_ref().map(|status| of_host(&policy, status)).unwrap_or_default();
        let names = status.as_ref().map(resolved).unwrap_or_default();
        let exceptions = status.as_ref().map(|status| status.exceptions.as_slice()).unwrap_or_default();
        if let Some(why) = status.as_ref().and_then(|status| status.policy.as_ref()?.held.as_ref()) {
            eprintln!("segd: this tells of the zone files, which are not in force on this host: {why}");
        }
        let host = self.host(&config)?;
        let mut denied = false;
        let mut all = Vec::new();
        for port in self.ports(&policy)? {
            let at = Situation {
                overrides: &overrides,
                exceptions,
                names: &names,
                host: &host,
                ..Situation::of_files(&config.failsafes, now)
            };
            let found =
                policy::explain(&policy, &self.from, &self.to, port, &at).map_err(Failure::bad_input)?;
            denied |= found.verdict == "denied";
            all.push(found);
        }
        if self.output.is_json() {
            output::json(&all)?;
        } else {
            let texts: Vec<String> = all.iter().map(policy::Explanation::render).collect();
            output::print(&texts.join("\n"))?;
        }
        Ok(if denied { NO } else { 0 })
    }

    fn host(&self, config: &Config) -> Result<String, Failure> {
        if let Some(name) = self.host.as_ref().or(config.host.name.as_ref()) {
            return Ok(name.clone());
        }
        let name = nix::unistd::gethostname().map_err(std::io::Error::from)?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// What the agent knows beside the zone files, if it runs and they are meant.
    async fn status(&self) -> Result<Option<Status>, Failure> {
        if self.zones.is_some() {
            return Ok(None);
        }
        match self.reach.client().status().await {
            Ok(status) => Ok(Some(status)),
            Err(ClientError::NoAgent { .. }) => Ok(None),
            Err(error @ ClientError::NotPermitted { .. }) => {
                eprintln!("segd: without exceptions and what `segd mode` has set: {error}");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The ports meant; a service may have several.
    fn ports(&self, policy: &Policy) -> Result<Vec<policy::ports::PortSpec>, Failure> {
        let text =
            if self.port.parse::<u16>().is_ok() { format!("tcp/{}", self.port) } else { self.port.clone() };
        let service = ServiceRef::from(text);
        let ports = policy.ports(&service);
        if ports.is_empty() {
            let names: Vec<&str> = policy.services.keys().map(String::as_str).collect();
            return Err(Failure::bad_input(format!(
                "`{}` is neither a port such as 5432 or udp/53 nor a service ({})",
                self.port,
                names.join(", ")
            )));
        }
        Ok(ports.to_vec())
    }
}
