//! `segd check --hosts`: which hosts of a list would be in each canary.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::commands::{Failure, output};
use crate::policy::Policy;
use crate::policy::canary::{CanaryState, canaries};

/// One rollout entry with a canary.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    /// `file:line`.
    place: String,
    subject: Option<String>,
    mode: &'static str,
    percent: Option<u8>,
    peers: Vec<String>,
    hosts: Vec<Host>,
}

#[derive(Debug, Serialize)]
struct Host {
    host: String,
    #[serde(rename = "in")]
    is_in: bool,
    why: String,
}

/// Names of hosts, one a line; what follows a `#` is a comment.
pub(super) fn read(path: &Path) -> Result<Vec<String>, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::bad_input(format!("cannot take the hosts from {}: {why}", path.display()))
    };
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let names: Vec<String> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if let Some(wrong) = names.iter().find(|name| name.contains(char::is_whitespace)) {
        return Err(failed(&format!("`{wrong}` is not one name; write one a line")));
    }
    if names.is_empty() { Err(failed(&"it names none")) } else { Ok(names) }
}

/// For each canary of the policy, what it means for each of the hosts.
pub(super) fn list(policy: &Policy, hosts: &[String]) -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    for host in hosts {
        for (n, state) in canaries(policy, host).into_iter().enumerate() {
            let CanaryState { place, subject, mode, is_in, why, percent, peers, .. } = state;
            if n == all.len() {
                all.push(Listed { place, subject, mode, percent, peers, hosts: Vec::new() });
            }
            if let Some(listed) = all.get_mut(n) {
                listed.hosts.push(Host { host: host.clone(), is_in, why });
            }
        }
    }
    all
}

/// For people.
pub(super) fn text(listed: &[Listed]) -> String {
    let mut out = String::new();
    for Listed { place, subject, mode, peers, hosts, .. } in listed {
        let count = hosts.iter().filter(|host| host.is_in).count();
        let subject = subject.as_deref().unwrap_or("all");
        let _ = write!(out, "canary at {place} ({mode} at {subject}): {count} of {} hosts", hosts.len());
        if !peers.is_empty() {
            let _ = write!(out, ", for the peers {}", peers.join(", "));
        }
        let row = |host: &Host| {
            let is_in = if host.is_in { "yes" } else { "no" };
            [host.host.clone(), is_in.to_owned(), host.why.clone()]
        };
        let _ = writeln!(out, "\n{}\n", output::table(["HOST", "IN", "WHY"], hosts.iter().map(row)));
    }
    if listed.is_empty() { "no rollout has a canary: each holds at every host\n".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Sources, load};

    #[test]
    fn lists_each_canary_for_each_host() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        fs::write(&file, "# ours\norders-1\n\norders-2  # new\n").unwrap();
        let hosts = read(&file).map_err(|e| e.message).unwrap();
        assert_eq!(hosts, ["orders-1", "orders-2"]);
        let zones = "[zone.orders]\ncidrs = [\"10.1.0.0/16\"]\n[[rollout]]\nmode = \"enforce\"\ncanary = { hosts = \
                     [\"orders-2\"], peers = \"10.1.2.0/24\" }\n";
        let policy = load(Sources::from_texts([("z.toml", zones)]), jiff::Timestamp::UNIX_EPOCH).unwrap();
        let listed = list(&policy, &hosts);
        assert_eq!(
            text(&listed),
            "canary at z.toml:3 (enforce at all): 1 of 2 hosts, for the peers 10.1.2.0/24\n\
             HOST      IN   WHY\n\
             orders-1  no   `hosts` does not name it\n\
             orders-2  yes  named by `orders-2`\n\n"
        );
        let json = serde_json::to_value(&listed).unwrap();
        assert_eq!(
            json[0]["hosts"][1],
            serde_json::json!({"host": "orders-2", "in": true, "why": "named by `orders-2`"})
        );
        fs::write(&file, "a b\n").unwrap();
        assert!(read(&file).unwrap_err().message.contains("`a b` is not one name"));
    }
}
