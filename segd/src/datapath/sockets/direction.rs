//! Who began a connection that is older than the programs.

use std::collections::HashSet;

use segd_common::addr::Addr;
use segd_common::traffic::Direction;

use super::Row;

/// Where servers of this host wait, in every network namespace.
#[derive(Debug, Default)]
pub(super) struct Listeners(HashSet<(u64, u8, u16, Addr)>);

/// `0.0.0.0`.
const ANY_V4: Addr = Addr::v4([0; 4]);

/// Ports that clients with the privilege take for themselves, as NFS and the r-commands do: IPPORT_RESERVED / 2 up
/// to IPPORT_RESERVED of bindresvport(3).
const RESERVED: std::ops::Range<u16> = 512..1024;

/// The kernel's first port for clients, by default (`ip_local_port_range`, ip(7)).
const EPHEMERAL: u16 = 32_768;

impl Listeners {
    pub(super) fn among(rows: &[Row]) -> Self {
        let servers = rows.iter().filter(|row| row.is_server());
        Self(servers.map(|row| (row.netns, row.protocol, row.local_port, row.local)).collect())
    }

    fn wait_at(&self, row: &Row) -> bool {
        let there = |addr| self.0.contains(&(row.netns, row.protocol, row.local_port, addr));
        let v4 = row.local.as_v4().is_some();
        there(row.local) || there(Addr::UNSPECIFIED) || (v4 && there(ANY_V4))
    }

    /// The direction of a connection. Inbound, if a server waits at its local end. Where none does, the lower port
    /// is the server's (it may be gone by now), unless the local one is a client's reserved port.
    pub(super) fn direction(&self, row: &Row) -> Direction {
        if self.wait_at(row) {
            return Direction::Inbound;
        }
        let reserved = RESERVED.contains(&row.local_port) && row.peer_port < EPHEMERAL;
        if reserved || row.peer_port < row.local_port { Direction::Outbound } else { Direction::Inbound }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use segd_common::traffic::protocol::{TCP, UDP};

    use super::super::state::{CLOSE, ESTABLISHED, LISTEN};
    use super::*;

    fn row(protocol: u8, state: u8, local: &str, peer: &str) -> Row {
        let (local, peer): (SocketAddr, SocketAddr) = (local.parse().unwrap(), peer.parse().unwrap());
        Row {
            cookie: 1,
            family: 2,
            protocol,
            state,
            interface: 0,
            local: Addr::from(local.ip()),
            peer: Addr::from(peer.ip()),
            local_port: local.port(),
            peer_port: peer.port(),
            inode: 1,
            uid: 0,
            cgroup: 1,
            netns: 1,
        }
    }

    #[test]
    fn who_began() {
        let unbound = |ip: &str| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0).to_string();
        let tcp = |local: &str, any: &str| row(TCP, LISTEN, local, &unbound(any));
        let udp = |local: &str, any: &str| row(UDP, CLOSE, local, &unbound(any));
        let servers = [
            tcp("0.0.0.0:5432", "0.0.0.0"),
            tcp("[::]:8080", "::"),
            tcp("10.1.0.1:60000", "0.0.0.0"),
            tcp("[2001:db8::1]:9000", "::"),
            udp("0.0.0.0:53", "0.0.0.0"),
            Row { netns: 2, ..tcp("0.0.0.0:50000", "0.0.0.0") },
        ];
        let listeners = Listeners::among(&servers);
        for (protocol, local, peer, wanted) in [
            // A server waits there.
            (TCP, "10.1.0.1:5432", "10.2.0.1:40000", Direction::Inbound),
            (TCP, "10.1.0.1:5432", "10.2.0.1:22", Direction::Inbound),
            (TCP, "10.1.0.1:8080", "10.2.0.1:40000", Direction::Inbound),
            (TCP, "[2001:db8::1]:8080", "[2001:db8::2]:1025", Direction::Inbound),
            (TCP, "10.1.0.1:60000", "10.2.0.1:40000", Direction::Inbound),
            (TCP, "[2001:db8::1]:9000", "[2001:db8::2]:443", Direction::Inbound),
            (UDP, "10.1.0.1:53", "10.2.0.1:40000", Direction::Inbound),
            // None waits there, on that address, in that namespace, by that protocol: the lower port is the server's.
            (TCP, "10.1.0.2:60000", "10.2.0.1:40000", Direction::Outbound),
            (TCP, "[2001:db8::2]:9000", "[2001:db8::3]:443", Direction::Outbound),
            (TCP, "10.1.0.1:50000", "10.2.0.1:443", Direction::Outbound),
            (TCP, "10.1.0.1:22", "10.2.0.1:40000", Direction::Inbound),
            (UDP, "10.1.0.1:40000", "10.2.0.1:53", Direction::Outbound),
            (UDP, "[2001:db8::1]:53", "[2001:db8::2]:40000", Direction::Inbound),
            // A client's reserved port.
            (TCP, "10.1.0.1:718", "10.2.0.1:2049", Direction::Outbound),
            (TCP, "10.1.0.1:718", "10.2.0.1:40000", Direction::Inbound),
        ] {
            let found = listeners.direction(&row(protocol, ESTABLISHED, local, peer));
            assert_eq!(found, wanted, "{protocol} {local} {peer}");
        }
    }

    #[test]
    fn what_is_a_flow() {
        for (row, wanted) in [
            (row(TCP, ESTABLISHED, "10.1.0.1:1", "10.2.0.1:2"), true),
            (row(TCP, LISTEN, "10.1.0.1:1", "0.0.0.0:0"), false),
            (row(TCP, ESTABLISHED, "10.1.0.1:1", "10.1.0.1:2"), false),
            (row(TCP, ESTABLISHED, "127.0.0.1:1", "127.0.0.2:2"), false),
            (row(UDP, ESTABLISHED, "[2001:db8::1]:1", "[2001:db8::2]:2"), true),
            (row(UDP, ESTABLISHED, "[::1]:1", "[::1]:2"), false),
            (row(UDP, CLOSE, "10.1.0.1:1", "0.0.0.0:0"), false),
        ] {
            assert_eq!(row.is_flow(), wanted, "{row:?}");
        }
    }
}
