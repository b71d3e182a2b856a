//! What segd's build and tests need on a machine.

use std::fmt::{self, Display, Formatter};

/// The bpf-linker that is known to work.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// One thing that a machine has or lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Piece {
    /// `cc`, which Rust links with.
    Cc,
    /// A Rust compiler that can compile for bpfel-unknown-none.
    BpfCompiler,
    /// bpf-linker with an LLVM not older than the compiler's.
    BpfLinker,
    /// rustfmt.
    Rustfmt,
    /// clippy.
    Clippy,
    /// `ip`.
    Iproute2,
    /// PostgreSQL's server.
    Postgres,
    /// Redis's server.
    Redis,
    /// nginx.
    Nginx,
    /// curl.
    Curl,
    /// dnsmasq.
    Dnsmasq,
    /// Prometheus and promtool.
    Prometheus,
    /// rsyslog.
    Rsyslog,
    /// A headless browser, with a font.
    Chromium,
    /// nft.
    Nftables,
    /// QEMU for x86-64.
    Qemu,
    /// A busybox that needs no library.
    Busybox,
    /// cpio.
    Cpio,
}

impl Piece {
    /// The Debian packages that bring it, where that is all there is to it.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Cc => &["gcc", "libc6-dev"],
            Self::BpfCompiler => &["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf"],
            Self::Iproute2 => &["iproute2"],
            Self::Postgres => &["postgresql"],
            Self::Redis => &["redis-server"],
            Self::Nginx => &["nginx"],
            Self::Curl => &["curl"],
            Self::Dnsmasq => &["dnsmasq-base"],
            Self::Prometheus => &["prometheus"],
            Self::Rsyslog => &["rsyslog"],
            Self::Chromium => &["chromium", "fonts-dejavu-core"],
            Self::Nftables => &["nftables"],
            Self::Qemu => &["qemu-system-x86"],
            Self::Busybox => &["busybox-static"],
            Self::Cpio => &["cpio"],
            Self::BpfLinker | Self::Rustfmt | Self::Clippy => &[],
        }
    }

    /// The service that its Debian package would start.
    pub(crate) fn service(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some("postgresql"),
            Self::Redis => Some("redis-server"),
            Self::Nginx => Some("nginx"),
            Self::Nftables => Some("nftables"),
            Self::Prometheus => Some("prometheus"),
            Self::Rsyslog => Some("rsyslog"),
            _ => None,
        }
    }

    /// What a person can do to get it.
    pub(crate) fn advice(self) -> String {
        match self {
            Self::BpfCompiler => {
                "on Debian 12: apt-get install rustc-web libstd-rust-web-dev libstd-rust-web-dev-bpf \
                                  (bookworm-security must be among the sources); with rustup: \
                                  rustup toolchain install nightly --profile minimal --component rust-src"
                    .into()
            }
            Self::BpfLinker => format!(
                "install llvm-22-dev (Debian, or apt.llvm.org), then LLVM_PREFIX=/usr/lib/llvm-22 cargo install \
                 bpf-linker --version {BPF_LINKER_VERSION} --locked --no-default-features --features llvm-22"
            ),
            Self::Rustfmt => "rustup component add rustfmt".into(),
            Self::Clippy => "rustup component add clippy".into(),
            other => format!("on Debian: apt-get install {}", other.packages().join(" ")),
        }
    }
}

impl Display for Piece {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cc => "a C compiler (cc), which Rust links with",
            Self::BpfCompiler => "a Rust compiler for bpfel-unknown-none, which compiles the BPF programs",
            Self::BpfLinker => {
                "bpf-linker with an LLVM not older than that compiler's, which links the BPF programs"
            }
            Self::Rustfmt => "rustfmt",
            Self::Clippy => "clippy",
            Self::Iproute2 => "iproute2 (ip), with which the lab wires its hosts",
            Self::Postgres => "PostgreSQL, a server in the lab",
            Self::Redis => "Redis, a server in the lab",
            Self::Nginx => "nginx, a server in the lab",
            Self::Curl => "curl, a client in the lab",
            Self::Dnsmasq => "dnsmasq, a DNS server for tests",
            Self::Prometheus => "Prometheus, which tries segd's rules and dashboards",
            Self::Rsyslog => "rsyslog, a syslog server for tests",
            Self::Chromium => "Chromium, in which the pages of `segd map` are tried",
            Self::Nftables => "nftables (nft), which segd is measured against",
            Self::Qemu => "QEMU, which emulates a machine for another kernel",
            Self::Busybox => "busybox without libraries, the system in that machine",
            Self::Cpio => "cpio, which packs that system",
        })
    }
}
