//! Zone files of any size around the two hosts, the same for the same size and salt.

use std::fmt::Write;

use segd_tests::Load;

use crate::pair::Pair;

/// How large a policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) prefixes: usize,
    pub(crate) rules: usize,
}

/// The zones of the two hosts; by name, half of the other zones come before them and half after.
pub(crate) const CLIENT: &str = "m-client";
/// As [`CLIENT`].
pub(crate) const SERVER: &str = "m-server";

/// The most zones beside the two.
const OTHERS: usize = 200;

impl Size {
    /// A word for names.
    pub(crate) fn word(self) -> String {
        format!("p{}r{}", self.prefixes, self.rules)
    }
}

/// A zone file with so many prefixes and rules. Each host's address is in one prefix of its own zone; one rule, in the
/// middle of the file, allows the loads from the client to the server. Every other rule is for one of the two hosts
/// too, so that each of them has half of the rules in its tables.
///
/// `changed` prefixes differ from those of a file made with 0.
pub(crate) fn zone_file(pair: &Pair, size: Size, enforce: bool, changed: usize) -> String {
    let others = size.prefixes.saturating_sub(2).clamp(1, OTHERS);
    let mut members = vec![String::new(); others];
    let rest = size.prefixes.saturating_sub(2);
    for (number, prefix) in (0..rest).zip(Prefixes::default()) {
        // The changed ones are replaced by such that come after all others.
        let prefix = if number < changed { Prefixes::nth(size.prefixes + number) } else { prefix };
        let members = &mut members[number % others];
        let separator = if members.is_empty() { "" } else { "," };
        let _ = write!(members, "{separator}\"{prefix}\"");
    }
    let mut text = String::with_capacity(size.prefixes * 22 + size.rules * 120);
    for (number, members) in members.iter().enumerate() {
        let name = other(number, others);
        let _ = writeln!(text, "[zone.{name}]\nowner = \"team-{number}@example.com\"\ncidrs = [{members}]");
    }
    for (name, host) in [(CLIENT, &pair.client), (SERVER, &pair.server)] {
        let _ = writeln!(text, "[zone.{name}]\ncidrs = [\"{}\"]", host.v4_prefix());
    }
    for number in 0..size.rules.saturating_sub(1) {
        if number == size.rules / 2 {
            measured_rule(&mut text);
        }
        let zone = other(number / 2 % others, others);
        let (from, to) = if number % 2 == 0 { (zone.as_str(), SERVER) } else { (CLIENT, zone.as_str()) };
        let port = 10_000 + number % 50_000;
        let _ = writeln!(
            text,
            "[[allow]]\nid = \"rule-{number}\"\nfrom = \"{from}\"\nto = \"{to}\"\nservices = [\"tcp/{port}\"]"
        );
    }
    if size.rules < 2 {
        measured_rule(&mut text);
    }
    if enforce {
        text.push_str("[[rollout]]\nmode = \"enforce\"\n");
    }
    text
}

/// A zone file to lie beside that of [`zone_file`]: a zone of so many addresses, which are others with another salt.
pub(crate) fn beside_zone(salt: usize, addresses: usize) -> String {
    let all: Vec<String> = (0..addresses).map(|n| format!("\"240.0.{salt}.{n}/32\"")).collect();
    format!("[zone.beside]\ncidrs = [{}]\n", all.join(", "))
}

/// The rule that the loads go by.
fn measured_rule(text: &mut String) {
    let service = |load: Load| {
        let protocol = if matches!(load, Load::UdpRequest | Load::UdpConnected) { "udp" } else { "tcp" };
        format!("\"{protocol}/{}\"", load.port())
    };
    let services = Load::ALL.map(service).join(", ");
    let _ = writeln!(
        text,
        "[[allow]]\nid = \"measured\"\nfrom = \"{CLIENT}\"\nto = \"{SERVER}\"\nservices = [{services}]"
    );
}

fn other(number: usize, others: usize) -> String {
    let half = if number < others / 2 { 'a' } else { 'z' };
    format!("{half}-{number}")
}

/// Prefixes that do not overlap, in an order that looks random: each in a /24 of its own, of 24 to 30 bits; one of
/// eight is one address.
#[derive(Default)]
struct Prefixes {
    next: u32,
}

impl Prefixes {
    fn nth(number: usize) -> String {
        Self::default().nth(number).unwrap_or_default()
    }
}

impl Iterator for Prefixes {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            let number = self.next;
            self.next = number.checked_add(1).filter(|next| *next <= 1 << 24)?;
            let network = scramble(number);
            let [_, a, b, c] = network.to_be_bytes();
            // Own, loopback, link-local, multicast, reserved, and the lab's own ranges.
            let taken = a == 0 || a == 127 || a >= 224 || (a == 169 && b == 254) || (a == 10 && b == 77);
            if taken {
                continue;
            }
            let length = match number % 8 {
                0 => 32,
                n => 23 + n,
            };
            let hosts = 0xff_u32.checked_shl(32 - length).unwrap_or(0) & 0xff;
            let d = (number.wrapping_mul(0x9e37_79b9) >> 24) & hosts;
            return Some(format!("{a}.{b}.{c}.{d}/{length}"));
        }
    }
}

/// A permutation of the 24-bit numbers: shifts to the right and odd factors can be undone.
fn scramble(number: u32) -> u32 {
    const MASK: u32 = 0xff_ffff;
    let mut x = number & MASK;
    for factor in [0x00d3_5a2d, 0x0065_c3b5, 0x00a1_3f19] {
        x ^= x >> 13;
        x = x.wrapping_mul(factor) & MASK;
    }
    x ^ (x >> 11)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn prefixes_are_in_networks_of_their_own() {
        let networks: BTreeSet<u32> = (0..200_000).map(scramble).collect();
        assert_eq!(networks.len(), 200_000);
        for prefix in Prefixes::default().take(10_000) {
            let (address, length) = prefix.split_once('/').unwrap();
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            let length: u32 = length.parse().unwrap();
            assert!((24..=32).contains(&length), "{prefix}");
            let below = u32::MAX.checked_shr(length).unwrap_or(0);
            assert_eq!(u32::from(address) & below, 0, "{prefix} has host bits");
        }
    }

    #[test]
    fn a_number_gives_the_same_prefix_at_any_time() {
        let all: Vec<_> = Prefixes::default().take(50).collect();
        assert_eq!(Prefixes::nth(49), all[49]);
    }
}
