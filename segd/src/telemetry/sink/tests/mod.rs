mod hostile;
mod receivers;
mod summing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Sink, SinkStatus};
use crate::telemetry::record::FlowRecord;
use crate::telemetry::record::tests::{denied, event, record};

/// A denied flow that can be told from others.
fn numbered(n: u64) -> Arc<FlowRecord> {
    let mut event = denied();
    event.count = n;
    Arc::new(record(&event))
}

fn until(what: &str, sink: &Sink, done: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let status = sink.status();
        if done(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{what}: {status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The parts of a syslog message by RFC 5424 section 6, and the record that it carries.
struct Message {
    priority: u8,
    host: String,
    id: String,
    record: FlowRecord,
}

impl Message {
    /// Fails on all that the grammar does not have.
    fn parse(bytes: &[u8]) -> Self {
        assert!(bytes.iter().all(|b| (0x20..0x7f).contains(b)), "{:?}", String::from_utf8_lossy(bytes));
        let text = std::str::from_utf8(bytes).unwrap();
        let (priority, rest) = text.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert!(!priority.starts_with('0') && priority.len() <= 3);
        let parts: Vec<&str> = rest.splitn(8, ' ').collect();
        let [version, time, host, app, process, id, data, json] = parts[..] else { panic!("{text}") };
        assert_eq!((version, app, data), ("1", "segd", "-"));
        assert_eq!(process, std::process::id().to_string());
        assert!((1..=255).contains(&host.len()));
        let record: FlowRecord = serde_json::from_str(json).unwrap();
        assert_eq!(time, format!("{:.6}", record.time));
        Self { priority: priority.parse().unwrap(), host: host.to_owned(), id: id.to_owned(), record }
    }
}

/// The messages of a stream, by RFC 6587 section 3.4.1; with what follows the last whole one.
fn octet_counted(mut stream: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut messages = Vec::new();
    while let Some(at) = stream.iter().position(|b| *b == b' ') {
        let length: usize = std::str::from_utf8(&stream[..at]).unwrap().parse().unwrap();
        assert!(!stream.starts_with(b"0"));
        let Some(message) = stream.get(at + 1..at + 1 + length) else { break };
        messages.push(message);
        stream = &stream[at + 1 + length..];
    }
    (messages, stream)
}
