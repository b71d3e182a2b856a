//! What a sink's thread has encoded and not yet got rid of.

use std::collections::VecDeque;
use std::io;

/// Encoded records that wait to be written, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    messages: VecDeque<Message>,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    length: usize,
    weight: u64,
}

impl Pending {
    /// All of it in a row.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Number of records.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Each record, and how many records of the collector it stands for.
    pub(super) fn each(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.messages.iter().scan(0, |at, message| {
            let bytes = &self.bytes[*at..*at + message.length];
            *at += message.length;
            Some((bytes, message.weight))
        })
    }

    /// How many records the first `bytes` bytes hold whole, and how many bytes these have.
    pub(super) fn whole(&self, bytes: usize) -> (usize, usize) {
        let (mut count, mut end) = (0, 0);
        for message in &self.messages {
            if end + message.length > bytes {
                break;
            }
            (count, end) = (count + 1, end + message.length);
        }
        (count, end)
    }

    /// What the records stand for in all.
    pub(super) fn weight(&self) -> u64 {
        self.messages.iter().map(|message| message.weight).sum()
    }

    /// Appends what `encode` appends. Nothing, if that fails.
    pub(super) fn push(
        &mut self,
        weight: u64,
        encode: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let before = self.bytes.len();
        let result = encode(&mut self.bytes);
        if result.is_ok() {
            self.messages.push_back(Message { length: self.bytes.len() - before, weight });
        } else {
            self.bytes.truncate(before);
        }
        result
    }

    /// Takes the first `count` records away.
    pub(super) fn remove(&mut self, count: usize) {
        let gone = self.messages.drain(..count.min(self.messages.len()));
        let bytes: usize = gone.map(|message| message.length).sum();
        self.bytes.drain(..bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_leave_from_the_front() {
        let mut pending = Pending::default();
        for (text, weight) in [("one", 1), ("three", 7), ("", 1), ("x", 2)] {
            pending.push(weight, |to| io::Write::write_all(to, text.as_bytes())).unwrap();
        }
        let failed = pending.push(1, |to| {
            to.extend(b"half");
            Err(io::ErrorKind::Other.into())
        });
        assert!(failed.is_err());
        assert_eq!((pending.bytes(), pending.len(), pending.weight()), (&b"onethreex"[..], 4, 11));
        for (bytes, want) in [(0, (0, 0)), (2, (0, 0)), (3, (1, 3)), (7, (1, 3)), (8, (3, 8)), (99, (4, 9))] {
            assert_eq!(pending.whole(bytes), want, "{bytes}");
        }
        pending.remove(1);
        let each: Vec<_> = pending.each().collect();
        assert_eq!(each, [(&b"three"[..], 7), (b"", 1), (b"x", 2)]);
        pending.remove(9);
        assert!(pending.is_empty() && pending.bytes().is_empty());
    }
}
