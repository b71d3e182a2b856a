//! Requests over TCP: a connection for each, or one for all.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::tally::{Done, Plan, Tally};

/// The size of a request and of its answer in bytes.
pub(crate) const REQUEST: usize = 64;

/// Answers each request. Who connected closes first.
pub(crate) fn serve(address: SocketAddr, parallel: usize) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    for _ in 0..parallel {
        let listener = listener.try_clone()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // How a connection ends is for the client to tell.
                let _ = answer(stream);
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    while stream.read_exact(&mut request).is_ok() {
        stream.write_all(&request)?;
    }
    Ok(())
}

pub(crate) fn connects(to: SocketAddr, plan: Plan) -> io::Result<Tally> {
    plan.repeat(true, || exchange(&mut TcpStream::connect(to)?))
}

pub(crate) fn requests(to: SocketAddr, plan: Plan) -> io::Result<Tally> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    plan.repeat(true, || exchange(&mut stream))
}

fn exchange(stream: &mut TcpStream) -> io::Result<Done> {
    let mut answer = [7; REQUEST];
    stream.write_all(&answer)?;
    stream.read_exact(&mut answer)?;
    Ok(Done::Answered(REQUEST))
}
