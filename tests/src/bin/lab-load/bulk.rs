//! Streams of bytes that nobody looks at.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::tally::{Done, Plan, Tally};

/// Bytes given to one system call.
const CHUNK: usize = 128 << 10;

pub(crate) fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = vec![0; CHUNK];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
            });
        }
    });
    Ok(())
}

pub(crate) fn stream(to: SocketAddr, plan: Plan) -> io::Result<Tally> {
    let mut stream = TcpStream::connect(to)?;
    let buffer = vec![7; CHUNK];
    plan.repeat(false, || {
        stream.write_all(&buffer)?;
        Ok(Done::Answered(CHUNK))
    })
}
