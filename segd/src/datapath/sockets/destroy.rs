//! Destroys sockets: the application gets ECONNABORTED at once, and a TCP peer a reset.

use std::collections::HashMap;
use std::io;

use segd_common::addr::Addr;
use segd_common::event::Event;
use segd_common::flow::Flow;
use segd_common::socket::Owner;

use super::diag::{Diag, INET, INET6, Id};
use super::namespaces::{self, Namespace};
use super::{LiveSocket, PROTOCOLS, list_with};
use crate::datapath::Error;

/// A socket to be destroyed. Its cookie tells it from every other of the same addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    cookie: u64,
    protocol: u8,
    local: (Addr, u16),
    peer: (Addr, u16),
    /// Who may be in its network namespace; 0: nobody known.
    pid: u32,
}

impl Target {
    fn new(cookie: u64, owner: &Owner, flow: &Flow) -> Self {
        Self {
            cookie,
            protocol: flow.protocol,
            local: (flow.local, flow.local_port),
            peer: (flow.peer, flow.peer_port),
            pid: owner.pid,
        }
    }

    /// SO_COOKIE.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The ids under which the kernel may know it: a socket of AF_INET6 may have IPv4 ends.
    fn ids(&self) -> impl Iterator<Item = Id> {
        let Self { cookie, protocol, local, peer, .. } = *self;
        let v4 = peer.0.as_v4().is_some();
        let families: &[u8] = if v4 { &[INET, INET6] } else { &[INET6] };
        families.iter().map(move |&family| Id { cookie, family, protocol, interface: 0, local, peer })
    }
}

impl From<&LiveSocket> for Target {
    fn from(socket: &LiveSocket) -> Self {
        Self::new(socket.cookie, &socket.owner, &socket.flow)
    }
}

impl From<&Event> for Target {
    fn from(event: &Event) -> Self {
        Self::new(event.cookie, &event.owner, &event.flow)
    }
}

/// Destroys sockets, in whatever network namespace they are; a socket that is gone is destroyed. Returns those that
/// are not, with the kernel's word. Blocks, for milliseconds where a socket has to be searched.
///
/// # Errors
/// If nothing can be destroyed at all: without CAP_NET_ADMIN the kernel says EPERM, without INET_DIAG_DESTROY
/// EOPNOTSUPP for each, but without `/proc` nothing is tried.
pub fn destroy(targets: &[Target]) -> Result<Vec<(Target, io::Error)>, Error> {
    let own = namespaces::own()?;
    let mut open = Open::default();
    let mut failed = Vec::new();
    let mut missing = HashMap::new();
    for target in targets {
        let elsewhere = namespaces::of_process(target.pid).filter(|n| n.inode != own.inode);
        match open.destroy_in([Some(own.clone()), elsewhere], target) {
            Ok(true) => {}
            Ok(false) => {
                missing.insert(target.cookie, *target);
            }
            Err(error) => failed.push((*target, error)),
        }
    }
    if !missing.is_empty() {
        open.search(&mut missing, &mut failed)?;
    }
    Ok(failed)
}

/// The netlink sockets of the namespaces entered so far.
#[derive(Default)]
struct Open(HashMap<u64, Diag>);

impl Open {
    fn diag(&mut self, namespace: &Namespace) -> io::Result<&mut Diag> {
        use std::collections::hash_map::Entry;
        match self.0.entry(namespace.inode) {
            Entry::Occupied(there) => Ok(there.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(namespace.open()?)),
        }
    }

    /// By the addresses that are known of it; `false`: not found by them.
    fn destroy_in(&mut self, places: [Option<Namespace>; 2], target: &Target) -> io::Result<bool> {
        for namespace in places.iter().flatten() {
            // A namespace that may not be entered, or is gone.
            let Ok(diag) = self.diag(namespace) else { continue };
            for id in target.ids() {
                if diag.destroy(&id)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// By their cookies alone, among all sockets of all namespaces: the addresses of a packet may be other than the
    /// socket's (translated, or not yet known), and a socket bound to an interface is found with that only.
    fn search(
        &mut self,
        missing: &mut HashMap<u64, Target>,
        failed: &mut Vec<(Target, io::Error)>,
    ) -> Result<(), Error> {
        for namespace in namespaces::all()? {
            if missing.is_empty() {
                break;
            }
            let Ok(diag) = self.diag(&namespace) else { continue };
            for row in list_with(diag, namespace.inode, &PROTOCOLS).unwrap_or_default() {
                let Some(target) = missing.remove(&row.cookie) else { continue };
                if let Err(error) = diag.destroy(&row.id()) {
                    failed.push((target, error));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd as _;

    use segd_common::traffic::protocol::{TCP, UDP};

    use super::*;

    fn cookie(socket: &impl std::os::fd::AsRawFd) -> u64 {
        let (mut cookie, mut length) = (0_u64, 8);
        // SAFETY: the option's value is eight bytes (SO_COOKIE, socket(7)).
        let failed = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        assert_eq!(failed, 0);
        cookie
    }

    fn target(cookie: u64, protocol: u8, local: SocketAddr, peer: SocketAddr) -> Target {
        let end = |a: SocketAddr| (Addr::from(a.ip()), a.port());
        Target { cookie, protocol, local: end(local), peer: end(peer), pid: std::process::id() }
    }

    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[test]
    fn a_connection_ends_at_once_and_a_wrong_cookie_ends_nothing() {
        if !is_root() {
            return;
        }
        for (listen, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let to: IpAddr = to.parse().unwrap();
            let mut client = TcpStream::connect((to, port)).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let ends = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            let right = target(cookie(&server), TCP, ends.0, ends.1);
            let wrong = Target { cookie: right.cookie + 1_000_000, ..right };
            assert!(destroy(&[wrong]).unwrap().is_empty(), "what is not there is gone");
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
            assert!(destroy(&[right]).unwrap().is_empty());
            let error = server.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{listen}: {error}");
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{listen}: {error}");
            assert!(destroy(&[right]).unwrap().is_empty(), "once more");
        }
    }

    #[test]
    fn a_socket_is_found_by_its_cookie_alone() {
        if !is_root() {
            return;
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:9").unwrap();
        let nowhere = "0.0.0.0:0".parse().unwrap();
        assert!(destroy(&[target(cookie(&socket), UDP, nowhere, nowhere)]).unwrap().is_empty());
        let error = socket.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        assert!(socket.as_raw_fd() > 0);
    }
}
