use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::*;
use crate::telemetry::record::tests::{denied, event, record};
use segd_common::event::Kind;

/// An entry by the rules of the protocol, and nothing else.
pub(crate) fn parse(mut entry: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|b| *b == b'\n').expect("a field ends its line");
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        let (name, value) = match line.iter().position(|b| *b == b'=') {
            Some(at) => {
                entry = rest;
                (&line[..at], line[at + 1..].to_vec())
            }
            None => {
                let (length, rest) = rest.split_at(8);
                let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
                assert_eq!(rest[length], b'\n', "a value ends where its length says");
                entry = &rest[length + 1..];
                (line, rest[..length].to_vec())
            }
        };
        let name = String::from_utf8(name.to_vec()).unwrap();
        let good = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        assert!(name.len() <= 64 && name.bytes().all(good) && !name.starts_with('_'), "{name:?}");
        fields.push((name, value));
    }
    fields
}

#[test]
fn fields_of_a_close() {
    let mut closed = record(&event(Kind::Close));
    closed.labels = Arc::new(BTreeMap::from([("rack no.".to_owned(), "7=ö".to_owned())]));
    let mut bytes = Vec::new();
    entry(&closed, &mut bytes).unwrap();
    let mut fields = parse(&bytes);
    let at = fields.iter().position(|(name, _)| name == "SEGD_RECORD").unwrap();
    assert_eq!(serde_json::from_slice::<FlowRecord>(&fields.remove(at).1).unwrap(), closed);
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
    let want = "\
MESSAGE=allowed outbound fulfillment -> orders 10.30.0.5:5432 postgres wms-to-orders-db psql[1234]  closed after 2500 ms, 4096 B in, 900 B out
PRIORITY=6
SYSLOG_IDENTIFIER=segd
SEGD_BYTES_IN=4096
SEGD_BYTES_OUT=900
SEGD_COUNT=1
SEGD_DIRECTION=outbound
SEGD_DST_IP=10.30.0.5
SEGD_DST_PORT=5432
SEGD_DST_ZONE=orders
SEGD_DURATION_MS=2500
SEGD_EVENT=close
SEGD_GENERATION=3
SEGD_HOST=wms-app-1
SEGD_LABELS_RACK_NO_=7=ö
SEGD_PACKETS_IN=10
SEGD_PACKETS_OUT=12
SEGD_PROCESS_COMM=psql
SEGD_PROCESS_PID=1234
SEGD_PROCESS_UID=1000
SEGD_PROTOCOL=tcp
SEGD_REASON=rule
SEGD_RETRANSMITS=2
SEGD_RTT_US=310
SEGD_RULE=wms-to-orders-db
SEGD_RULE_OWNER=orders-team@example.com
SEGD_SCHEMA=1
SEGD_SERVICE=postgres
SEGD_SRC_IP=10.20.0.7
SEGD_SRC_PORT=40000
SEGD_SRC_ZONE=fulfillment
SEGD_SUBJECT=fulfillment
SEGD_TIME=2026-01-01T00:01:30.500123Z
SEGD_VERDICT=allowed";
    assert_eq!(lines.join("\n"), want);
}

/// What one datagram holds, or the sealed file that came with an empty one.
fn receive(socket: &UnixDatagram) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let mut space = nix::cmsg_space!([i32; 4]);
    let mut parts = [io::IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
    let (length, files) = (
        message.bytes,
        message.cmsgs().unwrap().flat_map(|c| match c {
            ControlMessageOwned::ScmRights(files) => files,
            other => panic!("{other:?}"),
        }),
    );
    let files: Vec<i32> = files.collect();
    if files.is_empty() {
        return buffer[..length].to_vec();
    }
    assert_eq!((length, files.len()), (0, 1), "an empty datagram with one file");
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    let file = unsafe { File::from_raw_fd(files[0]) };
    let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap());
    assert!(seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK));
    let mut entry = Vec::new();
    // Written at its end; journald maps it.
    let mut file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    file.read_to_end(&mut entry).unwrap();
    entry
}

#[test]
fn a_large_entry_comes_as_a_sealed_file() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let journald = UnixDatagram::bind(&path).unwrap();
    journald.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let sink = start(Options::named("journald"), path).unwrap();
    let mut large = record(&denied());
    large.labels = Arc::new((0..3000).map(|n| (format!("k{n}"), "x".repeat(200))).collect());
    for sent in [record(&denied()), large, record(&denied())] {
        sink.offer(&[Arc::new(sent.clone())]);
        let fields = parse(&receive(&journald));
        let (_, told) = fields.iter().find(|(name, _)| name == "SEGD_RECORD").unwrap();
        assert_eq!(serde_json::from_slice::<FlowRecord>(told).unwrap(), sent);
    }
    assert!(sink.close(Duration::from_secs(5)));
    assert_eq!(sink.status().lost_write, 0);
}
