//! The verdict on a flow and the way to it, at both ends.

mod text;

use std::net::IpAddr;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Mode, Verdict, protocol};
use serde::Serialize;

use crate::policy::builtin::is_built_in;
use crate::policy::compile::{CompileError, Host, Modes, PassedOver, Peer, Setter, first_enforced};
use crate::policy::diagnostics::suggest;
use crate::policy::ends::{Ends, Question};
use crate::policy::locate::{Atlas, By, is_stand_in, with_stand_ins};
use crate::policy::model::{Exception, Policy};
use crate::policy::ports::PortSpec;
use crate::policy::resolved::Resolved;
use crate::policy::situation::Situation;
use crate::policy::workload::Local;

/// One side of the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// The address that was named, or one that stands for the zone that was named.
    pub address: IpAddr,
    /// Its zone.
    pub zone: String,
    /// The workload that was named; the other side sees no more of it than its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadShown>,
    /// The prefix that puts it there.
    pub prefix: Option<String>,
    /// The DNS name that puts it there; neither that nor a prefix: `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether `name`, if there is one, stands for this address; else the address is made up to answer for it.
    #[serde(skip)]
    pub resolved: bool,
    /// Where that prefix or name is written, as `file:line`; none: it is built in.
    pub place: Option<String>,
    #[serde(skip)]
    named: bool,
}

/// A workload that is one side of the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkloadShown {
    /// Its name.
    pub name: String,
    /// Which sockets are its own, as `unit inventory-bot.service`.
    pub selector: String,
    /// Whether rules for its zone apply to it.
    pub inherit: bool,
    /// When it ends, or did.
    pub expires: Option<Timestamp>,
    /// Where it is written, as `file:line`.
    pub place: String,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleShown {
    /// Its id.
    pub id: String,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Why it is there.
    pub reason: Option<String>,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// `file:line`; none: it is an exception.
    pub place: Option<String>,
    /// When an exception was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The uid of who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<u32>,
}

