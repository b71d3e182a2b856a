//! The same policy for nftables, as an expert would write it: one look-up in an interval map gives the peer's zone,
//! one in a set says whether zone, protocol and port are allowed. New connections only; the others pass by conntrack.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use segd::policy::Policy;
use segd_common::traffic::protocol;
use segd_tests::Host;

/// How nftables finds out whose packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Every packet of the host is judged.
    Hosts,
    /// Those of sockets in the host's cgroup are, by `socket cgroupv2`.
    Cgroups,
}

/// A table with a policy's sets in a host's network namespace. Its chains come and go: without them it does nothing,
/// and neither does conntrack.
pub(crate) struct Table {
    host: Host,
    name: String,
}

/// Chains in place. Dropping it removes them.
pub(crate) struct Active<'a> {
    table: &'a Table,
}

impl Table {
    /// Loads the sets of `policy`, as `zone` sees it.
    pub(crate) fn load(host: &Host, name: &str, policy: &Policy, zone: &str) -> Result<Self> {
        let table = Self { host: host.clone(), name: name.to_owned() };
        table.nft(&sets(name, policy, zone)?).context("loading the sets into nftables")?;
        Ok(table)
    }

    /// Puts the chains in place.
    pub(crate) fn activate(&self, whose: Whose) -> Result<Active<'_>> {
        let text = match whose {
            Whose::Hosts => chains(&self.name, "policy drop;", "", "counter drop"),
            Whose::Cgroups => {
                let (level, path) = cgroup_for_nft(self.host.cgroup())?;
                let others = format!("socket cgroupv2 level {level} != \"{path}\" accept");
                let unknown = format!("socket cgroupv2 level {level} \"{path}\" counter drop");
                chains(&self.name, "policy accept;", &others, &unknown)
            }
        };
        self.nft(&text).context("putting chains into nftables")?;
        Ok(Active { table: self })
    }

    fn nft(&self, script: &str) -> Result<()> {
        let file = self.host.directory().join(format!("{}.nft", self.name));
        fs::write(&file, script)?;
        // On the host's namespace, but not in its cgroup's programs' way: netlink is not judged.
        let mut command = self.host.command("nft")?;
        command.arg("-f").arg(&file);
        let finished = self.host.spawn(command)?.finish(std::time::Duration::from_secs(600))?;
        fs::remove_file(&file)?;
        if !finished.status.success() {
            let shown: String = finished.stderr.chars().take(2000).collect();
            bail!("nft: {}: {shown}", finished.status);
        }
        Ok(())
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let name = &self.table.name;
        let mut script = String::new();
        for chain in ["in", "out"] {
            let _ = writeln!(script, "flush chain inet {name} {chain}\ndelete chain inet {name} {chain}");
        }
        if let Err(fault) = self.table.nft(&script) {
            eprintln!("{fault:#}");
        }
    }
}

/// The table with its map and sets, and no chain.
fn sets(table: &str, policy: &Policy, zone: &str) -> Result<String> {
    let numbers: BTreeMap<&str, usize> = policy.zones.keys().map(String::as_str).zip(1..).collect();
    let number = |name: &str| numbers.get(name).copied().context("a rule names an unknown zone");
    let mut text = format!(
        "table inet {table} {{\nmap zones4 {{ type ipv4_addr : mark; flags interval; elements = {{\n"
    );
    for (name, zone) in &policy.zones {
        for cidr in &zone.cidrs {
            if let IpNet::V4(v4) = cidr.value {
                writeln!(text, "{v4} : {},", number(name)?)?;
            }
        }
    }
    text.push_str("} }\n");
    for (set, inbound) in [("allow_in", true), ("allow_out", false)] {
        writeln!(text, "set {set} {{ type mark . inet_proto . inet_service; elements = {{")?;
        for rule in &policy.rules {
            let (own, peer) = if inbound { (&rule.to, &rule.from) } else { (&rule.from, &rule.to) };
            if own.value != zone {
                continue;
            }
            for spec in rule.services.iter().flat_map(|service| policy.ports(&service.value)) {
                let known = matches!(spec.protocol, protocol::TCP | protocol::UDP);
                ensure!(
                    known && spec.first == spec.last,
                    "this bench translates single TCP and UDP ports only"
                );
                writeln!(text, "{} . {} . {},", number(&peer.value)?, spec.protocol, spec.first)?;
            }
        }
        // A set may not be written down without an element.
        writeln!(text, "0xffffffff . 255 . 0 }} }}")?;
    }
    text.push_str("}\n");
    Ok(text)
}

/// The two chains. Failsafes are as segd's.
fn chains(table: &str, policy: &str, first: &str, last: &str) -> String {
    let chain = |name: &str, hook: &str, device: &str, side: &str, failsafe: &str| {
        format!(
            "chain {name} {{\ntype filter hook {hook} priority filter; {policy}\n\
             {device} \"lo\" counter accept\n{first}\n\
             ct state established,related counter accept\n\
             ct state invalid counter drop\n\
             meta mark set ip {side}addr map @zones4\n\
             meta mark . meta l4proto . th dport @allow_{name} counter accept\n\
             {failsafe}\n{last}\n}}\n"
        )
    };
    let inbound =
        chain("in", "input", "iif", "s", "tcp dport 22 counter accept\nudp dport { 68, 546 } counter accept");
    let outbound = chain(
        "out",
        "output",
        "oif",
        "d",
        "tcp dport 53 counter accept\nudp dport { 53, 67, 123, 547 } counter accept",
    );
    format!("table inet {table} {{\n{inbound}{outbound}}}\n")
}

/// How nft names a cgroup: its level below the root of the cgroup2 mount, and its path below /sys/fs/cgroup, where
/// nft looks for it even if cgroup2 is mounted further down.
fn cgroup_for_nft(cgroup: &Path) -> Result<(usize, String)> {
    let root = segd::datapath::host::cgroup2_root()?;
    let level = cgroup.strip_prefix(&root)?.components().count();
    let path =
        cgroup.strip_prefix("/sys/fs/cgroup").context("nft looks for cgroups in /sys/fs/cgroup only")?;
    Ok((level, path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use segd::policy::{self, Sources};

    #[test]
    fn a_policy_becomes_a_map_and_two_sets() {
        let text = "[zone.a]\ncidrs = [\"10.1.0.0/16\"]\n[zone.b]\ncidrs = [\"10.2.0.0/16\"]\n\
                    [[allow]]\nid = \"r\"\nfrom = \"a\"\nto = \"b\"\nservices = [\"tcp/80\", \"udp/53\"]\n";
        let policy =
            policy::load(Sources::from_texts([("z.toml", text)]), jiff::Timestamp::UNIX_EPOCH).unwrap();
        let seen_by_b = sets("t", &policy, "b").unwrap();
        assert!(seen_by_b.contains("10.1.0.0/16 : 1,\n10.2.0.0/16 : 2,\n"), "{seen_by_b}");
        assert!(seen_by_b.contains(
            "set allow_in { type mark . inet_proto . inet_service; elements = {\n1 . 6 . 80,\n1 . 17 . 53,\n"
        ));
        assert!(sets("t", &policy, "a").unwrap().contains("\n2 . 6 . 80,\n"));
    }
}
