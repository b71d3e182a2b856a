//! Canaries: which hosts a rollout entry holds at, and for which peers.
//!
//! A host is picked by name or by percentage. The percentage compares with the host's bucket, a number from 0 to 99: the
//! first eight bytes, as a big-endian number modulo 100, of the SHA-256 over these texts, each followed by a zero byte:
//! `segd-canary`, the host name in lower case, and the entry's subject (or `all`), direction (`inbound`, `outbound` or
//! `both`), peers and services (each sorted and joined by commas, or `all`) and mode. The host is in if its bucket is
//! below the percentage, so those that are in stay in when it grows. Moving an entry within the files changes nothing;
//! entries that say different things pick different hosts.

use std::fmt;

use ipnet::IpNet;
use segd_common::traffic::{Direction, Mode};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::model::{Policy, Rollout};
use super::source::Place;

/// `canary` of a `[[rollout]]`: the part of hosts and peers that the entry holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Of the hosts, from 0 to 100; none: those that `hosts` names, or all if that is empty too.
    pub percent: Option<u8>,
    /// Names of hosts that are in whatever `percent` says, in lower case; `*` stands for any characters.
    pub hosts: Vec<String>,
    /// The peers that the entry holds for, without host bits; empty: all.
    pub peers: Vec<IpNet>,
    /// The key.
    pub place: Place,
}

/// Whether a host is in a canary, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// In: the canary is about peers only.
    EveryHost,
    /// In: this pattern names it.
    Named(String),
    /// In or not, by percentage.
    Bucket {
        /// The host's, from 0 to 99.
        bucket: u8,
        /// In if the bucket is below it.
        percent: u8,
    },
    /// Not in: it is named by none, and there is no percentage.
    NotNamed,
}

impl Membership {
    /// Whether the host is in.
    #[must_use]
    pub const fn is_in(&self) -> bool {
        match self {
            Self::EveryHost | Self::Named(_) => true,
            Self::Bucket { bucket, percent } => *bucket < *percent,
            Self::NotNamed => false,
        }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EveryHost => f.write_str("every host is"),
            Self::Named(pattern) => write!(f, "named by `{pattern}`"),
            Self::Bucket { bucket, percent } if self.is_in() => {
                write!(f, "its bucket {bucket} is below percent = {percent}")
            }
            Self::Bucket { bucket, percent } => {
                write!(f, "its bucket {bucket} is not below percent = {percent}")
            }
            Self::NotNamed => f.write_str("`hosts` does not name it"),
        }
    }
}

/// A rollout entry with a canary, seen from one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CanaryState {
    /// Where the entry is, as `file:line`.
    pub place: String,
    /// The zone or workload that it is for; none: all.
    pub subject: Option<String>,
    /// The mode that it sets.
    pub mode: &'static str,
    /// Whether it holds at the host, at least for `peers`.
    #[serde(rename = "in")]
    pub is_in: bool,
    /// Why, in words.
    pub why: String,
    /// The host's bucket, if there is a percentage.
    pub bucket: Option<u8>,
    /// The percentage.
    pub percent: Option<u8>,
    /// The peers that it holds for; empty: all.
    pub peers: Vec<String>,
}

/// Each rollout entry that has a canary, in file order, as it is at the host of that name.
#[must_use]
pub fn canaries(policy: &Policy, host: &str) -> Vec<CanaryState> {
    let with = policy.rollouts.iter().filter_map(|rollout| Some((rollout, rollout.canary.as_ref()?)));
    with.map(|(rollout, canary)| {
        let membership = canary.membership(rollout, host);
        CanaryState {
            place: policy.sources.file_line(rollout.place),
            subject: rollout.subject.as_ref().map(|s| s.value.clone()),
            mode: rollout.mode.name(),
            is_in: membership.is_in(),
            why: membership.to_string(),
            bucket: canary.percent.map(|_| bucket(rollout, host)),
            percent: canary.percent,
            peers: canary.peers.iter().map(IpNet::to_string).collect(),
        }
    })
    .collect()
}

impl Canary {
    /// Whether the host of that name is in, as far as hosts go; `rollout` is the entry that it belongs to.
    #[must_use]
    pub fn membership(&self, rollout: &Rollout, host: &str) -> Membership {
        let name = host.to_ascii_lowercase();
        if let Some(pattern) = self.hosts.iter().find(|pattern| matches(pattern, &name)) {
            return Membership::Named(pattern.clone());
        }
        match self.percent {
            Some(percent) => Membership::Bucket { bucket: bucket(rollout, host), percent },
            None if self.hosts.is_empty() => Membership::EveryHost,
            None => Membership::NotNamed,
        }
    }
}

/// The number from 0 to 99 that a host has for an entry; see the module's description.
fn bucket(rollout: &Rollout, host: &str) -> u8 {
    let sorted = |texts: Option<Vec<String>>| {
        texts.map_or_else(
            || "all".to_owned(),
            |mut texts| {
                texts.sort_unstable();
                texts.dedup();
                texts.join(",")
            },
        )
    };
    let peers = rollout.peers.as_ref().map(|p| p.iter().map(|p| p.value.clone()).collect());
    let services = rollout.services.as_ref().map(|s| s.iter().map(|s| s.value.to_string()).collect());
    let mut hash = Sha256::new();
    for text in [
        "segd-canary",
        &host.to_ascii_lowercase(),
        rollout.subject.as_ref().map_or("all", |s| &s.value),
        rollout.direction.map_or("both", Direction::name),
        &sorted(peers),
        &sorted(services),
        Mode::name(rollout.mode),
    ] {
        hash.update(text);
        hash.update([0]);
    }
    let digest = hash.finalize();
    let number = digest.iter().take(8).fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
    u8::try_from(number % 100).unwrap_or(0)
}

/// Whether a text is what a pattern describes, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // The first place is as good as any: what follows may begin later still.
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, wanted) in [
            ("db-1", "db-1", true),
            ("db-1", "db-10", false),
            ("db-*", "db-10", true),
            ("*-db", "orders-db", true),
            ("*db*1", "orders-db-11", true),
            ("a*a", "a", false),
            ("a*b*b", "aab", false),
            ("a*b*b", "aabb", true),
            ("*", "", true),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
    }
}
