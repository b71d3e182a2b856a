//! What the DNS names of zones stand for. Somebody else asks the resolver; here is what came of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The addresses of each name that was looked up, and since when each of them belongs to it. Names are lower
/// case, addresses canonical (an IPv4-mapped one is its IPv4 address).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resolved {
    names: BTreeMap<String, BTreeMap<IpAddr, Timestamp>>,
}

/// Nothing was looked up.
pub(crate) static NO_NAMES: Resolved = Resolved::new();

impl Resolved {
    /// Nothing looked up yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { names: BTreeMap::new() }
    }

    /// Takes the answer of a look-up in place of the former one. An address that stays keeps its instant. Tells
    /// whether the addresses are others than before.
    pub fn set(&mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>, now: Timestamp) -> bool {
        let former = self.names.remove(name).unwrap_or_default();
        let since = |address: IpAddr| {
            let address = address.to_canonical();
            (address, former.get(&address).copied().unwrap_or(now))
        };
        let new: BTreeMap<IpAddr, Timestamp> = addresses.into_iter().map(since).collect();
        let changed = !new.keys().eq(former.keys());
        self.names.insert(name.to_owned(), new);
        changed
    }

    /// Forgets the names that are not wanted any more.
    pub fn retain(&mut self, mut wanted: impl FnMut(&str) -> bool) {
        self.names.retain(|name, _| wanted(name));
    }

    /// Whether there was ever an answer for a name; it may have been that there is no address.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The addresses of a name, each with the instant since which it belongs to it.
    pub fn addresses(&self, name: &str) -> impl Iterator<Item = (IpAddr, Timestamp)> + '_ {
        self.names.get(name).into_iter().flatten().map(|(address, since)| (*address, *since))
    }
}

impl FromIterator<(String, BTreeMap<IpAddr, Timestamp>)> for Resolved {
    /// From the addresses of each name, with the instant since which each belongs to it.
    fn from_iter<I: IntoIterator<Item = (String, BTreeMap<IpAddr, Timestamp>)>>(names: I) -> Self {
        Self { names: names.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_keeps_its_instant() {
        let ips = |list: &[&str]| list.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut resolved = Resolved::new();
        assert!(resolved.set("db.example.com", ips(&["10.0.0.1", "2001:db8::1"]), at(1)));
        assert!(!resolved.set("db.example.com", ips(&["2001:db8::1", "::ffff:10.0.0.1"]), at(2)));
        assert!(resolved.set("db.example.com", ips(&["10.0.0.1", "10.0.0.2"]), at(3)));
        let json = serde_json::to_string(&resolved).unwrap();
        let again: Resolved = serde_json::from_str(&json).unwrap();
        let now: Vec<_> = again.addresses("db.example.com").map(|(ip, t)| (ip.to_string(), t)).collect();
        assert_eq!(now, [("10.0.0.1".to_owned(), at(1)), ("10.0.0.2".to_owned(), at(3))]);
        assert!(resolved.set("gone.example.com", [], at(4)) || resolved.has("gone.example.com"));
        resolved.retain(|name| name != "db.example.com");
        assert_eq!(resolved.addresses("db.example.com").count(), 0);
    }
}
