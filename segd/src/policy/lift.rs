//! Long lists of prefixes, taken out of the text of a zone file before it is parsed as TOML.
//!
//! A list of a million prefixes takes half a second as TOML and a tenth of that here; one that is byte for byte as in
//! a former policy is not read at all. Only what is certain is taken: a line that begins with `cidrs = [`, and up to
//! the first `]` nothing but quoted prefixes, commas and white space. In its place the text holds an empty list, so
//! that everything around it means what it meant. [`load`](super::load) reads the whole text as TOML where that leads
//! to any error.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ipnet::{IpNet, Ipv4Net};
use memchr::{memchr, memmem};
use twox_hash::XxHash3_128;

use super::members::List;
use super::model::Policy;
use super::source::Place;

/// The key whose lists are taken.
const KEY: &[u8] = b"cidrs";

/// What is written where a list was.
const STUB: &str = "[]";

/// Shorter lists are not worth it, in bytes.
pub(super) const LEAST: usize = 256;

/// Lists are read by several threads if they have so many bytes together.
const MANY: usize = 1 << 20;

/// Tells one text from another, within this process: it is salted anew in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest(u128);

impl Digest {
    pub(crate) fn of(text: &str) -> Self {
        Self(XxHash3_128::oneshot_with_seed(seed(), text.as_bytes()))
    }
}

/// Nobody can make two texts of one digest who does not know it.
fn seed() -> u64 {
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SEED.get_or_init(|| std::hash::RandomState::new().hash_one(KEY))
}

/// The lists of former policies, by their text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(HashMap<Digest, Arc<List>>);

impl Known {
    pub(crate) fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let zones = policies.into_iter().flat_map(|policy| policy.zones.values());
        let lists = zones.map(|zone| zone.cidrs.list());
        Self(lists.filter_map(|list| Some((list.digest?, Arc::clone(list)))).collect())
    }
}

/// A text without its long lists.
#[derive(Debug)]
pub(crate) struct Lifted {
    pub(crate) text: String,
    pub(crate) cuts: Cuts,
}

/// Where lists were taken out, in the order of the text.
#[derive(Debug, Default)]
pub(crate) struct Cuts(Vec<Cut>);

#[derive(Debug)]
struct Cut {
    /// Where the stub is in the text without lists.
    at: usize,
    /// Where the list was.
    was: Range<usize>,
    list: Arc<List>,
}

impl Cuts {
    /// The list that was where the stub at `at` is, and the first byte of it in the whole text.
    pub(crate) fn list(&self, at: usize) -> Option<(usize, &Arc<List>)> {
        let cut = self.0.binary_search_by_key(&at, |cut| cut.at).ok().and_then(|n| self.0.get(n))?;
        Some((cut.was.start, &cut.list))
    }

    /// A place of the text without lists in the whole text.
    pub(crate) fn whole(&self, at: usize) -> usize {
        let before = self.0.partition_point(|cut| cut.at + STUB.len() <= at);
        let last = before.checked_sub(1).and_then(|n| self.0.get(n));
        last.map_or(at, |cut| at - cut.at - STUB.len() + cut.was.end)
    }
}

/// Takes the lists of at least so many bytes out of a text. `None`: there is none, or the text has strings of several
/// lines, in which what looks like a list may be something else.
pub(crate) fn lift(text: &str, known: &Known, least: usize) -> Option<Lifted> {
    let found: Vec<Range<usize>> = lists(text).filter(|range| range.len() >= least).collect();
    let read = read_all(text, &found, known);
    let mut rest = String::new();
    let (mut cuts, mut done) = (Vec::new(), 0);
    for (was, list) in found.into_iter().zip(read) {
        let Some(list) = list else { continue };
        rest.push_str(text.get(done..was.start)?);
        cuts.push(Cut { at: rest.len(), was: was.clone(), list });
        rest.push_str(STUB);
        done = was.end;
    }
    if cuts.is_empty() {
        return None;
    }
    rest.push_str(text.get(done..)?);
    let long_string = ["\"\"\"", "'''"].iter().any(|quotes| rest.contains(quotes));
    (!long_string).then_some(Lifted { text: rest, cuts: Cuts(cuts) })
}

