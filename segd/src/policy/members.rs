//! The prefixes of a zone. There may be a million of them, so they are kept small: 12 bytes for an IPv4 prefix and the
//! place where it is written. Policies that have the same list share it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::lift::Digest;
use super::source::{Place, Placed};

/// Prefixes in the order in which they are written.
#[derive(Clone, Debug, Default)]
pub struct Cidrs {
    list: Arc<List>,
    /// The file that they are in.
    file: usize,
    /// What places in the list are counted from.
    base: usize,
}

/// Prefixes wherever their text may be.
#[derive(Debug, Default)]
pub(crate) struct List {
    four: Vec<Four>,
    six: Vec<(u32, u32, Ipv6Net)>,
    /// Of the text, if that is nothing but this list.
    pub(crate) digest: Option<Digest>,
}

#[derive(Clone, Copy, Debug)]
struct Four {
    address: u32,
    start: u32,
    /// Bytes of its text; of a longer one, 255 are marked.
    text: u8,
    length: u8,
}

impl Four {
    fn placed(self) -> (usize, usize, IpNet) {
        let net = Ipv4Net::new(Ipv4Addr::from(self.address), self.length).unwrap_or_default();
        let start = self.start as usize;
        (start, start + usize::from(self.text), net.into())
    }
}

fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

impl List {
    pub(crate) fn with_capacity(prefixes: usize) -> Self {
        Self { four: Vec::with_capacity(prefixes), ..Self::default() }
    }

    /// Adds a prefix. Its file does not count.
    pub(crate) fn push(&mut self, place: Place, net: IpNet) {
        match net {
            IpNet::V4(net) => self.four.push(Four {
                address: net.addr().into(),
                start: number(place.start),
                text: u8::try_from(place.end.saturating_sub(place.start)).unwrap_or(u8::MAX),
                length: net.prefix_len(),
            }),
            IpNet::V6(net) => self.six.push((number(place.start), number(place.end), net)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.four.len() + self.six.len()
    }

    pub(crate) fn finished(mut self, digest: Option<Digest>) -> Self {
        self.four.shrink_to_fit();
        self.six.shrink_to_fit();
        Self { digest, ..self }
    }

    /// The IPv4 prefixes alone: address and length.
    pub(crate) fn four(&self) -> impl Iterator<Item = (u32, u8)> + '_ {
        self.four.iter().map(|four| (four.address, four.length))
    }

    /// The IPv6 prefixes alone.
    pub(crate) fn six(&self) -> impl Iterator<Item = Ipv6Net> + '_ {
        self.six.iter().map(|(.., net)| *net)
    }
}

impl Cidrs {
    /// A list whose text begins there.
    pub(crate) fn at(file: usize, base: usize, list: Arc<List>) -> Self {
        Self { list, file, base }
    }

    pub(crate) fn list(&self) -> &Arc<List> {
        &self.list
    }

    /// Each with its place.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { four: &self.list.four, six: &self.list.six, file: self.file, base: self.base }
    }
}

impl FromIterator<Placed<IpNet>> for Cidrs {
    /// All of one file.
    fn from_iter<I: IntoIterator<Item = Placed<IpNet>>>(all: I) -> Self {
        let (mut list, mut file) = (List::default(), 0);
        for Placed { value, place } in all {
            file = place.file;
            list.push(place, value);
        }
        Self::at(file, 0, Arc::new(list.finished(None)))
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
    six: &'a [(u32, u32, Ipv6Net)],
    file: usize,
    base: usize,
}

impl Iterator for Iter<'_> {
    type Item = Placed<IpNet>;

    fn next(&mut self) -> Option<Placed<IpNet>> {
        let is_four = match (self.four.first(), self.six.first()) {
            (Some(four), Some((start, ..))) => four.start <= *start,
            (four, _) => four.is_some(),
        };
        let (start, end, value) = if is_four {
            let (first, rest) = self.four.split_first()?;
            self.four = rest;
            first.placed()
        } else {
            let ((start, end, net), rest) = self.six.split_first()?;
            self.six = rest;
            (*start as usize, *end as usize, (*net).into())
        };
        let place = Place { file: self.file, start: self.base + start, end: self.base + end };
        Some(Placed { value, place })
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
        let moved = Cidrs::at(4, 1000, Arc::clone(cidrs.list()));
        let places = moved.iter().zip(&all).map(|(a, b)| (a.place.file, a.place.start - b.place.start));
        assert!(places.eq([(4, 1000); 5]));
    }
}