/// What the host at one end decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// Seen from this host.
    pub direction: &'static str,
    /// This host's zone.
    pub zone: String,
    /// The workload that is decided; none: the host's zone is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// `allowed`, `audited` or `denied`.
    pub verdict: &'static str,
    /// Name of a [`Reason`](segd_common::traffic::Reason).
    pub reason: &'static str,
    /// What the port is called here.
    pub service: String,
    /// The rule that allows it, or that did until it expired.
    pub rule: Option<RuleShown>,
    /// `monitor` or `enforce`.
    pub mode: &'static str,
    /// What set the mode: `file:line` of a rollout, `segd mode`, or words for a raw socket; none: the default.
    pub mode_from: Option<String>,
    /// If the other side is a workload: its zone, all of which has here what the workload has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_as: Option<String>,
    /// The rollouts that would have set it were it not for their canaries, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The client.
    pub from: Party,
    /// The server.
    pub to: Party,
    /// The port asked about.
    pub port: PortSpec,
    /// `denied` if one end denies, else `audited` if one end does, else `allowed`.
    pub verdict: &'static str,
    /// At the client's host; none: its zone is built in, so segd does not run there.
    pub outbound: Option<End>,
    /// At the server's host; likewise, and none for raw sockets.
    pub inbound: Option<End>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExplainError {
    /// Neither a zone nor a workload nor an address.
    #[error("`{name}` is neither a zone, a workload nor an IP address{help}")]
    Unknown {
        /// What was asked.
        name: String,
        /// The nearest name.
        help: String,
    },
    /// Longer prefixes of other zones hold every address of the zone.
    #[error("no address is left in zone `{0}`: longer prefixes of other zones hold them all")]
    Covered(String),
    /// The ports of a range are decided differently.
    #[error("the ports of `{0}` are not all decided alike; name one of them")]
    Mixed(PortSpec),
    /// Both zones are built in.
    #[error("segd runs at neither end: both are in built-in zones")]
    NoHost,
    /// The tables cannot be made.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// Explains what happens when `from` begins a flow to `to`; each is a zone, a workload or an address.
pub fn explain(
    policy: &Policy,
    from: &str,
    to: &str,
    port: PortSpec,
    at: &Situation<'_>,
) -> Result<Explanation, ExplainError> {
    let names = with_stand_ins(policy, at.names);
    let at = &Situation { names: &names, ..*at };
    let atlas = Atlas::new(policy, &names);
    let [from, to] = [from, to].map(|text| party(policy, &names, &atlas, text));
    let (from, to) = (from?, to?);
    if is_built_in(&from.zone) && is_built_in(&to.zone) {
        return Err(ExplainError::NoHost);
    }
    let mut ends = Ends::new(policy, *at);
    let mut answer: Option<Explanation> = None;
    for sample in ends.samples(&port) {
        let mut at_end = |direction| end(policy, at, &mut ends, &from, &to, direction, port.protocol, sample);
        let outbound = at_end(Direction::Outbound)?;
        let inbound = if port.protocol == protocol::RAW { None } else { at_end(Direction::Inbound)? };
        let verdicts = [&outbound, &inbound].map(|e| e.as_ref().map_or(Verdict::Allowed, |(_, v)| *v));
        let verdict = verdicts.into_iter().max().unwrap_or(Verdict::Allowed).name();
        let [outbound, inbound] = [outbound, inbound].map(|e| e.map(|(end, _)| end));
        let (from, to) = (from.clone(), to.clone());
        let next = Explanation { from, to, port, verdict, outbound, inbound };
        if answer.as_ref().is_some_and(|first| *first != next) {
            return Err(ExplainError::Mixed(port));
        }
        answer = Some(next);
    }
    answer.ok_or(ExplainError::Mixed(port))
}

fn party(policy: &Policy, names: &Resolved, atlas: &Atlas<'_>, text: &str) -> Result<Party, ExplainError> {
    let (address, named) = if let Ok(address) = text.parse::<IpAddr>() {
        (address.to_canonical(), true)
    } else if Local::of(policy, text).is_some() || is_built_in(text) {
        let zone = policy.zone_of(text);
        (atlas.representative(zone).ok_or_else(|| ExplainError::Covered(zone.to_owned()))?, false)
    } else {
        let names = policy.zones.keys().chain(policy.workloads.keys());
        let help = suggest(text, "zones and workloads", names.map(String::as_str));
        let help = help.map_or(String::new(), |h| format!("; {h}"));
        return Err(ExplainError::Unknown { name: text.to_owned(), help });
    };
    let located = atlas.locate(address);
    let (prefix, name) = match located.by {
        By::Nothing => (None, None),
        By::Prefix(prefix) => (Some(prefix.to_string()), None),
        By::Name(name) => (None, Some(name.to_owned())),
    };
    Ok(Party {
        address,
        zone: located.zone.to_owned(),
        workload: policy.workloads.get(text).map(|workload| WorkloadShown {
            name: text.to_owned(),
            selector: workload.selector.to_string(),
            inherit: workload.inherit,
            expires: workload.expires,
            place: policy.sources.file_line(workload.place),
        }),
        prefix,
        name,
        resolved: !is_stand_in(names, &located, address),
        place: atlas.place(&located).map(|p| policy.sources.file_line(p)),
        named,
    })
}

#[expect(clippy::too_many_arguments, reason = "all of them are the question")]
fn end(
    policy: &Policy,
    at: &Situation<'_>,
    ends: &mut Ends<'_>,
    from: &Party,
    to: &Party,
    direction: Direction,
    protocol: u8,
    port: u16,
) -> Result<Option<(End, Verdict)>, ExplainError> {
    let (here, there) = match direction {
        Direction::Outbound => (from, to),
        Direction::Inbound => (to, from),
    };
    let name = here.name();
    let Some(local) = Local::of(policy, name) else { return Ok(None) };
    let own = here.named.then_some(here.address);
    let question = Question { local, own, direction, peer: there.address, protocol, port };
    let decision = ends.decide(&question)?;
    let rule = ends.registry().rule_name(decision.rule);
    let modes = Modes::new(policy, &local, at.overrides, at.host);
    let (mode, mode_from, passed_over) = if protocol == protocol::RAW {
        let host = Host { name: at.host, names: at.names, ..Host::in_zone(local.zone, &[]) };
        match first_enforced(policy, host, at.overrides, local.name, direction) {
            Some(peer) => (Mode::Enforce, Some(format!("what is enforced towards {peer}")), Vec::new()),
            None => (Mode::Monitor, None, Vec::new()),
        }
    } else {
        let peer = Peer::at(policy, &there.zone, there.address);
        let (mode, setter) = modes.at(direction, &peer, protocol, port);
        let passed_over = modes.passed_over(direction, &peer, protocol, port);
        let passed_over = passed_over.map(|p| why_passed_over(policy, at.host, &p)).collect();
        (mode, setter.map(|s| set_by(policy, s)), passed_over)
    };
    let shown = End {
        direction: direction.name(),
        zone: local.zone.to_owned(),
        workload: here.workload.as_ref().map(|w| w.name.clone()),
        verdict: decision.verdict.name(),
        reason: decision.reason.name(),
        service: ends.registry().service_name(decision.service).to_string(),
        rule: rule.and_then(|id| RuleShown::find(policy, at.exceptions, &id)),
        mode: mode.name(),
        mode_from,
        passed_over,
        seen_as: there.workload.as_ref().map(|_| there.zone.clone()),
    };
    Ok(Some((shown, decision.verdict)))
}

/// Why a rollout's canary keeps it from setting the mode.
fn why_passed_over(policy: &Policy, host: &str, passed: &PassedOver<'_>) -> String {
    let PassedOver { rollout, membership, canary } = passed;
    let Some(rollout) = policy.rollouts.get(*rollout) else { return String::new() };
    let (place, mode) = (policy.sources.file_line(rollout.place), rollout.mode);
    if membership.is_in() {
        let peers: Vec<String> = canary.peers.iter().map(ToString::to_string).collect();
        return format!("{mode} by {place} is for the peers {} only", peers.join(", "));
    }
    let host = if host.is_empty() { "this host".to_owned() } else { format!("host {host}") };
    format!("{host} is not in the canary of {place}, {mode}: {membership}")
}

fn set_by(policy: &Policy, setter: Setter) -> String {
    match setter {
        Setter::Override(_) => "segd mode".to_owned(),
        Setter::Rollout(n) => {
            policy.rollouts.get(n).map_or(String::new(), |r| policy.sources.file_line(r.place))
        }
    }
}

impl Party {
    /// The workload, or else the zone.
    fn name(&self) -> &str {
        self.workload.as_ref().map_or(&self.zone, |w| &w.name)
    }
}

impl RuleShown {
    /// The rule or exception that a number in the tables stands for.
    fn find(policy: &Policy, exceptions: &[Exception], id: &str) -> Option<Self> {
        if let Some(rule) = policy.rules.iter().find(|r| r.id == id) {
            return Some(Self {
                id: rule.id.clone(),
                owner: rule.owner.clone(),
                reason: rule.reason.clone(),
                expires: rule.expires,
                place: Some(policy.sources.file_line(rule.place)),
                created: None,
                created_by: None,
            });
        }
        let exception = exceptions.iter().find(|e| e.rule() == id)?;
        Some(Self {
            id: id.to_owned(),
            owner: Some(exception.owner.clone()),
            reason: Some(exception.reason.clone()),
            expires: Some(exception.expires),
            place: None,
            created: Some(exception.created),
            created_by: Some(exception.created_by),
        })
    }
}
