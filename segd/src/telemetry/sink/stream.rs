//! Records as a stream over TCP. What the receiver's kernel has not acknowledged when a connection ends is sent
//! again by the next one, so a record may arrive twice, and is lost only in the receiver.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::Written;
use super::pending::Pending;
use super::syslog::Remote;
use super::wait::{PATIENCE, until_writable};

/// How long a receiver may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// A receiver that acknowledges nothing more for so long counts as down.
const STALLED: Duration = Duration::from_secs(2);
/// A receiver that acknowledges nothing, or takes nothing, for this many milliseconds is given up (tcp(7),
/// TCP_USER_TIMEOUT).
const GIVEN_UP_MS: u32 = 30_000;
/// Seconds without traffic before the kernel asks whether the receiver is there, and between three such questions.
const KEEPALIVE: (u32, u32, u32) = (30, 10, 3);

#[derive(Debug)]
pub(super) struct Stream {
    to: Remote,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Bytes, from the first pending one on, that were handed to the kernel.
    handed: usize,
    /// How many of these were acknowledged when it was last asked,
    arrived: usize,
    /// and when that number last grew, or there was nothing to acknowledge.
    moved: Instant,
}

impl Stream {
    pub(super) fn new(to: Remote) -> Self {
        Self { to, connection: None }
    }

    /// Records are done with when the receiver's kernel has acknowledged them.
    pub(super) fn write(&mut self, pending: &Pending) -> Written {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => match connect(&self.to) {
                Ok(stream) => {
                    none.insert(Connection { stream, handed: 0, arrived: 0, moved: Instant::now() })
                }
                Err(error) => return Written::failed(0, error),
            },
        };
        let result = connection.still_there().and_then(|()| connection.hand_over(pending.bytes()));
        let done = connection.acknowledged(pending);
        let result = result.and_then(|()| connection.moves());
        if result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::TimedOut) {
            self.connection = None;
        }
        Written { done, lost: 0, result }
    }
}

impl Connection {
    /// Sees the end of a connection before anything more is written to nobody.
    fn still_there(&mut self) -> io::Result<()> {
        loop {
            match self.stream.read(&mut [0; 512]) {
                Ok(0) => return Err(io::Error::other("the receiver closed the connection")),
                // Receivers have nothing to say.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(lasting(error)),
            }
        }
    }

    fn hand_over(&mut self, bytes: &[u8]) -> io::Result<()> {
        while self.handed < bytes.len() {
            match self.stream.write(&bytes[self.handed..]) {
                Ok(n) => self.handed += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !until_writable(&self.stream, PATIENCE)? {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the receiver takes nothing"));
                    }
                }
                Err(error) => return Err(lasting(error)),
            }
        }
        Ok(())
    }

    /// How many of the pending records have arrived.
    fn acknowledged(&mut self, pending: &Pending) -> usize {
        let arrived = self.handed.saturating_sub(unacknowledged(&self.stream));
        if arrived > self.arrived || arrived == self.handed {
            self.moved = Instant::now();
        }
        let (count, bytes) = pending.whole(arrived);
        (self.handed, self.arrived) = (self.handed - bytes, arrived - bytes);
        count
    }

    fn moves(&self) -> io::Result<()> {
        if self.moved.elapsed() < STALLED {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the receiver takes nothing"))
    }
}

/// ETIMEDOUT is the kernel's word that the receiver is given up, not one of a wait that goes on.
fn lasting(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::TimedOut => io::Error::other(error),
        _ => error,
    }
}

/// Bytes handed to the kernel that the receiver has not acknowledged (SIOCOUTQ, tcp(7)).
fn unacknowledged(stream: &TcpStream) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and TIOCOUTQ (the number of SIOCOUTQ) writes one int to the address given.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { usize::MAX }
}

fn connect(to: &Remote) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in (to.host.as_str(), to.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                let (idle, interval, count) = KEEPALIVE;
                setsockopt(&stream, sockopt::KeepAlive, &true)?;
                setsockopt(&stream, sockopt::TcpKeepIdle, &idle)?;
                setsockopt(&stream, sockopt::TcpKeepInterval, &interval)?;
                setsockopt(&stream, sockopt::TcpKeepCount, &count)?;
                setsockopt(&stream, sockopt::TcpUserTimeout, &GIVEN_UP_MS)?;
                return Ok(stream);
            }
            // Not a wait of ours that goes on.
            Err(error) => last = lasting(error),
        }
    }
    Err(last)
}
