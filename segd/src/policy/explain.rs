//! The verdict on a flow and the way to it, at both ends.

use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use segd_common::traffic::{Direction, Mode, Verdict, protocol};
use serde::Serialize;

use super::builtin::{PEER_ZONES, is_built_in};
use super::compile::{CompileError, Modes, Setter};
use super::diagnostics::suggest;
use super::ends::{Ends, Question};
use super::failsafe::Failsafe;
use super::locate::{locate, representative};
use super::model::{Override, Policy};
use super::ports::PortSpec;

/// One side of the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// The address that was named, or one that stands for the zone that was named.
    pub address: IpAddr,
    /// Its zone.
    pub zone: String,
    /// The prefix that puts it there; none: `unknown`.
    pub prefix: Option<String>,
    /// Where that prefix is written, as `file:line`; none: it is built in.
    pub place: Option<String>,
    #[serde(skip)]
    named: bool,
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
    /// `file:line`.
    pub place: String,
}

/// What the host at one end decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// Seen from this host.
    pub direction: &'static str,
    /// This host's zone.
    pub zone: String,
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
    /// Neither a zone nor an address.
    #[error("`{name}` is neither a zone nor an IP address{help}")]
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

/// Explains what happens when `from` begins a flow to `to`; each is a zone or an address.
pub fn explain(
    policy: &Policy,
    from: &str,
    to: &str,
    port: PortSpec,
    overrides: &[Override],
    failsafes: &[Failsafe],
    now: Timestamp,
) -> Result<Explanation, ExplainError> {
    let (from, to) = (party(policy, from)?, party(policy, to)?);
    if is_built_in(&from.zone) && is_built_in(&to.zone) {
        return Err(ExplainError::NoHost);
    }
    let mut ends = Ends::new(policy, overrides, failsafes, now);
    let mut answer: Option<Explanation> = None;
    for sample in ends.samples(&port) {
        let mut at =
            |direction| end(policy, overrides, &mut ends, &from, &to, direction, port.protocol, sample);
        let outbound = at(Direction::Outbound)?;
        let inbound = if port.protocol == protocol::RAW { None } else { at(Direction::Inbound)? };
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

fn party(policy: &Policy, text: &str) -> Result<Party, ExplainError> {
    let (address, named) = if let Ok(address) = text.parse::<IpAddr>() {
        (address.to_canonical(), true)
    } else if policy.zones.contains_key(text) || is_built_in(text) {
        (representative(policy, text).ok_or_else(|| ExplainError::Covered(text.to_owned()))?, false)
    } else {
        let help = suggest(text, "zones", policy.zones.keys().map(String::as_str));
        let help = help.map_or(String::new(), |h| format!("; {h}"));
        return Err(ExplainError::Unknown { name: text.to_owned(), help });
    };
    let located = locate(policy, address);
    Ok(Party {
        address,
        zone: located.zone.to_owned(),
        prefix: located.prefix.map(|p| p.to_string()),
        place: located.place.map(|p| policy.sources.file_line(p)),
        named,
    })
}

#[expect(clippy::too_many_arguments, reason = "all of them are the question")]
fn end(
    policy: &Policy,
    overrides: &[Override],
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
    if is_built_in(&here.zone) {
        return Ok(None);
    }
    let own = here.named.then_some(here.address);
    let zone = here.zone.as_str();
    let question = Question { zone, own, direction, peer: there.address, protocol, port };
    let decision = ends.decide(&question)?;
    let rule_name = ends.registry().rule_name(decision.rule);
    let rule = rule_name.and_then(|id| policy.rules.iter().find(|r| r.id == id));
    let modes = Modes::new(policy, zone, overrides);
    let (mode, mode_from) = if protocol == protocol::RAW {
        let mut peers = policy.zones.keys().map(String::as_str).chain(PEER_ZONES);
        match peers.find(|peer| modes.enforce_anything(direction, peer)) {
            Some(peer) => (Mode::Enforce, Some(format!("what is enforced towards {peer}"))),
            None => (Mode::Monitor, None),
        }
    } else {
        let (mode, setter) = modes.at(direction, &there.zone, protocol, port);
        (mode, setter.map(|s| set_by(policy, s)))
    };
    let shown = End {
        direction: direction.name(),
        zone: zone.to_owned(),
        verdict: decision.verdict.name(),
        reason: decision.reason.name(),
        service: ends.registry().service_name(decision.service),
        rule: rule.map(|r| RuleShown {
            id: r.id.clone(),
            owner: r.owner.clone(),
            reason: r.reason.clone(),
            expires: r.expires,
            place: policy.sources.file_line(r.place),
        }),
        mode: mode.name(),
        mode_from,
    };
    Ok(Some((shown, decision.verdict)))
}

fn set_by(policy: &Policy, setter: Setter) -> String {
    match setter {
        Setter::Override(_) => "segd mode".to_owned(),
        Setter::Rollout(n) => {
            policy.rollouts.get(n).map_or(String::new(), |r| policy.sources.file_line(r.place))
        }
    }
}

impl Explanation {
    /// For people.
    #[must_use]
    pub fn render(&self) -> String {
        let Self { from, to, port, verdict, .. } = self;
        let mut out = format!("{} -> {}  {port}: {verdict}\n\n", from.zone, to.zone);
        for (name, party) in [("from", from), ("to", to)] {
            let by = match (&party.prefix, &party.place) {
                (Some(prefix), Some(place)) => format!("by {prefix} at {place}"),
                (Some(prefix), None) => format!("by {prefix}, built in"),
                (None, _) => "no zone claims it".to_owned(),
            };
            let _ = writeln!(out, "{name:<5} {}  zone {}, {by}", party.address, party.zone);
        }
        for (direction, end, party) in [("outbound", &self.outbound, from), ("inbound", &self.inbound, to)] {
            out.push('\n');
            match end {
                Some(end) => end.render(&mut out),
                None if is_built_in(&party.zone) => {
                    let _ = writeln!(out, "{direction}: no host of segd is in `{}`", party.zone);
                }
                None => {
                    let _ = writeln!(out, "{direction}: a raw socket is decided where it is made");
                }
            }
        }
        out
    }
}

impl End {
    fn render(&self, out: &mut String) {
        let Self { direction, zone, verdict, reason, service, rule, mode, mode_from } = self;
        let _ = writeln!(out, "{direction}, at a host of {zone}: {verdict} ({reason})");
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(out, "  {key:<8} {value}");
        };
        line("service", service);
        if let Some(rule) = rule {
            line("rule", &format!("{} at {}", rule.id, rule.place));
            line("owner", rule.owner.as_deref().unwrap_or("none"));
            line("reason", rule.reason.as_deref().unwrap_or("none"));
            if let Some(expires) = rule.expires {
                line("expires", &expires.to_string());
            }
        }
        match mode_from {
            Some(from) => line("mode", &format!("{mode}, by {from}")),
            None => line("mode", &format!("{mode}, by default")),
        }
    }
}
