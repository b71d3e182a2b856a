//! Flow records on standard output, or any other stream that cannot take back what was written.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use super::pending::Pending;
use super::writer::{whole_lines, write_some};
use super::{Options, Output, Sink, Written};

/// Starts a sink that writes to standard output, past the standard library's buffer.
///
/// # Errors
/// Standard output is closed, or no thread could be started.
pub fn start(options: Options) -> io::Result<Sink> {
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Sink::start(options, Stream { to: stdout, torn: false })
}

struct Stream<W> {
    to: W,
    /// The last line is not whole.
    torn: bool,
}

impl<W: Write> Stream<W> {
    /// Returns how many bytes of whole lines were written, and what stopped it.
    fn write_lines(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        if self.torn {
            if let (_, Err(error)) = write_some(&mut self.to, b"\n") {
                return (0, Err(error));
            }
            self.torn = false;
        }
        let (done, result) = write_some(&mut self.to, lines);
        let whole = whole_lines(&lines[..done]);
        self.torn = done > whole;
        (whole, result)
    }
}

impl<W: Write + Send + 'static> Output for Stream<W> {
    fn write(&mut self, pending: &Pending) -> Written {
        let (bytes, result) = self.write_lines(pending.bytes());
        Written { done: pending.whole(bytes).0, lost: 0, result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then fails.
    struct Small {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= n;
            self.taken.extend(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_torn_line_is_ended_and_written_again() {
        let mut stream = Stream { to: Small { taken: Vec::new(), room: 6 }, torn: false };
        let (whole, result) = stream.write_lines(b"one\ntwo\n");
        assert_eq!((whole, result.unwrap_err().kind()), (4, io::ErrorKind::StorageFull));
        stream.to.room = 100;
        assert_eq!(stream.write_lines(b"two\n").0, 4);
        assert_eq!(String::from_utf8(stream.to.taken).unwrap(), "one\ntw\ntwo\n");
    }
}
