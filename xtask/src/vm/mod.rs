//! `cargo xtask vm`: segd's programs and kernel tests on Debian's own kernels, each in a virtual machine that QEMU
//! emulates in software. It needs neither KVM nor root once the setup is done, and leaves this machine's kernel alone.

mod apt;
mod emulator;
mod kernel;
mod root;
mod verdict;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::cargo;
use crate::interrupt;
use crate::say::say;
use crate::setup::{Purpose, ensure};
use crate::vm::kernel::Kernel;
use crate::vm::root::Root;
use crate::vm::verdict::Verdict;

/// Run segd's programs and kernel tests on Debian's own kernels, emulated by QEMU.
///
/// Boots each kernel without a disk, lets `segd doctor` load every program, and runs the end-to-end tests of the
/// kernel side. The kernels are downloaded from Debian into target/vm, not installed.
#[derive(Debug, Args)]
pub(crate) struct Vm {
    /// Debian kernels by the beginning of their version, or linux-image packages as .deb files.
    #[arg(value_name = "VERSION", default_values = ["6.1", "6.12"])]
    versions: Vec<String>,
    /// Run only the tests whose name contains this.
    #[arg(long, value_name = "FILTER")]
    test: Option<String>,
    /// Only let `segd doctor` load the programs.
    #[arg(long, conflicts_with = "test")]
    doctor: bool,
    /// Run the heavy tests too: thousands of connections and packets. They want more --minutes.
    #[arg(long)]
    heavy: bool,
    /// Look for newer kernels than those downloaded before.
    #[arg(long)]
    update: bool,
    /// After how many minutes a kernel's run is given up.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
}

/// Tests that are heavy even on real processors: thousands of connections while policies or agents change.
const HEAVY: [&str; 2] =
    ["a_hundred_swaps_under_traffic", "connections_are_judged_without_a_gap_through_takeovers"];

impl Vm {
    /// # Errors
    /// When a kernel cannot be had, or something fails on one; every kernel is tried first.
    pub(crate) fn execute(self) -> Result<()> {
        let toolchain = ensure(Purpose::Vm)?;
        let home = cargo::root().join("target/vm");
        let kernels = kernel::fetch(&home, &self.versions, self.update)?;
        let binaries = root::build(&toolchain, self.tests())?;
        let mut failed = Vec::new();
        for kernel in &kernels {
            say!("\n== Linux {}", kernel.release);
            let begun = Instant::now();
            let outcome = Root::make(&home, kernel, &binaries, &self.arguments())
                .and_then(|root| self.boot(kernel, root.archive()));
            interrupt::check()?;
            match outcome {
                Ok(verdict) => {
                    let seconds = begun.elapsed().as_secs();
                    say!("Linux {}: {verdict}, in {seconds} s", kernel.release);
                }
                Err(fault) => {
                    say!("Linux {}: FAILED: {fault:#}", kernel.release);
                    failed.push(kernel.release.as_str());
                }
            }
        }
        if !failed.is_empty() {
            bail!("FAILED on Linux {}", failed.join(", "));
        }
        Ok(())
    }

    /// The files of end-to-end tests to run.
    fn tests(&self) -> &'static [&'static str] {
        match self {
            Self { doctor: true, .. } => &[],
            Self { heavy: true, .. } => &["kernel", "agreement"],
            _ => &["kernel"],
        }
    }

    fn arguments(&self) -> Vec<String> {
        let skipped = HEAVY.iter().filter(|_| !self.heavy).flat_map(|test| ["--skip", test]);
        self.test.as_deref().into_iter().chain(skipped).map(str::to_owned).collect()
    }

    fn boot(&self, kernel: &Kernel, archive: PathBuf) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        let limit = Duration::from_secs(self.minutes * 60);
        emulator::run(&kernel.image, &archive, limit, |line| {
            say!("  {line}");
            verdict.read(line);
        })?;
        verdict.judge(self.tests())
    }
}
