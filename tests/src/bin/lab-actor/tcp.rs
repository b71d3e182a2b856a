//! TCP clients and the echo server.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use segd_tests::Report;

use crate::{Failure, Step, Target, end_with_stdin, sockets, tell};

pub(crate) fn connect_once(target: &Target, send: Option<&str>) -> Result<(), Failure> {
    let mut stream = connect(target)?;
    if let Some(text) = send {
        let answer = exchange(&mut stream, text)?;
        tell(&answer);
    }
    Ok(())
}

/// Keeps a connection for as long as standard input gives lines. A failure does not end it: the next line tries again.
pub(crate) fn hold(target: &Target) -> Result<(), Failure> {
    let mut stream = connect(target)?;
    for line in io::stdin().lock().lines() {
        let line = line.step("read")?;
        let outcome = exchange(&mut stream, &line);
        tell(&outcome.unwrap_or_else(|Failure { step, errno }| Report::Failed { step: step.into(), errno }));
    }
    Ok(())
}

/// Waits for as long as it takes for something to happen to an idle connection.
pub(crate) fn watch(target: &Target) -> Result<(), Failure> {
    let mut stream = connect(target)?;
    let answer = exchange(&mut stream, "ping")?;
    tell(&answer);
    stream.set_read_timeout(None).step("setsockopt")?;
    match stream.read(&mut [0]).step("recv")? {
        0 => tell(&Report::Closed),
        _ => tell(&answer),
    }
    Ok(())
}

pub(crate) fn serve(address: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).step("bind")?;
    tell(&Report::Listening { address: listener.local_addr().step("getsockname")? });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            if let Ok(peer) = stream.peer_addr() {
                tell(&Report::Accepted { peer });
            }
            // How a connection ends is for the client to report.
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    end_with_stdin();
    Ok(())
}

fn connect(target: &Target) -> Result<TcpStream, Failure> {
    let begun = Instant::now();
    let stream = sockets::tcp(target.to, target.bind, target.timeout())?;
    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let local = stream.local_addr().step("getsockname")?;
    tell(&Report::Connected { local, peer: target.to, micros });
    Ok(stream)
}

/// Sends `text` and waits until as many bytes came back.
fn exchange(stream: &mut TcpStream, text: &str) -> Result<Report, Failure> {
    stream.write_all(text.as_bytes()).step("send")?;
    let mut answer = vec![0; text.len()];
    match stream.read_exact(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Report::Closed),
        outcome => outcome.step("recv")?,
    }
    let from = stream.peer_addr().step("getpeername")?;
    Ok(Report::Received { from, text: String::from_utf8_lossy(&answer).into_owned() })
}
