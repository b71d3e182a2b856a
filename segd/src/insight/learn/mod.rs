//! Proposes zone files from what was seen.
//!
//! Every conversation is decided as its own host would under the present zone files; what they do not allow gets rules
//! that name the same ends and the same ports and nothing else, unless it is noise. The proposal is then read back as
//! text, checked, and everything that was seen is decided again under it: what it would deny beside what was left out
//! is an error.

mod evidence;
mod left_out;
mod naming;
mod noise;
mod prefixes;
mod rules;
mod scratch;
mod talks;
mod text;
mod verify;
mod week;
mod wellknown;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use self::evidence::{Watch, amounts};
use self::talks::{Talk, decide, talks};
use self::verify::Files;
use super::replay::{Around, Decider, OwnHost, remembered};
use crate::history::Summary;
use crate::policy::check::TestCase;
use crate::policy::{CompileError, Policy};

pub use evidence::{Evidence, Maturity, Readiness};
pub use left_out::LeftOut;
pub use noise::Why;
pub use rules::{ProposedRule, ProposedService};
pub(super) use text::TODO;
pub use verify::SelfCheck;
pub use week::Week;
pub use zones::ProposedZone;

/// What to propose, and what to take for noise.
#[derive(Clone, Debug)]
pub struct Options {
    /// Propose all rules anew, whatever present ones allow.
    pub from_scratch: bool,
    /// Name whole services of which a part was seen, and make ranges of ports that are near each other.
    pub widen_ports: bool,
    /// Make zones of whole subnets (/24, /64) in which peers were seen.
    pub widen_peers: bool,
    /// Share of a prefix's addresses that must have been seen to propose it, in percent.
    pub dense: u8,
    /// Peers of one source on one port from which on it is a scan, if next to nothing was exchanged.
    pub scan_peers: usize,
    /// Ports of one peer from which on it is a scan.
    pub scan_ports: usize,
    /// Flows below which something is noise.
    pub min_flows: u64,
    /// Hours below which something is noise; none: 2, but 1 if fewer than 24 hours of the week were watched.
    pub min_hours: Option<u32>,
    /// Propose rules for scans too.
    pub scans: bool,
    /// Propose rules for what was denied too.
    pub denied: bool,
    /// Propose rules for what nobody answered too.
    pub unanswered: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            from_scratch: false,
            widen_ports: false,
            widen_peers: false,
            dense: 75,
            scan_peers: 50,
            scan_ports: 20,
            min_flows: 2,
            min_hours: None,
            scans: false,
            denied: false,
            unanswered: false,
        }
    }
}

/// What is proposed, and what speaks for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proposal {
    /// Whether it stands alone; else it is to be added to the present zone files.
    pub from_scratch: bool,
    /// The first record that it is made of.
    pub first: Timestamp,
    /// The last one.
    pub last: Timestamp,
    /// Hosts that recorded.
    pub hosts: usize,
    /// Flows seen, those that two hosts recorded once.
    pub flows: u64,
    /// Of those, what present rules or failsafes allow: no rule is proposed for it.
    pub covered: u64,
    /// Which hours of the week were watched.
    pub week: Week,
    /// Whether it is time to rely on it.
    #[serde(flatten)]
    pub maturity: Maturity,
    /// Zones for peers that none claims.
    pub zones: Vec<ProposedZone>,
    /// Services for ports that none names.
    pub services: Vec<ProposedService>,
    /// Rules.
    pub rules: Vec<ProposedRule>,
    /// What no rule is proposed for, and why.
    pub left_out: Vec<LeftOut>,
    /// What somebody should look at.
    pub notes: Vec<String>,
    /// How the proposal came out when it was tried.
    pub self_check: SelfCheck,
    /// The zone file.
    pub toml: String,
}

/// Why nothing is proposed.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// No record.
    #[error(
        "nothing was seen: there is no flow in what was observed; let the agent run, or name logs with --input"
    )]
    Nothing,
    /// The present zone files fail their own check.
    #[error("the present zone files fail `segd check`; correct them first\n{0}")]
    Present(String),
    /// Tables cannot be made.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The proposal is no zone file, or fails its check.
    #[error("the proposal fails `segd check`, which is a fault of `segd learn`: nothing is proposed\n{0}")]
    Check(String),
    /// The proposal would deny what it was made for.
    #[error(
        "the proposal would deny what was seen and not left out, so nothing is proposed; {} conversations, as:\n{}",
        .0.len(), .0.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
    )]
    Broken(Vec<String>),
}

