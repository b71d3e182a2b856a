//! One record a datagram, to a Unix socket or by UDP.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use super::Written;
use super::pending::Pending;
use super::syslog::Remote;
use super::wait::{PATIENCE, until_failed, until_writable};

/// How long the first datagram of a UDP socket may take to be refused.
const REFUSAL: Duration = Duration::from_millis(50);

/// Whom to send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    Unix(PathBuf),
    Udp(Remote),
}

/// How a datagram is sent that is too large for one (EMSGSIZE, ENOBUFS).
pub(super) type SendLarge = fn(BorrowedFd<'_>, &[u8]) -> io::Result<()>;

#[derive(Debug)]
pub(super) struct Datagrams {
    to: Receiver,
    large: Option<SendLarge>,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    /// Nothing was sent yet.
    untried: bool,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Datagrams {
    pub(super) fn new(to: Receiver, large: Option<SendLarge>) -> Self {
        Self { to, large, connection: None }
    }

    /// Sends each record. One that fits into no datagram is lost.
    pub(super) fn write(&mut self, pending: &Pending) -> Written {
        if let Some(error) = self.connection.as_ref().and_then(|connection| connection.socket.error()) {
            // It came too late to tell which datagram of UDP was refused; at least one was.
            let was_udp = matches!(self.connection.take(), Some(Connection { socket: Socket::Udp(_), .. }));
            return Written { done: 0, lost: u64::from(was_udp), result: Err(error) };
        }
        if pending.is_empty() && matches!(self.to, Receiver::Unix(_)) {
            // The kernel tells of a receiver that is gone when something is sent, or when one connects.
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => match self.to.connect() {
                Ok(socket) => none.insert(Connection { socket, untried: true }),
                Err(error) => return Written::failed(0, error),
            },
        };
        let written = connection.write(pending, self.large);
        if written.result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::TimedOut) {
            self.connection = None;
        }
        written
    }
}

impl Connection {
    fn write(&mut self, pending: &Pending, large: Option<SendLarge>) -> Written {
        let mut written = Written { done: 0, lost: 0, result: Ok(()) };
        for (message, weight) in pending.each() {
            match self.socket.send(message, large) {
                Ok(()) => {}
                Err(error) if is_too_large(&error) => written.lost += weight,
                Err(error) => {
                    // UDP is told here of a datagram that was sent before.
                    let refused = error.kind() == io::ErrorKind::ConnectionRefused && !self.untried;
                    written.lost += u64::from(refused && matches!(self.socket, Socket::Udp(_)));
                    written.result = Err(error);
                    break;
                }
            }
            // What the first datagram met is known before it counts as sent.
            if std::mem::take(&mut self.untried)
                && let Err(error) = self.socket.refused_at_once()
            {
                written.result = Err(error);
                break;
            }
            written.done += 1;
        }
        written
    }
}

impl Receiver {
    fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(path)?;
                Ok(Socket::Unix(socket))
            }
            Self::Udp(remote) => {
                let mut last = io::Error::other("the name has no address");
                for address in (remote.host.as_str(), remote.port).to_socket_addrs()? {
                    match connect_udp(address) {
                        Ok(socket) => return Ok(Socket::Udp(socket)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

fn connect_udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let from: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from)?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    Ok(socket)
}

impl Socket {
    fn send(&self, message: &[u8], large: Option<SendLarge>) -> io::Result<()> {
        match self.send_once(message, large) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !until_writable(self, PATIENCE)? {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the receiver takes nothing"));
                }
                match self.send_once(message, large) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        Err(io::Error::new(io::ErrorKind::TimedOut, "the receiver takes nothing"))
                    }
                    other => other,
                }
            }
            other => other,
        }
    }

    fn send_once(&self, message: &[u8], large: Option<SendLarge>) -> io::Result<()> {
        let sent = match self {
            Self::Unix(socket) => socket.send(message),
            Self::Udp(socket) => socket.send(message),
        };
        match (sent, large) {
            (Err(error), Some(large))
                if is_too_large(&error) || error.raw_os_error() == Some(libc::ENOBUFS) =>
            {
                large(self.as_fd(), message)
            }
            (sent, _) => sent.map(drop),
        }
    }

    fn refused_at_once(&self) -> io::Result<()> {
        if matches!(self, Self::Udp(_)) && until_failed(self, REFUSAL)? {
            return Err(self.error().unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(())
    }

    fn error(&self) -> Option<io::Error> {
        let error = match self {
            Self::Unix(socket) => socket.take_error(),
            Self::Udp(socket) => socket.take_error(),
        };
        error.unwrap_or_else(Some)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}
