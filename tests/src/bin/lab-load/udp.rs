//! Requests in datagrams, from connected sockets or from others.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::tally::{Done, Plan, Tally};
use crate::tcp::REQUEST;

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_millis(200);

/// Answers each request; with `connected` only those of the first client, to which the socket is then connected.
pub(crate) fn serve(address: SocketAddr, connected: bool) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = [0; REQUEST];
        if !connected {
            loop {
                let (length, from) = socket.recv_from(&mut buffer)?;
                socket.send_to(&buffer[..length], from)?;
            }
        }
        let (mut length, client) = socket.recv_from(&mut buffer)?;
        socket.connect(client)?;
        loop {
            socket.send(&buffer[..length])?;
            length = socket.recv(&mut buffer)?;
        }
    });
    Ok(())
}

pub(crate) fn requests(to: SocketAddr, plan: Plan, connected: bool) -> io::Result<Tally> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if connected {
        socket.connect(to)?;
    }
    let mut number = 0_u64;
    plan.repeat(true, || {
        number += 1;
        let mut buffer = [7; REQUEST];
        buffer[..8].copy_from_slice(&number.to_le_bytes());
        if connected {
            socket.send(&buffer)?;
        } else {
            socket.send_to(&buffer, to)?;
        }
        loop {
            let received = if connected {
                socket.recv(&mut buffer)
            } else {
                socket.recv_from(&mut buffer).map(|(n, _)| n)
            };
            match received {
                Ok(_) if buffer[..8] == number.to_le_bytes() => return Ok(Done::Answered(REQUEST)),
                // The late answer to a request that was given up.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Done::Lost),
                Err(error) => return Err(error),
            }
        }
    })
}
