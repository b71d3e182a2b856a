//! The prefixes of a zone. There may be a million of them, so they are kept small: 12 bytes for an IPv4 prefix and the
//! place where it is written.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::source::{Place, Placed};

/// Prefixes in the order in which they are written.
#[derive(Clone, Debug, Default)]
pub struct Cidrs {
    four: Vec<Four>,
    six: Vec<(Place, Ipv6Net)>,
}

#[derive(Clone, Copy, Debug)]
struct Four {
    address: u32,
    start: u32,
    file: u16,
    /// Bytes of its text; of a longer one, 255 are marked.
    text: u8,
    length: u8,
}

impl Four {
    fn new(place: Place, net: Ipv4Net) -> Self {
        Self {
            address: net.addr().into(),
            start: u32::try_from(place.start).unwrap_or(u32::MAX),
            file: u16::try_from(place.file).unwrap_or(u16::MAX),
            text: u8::try_from(place.end.saturating_sub(place.start)).unwrap_or(u8::MAX),
            length: net.prefix_len(),
        }
    }

    fn place(self) -> Place {
        let start = self.start as usize;
        Place { file: self.file.into(), start, end: start + usize::from(self.text) }
    }

    fn placed(self) -> Placed<IpNet> {
        let net = Ipv4Net::new(Ipv4Addr::from(self.address), self.length).unwrap_or_default();
        Placed { value: net.into(), place: self.place() }
    }
}

impl Cidrs {
    /// Each with its place.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { four: &self.four, six: &self.six }
    }

    /// The IPv4 prefixes alone: address and length.
    pub(crate) fn four(&self) -> impl Iterator<Item = (u32, u8)> + '_ {
        self.four.iter().map(|four| (four.address, four.length))
    }

    /// The IPv6 prefixes alone.
    pub(crate) fn six(&self) -> impl Iterator<Item = Ipv6Net> + '_ {
        self.six.iter().map(|(_, net)| *net)
    }
}

impl FromIterator<Placed<IpNet>> for Cidrs {
    fn from_iter<I: IntoIterator<Item = Placed<IpNet>>>(all: I) -> Self {
        let mut cidrs = Self::default();
        for Placed { value, place } in all {
            match value {
                IpNet::V4(net) => cidrs.four.push(Four::new(place, net)),
                IpNet::V6(net) => cidrs.six.push((place, net)),
            }
        }
        cidrs.four.shrink_to_fit();
        cidrs.six.shrink_to_fit();
        cidrs
    }
}

impl<'a> IntoIterator for &'a Cidrs {
    type Item = Placed<IpNet>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Of [`Cidrs::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    four: &'a [Four],
    six: &'a [(Place, Ipv6Net)],
}

impl Iterator for Iter<'_> {
    type Item = Placed<IpNet>;

    fn next(&mut self) -> Option<Placed<IpNet>> {
        let four = match (self.four.first(), self.six.first()) {
            (Some(four), Some((place, _))) => four.place() <= *place,
            (four, _) => four.is_some(),
        };
        if four {
            let (first, rest) = self.four.split_first()?;
            self.four = rest;
            return Some(first.placed());
        }
        let ((place, net), rest) = self.six.split_first()?;
        self.six = rest;
        Some(Placed { value: (*net).into(), place: *place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_keep_their_order_and_their_places() {
        let all: Vec<Placed<IpNet>> = ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "192.0.2.1/32", "::1/128"]
            .iter()
            .enumerate()
            .map(|(n, text)| Placed {
                value: text.parse().unwrap(),
                place: Place { file: 3, start: 40 * n, end: 40 * n + text.len() + 2 },
            })
            .collect();
        let cidrs: Cidrs = all.iter().cloned().collect();
        assert_eq!(cidrs.iter().collect::<Vec<_>>(), all);
        assert_eq!(size_of::<Four>(), 12);
    }
}
