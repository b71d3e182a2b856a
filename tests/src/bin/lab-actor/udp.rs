//! UDP clients and the echo server.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use nix::sys::socket::SockType;
use segd_tests::Report;

use crate::{Failure, Step, Target, end_with_stdin, sockets, tell};

pub(crate) fn send(target: &Target, text: &str) -> Result<(), Failure> {
    let socket = open(target)?;
    socket.send_to(text.as_bytes(), target.to).step("sendto")?;
    receive(&socket)
}

pub(crate) fn send_connected(target: &Target, text: &str) -> Result<(), Failure> {
    let socket = open(target)?;
    socket.connect(target.to).step("connect")?;
    socket.send(text.as_bytes()).step("send")?;
    receive(&socket)
}

pub(crate) fn serve(address: SocketAddr, mute: bool) -> Result<(), Failure> {
    let socket = UdpSocket::bind(address).step("bind")?;
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
            if let Err(Failure { step, errno }) = socket.send_to(&buffer[..length], from).step("sendto") {
                tell(&Report::Failed { step: step.into(), errno });
            }
        }
    });
    end_with_stdin();
    Ok(())
}

fn open(target: &Target) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::from(sockets::bound(SockType::Datagram, target.to, target.bind)?);
    socket.set_read_timeout(Some(target.timeout())).step("setsockopt")?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> Result<(), Failure> {
    tell(&Report::Sent);
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).step("recv")?;
    tell(&Report::Received { from, text: text_of(&buffer[..length]) });
    Ok(())
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
