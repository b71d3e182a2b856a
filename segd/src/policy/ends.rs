//! Decides what both hosts of a flow decide, through the tables that each of them would load.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use segd_common::addr::Addr;
use segd_common::decide::{Decision, Facts, decide, decide_socket, is_control};
use segd_common::id::SubjectId;
use segd_common::table::Subject;
use segd_common::traffic::{Direction, protocol};

use super::compile::{CompileError, Host, compile};
use super::compiled::Compiled;
use super::ids::Registry;
use super::model::Policy;
use super::ports::PortSpec;
use super::situation::Situation;
use super::view::Tables;
use super::workload::Local;

/// What the hosts of a policy have loaded.
pub(crate) struct Ends<'a> {
    policy: &'a Policy,
    at: Situation<'a>,
    /// Nanoseconds since the Unix epoch.
    now: u64,
    registry: Registry,
    loaded: BTreeMap<(String, Option<IpAddr>), Compiled>,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// Zone or workload that decides, at a host of its zone.
    pub(crate) local: Local<'a>,
    /// Its address, if one was named: what it sends to that is loopback.
    pub(crate) own: Option<IpAddr>,
    pub(crate) direction: Direction,
    pub(crate) peer: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

impl<'a> Ends<'a> {
    pub(crate) fn new(policy: &'a Policy, at: Situation<'a>) -> Self {
        let now = u64::try_from(at.now.as_nanosecond()).unwrap_or(0);
        let (registry, loaded) = (Registry::default(), BTreeMap::new());
        Self { policy, at, now, registry, loaded }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A raw socket has no packets of its own kind: whether it may be made is all there is to decide.
    pub(crate) fn decide(&mut self, q: &Question<'_>) -> Result<Decision, CompileError> {
        let key = (q.local.zone.to_owned(), q.own);
        if !self.loaded.contains_key(&key) {
            let host = Host {
                name: self.at.host,
                names: self.at.names,
                exceptions: self.at.exceptions,
                ..Host::in_zone(q.local.zone, q.own.as_slice())
            };
            let compiled =
                compile(self.policy, host, self.at.overrides, self.at.failsafes, &mut self.registry)?;
            self.loaded.insert(key.clone(), compiled);
        }
        let Some(compiled) = self.loaded.get(&key) else {
            return Err(CompileError::UnknownZone(key.0));
        };
        let tables = Tables::new(compiled, self.now);
        let id = SubjectId::from(self.registry.zone(q.local.name)?);
        let subject = Subject { expires: q.local.expires(), ..Subject::lasting(id) };
        if q.protocol == protocol::RAW {
            return Ok(decide_socket(&tables, subject, protocol::RAW));
        }
        let peer = Addr::from(q.peer);
        let Question { direction, protocol, port, .. } = *q;
        Ok(decide(&tables, &Facts { subject, direction, protocol, peer, port }))
    }

    /// Ports that stand for all of `spec`: between two of them, nothing that the policy says changes. ICMP
    /// errors, which always pass, are left out if there is anything else.
    pub(crate) fn samples(&self, spec: &PortSpec) -> Vec<u16> {
        let rules = self.policy.rules.iter().flat_map(|r| self.policy.all_ports(&r.services));
        let exceptions = self.at.exceptions.iter().flat_map(|e| &e.services);
        let exceptions = exceptions.flat_map(|s| self.policy.ports(s)).copied();
        let services = self.policy.services.values().flat_map(|s| &s.ports).copied();
        let failsafes = self.at.failsafes.iter().flat_map(|f| &f.ports).copied();
        let rollouts = self.policy.rollouts.iter().flat_map(|r| r.services.iter().flatten());
        let rollouts = rollouts.flat_map(|s| self.policy.ports(&s.value)).copied();
        let overrides = self.at.overrides.iter().flat_map(|o| o.services.iter().flatten());
        let overrides = overrides.flat_map(|s| self.policy.ports(s)).copied();
        let all = rules.chain(exceptions).chain(services).chain(failsafes).chain(rollouts).chain(overrides);
        let mut ports: BTreeSet<u16> = all
            .filter(|s| s.protocol == spec.protocol)
            .flat_map(|s| [Some(s.first), s.last.checked_add(1)])
            .flatten()
            .chain([spec.first])
            .collect();
        if matches!(spec.protocol, protocol::ICMP | protocol::ICMPV6) {
            ports.extend((0..=u8::MAX).map(|kind| u16::from(kind) << 8));
        }
        // The ports of DHCP, which are failsafes whatever the configuration says.
        ports.extend([67, 68, 69, 546, 547, 548]);
        ports.retain(|p| spec.contains(spec.protocol, *p));
        let control = |p: &u16| is_control(spec.protocol, *p);
        if !ports.iter().all(control) {
            ports.retain(|p| !control(p));
        }
        ports.into_iter().collect()
    }
}
