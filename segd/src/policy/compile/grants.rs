//! What allows something: the rules of the zone files and the exceptions, in one form.

use std::collections::BTreeSet;

use jiff::Timestamp;
use segd_common::id::RuleId;
use segd_common::traffic::Direction;

use crate::policy::exceptions::missing;
use crate::policy::model::{Exception, Policy};
use crate::policy::ports::PortSpec;
use crate::policy::workload::Local;

/// Where a grant comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin<'a> {
    /// `policy.rules[n]`.
    Rule(usize),
    /// Made at run time.
    Exception(&'a Exception),
}

/// A rule or an exception, with its services spelled out.
#[derive(Clone, Debug)]
pub(crate) struct Grant<'a> {
    pub(crate) origin: Origin<'a>,
    /// As the tables call it; none until the compiler numbers it.
    pub(crate) number: RuleId,
    /// Zone or workload of the client.
    pub(crate) from: &'a str,
    /// Zone or workload of the server.
    pub(crate) to: &'a str,
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) expires: Option<Timestamp>,
}

impl<'a> Grant<'a> {
    /// Whether it is about this port.
    pub(crate) fn names(&self, protocol: u8, port: u16) -> bool {
        self.ports.iter().any(|s| s.contains(protocol, port))
    }

    /// The end that decides, and the other one.
    pub(crate) fn ends(&self, direction: Direction) -> (&'a str, &'a str) {
        match direction {
            Direction::Outbound => (self.from, self.to),
            Direction::Inbound => (self.to, self.from),
        }
    }

    /// Whether it is about what `local` does with a peer in zone `peer`.
    pub(crate) fn is_for(
        &self,
        policy: &Policy,
        local: &Local<'_>,
        direction: Direction,
        peer: &str,
    ) -> bool {
        let (own, other) = self.ends(direction);
        local.in_rule(own) && policy.zone_of(other) == peer
    }

    fn outlives(&self, other: &Self) -> bool {
        match (self.expires, other.expires) {
            (Some(a), Some(b)) => a > b,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
}

/// The rules in file order, then those exceptions of which the policy defines every name.
pub(crate) fn grants<'a>(policy: &'a Policy, exceptions: &'a [Exception]) -> Vec<Grant<'a>> {
    let rules = policy.rules.iter().enumerate().map(|(n, rule)| Grant {
        origin: Origin::Rule(n),
        number: RuleId::NONE,
        from: &rule.from.value,
        to: &rule.to.value,
        ports: policy.all_ports(&rule.services).collect(),
        expires: rule.expires,
    });
    let exceptions = exceptions.iter().filter(|e| missing(policy, e).is_none()).map(|exception| Grant {
        origin: Origin::Exception(exception),
        number: RuleId::NONE,
        from: &exception.from,
        to: &exception.to,
        ports: exception.services.iter().flat_map(|s| policy.ports(s)).copied().collect(),
        expires: Some(exception.expires),
    });
    rules.chain(exceptions).collect()
}

/// The grant that decides where several match: the one that lives longest, so that a temporary rule that ends
/// takes nothing with it that a permanent one allows; else the first.
pub(crate) fn deciding<'g, 'a>(grants: impl Iterator<Item = &'g Grant<'a>>) -> Option<&'g Grant<'a>>
where
    'a: 'g,
{
    grants.fold(None, |best, next| match best {
        Some(grant) if !next.outlives(grant) => best,
        _ => Some(next),
    })
}

/// Protocols that some of the ranges are of.
pub(crate) fn protocols<'s>(specs: impl Iterator<Item = &'s PortSpec>) -> BTreeSet<u8> {
    specs.map(|s| s.protocol).collect()
}
