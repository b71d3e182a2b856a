//! Few tight prefixes for many addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// Prefixes that somebody else has: none of ours may hold one of them.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeSet<IpNet>);

impl Claims {
    pub(super) fn add(&mut self, net: IpNet) {
        self.0.insert(net);
    }

    pub(super) fn remove(&mut self, net: &IpNet) {
        self.0.remove(net);
    }

    /// Whether one of them is inside of `net`, or `net` itself.
    pub(super) fn any_in(&self, net: &IpNet) -> bool {
        let Ok(first) = IpNet::new(net.network(), 0) else { return true };
        // Ordered by family, address, length: from the shortest prefix at the first address on.
        self.0.range(first..).take_while(|c| net.contains(&c.addr())).any(|claim| net.contains(claim))
    }
}

/// The fewest prefixes that hold all the addresses such that in each of them at least `dense` percent of the addresses
/// were seen, or it is a single one; and that hold nothing that is claimed.
pub(super) fn cover(addresses: &BTreeSet<IpAddr>, dense: u8, claims: &Claims) -> Vec<IpNet> {
    let four: Vec<u128> = addresses.iter().filter_map(|ip| number(*ip, true)).collect();
    let six: Vec<u128> = addresses.iter().filter_map(|ip| number(*ip, false)).collect();
    let mut out = Vec::new();
    Family { width: 32, dense, claims }.split(&four, &mut out);
    Family { width: 128, dense, claims }.split(&six, &mut out);
    out
}

/// The prefix of that length that an address is in; a longer one than its address has is the address.
pub(super) fn around(address: IpAddr, four: u8, six: u8) -> IpNet {
    let length = if address.is_ipv4() { four } else { six };
    IpNet::new(address, length).map_or(IpNet::from(address), |net| net.trunc())
}

/// The longest prefix that holds all of them; none for addresses of both families.
pub(super) fn common(addresses: &BTreeSet<IpAddr>) -> Option<IpNet> {
    let (first, last) = (addresses.first()?, addresses.last()?);
    let four = first.is_ipv4();
    let (a, b) = (number(*first, four)?, number(*last, four)?);
    let width = if four { 32 } else { 128 };
    IpNet::new(*first, shared(a, b, width)).ok().map(|net| net.trunc())
}

fn number(ip: IpAddr, four: bool) -> Option<u128> {
    match ip {
        IpAddr::V4(ip) if four => Some(u32::from(ip).into()),
        IpAddr::V6(ip) if !four => Some(ip.into()),
        _ => None,
    }
}

/// How many leading bits of `width` are the same.
fn shared(a: u128, b: u128, width: u8) -> u8 {
    let differing = 128 - (a ^ b).leading_zeros();
    width.saturating_sub(u8::try_from(differing).unwrap_or(128))
}

struct Family<'a> {
    width: u8,
    dense: u8,
    claims: &'a Claims,
}

impl Family<'_> {
    /// `addresses` in order, each once.
    fn split(&self, addresses: &[u128], out: &mut Vec<IpNet>) {
        let (Some(first), Some(last)) = (addresses.first(), addresses.last()) else { return };
        let length = shared(*first, *last, self.width);
        let free = u32::from(self.width - length);
        let Some(net) = self.net(*first, length) else { return };
        if free == 0 || (self.is_dense(addresses.len(), free) && !self.claims.any_in(&net)) {
            out.push(net);
            return;
        }
        let middle = 1_u128 << (free - 1);
        let at = addresses.partition_point(|address| address & middle == 0);
        let (low, high) = addresses.split_at(at);
        self.split(low, out);
        self.split(high, out);
    }

    fn is_dense(&self, seen: usize, free: u32) -> bool {
        let Some(size) = 1_u128.checked_shl(free).filter(|_| free < 100) else { return false };
        u128::try_from(seen).unwrap_or(0) * 100 >= size * u128::from(self.dense)
    }

    fn net(&self, address: u128, length: u8) -> Option<IpNet> {
        let ip = if self.width == 32 {
            IpAddr::V4(u32::try_from(address).ok()?.into())
        } else {
            IpAddr::V6(address.into())
        };
        IpNet::new(ip, length).ok().map(|net| net.trunc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(addresses: &[&str], dense: u8, claimed: &[&str]) -> Vec<String> {
        let addresses = addresses.iter().map(|t| t.parse().unwrap()).collect();
        let mut claims = Claims::default();
        for claim in claimed {
            claims.add(claim.parse().unwrap());
        }
        cover(&addresses, dense, &claims).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn neighbours_are_joined_only_when_dense_and_free() {
        let three = ["192.0.2.0", "192.0.2.1", "192.0.2.2"];
        for (addresses, dense, claimed, wanted) in [
            (&["192.0.2.7"][..], 75, &[][..], &["192.0.2.7/32"][..]),
            (&["192.0.2.1", "192.0.2.2"], 75, &[], &["192.0.2.1/32", "192.0.2.2/32"]),
            (&["192.0.2.2", "192.0.2.3"], 75, &[], &["192.0.2.2/31"]),
            (&three, 75, &[], &["192.0.2.0/30"]),
            (&three, 76, &[], &["192.0.2.0/31", "192.0.2.2/32"]),
            (&three, 75, &["192.0.2.3/32"], &["192.0.2.0/31", "192.0.2.2/32"]),
            (&three, 75, &["192.0.2.0/24"], &["192.0.2.0/30"]),
            (&three, 75, &["192.0.2.4/30"], &["192.0.2.0/30"]),
            (&["0.0.0.1", "255.255.255.255"], 100, &[], &["0.0.0.1/32", "255.255.255.255/32"]),
            (&["2001:db8::1", "ffff::1"], 1, &[], &["2001:db8::1/128", "ffff::1/128"]),
            (&["2001:db8::2", "2001:db8::3", "10.0.0.1"], 75, &[], &["10.0.0.1/32", "2001:db8::2/127"]),
            (&["192.0.2.0", "192.0.2.1"], 0, &["192.0.2.0/31"], &["192.0.2.0/32", "192.0.2.1/32"]),
        ] {
            assert_eq!(covered(addresses, dense, claimed), wanted, "{addresses:?} {dense} {claimed:?}");
        }
    }

    #[test]
    fn the_common_prefix_holds_all() {
        let of = |list: &[&str]| common(&list.iter().map(|t| t.parse().unwrap()).collect());
        assert_eq!(of(&["10.0.0.1", "10.0.0.6"]), Some("10.0.0.0/29".parse().unwrap()));
        assert_eq!(of(&["10.0.0.1"]), Some("10.0.0.1/32".parse().unwrap()));
        assert_eq!(of(&["10.0.0.1", "2001:db8::1"]), None);
        assert_eq!(around("2001:db8::7".parse().unwrap(), 24, 64).to_string(), "2001:db8::/64");
    }
}