/// What looks like a list of prefixes at the beginning of a line, from `[` to `]`.
pub(crate) fn lists(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = text.as_bytes();
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(from..)?;
            let key = from + memmem::find(rest, KEY)?;
            from = key + KEY.len();
            let is_blank = |b: &&u8| matches!(b, b' ' | b'\t');
            let before = bytes.get(..key)?.iter().rev().find(|b| !is_blank(b));
            let mut after = bytes.get(from..)?.iter().enumerate().filter(|(_, b)| !is_blank(b));
            let (Some((_, b'=')), Some((open, b'['))) = (after.next(), after.next()) else { continue };
            if !matches!(before, None | Some(b'\n')) {
                continue;
            }
            let open = from + open;
            let close = open + memchr(b']', bytes.get(open..)?)?;
            from = close + 1;
            return Some(open..from);
        }
    })
}

/// The list of each range; `None` where there is anything but prefixes that a zone may have.
fn read_all(text: &str, ranges: &[Range<usize>], known: &Known) -> Vec<Option<Arc<List>>> {
    let one = |range: &Range<usize>| {
        let text = text.get(range.clone())?;
        let digest = Digest::of(text);
        known.0.get(&digest).cloned().or_else(|| read(text, digest).map(Arc::new))
    };
    let bytes: usize = ranges.iter().map(Range::len).sum();
    let threads = thread::available_parallelism().map_or(1, |n| n.get().min(4));
    if bytes < MANY || threads < 2 {
        return ranges.iter().map(one).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(range) = ranges.get(n) else { return done };
            done.push((n, one(range)));
        }
    };
    let mut all = vec![None; ranges.len()];
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        // What a thread that panicked has read stays in the text.
        for (n, list) in others.into_iter().flat_map(|t| t.join().unwrap_or_default()).chain(own) {
            if let Some(place) = all.get_mut(n) {
                *place = list;
            }
        }
    });
    all
}

/// Reads a list from `[` to `]`.
fn read(text: &str, digest: Digest) -> Option<List> {
    let bytes = text.as_bytes();
    // Most prefixes take about so many bytes with quotes and comma.
    let mut list = List::with_capacity(bytes.len() / 20);
    let mut at = after_blank(bytes, 1)?;
    loop {
        if *bytes.get(at)? != b'"' {
            break;
        }
        let rest = bytes.get(at + 1..)?;
        // The longest prefix has 43 characters; white space and escapes are in none.
        let end = rest.iter().take(64).position(|b| *b == b'"')?;
        let net = prefix(text.get(at + 1..at + 1 + end)?)?;
        let end = at + end + 2;
        list.push(Place { file: 0, start: at, end }, net);
        at = after_blank(bytes, end)?;
        match bytes.get(at)? {
            b',' => at = after_blank(bytes, at + 1)?,
            b']' => break,
            _ => return None,
        }
    }
    let complete = at + 1 == bytes.len() && !list.is_empty();
    complete.then(|| list.finished(Some(digest)))
}

/// The first byte from `at` on that is no white space of TOML; `None` at the end, or at a carriage return alone.
fn after_blank(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match bytes.get(at)? {
            b' ' | b'\t' | b'\n' => at += 1,
            b'\r' if bytes.get(at + 1) == Some(&b'\n') => at += 2,
            b'\r' => return None,
            _ => return Some(at),
        }
    }
}

/// A prefix that [`parse_cidr`](super::load::parse_cidr) takes as well.
fn prefix(text: &str) -> Option<IpNet> {
    if let Some(four) = prefix4(text.as_bytes()) {
        return (four == four.trunc()).then_some(four.into());
    }
    let net: IpNet = text.parse().ok()?;
    let mapped = matches!(net, IpNet::V6(six) if six.addr().to_ipv4_mapped().is_some());
    (net == net.trunc() && !mapped).then_some(net)
}

/// The plain form `a.b.c.d/n`, without a zero before another digit.
fn prefix4(bytes: &[u8]) -> Option<Ipv4Net> {
    let mut numbers = [0_u32; 5];
    let (mut n, mut digits) = (0, 0);
    for byte in bytes {
        match byte {
            b'0'..=b'9' => {
                let number = numbers.get_mut(n)?;
                if digits == 3 || (digits > 0 && *number == 0) {
                    return None;
                }
                *number = *number * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' if n < 3 && digits > 0 => (n, digits) = (n + 1, 0),
            b'/' if n == 3 && digits > 0 => (n, digits) = (n + 1, 0),
            _ => return None,
        }
    }
    let [a, b, c, d, length] = numbers.map(|number| u8::try_from(number).ok());
    if n != 4 || digits == 0 {
        return None;
    }
    Ipv4Net::new([a?, b?, c?, d?].into(), length?).ok()
}

#[cfg(test)]
mod tests;
