//! What is known of each name. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Addresses of one name that are used; a name with more is shown.
pub const MAX_ADDRESSES: usize = 64;

/// What DNS said of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of its A records.
    pub v4: Family,
    /// Of its AAAA records.
    pub v6: Family,
}

/// What DNS said of the addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Family {
    /// Addresses.
    Found {
        /// Each once.
        addresses: BTreeSet<IpAddr>,
        /// The smallest one of the records on the way to them.
        ttl: Duration,
    },
    /// There are none; the text says whether there is such a name.
    Nothing(String),
    /// That cannot be known now.
    Failed(String),
}

/// How soon a name is looked up again, whatever its TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At the earliest, and after a failure.
    pub min: Duration,
    /// At the latest.
    pub max: Duration,
}

/// One name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The addresses that hold, canonical (no IPv4-mapped ones), and since when each does. At most [`MAX_ADDRESSES`].
    pub addresses: BTreeMap<IpAddr, Timestamp>,
    /// When it is to be looked up again.
    pub refresh_at: Timestamp,
    /// Why the last look-up brought no addresses, or not those of both families.
    pub failed: Option<Failure>,
    /// Addresses of the last answer that no other host can have: loopback, link-local, multicast, unspecified. Whoever
    /// controls the name could mean this host itself by them (DNS rebinding), so they are left out.
    pub refused: BTreeSet<IpAddr>,
    /// Further addresses of the last answer that are left out as they are too many.
    pub left_out: usize,
}

/// A look-up that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Of the last one.
    pub error: String,
    /// When the first one of those failed that have failed since the last success.
    pub since: Timestamp,
}

/// All names. As JSON it is what outlives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct State {
    names: BTreeMap<String, Name>,
}

/// As the state calls a name: DNS does not tell upper from lower case (RFC 4343).
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl State {
    /// Follows these names and no others. A new one is due at once. Returns what was known of those that are no longer
    /// followed.
    pub fn follow<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut former = std::mem::take(&mut self.names);
        for name in names {
            let name = normal(name);
            let known = former.remove(&name).unwrap_or_default();
            self.names.entry(name).or_insert(known);
        }
        Self { names: former }
    }

    /// Adds what `other` knows of names that are not followed here.
    pub fn add(&mut self, other: Self) {
        for (text, name) in other.names {
            self.names.entry(text).or_insert(name);
        }
    }

    /// Gives followed names that never had an answer what `other` knows of them, and takes it from there. They are due
    /// still.
    pub fn recall(&mut self, other: &mut Self) {
        for (text, name) in self.names.iter_mut().filter(|(_, name)| **name == Name::default()) {
            if let Some(Name { addresses, .. }) = other.names.remove(text) {
                name.addresses = addresses;
            }
        }
    }

    /// Takes what a copy of this learnt since it was as `before`, as far as the names are followed still.
    pub fn adopt(&mut self, copy: Self, before: &Self) {
        for (text, learnt) in copy.names {
            if before.names.get(&text) != Some(&learnt)
                && let Some(name) = self.names.get_mut(&text)
            {
                *name = learnt;
            }
        }
    }

    /// Number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// No name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Every name, in the order of the alphabet.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Name)> {
        self.names.iter().map(|(text, name)| (text.as_str(), name))
    }

    /// One name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Name> {
        self.names.get(&normal(name))
    }

    /// When the next name is due; `None` if there is none.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.names.values().map(|name| name.refresh_at).min()
    }

    /// The names to be looked up now, the longest due first. Also those that seem to be due later than can be: the clock
    /// was set back.
    #[must_use]
    pub fn due(&self, now: Timestamp, bounds: Bounds) -> Vec<String> {
        let latest = later(now, bounds.max);
        let is_due = |name: &Name| name.refresh_at <= now || name.refresh_at > latest;
        let mut due: Vec<_> = self.names.iter().filter(|(_, name)| is_due(name)).collect();
        due.sort_by_key(|(_, name)| name.refresh_at);
        due.into_iter().map(|(text, _)| text.clone()).collect()
    }

    /// Takes an answer. Tells whether the name's addresses are others than before. A name that is not followed is left
    /// out.
    pub fn update(&mut self, name: &str, answer: Answer, now: Timestamp, bounds: Bounds) -> bool {
        self.names.get_mut(&normal(name)).is_some_and(|name| name.update(answer, now, bounds))
    }

    /// What a person should look at, one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.names.iter().flat_map(|(text, name)| name.warnings(text)).collect()
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Whether no other host can have the address.
fn is_refused(address: IpAddr) -> bool {
    match address {
        // 0.0.0.0/8: "this network", RFC 1122 section 3.2.1.3.
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast()
        }
    }
}

