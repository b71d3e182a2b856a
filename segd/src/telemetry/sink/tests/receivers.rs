//! Receivers that are late, gone, full or hanging: nobody waits for them, and what they did not get is counted.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{setsockopt, sockopt};
use tempfile::TempDir;

use super::super::syslog::{self, Facility};
use super::super::{Options, Sink};
use super::*;

const WAIT: Duration = Duration::from_secs(20);

fn sink(address: &str, queue: usize) -> Sink {
    let options = Options { queue, ..Options::named("syslog") };
    syslog::start(options, address.parse().unwrap(), Facility::default()).unwrap()
}

fn offer(sink: &Sink, numbers: impl IntoIterator<Item = u64>) {
    let began = Instant::now();
    numbers.into_iter().for_each(|n| sink.offer(&[numbered(n)]));
    assert!(began.elapsed() < Duration::from_secs(5), "offering waits for nobody");
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream
}

/// The numbers of the records that come until `last`, or until the stream ends.
fn numbers(stream: &mut TcpStream, last: u64) -> Vec<u64> {
    let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
    while numbers.last() != Some(&last) {
        let mut buffer = vec![0; 64 << 10];
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            n => bytes.extend(&buffer[..n]),
        }
        let (messages, rest) = octet_counted(&bytes);
        numbers.extend(messages.iter().map(|message| Message::parse(message).record.count));
        bytes = rest.to_vec();
    }
    numbers
}

#[test]
fn over_tcp_to_a_receiver_that_is_late_and_goes_and_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sink = sink(&format!("tcp://{address}"), 100);
    offer(&sink, 1..=3);
    let status = until("nobody listens", &sink, |status| !status.up);
    assert!(status.error.unwrap().contains("refused"));

    let listener = TcpListener::bind(address).unwrap();
    let mut first = accept(&listener);
    assert_eq!(numbers(&mut first, 3), [1, 2, 3]);
    until("it works", &sink, |status| status.up);
    offer(&sink, 4..=5);
    assert_eq!(numbers(&mut first, 5), [4, 5]);
    drop((first, listener));
    // Nothing is sent to a receiver that is gone, not even the first record.
    until("it is gone", &sink, |status| !status.up);
    offer(&sink, 6..=7);

    let listener = TcpListener::bind(address).unwrap();
    let mut second = accept(&listener);
    assert_eq!(numbers(&mut second, 7), [6, 7]);
    offer(&sink, 8..=8);
    assert!(sink.close(WAIT));
    assert_eq!(numbers(&mut second, 0), [8], "the rest at the end, then the end of the stream");
    let status = sink.status();
    assert_eq!((status.lost_queue, status.lost_write), (0, 0));
}

#[test]
fn over_tcp_to_a_receiver_that_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    setsockopt(&listener, sockopt::RcvBuf, &4096).unwrap();
    let sink = sink(&format!("tcp://{}", listener.local_addr().unwrap()), 500);
    let mut stream = accept(&listener);
    let mut sent = 0;
    while sink.status().lost_queue == 0 {
        offer(&sink, sent + 1..=sent + 200);
        sent += 200;
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = until("it is down", &sink, |status| !status.up);
    assert_eq!(status.error.as_deref(), Some("the receiver takes nothing"));
    // It wakes up: a last record, once there is room for it, ends what it reads.
    let reader = std::thread::spawn(move || numbers(&mut stream, u64::MAX));
    until("it works again", &sink, |status| status.up);
    offer(&sink, [u64::MAX]);
    let got = reader.join().unwrap();
    assert!(got.is_sorted_by(|a, b| a < b), "in order, none twice");
    assert!(sink.close(WAIT));
    let status = sink.status();
    assert_eq!((got.len() as u64 + status.lost_queue, status.lost_write), (sent + 1, 0));
}

#[test]
fn over_tcp_what_was_not_acknowledged_is_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    setsockopt(&listener, sockopt::RcvBuf, &4096).unwrap();
    let sink = sink(&format!("tcp://{}", listener.local_addr().unwrap()), 10_000);
    let stream = accept(&listener);
    offer(&sink, 1..=5000);
    until("it takes no more", &sink, |status| !status.up);
    // With unread bytes: the connection is reset.
    drop(stream);
    let mut stream = accept(&listener);
    let again = numbers(&mut stream, 5000);
    let first = again[0];
    assert!(first > 1 && first < 200, "{first}: what fitted into its buffer was acknowledged");
    assert_eq!(again, (first..=5000).collect::<Vec<_>>(), "in order, without a gap");
    assert!(sink.close(WAIT));
    assert_eq!(sink.status().lost_write + sink.status().lost_queue, 0);
}

#[test]
fn to_a_unix_socket_that_is_full_then_gone_then_new() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let receiver = UnixDatagram::bind(&path).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sink = sink(&format!("unix:{}", path.display()), 50);
    let mut sent = 0;
    let full = |status: &SinkStatus| status.lost_queue > 0 && !status.up;
    while !full(&sink.status()) {
        offer(&sink, sent + 1..=sent + 20);
        sent += 20;
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(sink.status().error.as_deref(), Some("the receiver takes nothing"));
    let (mut got, end) = (BTreeSet::new(), Instant::now() + WAIT);
    while !sink.status().up || (got.len() as u64) + sink.status().lost_queue < sent {
        drain(&receiver, &mut got);
        assert!(Instant::now() < end, "{:?}", sink.status());
        std::thread::sleep(Duration::from_millis(2));
    }
    let lost = sink.status().lost_queue;
    assert_eq!(got.len() as u64 + lost, sent);

    drop(receiver);
    std::fs::remove_file(&path).unwrap();
    until("it is gone", &sink, |status| !status.up);
    offer(&sink, sent + 1..=sent + 10);
    let receiver = UnixDatagram::bind(&path).unwrap();
    until("it works again", &sink, |status| status.up);
    assert!(sink.close(WAIT));
    receiver.set_nonblocking(true).unwrap();
    drain(&receiver, &mut got);
    let status = sink.status();
    assert_eq!((got.len() as u64 + lost, status.lost_queue, status.lost_write), (sent + 10, lost, 0));
}

fn drain(receiver: &UnixDatagram, got: &mut BTreeSet<u64>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match receiver.recv(&mut buffer) {
            Ok(n) => assert!(got.insert(Message::parse(&buffer[..n]).record.count), "none twice"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn by_udp_to_a_receiver_that_is_late() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = receiver.local_addr().unwrap();
    drop(receiver);
    let sink = sink(&format!("udp://{address}"), 100);
    offer(&sink, 1..=3);
    until("it is refused", &sink, |status| !status.up);
    let receiver = UdpSocket::bind(address).unwrap();
    receiver.set_read_timeout(Some(WAIT)).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut next = || {
        let n = receiver.recv(&mut buffer).unwrap();
        Message::parse(&buffer[..n]).record.count
    };
    assert_eq!([next(), next(), next()], [1, 2, 3], "what was refused is sent again");
    assert!(sink.close(WAIT));
    assert_eq!(sink.status().lost_write + sink.status().lost_queue, 0);
}
