//! NETLINK_SOCK_DIAG (sock_diag(7)) in one network namespace.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    Nla as _,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use segd_common::addr::Addr;

use super::Row;

/// AF_INET of include/linux/socket.h.
pub(super) const INET: u8 = 2;
/// AF_INET6 of include/linux/socket.h.
pub(super) const INET6: u8 = 10;

/// INET_DIAG_CGROUP_ID of include/uapi/linux/inet_diag.h: a u64, there without being asked for.
const CGROUP_ID: u16 = 21;

/// The most that the kernel puts into one message of a dump (`netlink_recvmsg`, net/netlink/af_netlink.c).
const BUFFER: usize = 32 << 10;

/// A netlink socket of the network namespace in which it was opened, for good.
pub(super) struct Diag {
    socket: Socket,
    buffer: Vec<u8>,
}

/// What a socket is found by. The kernel wants all of it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) cookie: u64,
    pub(super) family: u8,
    pub(super) protocol: u8,
    pub(super) interface: u32,
    pub(super) local: (Addr, u16),
    pub(super) peer: (Addr, u16),
}

impl Row {
    pub(super) fn id(&self) -> Id {
        Id {
            cookie: self.cookie,
            family: self.family,
            protocol: self.protocol,
            interface: self.interface,
            local: (self.local, self.local_port),
            peer: (self.peer, self.peer_port),
        }
    }
}

impl Diag {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Appends the sockets of a family and protocol whose state is in the mask.
    pub(super) fn list(
        &mut self,
        family: u8,
        protocol: u8,
        states: u32,
        netns: u64,
        rows: &mut Vec<Row>,
    ) -> io::Result<()> {
        let socket_id = if family == INET { SocketId::new_v4() } else { SocketId::new_v6() };
        // The crate's flags do not know every state.
        let states = StateFlags::from_bits_retain(states);
        let extensions = ExtensionFlags::empty();
        let request = InetRequest { family, protocol, extensions, states, socket_id };
        self.send(NLM_F_REQUEST | NLM_F_DUMP, SockDiagMessage::InetRequest(request))?;
        self.receive(|response| rows.push(row(response, protocol, netns)))
    }

    /// Destroys a socket; `false`: there is none of this id.
    pub(super) fn destroy(&mut self, id: &Id) -> io::Result<bool> {
        let request = InetRequest {
            family: id.family,
            protocol: id.protocol,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: id.local.1,
                destination_port: id.peer.1,
                source_address: in_family(id.local.0, id.family),
                destination_address: in_family(id.peer.0, id.family),
                interface_id: id.interface,
                cookie: words(id.cookie),
            },
        };
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        self.send(NLM_F_REQUEST | NLM_F_ACK, message)?;
        match self.receive(|_| {}) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn send<T: NetlinkSerializable>(&self, flags: u16, message: T) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads until the end of a dump or the answer to a request.
    fn receive(&mut self, mut each: impl FnMut(&InetResponse)) -> io::Result<()> {
        loop {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
                // The kernel pads each message to four bytes.
                let taken = (message.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(taken..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => each(&response),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return error.code.map_or(Ok(()), |code| {
                            Err(io::Error::from_raw_os_error(code.get().saturating_neg()))
                        });
                    }
                    NetlinkPayload::Overrun(_) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                    _ => {}
                }
            }
        }
    }
}

fn row(response: &InetResponse, protocol: u8, netns: u64) -> Row {
    let header = &response.header;
    let id = &header.socket_id;
    let cgroup = response.nlas.iter().find_map(|nla| match nla {
        Nla::Other(attribute) if attribute.kind() == CGROUP_ID => {
            let mut value = [0; 8];
            (attribute.value_len() == 8).then(|| attribute.emit_value(&mut value))?;
            Some(u64::from_ne_bytes(value))
        }
        _ => None,
    });
    Row {
        cookie: cookie(id.cookie),
        family: header.family,
        protocol,
        state: header.state,
        interface: id.interface_id,
        local: id.source_address.into(),
        peer: id.destination_address.into(),
        local_port: id.source_port,
        peer_port: id.destination_port,
        inode: header.inode,
        uid: header.uid,
        cgroup: cgroup.unwrap_or(0),
        netns,
    }
}

/// The kernel has a cookie as two words, the lower one first (`sock_diag_save_cookie`, net/core/sock_diag.c).
fn cookie(bytes: [u8; 8]) -> u64 {
    let [a, b, c, d, e, f, g, h] = bytes;
    let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
    word([a, b, c, d]) | word([e, f, g, h]) << 32
}

fn words(cookie: u64) -> [u8; 8] {
    let [low, high] = [cookie & u64::from(u32::MAX), cookie >> 32];
    let word = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (word(low), word(high));
    [a, b, c, d, e, f, g, h]
}

/// An address as the family writes it: IPv4 in IPv6's is v4-mapped. What IPv4 cannot write is its wildcard.
fn in_family(addr: Addr, family: u8) -> IpAddr {
    match IpAddr::from(addr) {
        IpAddr::V4(v4) if family == INET6 => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) if family == INET => IpAddr::from([0, 0, 0, 0]),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use segd_common::traffic::protocol;

    use super::super::{TCP_STATES, UDP_STATES, state};
    use super::*;

    #[test]
    fn cookies_and_addresses_as_the_kernel_writes_them() {
        for n in [0, 1, 0x1234_5678_9abc_def0, u64::MAX] {
            assert_eq!(cookie(words(n)), n);
        }
        let v4 = Addr::v4([10, 1, 2, 3]);
        assert_eq!(in_family(v4, INET).to_string(), "10.1.2.3");
        assert_eq!(in_family(v4, INET6).to_string(), "::ffff:10.1.2.3");
        assert_eq!(in_family(Addr::UNSPECIFIED, INET).to_string(), "0.0.0.0");
    }

    fn of_port(diag: &mut Diag, family: u8, protocol: u8, states: u32, port: u16) -> Vec<Row> {
        let mut rows = Vec::new();
        diag.list(family, protocol, states, 7, &mut rows).unwrap();
        rows.retain(|row| row.local_port == port);
        rows
    }

    #[test]
    fn this_process_s_sockets_are_listed_with_their_cgroup() {
        let mut diag = Diag::open().unwrap();
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_server, _) = listener.accept().unwrap();

        let [listening, accepted]: [Row; 2] = {
            let mut rows = of_port(&mut diag, INET6, protocol::TCP, TCP_STATES, port);
            rows.sort_by_key(|row| row.state != state::LISTEN);
            rows.try_into().unwrap()
        };
        assert!(listening.is_server() && accepted.state == state::ESTABLISHED);
        assert_eq!(accepted.local, Addr::v4([127, 0, 0, 1]), "v4-mapped is IPv4");
        assert!(accepted.cgroup != 0 && accepted.inode != 0 && accepted.netns == 7);

        let port = client.local_addr().unwrap().port();
        let mine = of_port(&mut diag, INET, protocol::TCP, TCP_STATES, port);
        assert_eq!((mine[0].peer_port, mine[0].family), (listening.local_port, INET));

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        assert!(of_port(&mut diag, INET, protocol::UDP, UDP_STATES, port)[0].is_server());
        udp.connect("127.0.0.1:9").unwrap();
        assert_eq!(of_port(&mut diag, INET, protocol::UDP, UDP_STATES, port)[0].state, state::ESTABLISHED);
    }

    #[test]
    fn errors_are_the_kernels() {
        let mut diag = Diag::open().unwrap();
        let error = diag.list(INET, 200, u32::MAX, 0, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "no such protocol: {error}");
    }
}
