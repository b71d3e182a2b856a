//! One GET over HTTP/1.0, to a TCP port or a unix socket. Enough for an agent's own endpoints.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

const TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Result<Response> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, path)
}

/// A GET over a unix socket, with the id of the process that listens there.
pub(crate) fn get_unix(socket: &Path, path: &str) -> Result<(Response, i32)> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let listener = getsockopt(&stream, PeerCredentials)?.pid();
    Ok((exchange(stream, path)?, listener))
}

fn exchange(mut stream: impl Read + Write, path: &str) -> Result<Response> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no answer to GET {path}"))?;
    parse(&text).with_context(|| format!("GET {path}: this is not HTTP: {text:?}"))
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_response() {
        let text = "HTTP/1.0 503 Service Unavailable\r\ncontent-length: 9\r\n\r\nnot ready";
        assert_eq!(parse(text), Some(Response { status: 503, body: "not ready".into() }));
        assert_eq!(parse("nonsense"), None);
    }
}
