//! Makes sockets on a host of the lab and reports what happens to them: one JSON object a line on standard output.
//! What a socket refuses is a report, never an exit status.

mod attempt;
mod churn;
mod jobs;
mod ping;
mod sockets;
mod tcp;
mod udp;

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nix::errno::Errno;
use segd_tests::{Report, TIMEOUT};

/// Makes sockets and reports what happens to them, one JSON object a line.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Connect over TCP, maybe exchange a text with an echo server, close.
    TcpConnect {
        #[command(flatten)]
        to: Target,
        /// Send this and wait for its echo.
        #[arg(long)]
        send: Option<String>,
    },
    /// Listen on TCP and echo; reports each connection. Ends with its standard input.
    TcpServe {
        /// Where; [::] takes IPv4 too.
        address: SocketAddr,
    },
    /// Connect over TCP and keep the connection: each line of standard input is sent and its echo reported.
    Hold {
        #[command(flatten)]
        to: Target,
    },
    /// Connect, exchange a text with an echo server, then wait without a time limit and report what comes or fails.
    Watch {
        #[command(flatten)]
        to: Target,
        /// By a connected UDP socket instead of TCP.
        #[arg(long)]
        udp: bool,
    },
    /// Connect a UDP socket and keep it: each line of standard input is sent, with the peer's address all the same, and
    /// its echo reported.
    UdpHold {
        #[command(flatten)]
        to: Target,
    },
    /// Send one datagram from an unconnected socket and wait for an answer.
    UdpSend {
        #[command(flatten)]
        to: Target,
        /// Wait for so many answers.
        #[arg(long, default_value_t = 1)]
        answers: u32,
        /// The datagram.
        #[arg(long, default_value = "ping")]
        send: String,
    },
    /// Connect a UDP socket, send one datagram and wait for an answer.
    UdpConnected {
        #[command(flatten)]
        to: Target,
        /// The datagram.
        #[arg(long, default_value = "ping")]
        send: String,
    },
    /// Receive datagrams and echo them; reports each. Ends with its standard input.
    UdpServe {
        /// Where; [::] takes IPv4 too.
        address: SocketAddr,
        /// Do not answer.
        #[arg(long)]
        mute: bool,
        /// Answer once more so many milliseconds later.
        #[arg(long)]
        again: Option<u64>,
        /// Answer each from a socket of its own, which is connected to the client, with its address all the same.
        #[arg(long)]
        connected: bool,
    },
    /// Send an echo request and wait for the reply.
    IcmpPing {
        /// To whom.
        to: IpAddr,
        /// By a raw socket instead of a ping socket.
        #[arg(long)]
        raw: bool,
        /// Milliseconds to wait for the reply.
        #[arg(long, default_value_t = 1000)]
        timeout: u64,
    },
    /// Only make a socket.
    Socket {
        /// The address family.
        #[arg(long, value_enum, default_value = "inet")]
        family: sockets::Family,
        /// The socket's type.
        #[arg(long, value_enum, default_value = "raw")]
        kind: sockets::Kind,
        /// The protocol's number: 1 ICMP, 58 ICMPv6, 132 SCTP, 136 UDP-Lite, 255 any.
        #[arg(long, default_value_t = 255)]
        protocol: i32,
    },
    /// Try what each line of standard input names (`tcp`, `udp` or `udp-connected`, and an address), without
    /// waiting for the peer: `sent` if the kernel took it, else what failed.
    Attempt,
    /// Make cgroups one after the other, enter each and connect at once.
    Jobs {
        /// Where they are made: `job-1.service` and so on.
        cgroup: PathBuf,
        /// To whom.
        to: SocketAddr,
        /// How many.
        #[arg(long, default_value_t = 200)]
        count: u32,
        /// Do not remove them.
        #[arg(long)]
        keep: bool,
        /// Milliseconds for one connect.
        #[arg(long, default_value_t = 1000)]
        timeout: u64,
    },
    /// Make a TCP socket in a new cgroup, go back, remove that; then connect the socket to the address of each line of
    /// standard input, until one takes it.
    Leave {
        /// The cgroup, with what is missing above it.
        cgroup: PathBuf,
        /// The topmost to be removed.
        top: PathBuf,
    },
    /// Connect to TCP echo servers again and again, to each in turn, exchange one byte, and count the outcomes.
    Churn {
        /// To whom.
        #[arg(required = true)]
        to: Vec<SocketAddr>,
        /// How often in all.
        #[arg(long, default_value_t = 1000)]
        connects: u64,
        /// From this address.
        #[arg(long)]
        bind: Option<IpAddr>,
        /// Milliseconds for one connect.
        #[arg(long, default_value_t = 1000)]
        timeout: u64,
    },
}

#[derive(Debug, Args)]
struct Target {
    /// The peer.
    to: SocketAddr,
    /// The own address; port 0 lets the kernel choose.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Milliseconds to wait for the connection, and again for an answer.
    #[arg(long, default_value_t = 1000)]
    timeout: u64,
}

impl Target {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

/// A system call that failed, or had no outcome in time.
#[derive(Debug)]
struct Failure {
    step: &'static str,
    errno: String,
}

impl Failure {
    fn timeout(step: &'static str) -> Self {
        Self { step, errno: TIMEOUT.into() }
    }
}

/// Names the system call of an error.
trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Failure>;
}

impl<T> Step<T> for nix::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| match errno {
            // A receive timeout of the socket ended it.
            Errno::EAGAIN => Failure::timeout(step),
            errno => Failure { step, errno: format!("{errno:?}") },
        })
    }
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Errno::try_from(error).unwrap_or(Errno::UnknownErrno)).step(step)
    }
}

fn main() -> io::Result<()> {
    let done = match Cli::parse().action {
        Action::TcpConnect { to, send } => tcp::connect_once(&to, send.as_deref()),
        Action::TcpServe { address } => tcp::serve(address),
        Action::Hold { to } => tcp::hold(&to),
        Action::UdpSend { to, answers, send } => udp::send(&to, &send, answers),
        Action::UdpHold { to } => udp::hold(&to),
        Action::Watch { to, udp: false } => tcp::watch(&to),
        Action::Watch { to, udp: true } => udp::watch(&to),
        Action::UdpConnected { to, send } => udp::send_connected(&to, &send),
        Action::UdpServe { address, mute, again, connected } => {
            udp::serve(address, mute, again.map(Duration::from_millis), connected)
        }
        Action::IcmpPing { to, raw, timeout } => ping::ping(to, raw, Duration::from_millis(timeout)),
        Action::Socket { family, kind, protocol } => sockets::only_open(family, kind, protocol),
        Action::Attempt => attempt::attempts(),
        Action::Jobs { cgroup, to, count, keep, timeout } => {
            jobs::run(&cgroup, count, keep, to, Duration::from_millis(timeout))
        }
        Action::Leave { cgroup, top } => jobs::leave(&cgroup, &top),
        Action::Churn { to, connects, bind, timeout } => {
            churn::churn(&to, connects, bind, Duration::from_millis(timeout))
        }
    };
    match done {
        Ok(()) => Ok(()),
        Err(Failure { step, errno }) => report(&Report::Failed { step: step.into(), errno }),
    }
}

/// Writes a report. The lab that reads it may be gone; then there is nothing left to do.
fn tell(happened: &Report) {
    if report(happened).is_err() {
        std::process::exit(0);
    }
}

fn report(happened: &Report) -> io::Result<()> {
    let line = serde_json::to_string(happened)?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Ends the process when its standard input ends, that is when the lab lets go of it.
fn end_with_stdin() {
    // An error ends it just as well.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    std::process::exit(0);
}
