//! Looks decisions up in [`Compiled`] as the kernel looks them up in its maps.

use std::borrow::Cow;

use segd_common::addr::Addr;
use segd_common::decide::View;
use segd_common::id::{ServiceId, ZoneId};
use segd_common::table::{FailsafeKey, PeerZone, PolicyEntry, PolicyKey, ServiceKey};

use super::compiled::Compiled;

/// [`Compiled`] at one instant. A look-up is one binary search for each prefix length that occurs.
#[derive(Clone, Debug)]
pub struct Tables<'a> {
    compiled: Cow<'a, Compiled>,
    now: u64,
    lengths4: Vec<u8>,
    lengths6: Vec<u8>,
    policy_lengths: Vec<u32>,
    service_lengths: Vec<u32>,
    failsafe_lengths: Vec<u32>,
}

impl<'a> Tables<'a> {
    /// `now` in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn new(compiled: &'a Compiled, now: u64) -> Self {
        Self::over(Cow::Borrowed(compiled), now)
    }

    fn over(compiled: Cow<'a, Compiled>, now: u64) -> Self {
        Self {
            now,
            lengths4: longest_first(&compiled.prefixes4, |p| p.0),
            lengths6: longest_first(&compiled.prefixes6, |p| p.0),
            policy_lengths: longest_first(&compiled.policy, |p| p.0),
            service_lengths: longest_first(&compiled.services, |p| p.0),
            failsafe_lengths: longest_first(&compiled.failsafes, |p| p.0),
            compiled,
        }
    }

    /// What is looked up.
    pub(crate) fn compiled(&self) -> &Compiled {
        &self.compiled
    }
}

impl Tables<'static> {
    /// The same, of tables that nobody else needs.
    pub(crate) fn owned(compiled: Compiled, now: u64) -> Self {
        Self::over(Cow::Owned(compiled), now)
    }
}

/// The lengths that occur in a table sorted by length.
fn longest_first<T, L: Copy + Ord>(mut table: &[T], length: impl Fn(&T) -> L) -> Vec<L> {
    let mut lengths = Vec::new();
    while let Some(longest) = table.last().map(&length) {
        lengths.push(longest);
        table = table.get(..table.partition_point(|entry| length(entry) < longest)).unwrap_or_default();
    }
    lengths
}

/// The first `len` bits, the others zero.
fn masked<const N: usize>(bytes: [u8; N], len: u32) -> [u8; N] {
    let mut out = bytes;
    for (n, byte) in (0u32..).zip(&mut out) {
        *byte &= !u8::MAX.checked_shr(len.saturating_sub(n * 8)).unwrap_or(0);
    }
    out
}

fn policy_bytes(key: &PolicyKey) -> [u8; 8] {
    let PolicyKey { subject, peer, direction, protocol, port } = *key;
    let [s0, s1] = subject.0.to_ne_bytes();
    let [p0, p1] = peer.0.to_ne_bytes();
    [s0, s1, p0, p1, direction, protocol, port[0], port[1]]
}

fn masked_policy(key: &PolicyKey, len: u32) -> PolicyKey {
    let [s0, s1, p0, p1, direction, protocol, a, b] = masked(policy_bytes(key), len);
    PolicyKey {
        subject: segd_common::id::SubjectId(u16::from_ne_bytes([s0, s1])),
        peer: ZoneId(u16::from_ne_bytes([p0, p1])),
        direction,
        protocol,
        port: [a, b],
    }
}

impl View for Tables<'_> {
    fn host(&self, addr: &Addr) -> Option<PeerZone> {
        let hosts = &self.compiled.hosts;
        hosts.binary_search_by_key(addr, |h| h.0).ok().map(|n| hosts[n].1)
    }

    fn prefix(&self, addr: &Addr) -> Option<PeerZone> {
        if let Some(v4) = addr.as_v4() {
            let table = &self.compiled.prefixes4;
            return self.lengths4.iter().find_map(|len| {
                let key = (*len, masked(v4, u32::from(*len)));
                table.binary_search_by_key(&key, |p| (p.0, p.1)).ok().map(|n| table[n].2)
            });
        }
        let table = &self.compiled.prefixes6;
        self.lengths6.iter().find_map(|len| {
            let key = (*len, masked(addr.bytes(), u32::from(*len)));
            table.binary_search_by_key(&key, |p| (p.0, p.1)).ok().map(|n| table[n].2)
        })
    }

    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        let table = &self.compiled.policy;
        self.policy_lengths.iter().find_map(|len| {
            let key = (*len, masked_policy(key, *len));
            table.binary_search_by_key(&key, |p| (p.0, p.1)).ok().map(|n| table[n].2)
        })
    }

    fn service(&self, key: &ServiceKey) -> Option<ServiceId> {
        let table = &self.compiled.services;
        self.service_lengths.iter().find_map(|len| {
            let [protocol, pad, a, b] = masked([key.protocol, key.pad, key.port[0], key.port[1]], *len);
            let key = (*len, ServiceKey { protocol, pad, port: [a, b] });
            table.binary_search_by_key(&key, |p| (p.0, p.1)).ok().map(|n| table[n].2)
        })
    }

    fn failsafe(&self, key: &FailsafeKey) -> bool {
        let table = &self.compiled.failsafes;
        self.failsafe_lengths.iter().any(|len| {
            let [direction, protocol, a, b] =
                masked([key.direction, key.protocol, key.port[0], key.port[1]], *len);
            let peer = masked(key.peer, len.saturating_sub(FailsafeKey::ANY_PEER));
            let key = FailsafeKey { direction, protocol, port: [a, b], peer };
            table.binary_search(&(*len, key)).is_ok()
        })
    }

    fn now(&self) -> u64 {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_the_first_bits() {
        assert_eq!(masked([0xff; 4], 0), [0; 4]);
        assert_eq!(masked([0xff; 4], 12), [0xff, 0xf0, 0, 0]);
        assert_eq!(masked([0xff; 4], 32), [0xff; 4]);
    }
}
