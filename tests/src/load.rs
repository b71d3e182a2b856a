//! The loads that `lab-load` makes, and what it reports of one.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of traffic between one client process and one server process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Connect over TCP, send a request, wait for the answer, close.
    TcpConnect,
    /// Requests and answers over one TCP connection.
    TcpRequest,
    /// Requests and answers in datagrams, both sockets unconnected.
    UdpRequest,
    /// Requests and answers in datagrams, both sockets connected.
    UdpConnected,
    /// One TCP stream, as fast as it goes.
    TcpBulk,
    /// Eight of them.
    TcpBulk8,
}

impl Load {
    /// Every load, in the order in which they are measured.
    pub const ALL: [Self; 6] = [
        Self::TcpConnect,
        Self::TcpRequest,
        Self::UdpRequest,
        Self::UdpConnected,
        Self::TcpBulk,
        Self::TcpBulk8,
    ];

    /// Its name in reports and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpConnect => "tcp-connect",
            Self::TcpRequest => "tcp-request",
            Self::UdpRequest => "udp-request",
            Self::UdpConnected => "udp-connected",
            Self::TcpBulk => "tcp-bulk",
            Self::TcpBulk8 => "tcp-bulk8",
        }
    }

    /// Where its server listens.
    pub const fn port(self) -> u16 {
        match self {
            Self::TcpConnect => 7001,
            Self::TcpRequest => 7002,
            Self::UdpRequest => 7003,
            Self::UdpConnected => 7004,
            Self::TcpBulk => 7005,
            Self::TcpBulk8 => 7006,
        }
    }

    /// How many streams it has if it only moves bytes; 0 for requests.
    pub const fn streams(self) -> usize {
        match self {
            Self::TcpBulk => 1,
            Self::TcpBulk8 => 8,
            _ => 0,
        }
    }
}

/// What a client counted, its warm-up left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// How long it counted.
    pub seconds: f64,
    /// Requests that were answered; for bulk loads, writes.
    pub operations: u64,
    /// Requests over the whole run, warm-up included.
    pub with_warm_up: u64,
    /// Bytes that were sent, without headers.
    pub bytes: u64,
    /// Datagrams without an answer within 200 ms.
    pub lost: u64,
    /// Time of an operation in microseconds: its median. None for bulk loads, as of the next two.
    pub p50_us: Option<f64>,
    /// The time that 99 of 100 operations kept to.
    pub p99_us: Option<f64>,
    /// The time that 999 of 1000 operations kept to.
    pub p999_us: Option<f64>,
    /// CPU time of the client in microseconds, in user space and in the kernel.
    pub cpu_us: u64,
}

impl LoadReport {
    /// Operations a second; for bulk loads, bytes a second.
    pub fn rate(&self, load: Load) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
        let count = if load.streams() > 0 { self.bytes as f64 } else { self.operations as f64 };
        count / self.seconds
    }
}