impl Name {
    fn update(&mut self, answer: Answer, now: Timestamp, bounds: Bounds) -> bool {
        let (mut found, mut refused) = (BTreeSet::new(), BTreeSet::new());
        let (mut ttl, mut errors, mut nothing) = (bounds.max, Vec::new(), None);
        let mut unknown: Vec<fn(&IpAddr) -> bool> = Vec::new();
        for (family, is_its) in
            [(answer.v4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), (answer.v6, IpAddr::is_ipv6)]
        {
            match family {
                Family::Found { addresses, ttl: its } => {
                    ttl = ttl.min(its);
                    let canonical = addresses.iter().map(IpAddr::to_canonical);
                    let (bad, good): (Vec<_>, Vec<_>) = canonical.partition(|address| is_refused(*address));
                    found.extend(good);
                    refused.extend(bad);
                }
                Family::Nothing(text) => nothing = Some(text),
                Family::Failed(error) => {
                    errors.push(error);
                    unknown.push(is_its);
                }
            }
        }
        if found.is_empty() && errors.is_empty() {
            let text = nothing.filter(|_| refused.is_empty());
            errors.push(text.unwrap_or_else(|| "it has no address that another host can have".to_owned()));
        }
        errors.dedup();
        let since = self.failed.as_ref().map_or(now, |failure| failure.since);
        self.failed = (!errors.is_empty()).then(|| Failure { error: errors.join("; "), since });
        self.refused = refused;
        let wait = if self.failed.is_some() { bounds.min } else { ttl.clamp(bounds.min, bounds.max) };
        self.refresh_at = later(now, wait);
        if found.is_empty() {
            return false;
        }
        found.extend(self.addresses.keys().filter(|address| unknown.iter().any(|is_its| is_its(address))));
        self.replace(found, now)
    }

    fn replace(&mut self, found: BTreeSet<IpAddr>, now: Timestamp) -> bool {
        self.left_out = found.len().saturating_sub(MAX_ADDRESSES);
        // Those first that hold already: servers shuffle, and what was left out then would change each time.
        let (known, new): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|address| self.addresses.contains_key(address));
        let kept = known.into_iter().chain(new).take(MAX_ADDRESSES);
        let since = |address| (address, self.addresses.get(&address).copied().unwrap_or(now));
        let addresses: BTreeMap<IpAddr, Timestamp> = kept.map(since).collect();
        let changed = !addresses.keys().eq(self.addresses.keys());
        self.addresses = addresses;
        changed
    }

    fn warnings(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(Failure { error, since }) = &self.failed {
            let count = self.addresses.len();
            let now = match count {
                0 => "it never had one, so it stands for nothing".to_owned(),
                1 => "its last address stays in force".to_owned(),
                _ => format!("its last {count} addresses stay in force"),
            };
            lines.push(format!("no look-up of {text} has succeeded since {since:.0} ({error}); {now}"));
        }
        if !self.refused.is_empty() {
            let list: Vec<String> = self.refused.iter().take(4).map(ToString::to_string).collect();
            lines.push(format!(
                "{text} has addresses that no other host can have ({}); they are left out: ask who runs its DNS zone",
                list.join(", ")
            ));
        }
        if self.left_out > 0 {
            let left_out = self.left_out;
            lines.push(format!(
                "{text} has {left_out} addresses more than the {MAX_ADDRESSES} that a name may have; they are left out: \
                 name their CIDRs instead"
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests;