/// Makes a proposal.
///
/// `present`: the zone files, with their texts. Of `around`, what people set at run time does not count: what an
/// exception allows for a while needs a rule.
///
/// # Errors
/// Nothing was seen, the present files fail their check, or the proposal does.
pub fn learn(
    observed: &[Summary],
    present: &Policy,
    around: Around<'_>,
    options: &Options,
) -> Result<Proposal, LearnError> {
    let watch = Watch::of(observed).ok_or(LearnError::Nothing)?;
    let names = remembered(observed, present, around.names);
    let own = around.own.map(|own| OwnHost { overrides: &[], exceptions: &[], ..own });
    let around = Around { names: &names, own, ..around };

    let mut files = Files::present(present, &around)?;
    let mut notes = Vec::new();
    if options.from_scratch {
        let decider = Decider::new(present, around, observed)?;
        let extra = unclaimed(&talks(observed, &decider), &decider);
        files = Files::alone(scratch::base(present, &extra))?;
        notes.extend(extra.iter().map(|(zone, nets)| {
            let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
            format!("zone `{zone}` claims {} too: hosts of it have these addresses", nets.join(", "))
        }));
    }

    // Zones that the records know and the files do not; without them, some hosts are nowhere.
    let decider = Decider::new(&files.policy, around, observed)?;
    let mut found = talks(observed, &decider);
    let mut zones = zones::recorded(&files.policy, &names, &decider, &found, options);
    let with_recorded = files.with(&text::zones(&zones))?;
    let decider = Decider::new(&with_recorded.policy, around, observed)?;
    found.iter_mut().for_each(|talk| talk.decided = decide(&decider, talk.of));

    let mut why = noise::find(&found, &watch, options);
    let own_addresses = unclaimed(&found, &decider);
    for (talk, why) in found.iter().zip(&mut why).filter(|(talk, why)| why.is_none() && talk.is_needed()) {
        if talk.peer().is_some_and(|peer| is_unclaimed(&own_addresses, peer)) {
            *why = Some(Why::OwnAddress);
        }
    }
    notes.extend(verify::notes(observed, &with_recorded.policy, &own_addresses));

    // Zones for peers that nobody knows. Rules for `unknown` do not hold for them any more, so all is decided again.
    let kept: Vec<usize> = (0..found.len()).filter(|n| why.get(*n).is_some_and(Option::is_none)).collect();
    let mut claims = zones::claims(&with_recorded.policy, &names, &found);
    zones.extend(zones::unknown(&with_recorded.policy, &found, &kept, &mut claims, options));
    let with_zones = files.with(&text::zones(&zones))?;
    let decider = Decider::new(&with_zones.policy, around, observed)?;
    found.iter_mut().for_each(|talk| talk.decided = decide(&decider, talk.of));

    let mut barred: Vec<TestCase> = Vec::new();
    let mut options = options.clone();
    let (services, rules) = loop {
        let mut refused = BTreeSet::new();
        let wanted = rules::wanted(&with_zones.policy, &found, &kept, &barred, &mut refused);
        let (services, rules) = rules::propose(&with_zones.policy, &found, &wanted, &watch, &options);
        let draft = text::zones(&zones) + &text::services(&services) + &text::rules(&rules);
        let failing = files.with(&draft)?.failing_tests(&around);
        if failing.is_empty() {
            for n in refused {
                why.get_mut(n).into_iter().for_each(|why| *why = Some(Why::Tested));
            }
            break (services, rules);
        }
        let new: Vec<TestCase> =
            failing.iter().filter(|f| !barred.iter().any(|b| f.asks_the_same(b))).cloned().collect();
        if new.is_empty() && !options.widen_ports {
            return Err(LearnError::Check(failing.iter().filter_map(|f| f.failure.clone()).collect()));
        }
        if new.is_empty() {
            options.widen_ports = false;
            notes
                .push("ports are not widened: tests of the zone files deny what that would allow".to_owned());
        }
        barred.extend(new);
    };
    zones.retain(|zone| {
        rules.iter().any(|rule| rule.from == zone.name || rule.to == zone.name) || zone.recorded
    });

    let draft = text::zones(&zones) + &text::services(&services) + &text::rules(&rules);
    let left_parts: BTreeSet<usize> = found
        .iter()
        .zip(&why)
        .filter(|(_, why)| why.is_some())
        .flat_map(|(t, _)| t.parts.iter().copied())
        .collect();
    let (self_check, denied) = files.with(&draft)?.verify(observed, &left_parts, &around)?;

    let kept: Vec<&Talk<'_>> =
        found.iter().zip(&why).filter(|(_, why)| why.is_none()).map(|(t, _)| t).collect();
    let covered: Vec<&Talk<'_>> = kept.iter().copied().filter(|talk| !talk.is_needed()).collect();
    let all: Vec<&Talk<'_>> = found.iter().collect();
    let proposal = Proposal {
        from_scratch: options.from_scratch,
        first: watch.first,
        last: watch.last,
        hosts: watch.hosts(),
        flows: amounts(&all).0,
        covered: amounts(&covered).0,
        week: watch.all,
        maturity: watch.maturity(&kept),
        left_out: left_out::list(observed, &found, &why, &denied),
        zones,
        services,
        rules,
        notes,
        self_check,
        toml: String::new(),
    };
    let toml = text::file(&proposal, &files, &draft);
    // What is printed, and not only what it was made of, must be right.
    files.finished(&toml)?.verify(observed, &left_parts, &around)?;
    Ok(Proposal { toml, ..proposal })
}

/// Addresses of hosts whose zone does not claim them, by zone: a host may be told its zone by `segd.toml`.
fn unclaimed(talks: &[Talk<'_>], decider: &Decider<'_>) -> BTreeMap<String, Vec<IpNet>> {
    let hosts = decider.hosts();
    let mut zones: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for talk in talks {
        let zone = hosts.get(&*talk.of.host).and_then(|placement| placement.zone.as_deref());
        if let (Some(zone), Some(local)) = (zone, talk.of.local) {
            zones.insert(local.to_canonical(), zone);
        }
    }
    let mut found: BTreeMap<String, BTreeSet<IpNet>> = BTreeMap::new();
    for talk in talks {
        let unknown = talk.ends().is_some_and(|ends| *ends.peer == *"unknown");
        if let Some((address, zone)) =
            talk.peer().filter(|_| unknown).and_then(|peer| zones.get_key_value(&peer))
        {
            found.entry((*zone).to_owned()).or_default().insert((*address).into());
        }
    }
    found.into_iter().map(|(zone, nets)| (zone, nets.into_iter().collect())).collect()
}

fn is_unclaimed(by_zone: &BTreeMap<String, Vec<IpNet>>, peer: IpAddr) -> bool {
    by_zone.values().flatten().any(|net| *net == IpNet::from(peer))
}

/// A name in a record, for messages.
fn shown(name: &Arc<str>) -> String {
    crate::telemetry::text::printable(name)
}

#[cfg(test)]
mod tests;
