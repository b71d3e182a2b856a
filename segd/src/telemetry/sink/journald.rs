//! Flow records as entries of the systemd journal, by its native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! MESSAGE is a line for people, SEGD_RECORD the record as JSON, and every part of it a field: SEGD_VERDICT,
//! SEGD_SRC_IP, SEGD_PROCESS_COMM, SEGD_LABELS_SITE. Own code because the crates for it (`systemd-journal-logger` 2,
//! `tracing-journald` 0.3) are backends of a logging facade, with a socket that blocks at a path that cannot be chosen.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use serde_json::Value;

use super::datagram::{Datagrams, Receiver};
use super::json::{self, Escape};
use super::pending::Pending;
use super::{Options, Output, Sink, Written, severity};
use crate::telemetry::line;
use crate::telemetry::record::FlowRecord;
use crate::telemetry::text::printable;

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// The journal takes no longer names of fields (journal_field_valid of systemd).
const LONGEST_NAME: usize = 64;

/// Starts a sink that sends to the journald that listens at `socket`. That there is none is no error: the sink starts down
/// and tries again.
///
/// # Errors
/// No thread could be started.
pub fn start(options: Options, socket: PathBuf) -> io::Result<Sink> {
    Sink::start(options, Journald(Datagrams::new(Receiver::Unix(socket), Some(send_sealed))))
}

struct Journald(Datagrams);

impl Output for Journald {
    fn encode(&self, record: &FlowRecord, to: &mut Vec<u8>) -> io::Result<()> {
        entry(record, to)
    }

    fn write(&mut self, pending: &Pending) -> Written {
        self.0.write(pending)
    }
}

pub(super) fn entry(record: &FlowRecord, to: &mut Vec<u8>) -> io::Result<()> {
    field(to, "MESSAGE", line::message(record).as_bytes());
    field(to, "PRIORITY", severity(record).to_string().as_bytes());
    field(to, "SYSLOG_IDENTIFIER", b"segd");
    let mut text = Vec::new();
    json::append(record, Escape::Tricky, &mut text)?;
    field(to, "SEGD_RECORD", &text);
    fields(to, "SEGD", &serde_json::to_value(record)?);
    Ok(())
}

/// A field for each part of `value` that is there.
fn fields(to: &mut Vec<u8>, name: &str, value: &Value) {
    match value {
        Value::Object(parts) => {
            for (key, part) in parts {
                fields(to, &format!("{name}_{}", in_a_name(key)), part);
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| fields(to, name, part)),
        Value::String(text) => field(to, name, printable(text).as_bytes()),
        Value::Number(_) | Value::Bool(_) => field(to, name, value.to_string().as_bytes()),
        Value::Null => {}
    }
}

/// A key's characters that a field's name may have: `A` to `Z`, `0` to `9` and `_`.
fn in_a_name(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn field(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    let name = &name.as_bytes()[..name.len().min(LONGEST_NAME)];
    to.extend(name);
    if value.contains(&b'\n') {
        to.push(b'\n');
        to.extend((value.len() as u64).to_le_bytes());
    } else {
        to.push(b'=');
    }
    to.extend(value);
    to.push(b'\n');
}

/// Sends an entry that fits into no datagram as a sealed file in memory, as the protocol asks for.
fn send_sealed(socket: BorrowedFd<'_>, entry: &[u8]) -> io::Result<()> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"segd-journal-entry", flags)?);
    file.write_all(entry)?;
    let seals =
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    let files = [file.as_raw_fd()];
    let attached = [ControlMessage::ScmRights(&files)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&[])], &attached, flags, None)?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
