//! UDP clients and the echo server.

use std::io::{self, BufRead as _};
use std::iter;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::sys::socket::SockType;
use segd_tests::Report;

use crate::{Failure, Step, Target, end_with_stdin, sockets, tell};

pub(crate) fn send(target: &Target, text: &str, answers: u32) -> Result<(), Failure> {
    let socket = open(target)?;
    socket.send_to(text.as_bytes(), target.to).step("sendto")?;
    tell(&Report::Sent);
    (0..answers).try_for_each(|_| receive(&socket))
}

pub(crate) fn send_connected(target: &Target, text: &str) -> Result<(), Failure> {
    let socket = open(target)?;
    socket.connect(target.to).step("connect")?;
    socket.send(text.as_bytes()).step("send")?;
    tell(&Report::Sent);
    receive(&socket)
}

/// Keeps a connected socket for as long as standard input gives lines, each of which is sent to the peer by its address.
pub(crate) fn hold(target: &Target) -> Result<(), Failure> {
    let socket = open(target)?;
    socket.connect(target.to).step("connect")?;
    for line in io::stdin().lock().lines() {
        let line = line.step("read")?;
        let sent = socket.send_to(line.as_bytes(), target.to).step("sendto");
        if let Err(Failure { step, errno }) = sent.and_then(|_| receive(&socket)) {
            tell(&Report::Failed { step: step.into(), errno });
        }
    }
    Ok(())
}

/// Waits for as long as it takes for something to happen to an idle, connected socket.
pub(crate) fn watch(target: &Target) -> Result<(), Failure> {
    let socket = open(target)?;
    socket.connect(target.to).step("connect")?;
    socket.send(b"ping").step("send")?;
    tell(&Report::Sent);
    receive(&socket)?;
    socket.set_read_timeout(None).step("setsockopt")?;
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).step("recv")?;
    tell(&Report::Received { from, text: text_of(&buffer[..length]) });
    Ok(())
}

pub(crate) fn serve(
    address: SocketAddr,
    mute: bool,
    again: Option<Duration>,
    connected: bool,
) -> Result<(), Failure> {
    let socket = UdpSocket::from(sockets::bound(SockType::Datagram, address, Some(address))?);
    tell(&Report::Listening { address: socket.local_addr().step("getsockname")? });
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            // An error is one that an earlier answer met (ECONNREFUSED): the next datagram may be fine.
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            tell(&Report::Received { from, text: text_of(&buffer[..length]) });
            if mute {
                continue;
            }
            let own = connected.then(|| answer_socket(address, from)).transpose();
            let socket = match &own {
                Ok(own) => own.as_ref().unwrap_or(&socket),
                Err(Failure { step, errno }) => {
                    tell(&Report::Failed { step: (*step).into(), errno: errno.clone() });
                    continue;
                }
            };
            for wait in iter::once(None).chain(again.map(Some)) {
                thread::sleep(wait.unwrap_or_default());
                if let Err(Failure { step, errno }) = socket.send_to(&buffer[..length], from).step("sendto") {
                    tell(&Report::Failed { step: step.into(), errno });
                }
            }
        }
    });
    end_with_stdin();
    Ok(())
}

fn answer_socket(address: SocketAddr, client: SocketAddr) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::from(sockets::bound(SockType::Datagram, address, Some(address))?);
    socket.connect(client).step("connect")?;
    Ok(socket)
}

fn open(target: &Target) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::from(sockets::bound(SockType::Datagram, target.to, target.bind)?);
    socket.set_read_timeout(Some(target.timeout())).step("setsockopt")?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> Result<(), Failure> {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).step("recv")?;
    tell(&Report::Received { from, text: text_of(&buffer[..length]) });
    Ok(())
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
