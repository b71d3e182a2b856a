//! The sockets that live on this host, whoever made them and whenever: what the programs know of them, and those older than
//! the programs, which are listed by the kernel's sock_diag(7). Sockets are destroyed by it, too; nothing else speaks it.

mod destroy;
mod diag;
mod direction;
pub(super) mod kept;
pub(super) mod live;
mod namespaces;
mod owners;
mod seeds;
mod subjects;
mod tree;

use std::collections::HashMap;
use std::path::Path;

use segd_common::addr::Addr;
use segd_common::traffic::protocol;

pub use destroy::{Target, destroy};
pub use live::LiveSocket;
pub use seeds::Seeded;
pub use subjects::Subjects;

use super::Error;
use diag::Diag;
use namespaces::Namespace;
use tree::Tree;

/// States of include/net/tcp_states.h, which UDP uses two of.
mod state {
    /// TCP_ESTABLISHED; a connected UDP socket too.
    pub(super) const ESTABLISHED: u8 = 1;
    /// TCP_CLOSE; an unconnected UDP socket too.
    pub(super) const CLOSE: u8 = 7;
    /// TCP_LISTEN.
    pub(super) const LISTEN: u8 = 10;
}

/// Those of which sockets are listed.
const PROTOCOLS: [u8; 2] = [protocol::TCP, protocol::UDP];

/// TCP: listeners, and connections from TCP_SYN_SENT (2) to TCP_CLOSING (11). Half-open ones (TCP_SYN_RECV) have no
/// socket yet, those in TCP_TIME_WAIT none any more.
const TCP_STATES: u32 =
    1 << state::ESTABLISHED | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << state::LISTEN | 1 << 11;
/// UDP: every socket that has a port.
const UDP_STATES: u32 = 1 << state::ESTABLISHED | 1 << state::CLOSE;

/// One socket, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// SO_COOKIE.
    pub(super) cookie: u64,
    /// AF_INET, or AF_INET6, whose sockets may have IPv4 ends.
    pub(super) family: u8,
    /// IP protocol number: TCP or UDP.
    pub(super) protocol: u8,
    /// One of [`state`].
    pub(super) state: u8,
    /// The interface that it is bound to; 0: none.
    pub(super) interface: u32,
    /// This side.
    pub(super) local: Addr,
    /// The other side; unspecified where there is none.
    pub(super) peer: Addr,
    /// Host byte order.
    pub(super) local_port: u16,
    /// Host byte order.
    pub(super) peer_port: u16,
    /// As in the links of `/proc/PID/fd`; 0: no process has it open.
    pub(super) inode: u32,
    /// Of the socket file's owner, in the initial user namespace.
    pub(super) uid: u32,
    /// Inode of its cgroup's directory; 0: not known.
    pub(super) cgroup: u64,
    /// Inode of its network namespace.
    pub(super) netns: u64,
}

impl Row {
    /// Whether it talks to one peer, which is not this host.
    pub(super) fn is_flow(&self) -> bool {
        let connected = match self.protocol {
            protocol::TCP => self.state != state::LISTEN,
            _ => self.state == state::ESTABLISHED,
        };
        connected && self.peer != self.local && !is_loopback(&self.peer)
    }

    /// Whether it takes what peers begin.
    fn is_server(&self) -> bool {
        let waiting = if self.protocol == protocol::TCP { state::LISTEN } else { state::CLOSE };
        self.state == waiting && self.local_port != 0
    }
}

fn is_loopback(addr: &Addr) -> bool {
    std::net::IpAddr::from(*addr).is_loopback()
}

/// Every socket of some protocols (TCP, UDP) of the cgroup tree at `cgroup`, whose inode is given, in every network
/// namespace that a process is in (without CAP_SYS_ADMIN: in this one's). The kernel walks over its whole tables for it, in
/// each namespace: milliseconds, in which it may not let others run.
///
/// # Errors
/// The sockets of this process's namespace cannot be listed. Another namespace may end meanwhile; what is missing
/// of it is logged.
pub(super) fn list(cgroup: &Path, inode: u64, protocols: &[u8]) -> Result<Listed, Error> {
    let tree = Tree::below(cgroup, inode)?;
    let mut listed = Listed { rows: Vec::new(), is_whole: true };
    for (place, namespace) in namespaces::all()?.into_iter().enumerate() {
        let found = list_in(&namespace, protocols);
        match found {
            Ok(found) => listed.rows.extend(found),
            Err(source) if place == 0 => return Err(Error::Sockets { source }),
            Err(error) => {
                tracing::debug!(%error, namespace = namespace.inode, "cannot list its sockets");
                listed.is_whole = false;
            }
        }
    }
    listed.rows.retain(|row| tree.has(row.cgroup));
    Ok(listed)
}

/// The sockets that there are.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) rows: Vec<Row>,
    /// Whether every namespace could be asked.
    is_whole: bool,
}

fn list_in(namespace: &Namespace, protocols: &[u8]) -> std::io::Result<Vec<Row>> {
    list_with(&mut namespace.open()?, namespace.inode, protocols)
}

fn list_with(diag: &mut Diag, netns: u64, protocols: &[u8]) -> std::io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &protocol in protocols {
        let states = if protocol == protocol::TCP { TCP_STATES } else { UDP_STATES };
        for family in [diag::INET, diag::INET6] {
            diag.list(family, protocol, states, netns, &mut rows)?;
        }
    }
    Ok(rows)
}

/// Processes by the inode of a socket that they have open.
fn owners_of<'a>(rows: impl Iterator<Item = &'a Row>) -> HashMap<u32, owners::Process> {
    owners::of(&rows.map(|row| row.inode).filter(|inode| *inode != 0).collect())
}
