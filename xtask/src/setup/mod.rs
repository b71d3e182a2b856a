//! `cargo xtask setup`: what this machine lacks for building and testing segd, found and installed.
//!
//! [`probe`] looks at the machine, [`plan`] decides without touching anything, [`install`] does it.

mod install;
mod piece;
mod plan;
mod probe;
mod services;

use anyhow::{Result, bail};
use clap::Args;

use crate::cargo::Toolchain;
use crate::say::say;
use crate::setup::piece::Piece;
use crate::setup::plan::{Plan, missing, plan};
use crate::setup::probe::Machine;

pub(crate) use crate::setup::probe::find;

/// Install what building and testing segd needs, and this machine lacks.
///
/// That is: a Rust compiler for the BPF target and bpf-linker with the matching LLVM; for tests iproute2, PostgreSQL,
/// Redis, nginx, curl, dnsmasq, Prometheus and rsyslog, whose services are neither started nor enabled, and Chromium; with
/// --vm QEMU, busybox and cpio.
/// `run`, `demo`, `test`, `bench` (which needs nftables) and `vm` call this by themselves.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// Only say what is missing and what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Only what `run` needs: no servers, no linters.
    #[arg(long)]
    build_only: bool,
    /// Only what `vm` needs: an emulator, no servers.
    #[arg(long, conflicts_with = "build_only")]
    vm: bool,
}

/// What is to be done on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Build segd.
    Build,
    /// Build it and measure it in the lab.
    Bench,
    /// Build it and show it in the lab.
    Demo,
    /// Build, lint and test it.
    Test,
    /// Build it and test it on other kernels.
    Vm,
}

impl Purpose {
    /// What it takes besides a compiler and a linker for the BPF programs.
    fn tools(self) -> &'static [Piece] {
        /// Each purpose of these needs what the one before it needs, and more.
        const TOOLS: [Piece; 12] = [
            Piece::Cc,
            Piece::Iproute2,
            Piece::Postgres,
            Piece::Redis,
            Piece::Nginx,
            Piece::Curl,
            Piece::Dnsmasq,
            Piece::Prometheus,
            Piece::Rsyslog,
            Piece::Chromium,
            Piece::Rustfmt,
            Piece::Clippy,
        ];
        match self {
            Self::Build => &TOOLS[..1],
            Self::Bench => &[Piece::Cc, Piece::Iproute2, Piece::Nftables],
            Self::Demo => &TOOLS[..6],
            Self::Test => &TOOLS,
            Self::Vm => &[Piece::Cc, Piece::Iproute2, Piece::Qemu, Piece::Busybox, Piece::Cpio],
        }
    }
}

impl Setup {
    pub(crate) fn execute(self) -> Result<()> {
        let purpose = match self {
            Self { build_only: true, .. } => Purpose::Build,
            Self { vm: true, .. } => Purpose::Vm,
            _ => Purpose::Test,
        };
        if self.dry_run {
            let machine = Machine::probe(purpose);
            let missing = missing(&machine, purpose);
            announce(&missing);
            let plan = plan(&machine, &missing);
            plan.steps.iter().for_each(|step| say!("would run: {step}"));
            return plan.require_possible();
        }
        ensure(purpose).map(drop)
    }
}

/// Installs what is missing for `purpose`, and gives what to build with.
///
/// # Errors
/// Names each missing piece and the command for it.
pub(crate) fn ensure(purpose: Purpose) -> Result<Toolchain> {
    let mut machine = Machine::probe(purpose);
    let mut updated = false;
    // Twice, for what is installed first decides what fits it: bpf-linker's LLVM must not be older than the compiler's.
    for _ in 0..2 {
        let missing = missing(&machine, purpose);
        if missing.is_empty() {
            say!("setup: all is there ({})", machine.summary());
            return Ok(machine.toolchain());
        }
        announce(&missing);
        if machine.apt && !updated {
            install::update_package_lists()?;
            updated = true;
            machine = Machine::probe(purpose);
        }
        let plan = plan(&machine, &missing);
        plan.require_possible()?;
        execute(&plan, &missing)?;
        machine = Machine::probe(purpose);
    }
    let missing = missing(&machine, purpose);
    if !missing.is_empty() {
        let names = missing.iter().map(|piece| format!("\n  {piece}: {}", piece.advice()));
        bail!("after installation there is still missing:{}", names.collect::<String>());
    }
    say!("setup: done ({})", machine.summary());
    Ok(machine.toolchain())
}

fn announce(missing: &[Piece]) {
    if !missing.is_empty() {
        say!("setup: this machine lacks");
    }
    missing.iter().for_each(|piece| say!("  - {piece}"));
}

fn execute(plan: &Plan, missing: &[Piece]) -> Result<()> {
    say!("setup: going to run");
    plan.steps.iter().for_each(|step| say!("  {step}"));
    for step in &plan.steps {
        install::execute(step, missing)?;
    }
    Ok(())
}
